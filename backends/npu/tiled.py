"""What the loops over tiles of a product have in common: where operands are on chip, and how results leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, dense_strides, rotating, tilings, walk
from pimc.backends.kernels.product_nest import OUT, A, B
from pimc.backends.lowering import Tensor
from pimc.backends.npu.blocks import Blocks, Matrix, Sums, Twin
from pimc.backends.npu.extents import Extents
from pimc.backends.npu.isa import ACCUMULATOR_BYTES, Drain, Fence
from pimc.backends.npu.machine import machine_of
from pimc.backends.npu.prologue import Prologue
from pimc.backends.npu.tile_copy import bring, scaled, take_home
from pimc.backends.npu.tile_ops import TileOps, for_all, operand_tile
from pimc.backends.npu.tiles import Tiles
from pimc.backends.npu.vector_unit import NPU
from pimc.record import record

if TYPE_CHECKING:
    from pimc.backends.npu.contraction import Choice, Contraction


@record
class Layer:
    """Those k of a product that pass by before all others do: nests of (address of T, address of S)."""

    parts: list[Nest]
    k: int
    cuts: int = 1
    """into so many parts the first and the last pieces are cut, each of which is multiplied as it arrives"""
    number: int = 0
    last: bool = True


class Tiled(ABC):
    """The loops over tiles of one product, for each turn of the batch. Panels and slabs are two kinds of them."""

    def __init__(self, whole: Contraction, arena: Arena, choice: Choice, tiles: Tiles) -> None:
        extents = choice.extents
        streamed, stationary = (B, A) if choice.swap else (A, B)
        t_axes, s_axes = whole.axes(choice.swap)
        if tiles.strips is not None:
            t_axes, s_axes = (
                tiles.strips.axes(axes) if tiles.strips.operand == name else axes
                for name, axes in (("t", t_axes), ("s", s_axes))
            )
        self.at, self.scale = whole.at, whole.scale
        self.emit = whole.at.emit
        self.tiles = tiles
        self.machine = machine_of(whole.at)
        self.operands = {"t": whole.tensors[streamed], "s": whole.tensors[stationary]}
        self.sides = {"t": extents.streamed, "s": extents.stationary}
        self.out = whole.tensors[OUT]
        self.dtype = whole.tensors[A].dtype
        self.epilogue = whole.epilogue
        self.led = extents.led
        self.first_source = whole.first_source
        # of (address of T or S, address in the result and in operands of the epilogue, among accumulators of all of the
        # result), from the start of a batch turn
        self.groups = {
            name: Nest((0,) * len(whole.nest.starts),
                       tuple(Axis(x.count, (x.strides[own], *x.strides[OUT:], acc))
                             for x, acc in zip(axes, scaled(axes, unit), strict=True))).merged()
            for name, own, axes, unit in (("t", streamed, t_axes, extents.s * ACCUMULATOR_BYTES),
                                          ("s", stationary, s_axes, ACCUMULATOR_BYTES))
        }  # fmt: skip
        self.order = ("t", "s") if tiles.t_outside else ("s", "t")
        self.streamed, self.stationary = streamed, stationary
        parts = [
            Nest((moves[streamed], moves[stationary], *moves[OUT:]),
                 tuple(Axis(x.count, (x.strides[streamed], x.strides[stationary], *x.strides[OUT:])) for x in axes)
                 ).merged()
            for moves, axes in whole.nest.contracted
        ]  # fmt: skip
        self.layers = list(self._cut_in_layers(parts, extents))
        self.layer = self.layers[0]
        t, s, self.depth = self._tile()
        self.doubled, self.twin = extents.doubled, whole.twin or Twin(0, 0)
        self.blocks = Blocks.on(self.emit, self.machine, self.dtype, tiles.down, tiles.across, self.twin.rows)
        self.acc_bytes = extents.accumulators(t, s)
        self.acc_slots = min(tiles.slots, self.machine.accumulator_bytes // self.acc_bytes)
        self.acc_row = extents.s * ACCUMULATOR_BYTES if len(self.layers) > 1 else 0
        """bytes from row to row of accumulators that hold all of the result; 0: they hold a tile"""
        self.acc_twin = (self.acc_row * extents.t or t * s * ACCUMULATOR_BYTES) if whole.twin else 0
        gathering = self.acc_row * extents.t * extents.products or self.acc_slots * self.acc_bytes
        room = whole.at.accumulators
        self.gathering = 0 if room is None else room.take(gathering)
        """the first accumulator"""
        self.arena = arena
        self.working = 0
        if self.epilogue is not None:
            self.working_size = t * s * self.epilogue.working_bytes + self.epilogue.spare
            self.working = arena.take(self.working_size)
        self.prologue = None
        if whole.prologue is not None:
            self.prologue = Prologue(self.emit, whole.prologue, whole.tensors[A], arena, tiles.piece, extents.k)
        self.places: dict[tuple[str, object], int] = {}
        spare = 0 if self.epilogue is None else self.epilogue.spare
        self.sizes = {
            "t": extents.held("t", t, self.depth),
            "s": extents.held("s", s, self.depth),
            "out": t * s * extents.of_out + spare,
        }
        """of places on chip, in bytes"""
        self.slots = self._take(arena, extents)

    @abstractmethod
    def run(self, starts: Sequence[Scalar], turn: int) -> None:
        """One turn of the batch; `turn` alternates, so that neighbouring turns use different slots."""
        ...

    def _cut_in_layers(self, parts: list[Nest], e: Extents) -> Iterator[Layer]:
        """All k as one."""
        yield Layer(parts, e.k)

    def _tile(self) -> tuple[int, int, int]:
        """How many rows of T and of S are multiplied at a time, and so many k of them take on chip."""
        return self.tiles.t, self.tiles.s, self.tiles.k

    @abstractmethod
    def _take(self, arena: Arena, e: Extents) -> dict[str, list[int]]:
        """Places on chip of what has some for the whole product."""
        ...

    def _tiles(self, name: str, slots: int) -> Iterator[tuple[Tiling, tuple[Scalar, ...], int]]:
        limit = self.tiles.t if name == "t" else self.tiles.s
        for tiling in tilings(self.groups[name], limit, even=False):
            for starts, slot in walk(self.emit, tiling.outer, slots):
                yield tiling, starts, slot

    def _accumulators(self, slot: int, results: tuple[Scalar, ...]) -> Scalar:
        """Where products gather: of a tile in some slot, or its place in all of the result."""
        if self.acc_row:
            return results[-1] + self.gathering
        if self.acc_slots == 1:
            self.emit.issue("npu", Fence())
        return slot % self.acc_slots * self.acc_bytes + self.gathering

    def _sums(self, acc: Scalar, columns: Tiling) -> Sums:
        return Sums(acc, self.acc_row or columns.elements * ACCUMULATOR_BYTES, self.acc_twin)

    def _place(self, name: str, slot: object) -> int:
        """Where the piece of a slot lies on chip. Turns around a loop have slots of their own, so that they need not
        wait for all of it; where there is no room for one more, it takes the place of a piece that has been used."""
        if (name, slot) not in self.places:
            own = [place for (other, _), place in self.places.items() if other == name]
            full = padded(self.sizes[name]) > self.arena.left
            self.places[name, slot] = own[0] if own and full else self.arena.take(self.sizes[name])
        return self.places[name, slot]

    def _resident(
        self, name: str, tile: Tiling, start: Scalar, held: Scalar, *, moves: bool = True,
        results: tuple[Scalar, ...] = (),
    ) -> Matrix:  # fmt: skip
        """A tile with all of k. results: first addresses in the result, and in operands of epilogue and prologue."""
        operand = 0 if name == "t" else 1
        starts = [start + part.starts[operand] for part in self.layer.parts]
        made = name == self.led
        parts = [part.axes for part in self.layer.parts]
        matrix = self._bring(name, tile, parts, operand, starts, held, moves=moves and not made)
        if moves and made:
            self._make(tile, operand, starts[0], results, matrix)
        return matrix

    def _make(
        self, tile: Tiling, operand: int, start: Scalar, results: tuple[Scalar, ...], matrix: Matrix
    ) -> None:  # fmt: skip
        """A tile of the operand that has a prologue."""
        assert self.prologue is not None
        (part,), first = self.layer.parts, self.first_source
        count = len(self.prologue.ops.tensors)
        sources = [results[first - OUT + i] + part.starts[OUT + i] for i in range(count)]
        rows = [replace(a, strides=(a.strides[0], *a.strides[first - 1 : first - 1 + count])) for a in tile.tile]
        depth = [replace(a, strides=(a.strides[operand], *a.strides[OUT : OUT + count])) for a in part.axes]
        self.prologue.make(start, sources, (*rows, *depth), matrix, len(rows))

    def _bring(
        self,
        name: str,
        tile: Tiling,
        parts: Sequence[Sequence[Axis]],
        operand: int,
        starts: Sequence[Scalar],
        held: Scalar,
        *,
        moves: bool = True,
    ) -> Matrix:
        """A tile [rows, k] on chip: where it is, if commands can address it there, else copied to `held` (or not
        `moves`: it has been)."""
        tensor = self.operands[name]
        if self._stays(name, tile, parts):
            row = tile.tile[0].strides[0] if tile.tile else 0
            own = parts[0][0].strides[operand] if parts[0] else 0
            return Matrix(starts[0], row, own, twin=self.twin.away if name == self.doubled else 0)
        assert self.sizes[name], "no place for a tile that must be copied"
        size, rows = tensor.element_bytes, tile.elements
        depth = sum(count_of(axes) for axes in parts)
        by_row = not (tile.tile and tile.tile[-1].strides[0] == size)
        matrix = Matrix(held, depth * size, size) if by_row else Matrix(held, size, rows * size)
        if by_row and self.layer.cuts > 1 and name != self.led:  # what is made has whole rows
            matrix = Matrix(held, self.blocks.high * size, size, rows * size)
        if name == self.doubled:
            matrix = replace(matrix, twin=padded(rows * depth * size))
        if moves:
            self._copy(name, tile, parts, operand, starts, matrix)
        return matrix

    def _stays(self, name: str, tile: Tiling, parts: Sequence[Sequence[Axis]]) -> bool:
        """Whether commands can address a tile where it is."""
        return self.operands[name].on_chip and len(tile.tile) <= 1 and len(parts) == 1 and len(parts[0]) <= 1

    def _copy(
        self, name: str, tile: Tiling, parts: Sequence[Sequence[Axis]], operand: int, starts: Sequence[Scalar],
        matrix: Matrix,
    ) -> None:  # fmt: skip
        """Copy a tile [rows, k] to where it is to lie; of both operands, where there are two."""
        if matrix.twin:
            self._copy(name, tile, parts, operand, starts, replace(matrix, twin=0))
            with self.emit.of_op(self.twin.rows):
                self._copy(name, tile, parts, operand, [start + self.twin.away for start in starts], matrix.other)
            return
        tensor, done = self.operands[name], 0
        rows = [a.of((0,)) for a in tile.tile]
        for axes, start in zip(parts, starts, strict=True):
            depths = [a.of((operand,)) for a in axes]
            for first, part in _in_blocks(depths, self.blocks.high) if matrix.block else [(0, depths)]:
                steps = [matrix.block * self.blocks.high, matrix.column][-len(part) :]
                inside = steps if matrix.block else scaled(part, matrix.column)
                begin = start + (first * depths[0].strides[0] if first else 0)
                place = matrix.at(done + first)
                bring(self.emit, tensor, begin, place, [*rows, *part], 0, [*scaled(tile.tile, matrix.row), *inside])
            done += count_of(axes)

    def _finish(
        self, rows: Tiling, columns: Tiling, starts: tuple[Scalar, ...], sums: Sums, held: int, slot: int
    ) -> None:
        """Accumulators to the result's place; starts: there, and in operands of the epilogue. Tiles that follow each
        other have different slots."""
        if self.epilogue is not None:
            self._finish_with(self.epilogue, rows, columns, starts, sums, held, slot)
            return
        tile = self._leaving(rows, columns, starts[0], held)
        self._drain(rows.elements, columns.elements, sums, tile)
        self._take_home(rows, columns, starts[0], tile)

    def _leaves_at_once(self, rows: Tiling, columns: Tiling) -> bool:
        """Whether commands can address a tile of the result at its place."""
        return self.out.on_chip and len(rows.tile) <= 1 and len(columns.tile) <= 1

    def _leaving(self, rows: Tiling, columns: Tiling, start: Scalar, held: int) -> Matrix:
        """Where a tile of the result goes from the accumulators: its place, or `held`, on the way there."""
        t, s, size = rows.tile, columns.tile, self.out.element_bytes
        if self._leaves_at_once(rows, columns):
            return Matrix(start, t[0].strides[1] if t else 0, s[0].strides[1] if s else 0)
        by_row = not (t and t[-1].strides[1] == size)
        return Matrix(held, columns.elements * size, size) if by_row else Matrix(held, size, rows.elements * size)

    def _drain(self, rows: int, columns: int, sums: Sums, to: Matrix) -> None:
        drain = Drain(
            acc=sums.address, rows=rows, columns=columns, acc_row=sums.row, dst=to.address, dst_type=self.out.dtype,
            dst_row=to.row, dst_column=to.column, scale=self.scale,
        )  # fmt: skip
        self.emit.issue("npu", drain)

    def _take_home(self, rows: Tiling, columns: Tiling, start: Scalar, tile: Matrix) -> None:
        if not self._leaves_at_once(rows, columns):
            inside = [*scaled(rows.tile, tile.row), *scaled(columns.tile, tile.column)]
            take_home(self.emit, self.out, tile.address, start, (*rows.tile, *columns.tile), 1, inside)

    def _finish_with(
        self, epilogue: TileOps, rows: Tiling, columns: Tiling, starts: tuple[Scalar, ...], sums: Sums, held: int,
        slot: int,
    ) -> None:  # fmt: skip
        """The same by way of an epilogue, which works on a dense tile that has the result's neighbours side by side."""
        t, s, size = rows.tile, columns.tile, self.out.element_bytes
        across = bool(t and t[-1].strides[1] == size)
        axes = (*s, *t) if across else (*t, *s)
        region, working = Arena.within(held, self.sizes["out"]), Arena.within(self.working, self.working_size)
        lanes = Lanes(self.emit, NPU, working, [a.count for a in axes])
        values = [[lanes.temp() for _ in range(epilogue.given)] for _ in range(SLOTS)]
        row, column = (1, rows.elements) if across else (columns.elements, 1)
        for number, (value, own) in enumerate(zip(values[slot % SLOTS], (sums, sums.other), strict=False)):
            drain = Drain(
                acc=own.address, rows=rows.elements, columns=columns.elements, acc_row=own.row, dst=value.address,
                dst_type=value.dtype, dst_row=row * ACCUMULATOR_BYTES, dst_column=column * ACCUMULATOR_BYTES,
                scale=self.scale,
            )  # fmt: skip
            with self.emit.of_op(number * self.twin.rows):
                self.emit.issue("npu", drain)
        count = len(epilogue.tensors)
        operands = [
            operand_tile(self.emit, tensor, start, axes, 2 + i, region, resident=tensor.on_chip or epilogue.is_small(i))
            for i, (tensor, start) in enumerate(zip(epilogue.tensors, starts[1:], strict=False))
        ]
        at_once = self._takes_groups_at_once(epilogue, rows, columns)
        if at_once:
            *shared, member = epilogue.shared
            for i in shared:
                operands[i] = for_all(self.emit, operands[i], lanes.counts, operands[member], region)
        leaving = [(self.out, starts[0], 1)]
        leaving += [(tensor, starts[i], 1 + i) for i, tensor in enumerate(epilogue.kept, 1 + count)]
        results = [
            self._result(tensor, start, axes, index, region, direct=tensor.on_chip and not at_once)
            for tensor, start, index in leaving
        ]
        epilogue.write(lanes, working, values[slot % SLOTS], operands, results[1:], results[0])
        for (tensor, start, index), result in zip(leaving, results, strict=True):
            if at_once or not tensor.on_chip:
                take_home(self.emit, tensor, result.address, start, axes, index, result.strides)

    def _takes_groups_at_once(self, epilogue: TileOps, rows: Tiling, columns: Tiling) -> bool:
        """Whether commands for one group after the other would be more than the vector unit holds, so that the arrays
        would wait until it has them."""
        npu = self.at.spec.npu
        assert npu is not None
        width = rows.elements if self.streamed == B else columns.elements
        return epilogue.group > 1 and epilogue.calls * (width // epilogue.group) > npu.vector.waiting

    def _result(
        self, tensor: Tensor, start: Scalar, axes: Sequence[Axis], index: int, region: Arena, *, direct: bool
    ) -> Ref:
        """Where a tile of a result is computed: its place, or on chip on the way there."""
        if direct:
            return Ref(start, tensor.dtype, tuple(a.strides[index] for a in axes))
        return Lanes(self.emit, NPU, region, [a.count for a in axes]).temp(tensor.dtype)


def plus(*moves: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """Sums of addresses and how far they move."""
    first, *others = moves
    total = tuple(first)
    for more in others:
        total = tuple(a + b for a, b in zip(total, more, strict=True))
    return total


def count_of(axes: Sequence[Axis]) -> int:
    return prod(a.count for a in axes)


def _in_blocks(axes: Sequence[Axis], size: int) -> Iterator[tuple[int, list[Axis]]]:
    """The one loop over k as whole blocks and what lies in them, and the rest as one block: its first k, its loops."""
    (axis,) = axes
    whole, rest = divmod(axis.count, size)
    if whole:
        yield 0, [replace(axis, count=whole, strides=tuple(size * s for s in axis.strides)), axis.cut_to(size)]
    if rest:
        yield whole * size, [axis.cut_to(rest)]


def counted(emit: Emitter, nest: Nest, slots: int) -> Iterator[tuple[Scalar, tuple[Scalar, ...], int]]:
    """`_rotating` that also numbers the turns."""
    strides = dense_strides([a.count for a in nest.axes], 1)
    axes = tuple(replace(a, strides=(*a.strides, n)) for a, n in zip(nest.axes, strides, strict=True))
    for starts, slot in rotating(emit, Nest((*nest.starts, 0), axes), slots):
        yield starts[-1], starts[:-1], slot
