"""Where a kernel finds its operands, and copying whole tensors between places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod

from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, nests, tilings, walk
from pimc.backends.kernels.pointwise import packed
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Node, Value
from pimc.ir.layout import Layout, pieces

RUN = 128
"""Elements of a contiguous run that are worth keeping together on each side of a transposing copy."""


def cropped(layout: Layout, shape: Sequence[int]) -> Layout:
    """The first elements of a layout that has room to spare; where that is not one layout, the room stays."""
    own = layout.shape
    for dim, extent in enumerate(shape):
        if own[dim] != extent:
            layout = layout.sliced(dim, 0, extent) or layout
    return layout


def place(at: Lowering, value: Value) -> Tensor:
    """A value's place, without spare room as far as its layout allows."""
    tensor = at.tensor(value)
    layout = cropped(tensor.layout, value.type.static_shape)
    return tensor if layout is tensor.layout else replace(tensor, layout=layout)


def operand(node: Node, index: int) -> Value | None:
    return node.operands[index] if index < len(node.operands) else None


def given(node: Node, index: int) -> Value:
    """An operand that the op requires."""
    value = node.operands[index]
    assert value is not None
    return value


def sub_layouts(layout: Layout, dim: int, start: int, count: int, step: int = 1) -> Iterator[tuple[int, Layout]]:
    """`count` indices of a dimension from `start` by `step`, in as few layouts as the digits allow.

    Yields the number of the first index of each with its layout.
    """
    whole = layout.sliced(dim, start, start + count * step, step)
    if whole is not None:
        yield 0, whole
    elif step == 1:
        for first, piece in pieces(layout, dim, start, start + count):
            yield first - start, piece
    else:
        for i in range(count):
            one = layout.sliced(dim, start + i * step, start + i * step + 1)
            assert one is not None
            yield i, one


def copy_tensor(at: Lowering, source: Tensor, target: Tensor, shape: Sequence[int]) -> None:
    """Copy `shape` elements (the source broadcasts to it); nothing where both are the same memory."""
    for nest in nests([source.layout, target.layout], shape):
        same = source.space == target.space and nest.starts[0] == nest.starts[1]
        if same and all(a.count == 1 or a.strides[0] == a.strides[1] for a in nest.axes):
            continue
        copy_nest(at, source, target, nest.merged())


def copy_nest(at: Lowering, source: Tensor, target: Tensor, nest: Nest) -> None:
    """Copy along a nest of (source, target)."""
    if source.on_chip or target.on_chip:
        spaces, (read, written) = (source.space, target.space), nest.starts
        issue_copy(at.emit, spaces, read, written, source.dtype, nest.counts(), nest.strides(0), nest.strides(1))
        return
    nest = runs_inside(nest, source.element_bytes)
    size = source.element_bytes
    arena = Arena(at, nest.elements * size)
    slots = 1 if nest.elements * size <= arena.left else SLOTS
    limit = max(1, (arena.left // slots - padded(1)) // size) if slots > 1 else nest.elements
    addresses = [arena.take(padded(min(limit, nest.elements) * size)) for _ in range(slots)]
    for tiling in tilings(nest, limit):
        _through_buffer(at, source, tiling, addresses)


def _through_buffer(at: Lowering, source: Tensor, tiling: Tiling, addresses: Sequence[int]) -> None:
    counts = [a.count for a in tiling.tile]
    far, near = ([a.strides[i] for a in tiling.tile] for i in range(2))
    inside, _ = packed([replace(a, strides=a.strides[:1]) for a in tiling.tile], source.element_bytes)
    read = [(c, f, i) for c, f, i in zip(counts, far, inside, strict=True) if f]
    for starts, slot in walk(at.emit, tiling.outer, len(addresses)):
        held = addresses[slot]
        loaded, strides, dense = ([r[i] for r in read] for i in range(3))
        issue_copy(at.emit, ("dram", "buffer"), starts[0], held, source.dtype, loaded, strides, dense)
        issue_copy(at.emit, ("buffer", "dram"), held, starts[1], source.dtype, counts, inside, near)


def runs_inside(nest: Nest, element_bytes: int) -> Nest:
    """The loops in an order that keeps contiguous runs of both sides inside a tile."""
    axes: list[Axis] = []
    for axis in nest.axes:
        contiguous = element_bytes in axis.strides
        size = next((s for s in range(min(RUN, axis.count), 0, -1) if axis.count % s == 0), 1)
        if contiguous and 8 <= size < axis.count and len(nest.axes) > 1:
            axes.append(Axis(axis.count // size, tuple(s * size for s in axis.strides), axis.dim))
            axes.append(replace(axis, count=size))
        else:
            axes.append(axis)

    def nearness(i: int) -> tuple[int, int]:
        return -min((abs(s) for s in axes[i].strides if s), default=0), i

    order = sorted(range(len(axes)), key=nearness)
    return replace(nest, axes=tuple(axes[i] for i in order)).merged()


def reshape_tensor(at: Lowering, source: Tensor, target: Tensor, old: Sequence[int], new: Sequence[int]) -> None:
    """Copy between different shapes of the same elements in row-major order."""
    if prod(new) == 0:
        return
    under_old = target.layout.reshaped(old) if target.layout.shape == tuple(new) else None
    if under_old is not None:
        copy_tensor(at, source, replace(target, layout=under_old), old)
        return
    under_new = source.layout.reshaped(new) if source.layout.shape == tuple(old) else None
    if under_new is not None:
        copy_tensor(at, replace(source, layout=under_new), target, new)
        return
    size = prod(new) * source.element_bytes
    if size > at.scratch.budget:
        raise fail(Kind.CAPACITY, f"reshaping {tuple(old)} to {tuple(new)} in these layouts needs {size} bytes on chip")
    address = Arena(at, size).take(size)
    copy_tensor(at, source, dense_at(address, source, old), old)
    copy_tensor(at, dense_at(address, source, new), target, new)


def dense_at(address: int, like: Tensor, shape: Sequence[int]) -> Tensor:
    """A dense tensor in the buffer with the element type of another."""
    return Tensor("buffer", Layout.dense(shape, like.element_bytes, address), like.dtype)


def on_chip(at: Lowering, arena: Arena, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor itself if it is on chip and not larger than `shape`, else a dense copy in the arena."""
    if tensor.on_chip and tensor.layout.shape == tuple(shape):
        return tensor
    held = dense_at(arena.take(max(1, prod(shape)) * tensor.element_bytes), tensor, shape)
    copy_tensor(at, tensor, held, shape)
    return held


def cut_layouts(layout: Layout, ranges: Sequence[tuple[int, int, int]]) -> Iterator[tuple[tuple[int, ...], Layout]]:
    """`(start, count, step)` of every dimension, in as few layouts as possible, each with its first indices."""
    found: list[tuple[tuple[int, ...], Layout]] = [((), layout)]
    for dim, (start, count, step) in enumerate(ranges):
        found = [
            ((*firsts, first), piece)
            for (firsts, part), (first, piece) in (
                (outer, inner) for outer in found for inner in sub_layouts(outer[1], dim, start, count, step)
            )
        ]
    yield from found


def copy_cut(
    at: Lowering,
    source: Tensor,
    target: Tensor,
    source_ranges: Sequence[tuple[int, int, int]],
    target_ranges: Sequence[tuple[int, int, int]],
) -> None:
    """Copy a range of every dimension (start, count, step) of the source to one of the target, of the same counts."""
    for read, written, shape in common_parts(source, target, source_ranges, target_ranges):
        copy_tensor(at, read, written, shape)


def common_parts(
    source: Tensor,
    target: Tensor,
    source_ranges: Sequence[tuple[int, int, int]],
    target_ranges: Sequence[tuple[int, int, int]],
) -> Iterator[tuple[Tensor, Tensor, Sequence[int]]]:
    """Ranges of two tensors, of the same counts, in parts in which both are regular: (source, target, shape)."""
    reads = list(cut_layouts(source.layout, source_ranges))
    for firsts, written in cut_layouts(target.layout, target_ranges):
        shape = written.shape
        for begins, read in reads:
            overlap = [
                (max(f, b), min(f + n, b + m)) for f, n, b, m in zip(firsts, shape, begins, read.shape, strict=True)
            ]
            if all(low < high for low, high in overlap):
                pair = replace(source, layout=read), replace(target, layout=written)
                yield from _overlap(*pair, begins, firsts, overlap)


def _overlap(
    source: Tensor,
    target: Tensor,
    begins: Sequence[int],
    firsts: Sequence[int],
    overlap: Sequence[tuple[int, int]],
) -> Iterator[tuple[Tensor, Tensor, Sequence[int]]]:
    spans = [list(sub_ranges(source, target, d, low - begins[d], low - firsts[d], high - low))
             for d, (low, high) in enumerate(overlap)]  # fmt: skip
    for combination in product(*spans):
        read, written = source.layout, target.layout
        for dim, (from_, to, count) in enumerate(combination):
            cut_read, cut_written = read.sliced(dim, from_, from_ + count), written.sliced(dim, to, to + count)
            assert cut_read is not None
            assert cut_written is not None
            read, written = cut_read, cut_written
        shape = [count for _, _, count in combination]
        yield replace(source, layout=read), replace(target, layout=written), shape


def sub_ranges(
    source: Tensor, target: Tensor, dim: int, start: int, to: int, count: int
) -> Iterator[tuple[int, int, int]]:
    """Cut `count` indices so that both layouts are regular in every part: (start in source, start in target, count)."""
    done = 0
    while done < count:
        _, first = next(pieces(source.layout, dim, start + done, start + count))
        _, second = next(pieces(target.layout, dim, to + done, to + count))
        size = min(first.shape[dim], second.shape[dim])
        while size > 1 and not (
            source.layout.sliced(dim, start + done, start + done + size)
            and target.layout.sliced(dim, to + done, to + done + size)
        ):
            size -= 1
        yield start + done, to + done, size
        done += size
