"""How large the tiles of a matrix product are: a small search over what fits, scored by time.

One operand is streamed through the array (`t` rows), the other is stationary (`s` columns); both share `k`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pimc.backends.dma.traffic import Memory, traffic
from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.npu.isa import ACCUMULATOR_BYTES
from pimc.ir.layout import Digit

DEEP = 4
"""Tiles on chip of small products that follow each other, which the latencies of memory and array would hold up."""


@dataclass(frozen=True, slots=True)
class Array:
    """What the search knows of the machine. Times of the memory in seconds."""

    rows: int
    columns: int
    arrays: int
    minimum_stream: int
    accumulator_bytes: int
    clock: int
    memory: Memory
    access: float
    """how long an access holds a channel"""
    activation: float
    """the least between two activations of a channel"""
    latency: float
    """of a read"""

    @property
    def turnaround(self) -> float:
        """Seconds from the last row that enters the array until its products are out and more operands can come."""
        return (2 * self.rows + self.rows + self.columns) / self.clock + self.latency

    def visit(self, stream: int) -> int:
        """Clocks that a block of the stationary operand takes up when `stream` rows pass it."""
        return max(self.rows, -(-stream // self.arrays), self.minimum_stream)


@dataclass(frozen=True, slots=True)
class Side:
    """A matrix in memory: the digits of its rows and of its columns, outermost first."""

    rows: tuple[Digit, ...]
    columns: tuple[Digit, ...]


@dataclass(frozen=True, slots=True)
class Extents:
    """A product [t, k] x [k, s]; operands and result that must move say how they lie in memory (None: on chip)."""

    t: int
    s: int
    k: int
    element_bytes: int
    streamed: Side | None
    """[t, k]"""
    stationary: Side | None
    """[s, k]"""
    out: Side | None
    """[t, s]"""
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
    slots: int
    """tiles of the inner operand and of the result that are on chip at a time"""
    seconds: float


Limits = tuple[int, int, int]
"""The largest t, s and k of a tile."""


@lru_cache(maxsize=4096)
def best_tiles(array: Array, product: Extents, room: int, most: Limits | None = None) -> Tiles | None:
    """The fastest tiles that fit `room` bytes of the buffer, or None."""
    best: Tiles | None = None
    most_t, most_s, most_k = most or (product.t, product.s, product.k)
    for k in _sizes(product.k, array.rows, most_k):
        for s in _sizes(product.s, array.columns, most_s):
            for t in _sizes(product.t, array.columns, most_t):
                for t_outside in (True, False):
                    found = _scored(array, product, room, t, s, k, t_outside)
                    if found is not None and (best is None or found.seconds < best.seconds):
                        best = found
    return best


def _sizes(extent: int, block: int, most: int) -> Iterator[int]:
    """Sizes to try: the whole, and halves of it down to a block, then to one; none above `most`."""
    size = extent
    while True:
        if size <= most:
            yield size
        if size == 1:
            return
        half = -(-size // 2)
        size = -(-half // block) * block if half > block else chunk_of(extent, half)


def _scored(array: Array, product: Extents, room: int, t: int, s: int, k: int, t_outside: bool) -> Tiles | None:
    turns_t, turns_s, turns_k = -(-product.t // t), -(-product.s // s), -(-product.k // k)
    if turns_k > 1 and not t_outside:
        return None  # both orders are the same then
    outer = SLOTS if turns_k > 1 or (turns_t if t_outside else turns_s) > 1 else 1
    slots_t, slots_s = (outer, SLOTS) if t_outside else (SLOTS, outer)
    turns = turns_t * turns_s * turns_k
    if t * s * ACCUMULATOR_BYTES > array.accumulator_bytes:
        return None
    size = product.element_bytes
    one = padded(t * k * size) + padded(s * k * size) + padded(t * s * size)
    slots = DEEP if turns == 1 and product.repeated and one * DEEP <= room else SLOTS
    if turns == 1:
        slots_t = slots_s = slots if product.repeated else 1
    if padded(t * k * size) * slots_t + padded(s * k * size) * slots_s + padded(t * s * size) * slots > room:
        return None
    one_t = move_seconds(array, product.streamed, t, k, size)
    one_s = move_seconds(array, product.stationary, s, k, size)
    one_out = move_seconds(array, product.out, t, s, size)
    loads_t = turns if turns_k > 1 or not t_outside else turns_t
    loads_s = turns if turns_k > 1 or t_outside else turns_s
    loading, storing = one_t * loads_t + one_s * loads_s, one_out * turns_t * turns_s
    visits = turns * -(-s // array.columns) * -(-k // array.rows)
    compute = visits * array.visit(t) / array.clock
    around = (compute + loading) / turns + array.turnaround  # from loading a slot until it may be loaded again
    steady = max(compute, loading + storing, turns * around / slots)
    # the beginning and the end of one product overlap with its neighbours in a row of them
    seconds = steady if product.repeated else steady + min(one_t + one_s, compute / turns)
    return Tiles(t, s, k, t_outside, outer, slots, seconds)


@lru_cache(maxsize=65536)
def move_seconds(array: Array, side: Side | None, rows: int, columns: int, element_bytes: int) -> float:
    """How long a tile [rows, columns] takes from or to memory."""
    if side is None:
        return 0.0
    digits = (*_inner(side.rows, rows), *_inner(side.columns, columns))
    asked = traffic(array.memory, digits, element_bytes)
    return max(asked.busiest * array.access, asked.rows * array.activation)


def _inner(digits: tuple[Digit, ...], extent: int) -> Iterator[Digit]:
    """The digits of the first `extent` elements."""
    for count, stride in reversed(digits):
        if extent <= 1:
            return
        yield min(count, extent), stride
        extent //= count
