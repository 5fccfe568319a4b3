"""Lowering rules of collectives: operands come on chip piece by piece, are exchanged there, and go to their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from pimc.backends.affine import DEVICE, Scalar, variable
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import SLOTS, Nest, dense_strides, nests, tilings, walk
from pimc.backends.kernels.places import copy_cut, dense_at, given, place
from pimc.backends.link.isa import AllGather, AllReduce, Receive, ReduceScatter, Send
from pimc.backends.lowering import Lowering, Tensor, lowers
from pimc.ir.graph import Node

LINK = "link"

Range = tuple[int, int, int]
"""start, count and step of a dimension"""


@lowers(LINK, "all_reduce")
def lower_all_reduce(node: Node, at: Lowering) -> None:
    source, target = place(at, given(node, 0)), place(at, node.result)
    group = _group(node)
    for nest in nests([source.layout, target.layout], node.result.type.static_shape):
        _reduce_nest(at, source, target, nest.merged(), group)


def _reduce_nest(at: Lowering, source: Tensor, target: Tensor, nest: Nest, group: int) -> None:
    """Sum the elements along a nest of (source, target), a tile at a time."""
    size = source.element_bytes
    if source.on_chip and target.on_chip and _is_run(nest, size):
        at.emit.issue(LINK, AllReduce(nest.starts[0], nest.elements, source.dtype, group))
        return
    arena = Arena(at, SLOTS * padded(nest.elements * size))
    limit = max(1, (arena.left // SLOTS - padded(1)) // size)
    held = [arena.take(padded(min(limit, nest.elements) * size)) for _ in range(SLOTS)]
    for tiling in tilings(nest, limit):
        counts = [a.count for a in tiling.tile]
        far, near = ([a.strides[i] for a in tiling.tile] for i in range(2))
        dense = dense_strides(counts, size)
        for starts, slot in walk(at.emit, tiling.outer, SLOTS):
            here = held[slot]
            issue_copy(at.emit, (source.space, "buffer"), starts[0], here, source.dtype, counts, far, dense)
            at.emit.issue(LINK, AllReduce(here, prod(counts), source.dtype, group))
            issue_copy(at.emit, ("buffer", target.space), here, starts[1], source.dtype, counts, dense, near)


def _is_run(nest: Nest, size: int) -> bool:
    """Whether source and target are the same stretch of adjacent elements."""
    same = nest.starts[0] == nest.starts[1] and all(a.strides[0] == a.strides[1] for a in nest.axes)
    return same and (not nest.axes or (len(nest.axes) == 1 and nest.axes[0].strides[0] == size))


@lowers(LINK, "send")
def lower_send(node: Node, at: Lowering) -> None:
    """Each device sends to the one at the same place in the other stage."""
    source, peer = place(at, given(node, 0)), _peer(node, "to", at)
    for piece in _pieces(at, node.result.type.static_shape, source.element_bytes):
        part = tuple(count for _, count, _ in piece)
        held = _held(at, source, part)
        copy_cut(at, source, held, piece, _all(part))
        at.emit.issue(LINK, Send(held.layout.offset, prod(part), source.dtype, peer))


@lowers(LINK, "receive")
def lower_receive(node: Node, at: Lowering) -> None:
    target, peer = place(at, node.result), _peer(node, "from_", at)
    for piece in _pieces(at, node.result.type.static_shape, target.element_bytes):
        part = tuple(count for _, count, _ in piece)
        held = _held(at, target, part)
        at.emit.issue(LINK, Receive(held.layout.offset, prod(part), target.dtype, peer))
        copy_cut(at, held, target, _all(part), piece)


def _peer(node: Node, attribute: str, at: Lowering) -> Scalar:
    stage = node.attribute(attribute)
    assert isinstance(stage, int)
    return variable(DEVICE) + (stage - at.stage) * at.ranks


@lowers(LINK, "all_gather")
def lower_all_gather(node: Node, at: Lowering) -> None:
    source, target = place(at, given(node, 0)), place(at, node.result)
    shape, group = given(node, 0).type.static_shape, _group(node)
    axis = _axis(node, len(shape))
    for piece in _pieces(at, shape, (1 + group) * source.element_bytes):
        part = tuple(count for _, count, _ in piece)
        whole = _times(part, axis, group)
        own, joined = _held(at, source, part), _held(at, source, whole)
        copy_cut(at, source, own, piece, _all(part))
        at.emit.issue(LINK, AllGather(*_regroup(own, joined, part, whole, axis), source.dtype, group))
        for rank in range(group):
            copy_cut(at, joined, target, _part(part, axis, rank), _shifted(piece, axis, rank * shape[axis]))


@lowers(LINK, "reduce_scatter")
def lower_reduce_scatter(node: Node, at: Lowering) -> None:
    source, target = place(at, given(node, 0)), place(at, node.result)
    shape, group = node.result.type.static_shape, _group(node)
    axis = _axis(node, len(shape))
    for piece in _pieces(at, shape, (1 + group) * source.element_bytes):
        part = tuple(count for _, count, _ in piece)
        whole = _times(part, axis, group)
        own, joined = _held(at, source, part), _held(at, source, whole)
        for rank in range(group):
            copy_cut(at, source, joined, _shifted(piece, axis, rank * shape[axis]), _part(part, axis, rank))
        at.emit.issue(LINK, ReduceScatter(*_regroup(joined, own, part, whole, axis), source.dtype, group))
        copy_cut(at, own, target, _all(part), piece)


def _pieces(at: Lowering, shape: Sequence[int], bytes_per_element: int) -> Iterator[list[Range]]:
    """The part of one device in pieces of its longest dimension, such that a piece and its whole fit on chip."""
    if 0 in shape:
        return
    longest = max(range(len(shape)), key=lambda d: shape[d])
    rest = prod(shape) // shape[longest] * bytes_per_element
    step = max(1, min(shape[longest], (at.scratch.budget - 4 * padded(1)) // rest))
    for start in range(0, shape[longest], step):
        yield [(start, min(step, n - start), 1) if d == longest else (0, n, 1) for d, n in enumerate(shape)]


def _held(at: Lowering, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Room for a dense piece on chip."""
    size = prod(shape) * like.element_bytes
    return dense_at(Arena(at, padded(size)).take(size), like, shape)


def _regroup(
    source: Tensor, target: Tensor, part: Sequence[int], whole: Sequence[int], axis: int
) -> tuple[int, int, int, int, int, int]:
    """src, dst, rows, columns, src_row, dst_row: everything before the axis is rows, the rest columns of a part."""
    size = source.element_bytes
    rows, columns = prod(part[:axis]), prod(part[axis:])
    wide = prod(whole[axis:])
    gathers = source.shape[axis] == part[axis] and target.shape[axis] == whole[axis]
    strides = (columns * size, wide * size) if gathers else (wide * size, columns * size)
    return source.layout.offset, target.layout.offset, rows, columns, *strides


def _times(shape: Sequence[int], axis: int, factor: int) -> tuple[int, ...]:
    return tuple(n * factor if d == axis else n for d, n in enumerate(shape))


def _all(shape: Sequence[int]) -> list[Range]:
    return [(0, n, 1) for n in shape]


def _part(part: Sequence[int], axis: int, rank: int) -> list[Range]:
    """Where the part of a rank lies in the whole."""
    return [(rank * n if d == axis else 0, n, 1) for d, n in enumerate(part)]


def _shifted(piece: Sequence[Range], axis: int, by: int) -> list[Range]:
    return [(start + by if d == axis else start, n, step) for d, (start, n, step) in enumerate(piece)]


def _group(node: Node) -> int:
    group = node.attribute("group")
    assert isinstance(group, int)
    return group


def _axis(node: Node, rank: int) -> int:
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    return axis % rank
