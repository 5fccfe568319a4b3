"""How copies become commands of the DMA queues: loop nests cut to the digits that a command holds."""

from __future__ import annotations

from collections.abc import Sequence
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
    axes = tuple(Axis(c, (s, d)) for c, s, d in zip(counts, src_strides, dst_strides, strict=True))
    nest = Nest((src, dst), axes).merged()
    outer, inner = nest.axes[:-MAX_DIGITS], nest.axes[-MAX_DIGITS:]
    block = emit.block_bytes(src if kind is Load else dst) if kind is not Move else 0
    for (first, second), _ in walk(emit, Nest(nest.starts, outer)):
        nested = (
            tuple(a.count for a in inner) or (1,),
            tuple(a.strides[0] for a in inner) or (0,),
            tuple(a.strides[1] for a in inner) or (0,),
        )
        if not block:
            emit.issue(engine, kind(first, second, dtype, *nested))
        elif kind is Load:
            emit.issue(engine, LoadBlocks(first, second, dtype, *nested, block))
        else:
            emit.issue(engine, StoreBlocks(first, second, dtype, *nested, block))


def transferred(items: Sequence[Item]) -> int:
    """Bytes that copies bring from memory or take there."""
    total = 0
    for item in items:
        if isinstance(item, Loop):
            total += item.count * transferred(item.body)
        elif isinstance(item.command, Load | Store):
            total += item.command.elements * item.command.dtype.bits // 8
    return total
