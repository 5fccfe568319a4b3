"""How copies become commands of the DMA queues: loop nests cut to the digits that a command holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.dma.isa import MAX_DIGITS, Copy, Load, LoadBlocks, Move, Store, StoreBlocks
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.nest import Axis, Nest, walk
from pimc.backends.program import Item, Loop
from pimc.ir.types import DType

_BY_SPACES: dict[tuple[str, str], tuple[str, type[Copy]]] = {
    ("dram", "buffer"): ("load", Load),
    ("buffer", "dram"): ("store", Store),
    ("buffer", "buffer"): ("", Move),
}
"""By where from and where to: queue and command; moves on chip go through the queue that the target names."""


def issue_copy(
    emit: Emitter,
    spaces: tuple[str, str],
    src: Scalar,
    dst: Scalar,
    dtype: DType,
    counts: Sequence[int],
    src_strides: Sequence[int],
    dst_strides: Sequence[int],
) -> None:
    """Copy a loop nest between two spaces, at least one of which is on chip; more digits than a command holds loop."""
    if prod(counts) == 0:
        return
    engine, kind = _BY_SPACES[spaces]
    engine = engine or emit.moves
    around, nested = _cut(tuple(counts), tuple(src_strides), tuple(dst_strides))
    block = emit.block_bytes(src if kind is Load else dst) if kind is not Move else 0
    for (first, second), _ in walk(emit, Nest((src, dst), around)):
        if not block:
            emit.issue(engine, kind(first, second, dtype, *nested))
        elif kind is Load:
            emit.issue(engine, LoadBlocks(first, second, dtype, *nested, block))
        else:
            emit.issue(engine, StoreBlocks(first, second, dtype, *nested, block))


_Nested = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Counts and strides of a command."""


@lru_cache(maxsize=1024)  # a program's copies have few shapes
def _cut(
    counts: tuple[int, ...], src_strides: tuple[int, ...], dst_strides: tuple[int, ...]
) -> tuple[tuple[Axis, ...], _Nested]:
    """The loops around a copy's commands, and the loop nest of each."""
    axes = tuple(map(Axis, counts, zip(src_strides, dst_strides, strict=True)))
    nest = Nest((), axes).merged()
    inner = Nest((), nest.axes[-MAX_DIGITS:])
    return nest.axes[:-MAX_DIGITS], (inner.counts() or (1,), inner.strides(0) or (0,), inner.strides(1) or (0,))


def transferred(items: Sequence[Item]) -> int:
    """Bytes that copies bring from memory or take there."""
    total = 0
    for item in items:
        if isinstance(item, Loop):
            total += item.count * transferred(item.body)
        elif isinstance(item.command, Load | Store):
            total += item.command.elements * item.command.dtype.bits // 8
    return total
