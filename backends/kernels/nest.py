"""Loop nests over several tensors at once, from their layouts.

A nest visits the elements of an iteration space; each of its axes moves every operand by a fixed stride. Layouts whose
digits do not fall together are cut into several nests. Tiling a nest gives the tile's own nest, whose first addresses
move with the loops around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.ir.layout import Digit, Layout, pieces
from pimc.record import record

SLOTS = 2
"""Tiles of an operand that are on chip at a time: one is computed on while the other moves."""


@record
class Axis:
    """One loop: its turns, the bytes by which each operand moves, and the dimension that it belongs to."""

    count: int
    strides: tuple[int, ...]
    dim: int = 0

    def of(self, operands: Sequence[int]) -> Axis:
        """The same with some of the operands alone."""
        return Axis(self.count, tuple([self.strides[o] for o in operands]), self.dim)

    def cut_to(self, count: int) -> Axis:
        """The same with fewer turns."""
        return Axis(count, self.strides, self.dim)


@record
class Nest:
    """First address of each operand, and the loops, outermost first."""

    starts: tuple[Scalar, ...]
    axes: tuple[Axis, ...]

    @property
    def elements(self) -> int:
        return prod(axis.count for axis in self.axes)

    def counts(self) -> tuple[int, ...]:
        return tuple(axis.count for axis in self.axes)

    def strides(self, operand: int) -> tuple[int, ...]:
        return tuple(axis.strides[operand] for axis in self.axes)

    def merged(self, *, within_dims: bool = False) -> Nest:
        """Without axes of one turn, and neighbours joined where that is the same walk for every operand."""
        axes: list[Axis] = []
        for axis in self.axes:
            if axis.count == 1:
                continue
            last = axes[-1] if axes else None
            if (
                last is not None
                and last.strides == tuple([stride * axis.count for stride in axis.strides])
                and not (within_dims and last.dim != axis.dim)
            ):
                axes[-1] = Axis(last.count * axis.count, axis.strides, axis.dim)
            else:
                axes.append(axis)
        return Nest(self.starts, tuple(axes))

    def moved(self, by: Sequence[Scalar]) -> Nest:
        return Nest(tuple([start + step for start, step in zip(self.starts, by, strict=True)]), self.axes)

    def of(self, operands: Sequence[int]) -> Nest:
        """The same loops with some of the operands alone."""
        return Nest(tuple([self.starts[o] for o in operands]), tuple([axis.of(operands) for axis in self.axes]))

    def around(self, axes: tuple[Axis, ...]) -> Nest:
        """The same with other loops."""
        return Nest(self.starts, axes)


def nests(layouts: Sequence[Layout], shape: Sequence[int]) -> list[Nest]:
    """The walks over `shape` that the layouts (broadcast to it, numpy fashion) have in common.

    A layout may be larger than the shape (a padded cache): its first elements are meant. Not merged.
    """
    if any(extent == 0 for extent in shape):
        return []
    wide = [spread(layout, shape) for layout in layouts]
    choices = [_segments(tuple([x.dims[dim] for x in wide]), extent, dim) for dim, extent in enumerate(shape)]
    offsets = [layout.offset for layout in wide]
    found = []
    for combination in product(*choices):
        starts: list[Scalar] = list(offsets)
        axes: list[Axis] = []
        for moves, digits in combination:
            starts = [start + move for start, move in zip(starts, moves, strict=True)]
            axes += digits
        found.append(Nest(tuple(starts), tuple(axes)))
    return found


Segment = tuple[tuple[int, ...], tuple[Axis, ...]]
"""How far each operand's first address moves, and the axes, for a range of one dimension."""


def axes_of_segments(layouts: Sequence[Layout], dim: int, extent: int) -> Sequence[Segment]:
    """The ranges of one dimension (counted from the end) in which layouts of any ranks are regular together."""
    return _segments(tuple([layout.dims[dim] for layout in layouts]), extent, 0)


def spread(layout: Layout, shape: Sequence[int]) -> Layout:
    """Broadcasting that leaves dimensions alone which are larger than the shape."""
    return Layout(layout.offset, _spread(layout.dims, tuple(shape)))


@lru_cache(maxsize=4096)
def _spread(own: tuple[tuple[Digit, ...], ...], shape: tuple[int, ...]) -> tuple[tuple[Digit, ...], ...]:
    lead = len(shape) - len(own)
    extents = Layout(0, own).shape
    dims: list[tuple[Digit, ...]] = []
    for i, extent in enumerate(shape):
        if i < lead or (extents[i - lead] == 1 and extent != 1):
            dims.append(((extent, 0),))
        else:
            dims.append(own[i - lead])
    return tuple(dims)


@lru_cache(maxsize=4096)
def _segments(dims: tuple[tuple[Digit, ...], ...], extent: int, dim: int) -> Sequence[Segment]:
    """Ranges of a dimension, which layouts have with these digits, in which all of them are regular together."""
    layouts = [Layout(0, (digits,)) for digits in dims]
    found: list[Segment] = []
    start = 0
    while start < extent:
        stop = extent
        while (segment := _segment(layouts, start, stop, dim)) is None:
            stop = _earlier(layouts, start, stop)
        found.append(segment)
        start = stop
    return tuple(found)


def _segment(layouts: Sequence[Layout], start: int, stop: int, dim: int) -> Segment | None:
    parts = [layout.sliced(0, start, stop) for layout in layouts]
    if any(part is None for part in parts):
        return None
    cut = [part for part in parts if part is not None]
    axes = _common([list(part.dims[0]) for part in cut], stop - start, dim)
    return None if axes is None else (tuple([part.offset for part in cut]), tuple(axes))


def _earlier(layouts: Sequence[Layout], start: int, stop: int) -> int:
    """A nearer end of a range that is not regular."""
    ends = [stop]
    for layout in layouts:
        spans = pieces(layout, 0, start, stop)
        first = next(spans)[1]
        ends.append(start + first.shape[0])
    if min(ends) < stop:
        return min(ends)
    inner = [prod(c for c, _ in layout.dims[0][1:]) for layout in layouts]
    steps = [period for period in inner if 1 < period < stop - start]
    return start + (min(steps) if steps else 1)


def _common(digits: list[list[Digit]], extent: int, dim: int) -> list[Axis] | None:
    """Axes of which every list of digits is a regrouping; None where they do not divide."""
    rest = [[d for d in operand if d[0] != 1] for operand in digits]
    axes: list[Axis] = []
    left = extent
    while left > 1:
        step = min((operand[-1][0] if operand else left) for operand in rest)
        strides = []
        for operand in rest:
            count, stride = operand.pop() if operand else (left, 0)
            if count % step:
                return None
            strides.append(stride)
            if count > step:
                operand.append((count // step, stride * step))
        axes.append(Axis(step, tuple(strides), dim))
        left //= step
    return axes[::-1] or [Axis(1, (0,) * len(digits), dim)]


@lru_cache(maxsize=4096)
def chunk_of(count: int, most: int, align: int = 1) -> int:
    """The size of the pieces into which to cut `count`: at most `most`, without a small rest if possible.

    align: rather a multiple of it, and whatever is left.
    """
    if count <= most:
        return count
    if 1 < align <= most:
        return chunk_of(-(-count // align), most // align) * align
    best = max(1, most)
    fewest = -(-count // best)
    for pieces_needed in range(fewest, min(2 * fewest, fewest + _PIECES_TRIED)):
        if count % pieces_needed == 0:
            return count // pieces_needed
    return -(-count // fewest)


_PIECES_TRIED = 256


def chunks(emit: Emitter, count: int, size: int, slots: int = 1) -> Iterator[tuple[Scalar, int, int]]:
    """Loop over [0, count) in pieces: (start, extent, slot). The body runs once per slot and for the rest."""
    whole, rest = divmod(count, size)
    for turn, slot in emit.tiles(whole, slots):
        yield turn * size, size, slot
    if rest:
        yield whole * size, rest, whole % slots


def walk(emit: Emitter, nest: Nest, slots: int = 1) -> Iterator[tuple[tuple[Scalar, ...], int]]:
    """Loop over all axes of a nest: the operands' addresses and the slot of each turn."""
    if not nest.axes:
        yield nest.starts, 0
        return
    axis, rest = nest.axes[0], nest.axes[1:]
    if not rest:
        for turn, slot in emit.tiles(axis.count, slots):
            yield tuple(start + turn * stride for start, stride in zip(nest.starts, axis.strides, strict=True)), slot
        return
    with emit.loop(axis.count) as i:
        inner = Nest(tuple(s + i * stride for s, stride in zip(nest.starts, axis.strides, strict=True)), rest)
        yield from walk(emit, inner, slots)


def rotating(emit: Emitter, nest: Nest, slots: int) -> Iterator[tuple[tuple[Scalar, ...], int]]:
    """`walk`, but turns that are left over after a loop have slots of their own."""
    if len(nest.axes) != 1:
        yield from walk(emit, nest, slots)
        return
    count, strides = nest.axes[0].count, nest.axes[0].strides
    looped = count // slots * slots if count // slots > 1 else 0
    for turn, slot in emit.tiles(count, slots):
        left_over = looped and isinstance(turn, int)
        own = slots + slot if left_over else slot
        yield tuple(start + turn * stride for start, stride in zip(nest.starts, strides, strict=True)), own


def every_turn(nest: Nest) -> Iterator[tuple[Scalar, ...]]:
    """The operands' addresses in each turn, without a loop."""
    for turns in product(*(range(axis.count) for axis in nest.axes)):
        moved = [sum(turn * axis.strides[i] for turn, axis in zip(turns, nest.axes, strict=True))
                 for i in range(len(nest.starts))]  # fmt: skip
        yield nest.moved(moved).starts


@record
class Tiling:
    """A nest cut in two: `outer` loops around tiles that are each like `tile` (with its starts at 0 turns)."""

    outer: Nest
    tile: tuple[Axis, ...]

    @property
    def elements(self) -> int:
        return prod([axis.count for axis in self.tile])

    def fixed(self, operand: int) -> bool:
        """Whether all tiles hold the same elements of an operand."""
        return all(axis.strides[operand] == 0 for axis in self.outer.axes)


def tilings(nest: Nest, limit: int, align: int = 1, *, even: bool = True) -> list[Tiling]:
    """Cut a nest so that tiles have at most `limit` elements: inner axes stay whole, one is cut, the others loop.

    Gives one tiling, and another for the rest of the axis that was cut. align: the innermost axis, where that is the
    one to be cut, gives pieces of whole multiples of it. even: tiles may be smaller than they could be, so that there
    is no small rest.
    """
    inside = 1
    for position in range(len(nest.axes) - 1, -1, -1):
        axis = nest.axes[position]
        if inside * axis.count > limit:
            most = max(1, limit // inside)
            size = chunk_of(axis.count, most, align if inside == 1 else 1) if even else most
            return _cut(nest, position, size)
        inside *= axis.count
    return [Tiling(nest.around(()), nest.axes)]


def tile_of(counts: Sequence[int], limit: int) -> tuple[tuple[int, ...], int]:
    """Loops of the first tile that `tilings` (not `even`) gives of loops with such counts, and how many there are."""
    inside = 1
    for position in range(len(counts) - 1, -1, -1):
        count = counts[position]
        if inside * count > limit:
            size = max(1, limit // inside)
            return (size, *counts[position + 1 :]), prod(counts[:position]) * -(-count // size)
        inside *= count
    return tuple(counts), 1


def _cut(nest: Nest, position: int, size: int) -> list[Tiling]:
    axis = nest.axes[position]
    whole, rest = divmod(axis.count, size)
    before, after = nest.axes[:position], nest.axes[position + 1 :]
    strides = tuple(stride * size for stride in axis.strides)
    looped = (*before, Axis(whole, strides, axis.dim)) if whole > 1 else before
    found = [Tiling(nest.around(looped), (axis.cut_to(size), *after))]
    if rest:
        moved = nest.moved([stride * whole for stride in strides])
        found.append(Tiling(moved.around(before), (axis.cut_to(rest), *after)))
    return found


def dense_strides(counts: Sequence[int], element_bytes: int) -> tuple[int, ...]:
    """Row-major byte strides."""
    strides: list[int] = []
    step = element_bytes
    for count in reversed(counts):
        strides.append(step)
        step *= count
    return tuple(reversed(strides))
