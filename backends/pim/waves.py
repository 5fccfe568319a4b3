"""Which pairs (request, kv head) of attention work together in AiM's channels, and the loops over them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.kernels.nest import nests, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.aim_transfer import Channels, Lot, mask_of
from pimc.backends.pim.layouts import BankPattern
from pimc.backends.pim.products import Range, digits, element_stride, part, ranges, single
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout
from pimc.record import record


@record
class Wave:
    """Pairs (request, kv head) that work together: their places, and the loops over such waves."""

    channels: Channels
    spread: tuple[Digit, ...]
    """how requests, heads and the channels of a pair lie over channels"""
    source: Lot
    target: Lot
    source_head: int
    """bytes from a query head of the group to the next"""
    target_head: int
    steps: int
    """query positions of a turn"""
    source_step: int
    """bytes from a position to the next"""
    target_step: int
    turns: Iterator[tuple[tuple[Scalar, ...], int]]
    """(first vector, first result, first row of each cache) of every turn"""


def waves(
    node: Node, at: Lowering, x: Tensor, y: Tensor, cache: BankPattern, spare: int, *more: BankPattern,
    together: bool = False, positions: range | None = None,
) -> Iterator[Wave]:
    """x and y are [B, H, S, X] with the vectors and the results. spare: channels of a pair that take part.
    positions: neighbouring ones of S; all, if none are given.

    more: caches that spread requests and heads alike, whose rows are told as well. together: a turn has all query
    positions, if they lie at one distance; else each has a turn of its own.
    """
    batch, heads, most, _ = node.result.type.static_shape
    positions = range(most) if positions is None else positions
    steps = len(positions)
    kv = list(node.inputs())[1].type.static_shape[1]
    by_batch, by_head = cache.dims[0], cache.dims[1]
    for b in ranges(batch, by_batch.channel[0]):
        for h in ranges(kv, by_head.channel[0]):
            views = [_seven(node, t.layout, b, h, heads // kv, positions) for t in (x, y)]
            rows = [_rows(c, b, h, steps) for c in (cache, *more)]
            outer = [Layout(v.offset, (v.dims[0], v.dims[2], v.dims[5])) for v in views]
            spread = ((b.together, by_batch.channel[1]), (h.together, by_head.channel[1]), (spare, 1))
            source, target = (
                Lot(t.space, t.dtype, digits(v, 1, 3), element_stride(node, t))
                for t, v in zip((x, y), views, strict=True)
            )
            source_head, target_head = (single(v.dims[4]) or 0 for v in views)
            source_step, target_step = (single(v.dims[5]) for v in views)
            joint = together and source_step is not None and target_step is not None
            own = steps if joint else 1
            if joint:
                outer, rows = ([Layout(v.offset, v.dims[:2]) for v in each] for each in (outer, rows))
            shape = (b.turns, h.turns) if joint else (b.turns, h.turns, steps)
            for nest in nests([*outer, *rows], shape):
                turns = walk(at.emit, nest.merged())
                channels = Channels(mask_of(cache.channel, spread), spare)
                yield Wave(
                    channels, spread, source, target, source_head, target_head,
                    own, source_step or 0, target_step or 0, turns,
                )  # fmt: skip


def _rows(cache: BankPattern, b: Range, h: Range, steps: int) -> Layout:
    """The first row of a cache, for turns of requests, of heads, and query positions."""
    by_batch, by_head = cache.dims[0], cache.dims[1]
    first = b.start // by_batch.channel[0] * by_batch.row[1] + h.start // by_head.channel[0] * by_head.row[1]
    return Layout(cache.row + first, (((b.turns, by_batch.row[1]),), ((h.turns, by_head.row[1]),), ((steps, 0),)))


def _seven(node: Node, layout: Layout, b: Range, h: Range, group: int, s: range) -> Layout:
    """[B, H, S, X] as [turns, together, turns, together, group, S, X] for ranges of requests, kv heads, positions."""
    cuts = [(0, b.start, b.stop), (1, h.start * group, h.stop * group), (2, s.start, s.stop)]
    last = prod(count for count, _ in layout.dims[3])
    shape = (b.turns, b.together, h.turns, h.together, group, len(s), last)
    return part(node, layout, cuts, shape)
