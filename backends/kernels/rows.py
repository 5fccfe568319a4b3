"""Row by row over tensors: kernels that reduce along some dimensions and may use the results along the same rows.

The iteration space is rows x columns. A block of rows that fits on chip with all of its columns is loaded once; longer
rows pass by in chunks, once for each phase of the kernel, with the partial results kept per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Protocol

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, dense_strides, nests, tilings, walk
from pimc.backends.kernels.places import copy_tensor, cropped, dense_at
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.types import DType

IDENTITY = {"sum": 0.0, "max": -float("inf"), "min": float("inf"), "prod": 1.0}
COMBINE = {"sum": "add", "max": "max", "min": "min", "prod": "mul"}
ROW_TEMPS = 8
"""Values per row that a kernel may hold."""


@dataclass
class RowKernel:
    """A walk in blocks of rows.

    tensors: operands first, then results; each broadcasts to `shape`, whose dimensions from `cut` on are columns.
    grids: float32 grids that the body holds at a time. Bodies get a `Block` per block of rows.
    """

    at: Lowering
    machine: VectorMachine
    tensors: Sequence[Tensor]
    shape: Sequence[int]
    cut: int
    grids: int
    arena: Arena | None = None
    results: int = 1
    most_columns: int | None = None
    """how many columns a chunk may have at most"""

    def run(self, body: Callable[[Block], None]) -> None:
        if 0 in self.shape:
            return
        found = nests([t.layout for t in self.tensors], self.shape)
        columns = prod(self.shape[self.cut :])
        if any(prod(a.count for a in nest.axes if a.dim >= self.cut) != columns for nest in found):
            self._staged(body)
            return
        for nest in found:
            rows = replace(nest, axes=tuple(replace(a, dim=int(a.dim >= self.cut)) for a in nest.axes))
            self._nest(rows.merged(within_dims=True), columns, body)

    def _staged(self, body: Callable[[Block], None]) -> None:
        """Rows that are cut in irregular pieces go through dense copies on chip."""
        shapes = [
            tuple(n if any(s for _, s in digits) else 1 for n, digits in zip(self.shape, t.layout.dims, strict=True))
            for t in self.tensors
        ]
        need = sum(padded(prod(s) * t.element_bytes) for s, t in zip(shapes, self.tensors, strict=True))
        own = Arena(self.at) if self.arena is None else self.arena
        if need > own.left // 2:
            raise fail(Kind.CAPACITY, f"rows in an irregular layout need {2 * need} bytes on chip, but have {own.left}")
        held = [dense_at(own.take(prod(s) * t.element_bytes), t, s) for s, t in zip(shapes, self.tensors, strict=True)]
        operands = len(held) - self.results
        for tensor, copy, shape in zip(self.tensors[:operands], held, shapes, strict=False):
            copy_tensor(self.at, tensor, copy, shape)
        replace(self, tensors=held, arena=own).run(body)
        for tensor, copy, shape in zip(self.tensors[operands:], held[operands:], shapes[operands:], strict=True):
            copy_tensor(self.at, copy, replace(tensor, layout=cropped(tensor.layout, shape)), shape)

    def _nest(self, nest: Nest, columns: int, body: Callable[[Block], None]) -> None:
        row_axes = tuple(a for a in nest.axes if a.dim == 0)
        column_axes = tuple(a for a in nest.axes if a.dim == 1)
        rows = prod(a.count for a in row_axes)
        full = [
            t.element_bytes
            for i, t in enumerate(self.tensors)
            if not self.direct(i, column_axes) and not per_row_only(i, column_axes)
        ]
        per_element = sum(full) * SLOTS + DType.F32.bits // 8 * self.grids
        per_row = ROW_TEMPS * DType.I64.bits // 8
        spare = padded(1) * (ROW_TEMPS + self.grids + SLOTS * len(self.tensors) + 2)
        arena = self.arena or Arena(self.at, (per_element * columns + per_row) * rows + spare)
        mark = arena.mark()
        room = arena.left - spare
        widest = columns if self.most_columns is None else min(columns, self.most_columns)
        if widest == columns and columns * per_element + per_row <= room:
            chunk, block = columns, room // (columns * per_element + per_row)
        else:
            chunk, block = max(1, min(widest, (room - per_row) // max(1, per_element))), 1
        for tiling in tilings(Nest(nest.starts, row_axes), min(rows, block)):
            arena.reset(mark)
            _Blocks(self, arena, tiling, Nest((0,) * len(self.tensors), column_axes), chunk).run(body)
        arena.reset(mark)

    def direct(self, index: int, column_axes: Sequence[Axis]) -> bool:
        """Whether commands can work on a tensor where it is."""
        return self.tensors[index].on_chip and len(column_axes) <= 1


def per_row_only(index: int, column_axes: Sequence[Axis]) -> bool:
    """Whether a tensor repeats along the columns."""
    return not any(a.strides[index] for a in column_axes)


class _Blocks:
    """All blocks of rows of one tiling."""

    def __init__(self, kernel: RowKernel, arena: Arena, tiling: Tiling, columns: Nest, chunk: int) -> None:
        self.kernel, self.arena, self.tiling, self.columns = kernel, arena, tiling, columns
        self.emit = kernel.at.emit
        self.chunk = chunk
        self.single = chunk >= columns.elements
        self.row_counts = tuple(a.count for a in tiling.tile) or (1,)
        rows = prod(self.row_counts)
        self.slots: dict[int, list[int]] = {}
        for i, tensor in enumerate(kernel.tensors):
            if not kernel.direct(i, columns.axes):
                width = 1 if per_row_only(i, columns.axes) else min(chunk, columns.elements)
                size = rows * width * tensor.element_bytes
                self.slots[i] = [arena.take(size) for _ in range(SLOTS)]

    def row_strides(self, index: int) -> tuple[int, ...]:
        return tuple(a.strides[index] for a in self.tiling.tile) or (0,)

    def run(self, body: Callable[[Block], None]) -> None:
        top = self.arena.mark()
        shared: dict[int, Ref] = {}
        if self.single:  # what all rows share is loaded once
            tile = Tiling(replace(self.columns, axes=()), self.columns.axes)
            for i in self.slots:
                repeated = not any(a.strides[i] for a in (*self.tiling.tile, *self.tiling.outer.axes))
                if repeated and i < len(self.kernel.tensors) - self.kernel.results:
                    shared[i] = self.load(i, tile, self.tiling.outer.starts[i], 0)
        for starts, slot in walk(self.emit, self.tiling.outer, SLOTS):
            self.arena.reset(top)
            body(Block(self, starts, slot, shared))

    def load(self, index: int, tile: Tiling, start: Scalar, slot: int) -> Ref:
        """A grid of rows x the tile's columns."""
        tensor = self.kernel.tensors[index]
        if index not in self.slots:
            column = tile.tile[0].strides[index] if tile.tile else 0
            return Ref(start, tensor.dtype, (*self.row_strides(index), column))
        ref, counts, far, near = self._slot(index, tile, slot)
        issue_copy(self.emit, (tensor.space, "buffer"), start, ref.address, tensor.dtype, counts, far, near)
        return ref

    def store(self, index: int, tile: Tiling, start: Scalar, slot: int) -> None:
        tensor = self.kernel.tensors[index]
        if index in self.slots:
            ref, counts, far, near = self._slot(index, tile, slot)
            issue_copy(self.emit, ("buffer", tensor.space), ref.address, start, tensor.dtype, counts, near, far)

    def _slot(self, index: int, tile: Tiling, slot: int) -> tuple[Ref, list[int], list[int], list[int]]:
        """The slot as a grid, and the loops of a copy: counts, strides outside, strides in the slot."""
        tensor = self.kernel.tensors[index]
        size, columns = tensor.element_bytes, tile.elements
        far = self.row_strides(index)
        repeated_columns = not any(a.strides[index] for a in tile.tile)
        width = 1 if repeated_columns else columns
        rows: list[int] = []
        step = width * size
        for count, stride in zip(reversed(self.row_counts), reversed(far), strict=True):
            rows.append(step if stride else 0)
            step *= count if stride else 1
        strides = tuple(reversed(rows))
        copied = [(c, f, s) for c, f, s in zip(self.row_counts, far, strides, strict=True) if f]
        if not repeated_columns:
            inside = dense_strides([a.count for a in tile.tile], size)
            copied += [(a.count, a.strides[index], s) for a, s in zip(tile.tile, inside, strict=True)]
        ref = Ref(self.slots[index][slot], tensor.dtype, (*strides, 0 if repeated_columns else size))
        return ref, [c for c, _, _ in copied], [f for _, f, _ in copied], [s for _, _, s in copied]


class Columns(Protocol):
    """Some columns of rows, of all operands and results by number."""

    @property
    def lanes(self) -> Lanes: ...
    def load(self, index: int) -> Ref: ...
    def keep(self, name: str, compute: Callable[[], Ref]) -> Ref: ...
    def out(self, index: int) -> Ref: ...
    def store(self, index: int) -> None: ...


class Rows(Protocol):
    """What a body that goes over the columns of rows several times sees of them."""

    @property
    def rows(self) -> Lanes: ...
    def chunks(self) -> Iterator[Columns]: ...
    def start(self, function: str) -> Ref: ...
    def gather(self, function: str, chunk: Columns, grid: Ref, into: Ref) -> None: ...


class Whole:
    """Rows that are on chip with all of their columns, the last axis of `lanes`; the result's number is the last."""

    def __init__(self, lanes: Lanes, sources: Sequence[Source], out: Ref) -> None:
        self.lanes, self.rows, self.sources, self.result = lanes, lanes.of_rows(), sources, out
        self.kept: dict[str, Ref] = {}

    def chunks(self) -> Iterator[Columns]:
        yield self

    def start(self, function: str) -> Ref:
        return self.rows.temp()

    def gather(self, function: str, chunk: Columns, grid: Ref, into: Ref) -> None:
        self.lanes.reduce(function, grid, into)

    def load(self, index: int) -> Ref:
        source = self.sources[index]
        return source if isinstance(source, Ref) else self.lanes.number(source)

    def keep(self, name: str, compute: Callable[[], Ref]) -> Ref:
        if name not in self.kept:
            self.kept[name] = compute()
        return self.kept[name]

    def out(self, index: int) -> Ref:
        return self.result

    def store(self, index: int) -> None:
        """It is where it is wanted."""


class Block:
    """A block of rows. `rows` are lanes with one element per row."""

    def __init__(self, blocks: _Blocks, starts: Sequence[Scalar], slot: int, shared: dict[int, Ref]) -> None:
        self.blocks, self.starts, self.slot, self.shared = blocks, starts, slot, shared
        kernel = blocks.kernel
        self.rows = Lanes(blocks.emit, kernel.machine, blocks.arena, blocks.row_counts)
        self.single = blocks.single
        self._chunk: Chunk | None = None

    def chunks(self) -> Iterator[Chunk]:
        """The columns in chunks; a block that is on chip as a whole has one, always the same."""
        columns = self.blocks.columns
        if self.single:
            if self._chunk is None:
                whole = Tiling(replace(columns, axes=()), columns.axes)
                self._chunk = Chunk(self, whole, self.starts, self.slot, dict(self.shared))
            yield self._chunk
            return
        for tiling in tilings(columns, self.blocks.chunk, self.blocks.kernel.machine.wide_enough):
            for moved, slot in walk(self.blocks.emit, tiling.outer, SLOTS):
                mark = self.blocks.arena.mark()
                starts = [start + move for start, move in zip(self.starts, moved, strict=True)]
                yield Chunk(self, tiling, starts, slot)
                self.blocks.arena.reset(mark)

    def start(self, function: str, dtype: DType = DType.F32) -> Ref:
        """A value per row into which `gather` will reduce chunk after chunk."""
        if self.single:
            return self.rows.temp(dtype)
        return self.rows("copy", identity(function, dtype), dtype=dtype)

    def gather(self, function: str, chunk: Columns, grid: Ref, into: Ref) -> None:
        """Reduce a chunk's columns and combine with what earlier chunks gave."""
        if self.single:
            chunk.lanes.reduce(function, grid, into)
            return
        part = chunk.lanes.reduce(function, grid, self.rows.temp(into.dtype))
        self.rows(COMBINE[function], into, part, out=into)

    def operand(self, index: int) -> Ref:
        """An operand that has one value per row."""
        tensor = self.blocks.kernel.tensors[index]
        if tensor.on_chip:
            return Ref(self.starts[index], tensor.dtype, self.blocks.row_strides(index))
        held = self.rows.temp(tensor.dtype)
        spaces = ("dram", "buffer")
        counts, far = self.blocks.row_counts, self.blocks.row_strides(index)
        issue_copy(self.blocks.emit, spaces, self.starts[index], held.address, tensor.dtype, counts, far, held.strides)
        return held

    def result(self, index: int, moved: Scalar = 0) -> Ref:
        """Where one value per row of a result goes, `moved` bytes on; `finish` brings it home."""
        tensor = self.blocks.kernel.tensors[index]
        if tensor.on_chip:
            return Ref(self.starts[index] + moved, tensor.dtype, self.blocks.row_strides(index))
        return self.rows.temp(tensor.dtype)

    def finish(self, index: int, held: Ref, moved: Scalar = 0) -> None:
        tensor = self.blocks.kernel.tensors[index]
        if not tensor.on_chip:
            counts, far = self.blocks.row_counts, self.blocks.row_strides(index)
            spaces = ("buffer", "dram")
            issue_copy(
                self.blocks.emit,
                spaces,
                held.address,
                self.starts[index] + moved,
                tensor.dtype,
                counts,
                held.strides,
                far,
            )


@dataclass
class Chunk:
    """Some columns of a block. `lanes` work on rows x columns; a value per row is spread by `ref.spread(behind=1)`."""

    block: Block
    tile: Tiling
    starts: Sequence[Scalar]
    slot: int
    loaded: dict[int, Ref] = field(default_factory=dict)
    kept: dict[str, Ref] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        return self.tile.elements

    @property
    def lanes(self) -> Lanes:
        blocks = self.block.blocks
        counts = (*blocks.row_counts, self.tile.elements)
        return Lanes(blocks.emit, blocks.kernel.machine, blocks.arena, counts)

    def load(self, index: int) -> Ref:
        """An operand's grid."""
        if index not in self.loaded:
            self.loaded[index] = self.block.blocks.load(index, self.tile, self.starts[index], self.slot)
        return self.loaded[index]

    def keep(self, name: str, compute: Callable[[], Ref]) -> Ref:
        """A grid that later phases use again if the block stays on chip."""
        if name not in self.kept:
            self.kept[name] = compute()
        return self.kept[name]

    def out(self, index: int) -> Ref:
        """Where the grid of a result goes; `store` brings it home."""
        blocks = self.block.blocks
        if index not in blocks.slots:
            return blocks.load(index, self.tile, self.starts[index], self.slot)
        return blocks._slot(index, self.tile, self.slot)[0]

    def store(self, index: int) -> None:
        self.block.blocks.store(index, self.tile, self.starts[index], self.slot)


def identity(function: str, dtype: DType) -> float:
    """What a reduction starts from."""
    value = IDENTITY[function]
    if dtype.is_float or abs(value) != float("inf"):
        return value
    return float(2**62) * (1 if value > 0 else -1)
