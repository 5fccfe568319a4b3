"""How large the tiles of a matrix product are: a small search over what fits, scored by time.

One operand is streamed through the array (`t` rows), the other is stationary (`s` columns); both share `k`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.npu.isa import ACCUMULATOR_BYTES


@dataclass(frozen=True, slots=True)
class Array:
    """What the search knows of the machine."""

    rows: int
    columns: int
    arrays: int
    minimum_stream: int
    accumulator_bytes: int
    clock: int
    bandwidth: int
    """bytes a second from memory"""

    def visit(self, stream: int) -> int:
        """Clocks that a block of the stationary operand takes up when `stream` rows pass it."""
        return max(self.rows, -(-stream // self.arrays), self.minimum_stream)


@dataclass(frozen=True, slots=True)
class Extents:
    """A product [t, k] x [k, s], and which of its operands and result must move (are not on chip)."""

    t: int
    s: int
    k: int
    element_bytes: int
    moves_t: bool
    moves_s: bool
    moves_out: bool
    repeated: bool = False
    """there are many such products, one after the other"""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tile extents; `t_outside`: the loop over tiles of t lies around that over s."""

    t: int
    s: int
    k: int
    t_outside: bool
    slots_outer: int
    seconds: float


@lru_cache(maxsize=4096)
def best_tiles(array: Array, product: Extents, room: int) -> Tiles | None:
    """The fastest tiles that fit `room` bytes of the buffer, or None."""
    best: Tiles | None = None
    for k in _sizes(product.k, array.rows):
        for s in _sizes(product.s, array.columns):
            for t in _sizes(product.t, array.columns):
                for t_outside in (True, False):
                    found = _scored(array, product, room, t, s, k, t_outside)
                    if found is not None and (best is None or found.seconds < best.seconds):
                        best = found
    return best


def _sizes(extent: int, block: int) -> Iterator[int]:
    """Sizes to try: the whole, and halves of it down to a block, then to one."""
    size = extent
    while True:
        yield size
        if size == 1:
            return
        half = -(-size // 2)
        size = -(-half // block) * block if half > block else chunk_of(extent, half)


def buffer_bytes(product: Extents, t: int, s: int, k: int, outer: int, t_outside: bool) -> tuple[int, int, int]:
    """Bytes of one slot of each operand's and of the result's tile."""
    size = product.element_bytes
    return padded(t * k * size), padded(s * k * size), padded(t * s * size)


def _scored(array: Array, product: Extents, room: int, t: int, s: int, k: int, t_outside: bool) -> Tiles | None:
    if t * s * ACCUMULATOR_BYTES > array.accumulator_bytes:
        return None
    turns_t, turns_s, turns_k = -(-product.t // t), -(-product.s // s), -(-product.k // k)
    if turns_k > 1 and not t_outside:
        return None  # both orders are the same then
    bytes_t, bytes_s, bytes_out = buffer_bytes(product, t, s, k, SLOTS, t_outside)
    outer = SLOTS if turns_k > 1 or (turns_t if t_outside else turns_s) > 1 else 1
    slots_t, slots_s = (outer, SLOTS) if t_outside else (SLOTS, outer)
    if turns_t * turns_s * turns_k == 1:
        slots_t = slots_s = SLOTS if product.repeated else 1
    need = bytes_t * slots_t + bytes_s * slots_s + bytes_out * SLOTS
    if need > room:
        return None
    size = product.element_bytes
    repeats_t = turns_s if turns_k > 1 or not t_outside else 1
    repeats_s = turns_t if turns_k > 1 or t_outside else 1
    moved = (
        product.t * product.k * size * repeats_t * product.moves_t
        + product.s * product.k * size * repeats_s * product.moves_s
        + product.t * product.s * size * product.moves_out
    )
    visits = turns_t * turns_s * turns_k * -(-s // array.columns) * -(-k // array.rows)
    compute = visits * array.visit(t) / array.clock
    first = (bytes_t * product.moves_t + bytes_s * product.moves_s) / array.bandwidth
    last = compute / (turns_t * turns_s * turns_k)
    seconds = max(compute, moved / array.bandwidth) + min(first, last)
    return Tiles(t, s, k, t_outside, outer, seconds)
