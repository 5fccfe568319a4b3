"""Matrix products on the systolic arrays.

Which operand is stationary, and in which tiles both come from memory while those before are multiplied, is searched
(`tiles.py`); where sums stay, both stream. Products gather in the accumulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.dma.timing import copy_time
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.nest import (
    SLOTS,
    Axis,
    Nest,
    Tiling,
    dense_strides,
    every_turn,
    tilings,
    walk,
)
from pimc.backends.kernels.product_nest import OUT, A, B, ProductNest, product_nests
from pimc.backends.kernels.vector_product import RowProducts
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu.array import array_time
from pimc.backends.npu.blocks import Blocks, Matrix, Sums, Twin
from pimc.backends.npu.grouped import Group, Groups, best_group
from pimc.backends.npu.isa import ACCUMULATOR_BYTES, Drain, Fence
from pimc.backends.npu.prologue import Prologue
from pimc.backends.npu.tile_copy import bring, scaled, take_home
from pimc.backends.npu.tile_ops import MOST_REGIONS, TileOps, columns_from, for_all, operand_tile
from pimc.backends.npu.tiles import DEEP, Extents, Limits, Machine, Side, Tiles, best_tiles, move_seconds
from pimc.backends.npu.vector_unit import NPU, VectorWork, vector_work
from pimc.backends.target import TargetSpec
from pimc.by_identity import by_identity
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Tile
from pimc.record import record

CLEARLY = 0.995
"""The vector unit is taken where it needs no more than this part of the arrays' time."""
ABOUT = 1.02
"""Two products are cut side by side where that is estimated to need up to this part of the time apart: who asks for it
has compared the commands."""
SWAPS = {"ws": (False,), "is": (True,), "os": (False,), "either": (False, True)}
"""By dataflow: whether operands may be swapped, so that the activation stays and the weight streams."""


def contract(
    at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int, scale: float = 1.0,
    moved: Sequence[Scalar] = (0, 0, 0),
) -> None:  # fmt: skip
    """`out[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n]`; operands broadcast over the batch axes.

    moved: how far the first addresses of a, b and the result move with loops around the product.
    """
    for nest in product_nests(a, b, out, batch, m, n, k, moved):
        Contraction(at, (a, b, out), nest, scale).run()


def contract_with(
    prologue: TileOps | None, epilogue: TileOps | None, at: Lowering, a: Tensor, b: Tensor, out: Tensor,
    batch: Sequence[int], m: int, n: int, k: int, scale: float = 1.0, moved: Sequence[Scalar] = (0, 0, 0),
    twin: Twin | None = None, first: Scalar = 0,
) -> bool:  # fmt: skip
    """`contract`, with what makes tiles of a, and what follows on each tile of the result.

    twin: another operand like b, if there is one: the epilogue goes on with both products. first: where the columns of
    the result begin among those that operands of the epilogue have.

    False, and nothing is done, where it is not cut into such tiles, or would be so badly by what is left of the buffer
    that one after the other takes less.
    """
    cut = [] if epilogue is None else [columns_from(layout, first, n) for layout in epilogue.layouts()]
    also = [layout for layout, _ in cut]
    moved = (*moved, *(start for _, start in cut))
    sources = [] if prologue is None else prologue.layouts()
    nests = product_nests(a, b, out, batch, m, n, k, moved, also, sources)
    parts = [Contraction(at, (a, b, out), nest, scale, epilogue, prologue, twin) for nest in nests]
    choices = [choice for part in parts if (choice := part.in_tiles()) is not None and part.gains(choice[0])]
    if len(choices) < len(parts):
        return False
    for part, choice in zip(parts, choices, strict=True):
        part.run_tiles(*choice)
    return True


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def machine_of(at: Lowering) -> Machine:
    """What the tile search knows of a target."""
    return _machine(at.spec)


@by_identity
def _machine(spec: TargetSpec) -> Machine:
    npu = spec.npu
    assert npu is not None
    vector = npu.vector
    drained = vector.width * npu.cores // vector.cycles("copy") if npu.drain == "vector" else 0
    return Machine(
        array_time(npu.array, npu.arrays), npu.array.dataflow == "os", npu.tiling, npu.clock,
        npu.device_accumulator_bytes, drained, copy_time(spec), vector.lanes,
    )  # fmt: skip


@record
class Choice:
    """How a product is cut: whether its operands are swapped, the order of the batch, and the tiles of the streamed and
    the other operand, or groups of whole products."""

    swap: bool
    batch: tuple[Axis, ...]
    extents: Extents
    cut: Tiles | Group

    def seconds(self, machine: Machine) -> float:
        """Of all products. What follows each other is counted as it goes on: the arrays fill and empty once for all."""
        ends = machine.turnaround if self.extents.repeated else 0.0
        return self.extents.turns * self.cut.seconds + ends


@dataclass
class Contraction:
    """One regular nest of a product. After `run` has chosen, operand T is streamed and operand S stationary."""

    at: Lowering
    tensors: tuple[Tensor, Tensor, Tensor]
    nest: ProductNest
    scale: float
    epilogue: TileOps | None = None
    prologue: TileOps | None = None
    twin: Twin | None = None
    """beside operand B, of a second product which the epilogue goes on with, too"""

    def in_tiles(self) -> tuple[Choice, Tiles] | None:
        """The choice, where that is tiles on the arrays which leave room for an epilogue."""
        if Arena.room(self.at) < 2 * self._kept or not (self._has_whole_rows and self._has_one_depth):
            return None
        try:
            choice = self.choice()
        except CompileError:  # what does not fit with the epilogue may fit without
            return None
        if not isinstance(choice.cut, Tiles) or self._vector_work(choice) is not None:
            return None
        return choice, choice.cut

    def gains(self, choice: Choice) -> bool:
        """Whether the choice is no slower than the best one for the product alone, with prologue and epilogue by
        themselves and what they read and write again."""
        machine, e = machine_of(self.at), choice.extents
        apart = e.t * e.s * e.vector + 2 * self._moving(machine, e.out, e.t, e.s)
        if self.prologue is not None:
            rows = e.t if e.led == "t" else e.s
            apart += rows * e.k * e.before
            if not self.tensors[A].on_chip:
                apart += 2 * self._moving(machine, e.streamed if e.led == "t" else e.stationary, rows, e.k)
        seconds = choice.seconds(machine)
        if self.twin is None and seconds <= e.turns * (choice.cut.compute + apart):
            return True
        alone = replace(self, epilogue=None, prologue=None, twin=None).choice()
        known = 1.0 if self.twin is None else ABOUT
        return seconds <= known * (e.products * alone.seconds(machine) + e.turns * apart)

    def _moving(self, machine: Machine, side: Side | None, rows: int, columns: int) -> float:
        return move_seconds(machine.copies, side, rows, columns, self.tensors[A].element_bytes)[0]

    @property
    def _has_whole_rows(self) -> bool:
        """Whether columns are one axis with all of the result's, where the epilogue goes by rows, and whole groups,
        where it goes by these."""
        if self.epilogue is None or not (self.epilogue.by_row or self.epilogue.group > 1):
            return True
        columns = [axis for axis in self.nest.columns if axis.count > 1]
        if _count(columns) != self.tensors[OUT].shape[-1]:
            return False
        one_axis = len(columns) == 1 and columns[0].strides[OUT] == self.tensors[OUT].element_bytes
        return one_axis or not self.epilogue.by_row

    @property
    def _together(self) -> int:
        """Columns, of so many next to each other, that a tile of the result must have together."""
        if self.epilogue is None:
            return 1
        return self.tensors[OUT].shape[-1] if self.epilogue.by_row else self.epilogue.group

    @property
    def _has_one_depth(self) -> bool:
        """Whether all k of all operands of the prologue are one loop."""
        return self.prologue is None or [len(axes) for _, axes in self.nest.contracted] == [1]

    @property
    def _kept(self) -> int:
        """Bytes that prologue and epilogue keep for themselves."""
        return sum(
            ops.staged_bytes + regions * ops.spare
            for ops, regions in ((self.prologue, 1 + SLOTS), (self.epilogue, MOST_REGIONS)) if ops is not None
        )  # fmt: skip

    def run(self) -> None:
        choice = self.choice()
        on_vector_unit = self._vector_work(choice)
        if on_vector_unit is not None:
            self._report_vector(choice, on_vector_unit)
            RowProducts(NPU, self.at, self.tensors, self.nest, self.scale, on_vector_unit.shape).run()
            return
        if isinstance(choice.cut, Tiles):
            self.run_tiles(choice, choice.cut)
            return
        self._begin(choice)
        nest = replace(self.nest, batch=choice.batch)
        Groups(self.at, machine_of(self.at), self.tensors, nest, self.scale, choice.cut, swap=choice.swap).run()

    def _begin(self, choice: Choice) -> None:
        if any(t.on_chip for t in self.tensors[:OUT]):  # an operand on chip may come from the vector unit
            self.at.emit.issue("npu", Fence())
        self._report(choice)

    def run_tiles(self, choice: Choice, tiles: Tiles) -> None:
        self._begin(choice)
        arena = Arena(self.at, self._want(choice.extents) + self._kept)
        nest = Nest(self.nest.starts, choice.batch)
        own = [ops.stage(self.at.emit, arena) for ops in (self.epilogue, self.prologue) if ops is not None]
        nest = nest.moved((0, 0, 0, *(place for places in own for place in places)))
        work = _Tiled(self, arena, choice, tiles)
        for starts, slot in walk(self.at.emit, nest, tiles.slots):
            work.run(starts, slot)

    def _vector_work(self, choice: Choice) -> VectorWork | None:
        """How the vector unit does it, where it is faster."""
        npu = self.at.spec.npu
        assert npu is not None
        if npu.products == "array" or self.at.tile is not None:
            return None
        turns, copies = choice.extents.turns, copy_time(self.at.spec)
        sides = (
            self._side(A, self.nest.batch, self.nest.rows),
            self._side(B, self.nest.batch, self.nest.columns),
        )
        work = vector_work(npu, self.nest, sides, self.tensors[B].element_bytes, copies)
        arrays = choice.seconds(machine_of(self.at))
        seconds = choice.extents.products * work.seconds(turns, copies.latency)
        return work if seconds < CLEARLY * arrays else None

    def _report_vector(self, choice: Choice, work: VectorWork) -> None:
        turns, copies = choice.extents.turns, copy_time(self.at.spec)
        if self.at.limited is not None:
            moved, computed = turns * work.memory, turns * work.passes
            bounds = {"memory": moved, "vector unit": computed, "latency": copies.latency}
            parts = f"{microseconds(moved)} of transfers, {microseconds(computed)} on the vector unit"
            limit = max(bounds, key=lambda name: bounds[name])
            arrays = microseconds(choice.seconds(machine_of(self.at)))
            self.at.limited(f"bound by {limit} ({parts}; {arrays} on the arrays)")

    def choice(self) -> Choice:
        """The fastest way to stream one operand past the other. Raises CompileError: CAPACITY."""
        npu = self.at.spec.npu
        assert npu is not None
        machine, found = machine_of(self.at), list[Choice]()
        room = 0
        for swap in SWAPS[npu.array.dataflow]:
            extents = self._extents(swap, self.nest.batch)
            room = Arena.room(self.at, self._want(extents) + self._kept) - self._kept
            tiles = best_tiles(machine, extents, room, self._limits(swap))
            if tiles is not None:
                found.append(Choice(swap, self.nest.batch, extents, tiles))
            if machine.tiling != "panels" and not self.twin:
                found += self._grouped(machine, swap)
        if not found:
            raise fail(Kind.CAPACITY, f"not even single products fit {room} bytes of on-chip scratch")
        return min(found, key=lambda c: c.cut.seconds)

    def _grouped(self, machine: Machine, swap: bool) -> Iterator[Choice]:
        """Groups of whole products along each axis of the batch."""
        batch = Nest((0, 0, 0), self.nest.batch).merged().axes
        limits = self._limits(swap)
        for innermost in batch:
            order = (*(a for a in batch if a is not innermost), innermost)
            extents = self._extents(swap, order)
            if limits is None or limits >= (extents.t, extents.s, extents.k):
                group = best_group(machine, extents, Arena.room(self.at))
                if group is not None:
                    yield Choice(swap, order, extents, group)

    def axes(self, swap: bool) -> tuple[Sequence[Axis], Sequence[Axis]]:
        """Those of the rows of T and of S."""
        rows, columns = self.nest.rows, self.nest.columns
        return (columns, rows) if swap else (rows, columns)

    def _extents(self, swap: bool, batch: Sequence[Axis]) -> Extents:
        t_axes, s_axes = self.axes(swap)
        streamed, stationary = (B, A) if swap else (A, B)
        return Extents(
            _count(t_axes), _count(s_axes), self.nest.depth, self.tensors[A].element_bytes,
            self._side(streamed, batch, t_axes), self._side(stationary, batch, s_axes),
            self._side(OUT, batch, t_axes, s_axes), _count(batch),
            *self._of_epilogue(), self._together if swap else 1, 1 if swap else self._together,
            self._stays(streamed, stationary, t_axes, s_axes), self._cuts_of_k, *self._of_prologue(swap),
            ("t" if swap else "s") if self.twin else "", _loops(t_axes, streamed), _loops(s_axes, stationary),
        )  # fmt: skip

    def _of_prologue(self, swap: bool) -> tuple[str, int, float]:
        """Of which operand, and for each element of it: bytes on chip of each tile, and seconds of the vector unit."""
        prologue, npu = self.prologue, self.at.spec.npu
        if prologue is None or npu is None:
            return "", 0, 0.0
        held = prologue.working_bytes + SLOTS * prologue.brought_bytes
        return "s" if swap else "t", held, prologue.clocks(npu) / npu.clock

    def _stays(self, streamed: int, stationary: int, t_axes: Sequence[Axis], s_axes: Sequence[Axis]) -> str:
        """Which operands commands can address where they are (`_Tiled._stays`, for whatever tiles)."""
        (_, axes), *more = self.nest.contracted
        sides = (("t", streamed, t_axes), ("s", stationary, s_axes))
        return "".join(
            name for name, operand, rows in sides
            if self.tensors[operand].on_chip and not more and _merged(axes) <= 1 and _merged(rows) <= 1
        )  # fmt: skip

    @property
    def _cuts_of_k(self) -> int:
        """Turns of the outermost loop over k, if there is one nest of them."""
        (_, axes), *more = self.nest.contracted
        merged = Nest((0,) * len(axes[0].strides), tuple(axes)).merged().axes
        return merged[0].count if merged and not more else 0

    def _of_epilogue(self) -> tuple[int, int, float]:
        """Bytes on chip for each element of a tile, of each tile and once, and seconds of the vector unit."""
        epilogue, npu = self.epilogue, self.at.spec.npu
        if epilogue is None or npu is None:
            return 0, 0, 0.0
        return epilogue.moving_bytes, epilogue.working_bytes, epilogue.clocks(npu) / npu.clock

    def _limits(self, swap: bool) -> Limits | None:
        tile = self.at.tile
        if tile is None:
            return None
        return (tile.n, tile.m, tile.k) if swap else (tile.m, tile.n, tile.k)

    def _report(self, choice: Choice) -> None:
        """Say how the product is cut, and which bound holds."""
        cut, e = choice.cut, choice.extents
        if self.at.tiled is not None:
            m, n = (cut.s, cut.t) if choice.swap else (cut.t, cut.s)
            count = e.turns * -(-e.t // cut.t) * -(-e.s // cut.s) * -(-e.k // cut.k)
            self.at.tiled(Tile(m, n, cut.k, count))
        if self.at.limited is not None:
            npu = self.at.spec.npu
            assert npu is not None
            stays = "sums stay" if npu.array.dataflow == "os" else "activation stays" if choice.swap else "weight stays"
            parts = (
                f"{microseconds(e.turns * cut.memory)} of transfers, {microseconds(e.turns * cut.compute)} of arrays"
            )
            self.at.limited(f"bound by {cut.limit} ({parts}; {stays})")

    def _side(
        self, operand: int, batch: Sequence[Axis], rows: Sequence[Axis], columns: Sequence[Axis] | None = None
    ) -> Side | None:
        """How an operand [rows, k], or the result, lies in memory. What a prologue makes is not there, but the first of
        what it reads."""
        among, deep = operand, operand  # the strides of loops over the result, and over k
        if operand == A and self.prologue is not None:
            if not self.prologue.brought:
                return None
            first = self.prologue.brought[0]
            among, deep = self.first_source + first, OUT + first
        elif self.tensors[operand].on_chip:
            return None
        if columns is None:
            depth = max((axes for _, axes in self.nest.contracted), key=_count)
            inner = tuple((x.count, x.strides[deep]) for x in depth)
        else:
            inner = tuple((x.count, x.strides[among]) for x in columns)
        outer, products = (tuple((x.count, x.strides[among]) for x in axes) for axes in (rows, batch))
        return Side(outer, inner, products)

    @property
    def first_source(self) -> int:
        """The position of the prologue's first operand among those of the nest."""
        return OUT + 1 + (0 if self.epilogue is None else len(self.epilogue.layouts()))

    @staticmethod
    def _want(e: Extents) -> int:
        slots = DEEP if e.repeated else SLOTS
        operands = (e.times("t") * e.t * e.k, e.times("s") * e.s * e.k)
        moving = sum(padded(n * e.element_bytes) for n in operands) + padded(e.t * e.s * e.of_out)
        return slots * moving + padded(e.t * e.s * e.working_bytes)


@record
class _Layer:
    """Those k of a product that pass by before all others do: nests of (address of T, address of S)."""

    parts: list[Nest]
    k: int
    cuts: int = 1
    """into so many parts the first and the last pieces are cut, each of which is multiplied as it arrives"""
    number: int = 0
    last: bool = True


@record
class _LastSlab:
    """The last of the slabs of a product, which comes in strips."""

    nest: Nest
    """of its k: (address of T, address of S)"""
    starts: dict[str, Scalar]
    """of the tiles of T and S, with the first k"""
    places: dict[str, int]
    """where its parts of T and S are to lie"""
    kept: Matrix | None
    """the operand that has come with all k"""
    added: Scalar
    """slabs before it"""


class _Tiled:
    """The loops over tiles of one product, for each turn of the batch."""

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
        self.panels = tiles.piece > 0
        self.layers = list(self._cut_in_layers(parts, extents))
        self.layer = self.layers[0]
        self.depth = self.machine.depth(self.layer.k, tiles.down) if self.panels else tiles.k
        inner = tiles.s if tiles.t_outside else tiles.t
        micro = tiles.piece * inner if self.panels else tiles.t * tiles.s
        self.doubled, self.twin = extents.doubled, whole.twin or Twin(0, 0)
        self.blocks = Blocks.on(
            self.emit, self.machine, self.dtype, tiles.down, tiles.across, self.twin.rows
        )
        self.acc_bytes = extents.products * micro * ACCUMULATOR_BYTES
        self.acc_slots = min(tiles.slots, self.machine.accumulator_bytes // self.acc_bytes)
        self.acc_row = extents.s * ACCUMULATOR_BYTES if len(self.layers) > 1 else 0
        """bytes from row to row of accumulators that hold all of the result; 0: they hold a tile"""
        self.acc_twin = (self.acc_row * extents.t or micro * ACCUMULATOR_BYTES) if whole.twin else 0
        self.piece_bytes = extents.times(self.order[0]) * padded(tiles.piece * self.depth * self.dtype.bits // 8)
        self.arena = arena
        self.working = 0
        if self.epilogue is not None:
            self.working_size = micro * self.epilogue.working_bytes + self.epilogue.spare
            self.working = arena.take(self.working_size)
        self.prologue = None
        if whole.prologue is not None:
            self.prologue = Prologue(self.emit, whole.prologue, whole.tensors[A], arena, tiles.piece, extents.k)
        self.places: dict[tuple[str, object], int] = {}
        self.slots = self._take(arena, extents)

    def _cut_in_layers(self, parts: list[Nest], e: Extents) -> Iterator[_Layer]:
        """All k as one, or for panels as many as their tiles are deep."""
        regular = self.panels and len(parts) == 1 and len(parts[0].axes) == 1
        cuts = self.machine.parts(min(self.tiles.k, e.k), self.tiles.down) if regular else 1
        layers = e.k // self.tiles.k if self.panels else 1
        if layers == 1:
            yield _Layer(parts, e.k, cuts)
            return
        (axis, *inner), start = parts[0].axes, parts[0]
        turns = axis.count // layers
        for number in range(layers):
            part = Nest(start.starts, (replace(axis, count=turns), *inner))
            yield _Layer([part.merged()], self.tiles.k, 1 if number else cuts, number, number == layers - 1)
            start = start.moved([turns * stride for stride in axis.strides])

    def _take(self, arena: Arena, e: Extents) -> dict[str, list[int]]:
        tiles = self.tiles
        t, s, k = tiles.t, tiles.s, tiles.k
        counts: dict[str, int] = dict.fromkeys(self.order, SLOTS)
        counts[self.order[0]] = tiles.slots_outer
        spare = 0 if self.epilogue is None else self.epilogue.spare
        depth = self.depth
        self.sizes = {"t": e.held("t", t, depth), "s": e.held("s", s, depth), "out": t * s * e.of_out + spare}
        if self.panels:
            outer, inner = (t, s) if tiles.t_outside else (s, t)
            _, pieces = e.cut(self.order[0], outer, tiles.piece)
            self.sizes[self.order[0]] = pieces * e.held(self.order[0], tiles.piece, depth)
            self.sizes["out"] = tiles.piece * inner * e.of_out + spare
            return {self.order[0]: [arena.take(self.sizes[self.order[0]]) for _ in range(tiles.slots_outer)]}
        if tiles.kept:
            self.sizes[tiles.kept] = e.held(tiles.kept, t if tiles.kept == "t" else s, e.k)
        if k < e.k:
            return {"out": [arena.take(self.sizes["out"]) for _ in range(tiles.slots)]}
        if t >= e.t and s >= e.s:
            counts = dict.fromkeys(list(counts), tiles.slots if e.repeated else 1)
        counts["out"] = tiles.slots
        return {name: [arena.take(self.sizes[name]) for _ in range(n)] for name, n in counts.items()}

    # -- loops ----------------------------------------------------------------------------------------------------

    def run(self, starts: Sequence[Scalar], turn: int) -> None:
        """One turn of the batch; `turn` alternates, so that neighbouring turns use different slots."""
        base = {"t": starts[self.streamed], "s": starts[self.stationary]}
        first, second = self.order
        results = (*starts[OUT:], 0)
        if self.panels:
            for outer, outer_at, slot in self._tiles(first, len(self.slots[first])):
                for layer in self.layers:
                    self.layer = layer
                    number = (slot + turn + layer.number) % len(self.slots[first])
                    self._panel(outer, outer_at, base, results, number)
            return
        resident = self.tiles.k >= self.layer.k
        for outer, outer_at, slot in self._tiles(first, self.tiles.slots_outer):
            held = None
            if resident:
                room = self.slots[first][(slot + turn) % len(self.slots[first])]
                held = self._resident(first, outer, base[first] + outer_at[0], room)
            for inner, inner_at, turn_slot in self._tiles(second, SLOTS):
                inner_slot = (turn_slot + turn) % self.tiles.slots
                tile = {first: (outer, outer_at), second: (inner, inner_at)}
                address = {name: base[name] + tile[name][1][0] for name in ("t", "s")}
                rows, columns = tile["t"][0], tile["s"][0]
                sums = self._sums(self._accumulators(inner_slot, results), columns)
                last = None
                if held is not None:
                    room = self.slots[second][inner_slot % len(self.slots[second])]
                    other = self._resident(second, inner, address[second], room)
                    pair = (held, other) if first == "t" else (other, held)
                    self.blocks.multiply(*pair, rows.elements, columns.elements, self.layer.k, sums)
                else:
                    last = self._over_k(rows, columns, address, sums, (turn_slot + turn + slot) % SLOTS)
                at, out = _plus(results, outer_at[1:], inner_at[1:]), self.slots["out"][inner_slot]
                if last is not None:
                    self._in_strips(last, {"t": rows, "s": columns}, at, sums, out)
                    continue
                self._finish(rows, columns, at, sums, out, inner_slot)

    def _accumulators(self, slot: int, results: tuple[Scalar, ...]) -> Scalar:
        """Where products gather: of a tile in some slot, or its place in all of the result."""
        if self.acc_row:
            return results[-1]
        if self.acc_slots == 1:
            self.emit.issue("npu", Fence())
        return slot % self.acc_slots * self.acc_bytes

    def _sums(self, acc: Scalar, columns: Tiling) -> Sums:
        return Sums(acc, self.acc_row or columns.elements * ACCUMULATOR_BYTES, self.acc_twin)

    # -- panels ---------------------------------------------------------------------------------------------------

    def _panel(
        self, outer: Tiling, at: tuple[Scalar, ...], base: dict[str, Scalar], results: tuple[Scalar, ...], number: int
    ) -> None:
        """A tile of the outer operand stays; pieces of the inner one pass by, the first while the tile arrives."""
        held = self.slots[self.order[0]][number]
        pieces = tilings(Nest((0,) * len(at), outer.tile), self.tiles.piece, even=False)
        limit = self.tiles.s if self.tiles.t_outside else self.tiles.t
        whole, *rest = tilings(self.groups[self.order[1]], limit, even=False)
        loops = whole.outer.axes
        moved = {**base, self.order[0]: base[self.order[0]] + at[0]}
        results = _plus(results, at[1:])
        if len(loops) <= 1:
            self._pass(pieces, whole, whole.outer.starts, moved, results, held, (number, SLOTS), arrives=True)
            after = [replace(x, count=x.count - 1) for x in loops]
            turns = Nest(whole.outer.moved(loops[0].strides).starts, tuple(after)) if loops else None
            alone = len(pieces) == 1 and not pieces[0].outer.axes
            if turns is not None and loops and alone and self.tiles.early > 1:
                own, place = (self.order[1],), (number, SLOTS + 1)
                self._pass(pieces, whole, turns.starts, moved, results, held, place, arrives=False, parts=own)
                after = [replace(x, count=x.count - 1) for x in after]
                turns = Nest(turns.moved(loops[0].strides).starts, tuple(after))
        else:  # the first turn is not a turn of one loop: all pieces are brought before
            for piece, starts, _, chip in self._each(pieces, held):
                out = _plus(results, starts[1:])
                self._resident(self.order[0], piece, moved[self.order[0]] + starts[0], chip, results=out)
            if self.led:
                self.emit.issue("npu", Fence("vector"))
            turns = whole.outer
        ends = len(pieces) == 1 and not pieces[0].outer.axes  # the very last piece of all may come in parts
        if ends and not rest and turns is not None and len(turns.axes) == 1 and turns.axes[0].count > 0:
            (axis,) = turns.axes
            final = turns.moved([stride * (axis.count - 1) for stride in axis.strides])
            rest = [Tiling(replace(final, axes=()), whole.tile)]
            turns = replace(turns, axes=(replace(axis, count=axis.count - 1),))
        last = SLOTS
        if turns is not None and not all(axis.count for axis in turns.axes):
            turns = None
        for starts, slot in _rotating(self.emit, turns, SLOTS) if turns is not None else ():
            last = min(slot, SLOTS)
            self._pass(pieces, whole, starts, moved, results, held, (number, last), arrives=False)
        for tiling in rest:
            for starts, _ in walk(self.emit, tiling.outer):
                slot = (last + 1) % (SLOTS + 1)
                parts = (self.order[1],) if ends and not tiling.outer.axes else ()
                self._pass(pieces, tiling, starts, moved, results, held, (number, slot), arrives=False, parts=parts)

    def _each(
        self, pieces: Sequence[Tiling], held: int, *, after: int = 0
    ) -> Iterator[tuple[Tiling, tuple[Scalar, ...], object, Scalar]]:
        """Every piece: its addresses in memory and in the result, its slot, and where it is on chip.

        after: leave out so many of the first pieces, which are turns of at most one loop then.
        """
        before = after
        for position, piece in enumerate(pieces):
            nest, loops = piece.outer, piece.outer.axes
            if position == 0 and after:
                if not loops:
                    continue
                beyond = nest.moved([after * stride for stride in loops[0].strides]).starts
                nest = Nest(beyond, (replace(loops[0], count=loops[0].count - after),))
            for turn, starts, slot in _counted(self.emit, nest, self.tiles.slots):
                yield piece, starts, (position, slot), held + (turn + before) * self.piece_bytes
            before += _count(nest.axes)

    def _pass(
        self, pieces: Sequence[Tiling], inner: Tiling, at: tuple[Scalar, ...], base: dict[str, Scalar],
        results: tuple[Scalar, ...], held: int, slot: object, *, arrives: bool, parts: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """One piece of the inner operand with every piece of the outer tile.

        arrives: the outer tile comes now, and with it the very first pieces in parts. parts: what else comes in parts.
        """
        first, second = self.order
        chip = self._place(second, slot)
        if arrives and self.led:
            self._pass_made(pieces, inner, at, base, results, held, slot)
            return
        begun = 0
        if (arrives or parts) and self._comes_in_parts(pieces[0]):
            begun = self._early(pieces[0]) if arrives else 1
            tiles = {first: pieces[0], second: inner}
            loops = pieces[0].outer.axes
            alone = len(pieces) == 1 and not loops
            for number in range(begun):
                start = pieces[0].outer.moved([number * stride for stride in loops[0].strides]) if number else None
                starts = (start or pieces[0].outer).starts
                addresses = {first: base[first] + starts[0], second: base[second] + at[0]}
                places = {first: held + number * self.piece_bytes, second: chip}
                out = _plus(results, at[1:], starts[1:])
                acc = self._accumulators(number, out)
                moving = parts or ((first,) if number else ("t", "s"))
                self._multiply_parts(tiles, addresses, places, acc, moving)
                if self.layer.last:
                    held_out = self._place("out", (slot, (0, 0) if alone else ("early", number)))
                    self._finish(tiles["t"], tiles["s"], out, self._sums(acc, tiles["s"]), held_out, number)
        other = self._resident(second, inner, base[second] + at[0], chip, moves=not begun)
        for number, (piece, starts, turn, place) in enumerate(self._each(pieces, held, after=begun), begun):
            own = self._resident(first, piece, base[first] + starts[0], place, moves=arrives)
            pair = (own, other) if first == "t" else (other, own)
            rows, columns = (piece, inner) if first == "t" else (inner, piece)
            out = _plus(results, at[1:], starts[1:])
            acc, layer = self._accumulators(number, out), self.layer
            sums = self._sums(acc, columns)
            self.blocks.multiply(*pair, rows.elements, columns.elements, layer.k, sums, layer.number)
            if layer.last:
                self._finish(rows, columns, out, sums, self._place("out", (slot, turn)), number)

    def _pass_made(
        self, pieces: Sequence[Tiling], inner: Tiling, at: tuple[Scalar, ...], base: dict[str, Scalar],
        results: tuple[Scalar, ...], held: int, slot: object,
    ) -> None:  # fmt: skip
        """The first inner piece with every piece of the outer tile, each of which is made while the one before is
        multiplied. Results leave one piece later, so that what makes the next one does not wait for the arrays."""
        first, second = self.order
        turns = [(piece, starts) for piece in pieces for starts in every_turn(piece.outer)]
        matrices: list[Matrix] = []

        def make(number: int) -> None:
            piece, starts = turns[number]
            out, place = _plus(results, starts[1:]), held + number * self.piece_bytes
            matrices.append(self._resident(first, piece, base[first] + starts[0], place, results=out))

        def finish(number: int) -> None:
            rows, columns = (turns[number][0], inner) if first == "t" else (inner, turns[number][0])
            place = self._place("out", (slot, number % self.tiles.slots))
            out, acc = gathered[number]
            self._finish(rows, columns, out, self._sums(acc, columns), place, number)

        gathered: list[tuple[tuple[Scalar, ...], Scalar]] = []
        make(0)
        chip, start = self._place(second, slot), base[second] + at[0]
        in_parts = self._comes_in_parts(pieces[0])
        other = self._resident(second, inner, start, chip, moves=not in_parts)
        for number, (piece, starts) in enumerate(turns):
            self.emit.issue("npu", Fence("vector"))
            if number + 1 < len(turns):
                make(number + 1)
            if number:
                finish(number - 1)
            own = matrices[number]
            pair = (own, other) if first == "t" else (other, own)
            rows, columns = (piece, inner) if first == "t" else (inner, piece)
            out = _plus(results, at[1:], starts[1:])
            acc = self._accumulators(number, out)
            if in_parts and not number:
                places = {first: held, second: chip}
                self._multiply_parts({first: piece, second: inner}, {first: base[first] + starts[0], second: start},
                                     places, acc, (second,))  # fmt: skip
            else:
                self.blocks.multiply(*pair, rows.elements, columns.elements, self.layer.k, self._sums(acc, columns))
            gathered.append((out, acc))
        finish(len(turns) - 1)

    def _early(self, piece: Tiling) -> int:
        """How many of the first outer pieces come in parts of k."""
        return min(self.tiles.early, _count(piece.outer.axes))

    def _comes_in_parts(self, piece: Tiling) -> bool:
        """Whether the very first or last products begin before all of k is there."""
        moves = not all(tensor.on_chip for tensor in self.operands.values())
        return moves and self.layer.cuts > 1 and len(piece.outer.axes) <= 1

    def _multiply_parts(
        self, tiles: dict[str, Tiling], starts: dict[str, Scalar], held: dict[str, int], acc: Scalar,
        parts: tuple[str, ...],
    ) -> None:  # fmt: skip
        """Bring two pieces, or one of them, part by part of k, and multiply each as it arrives."""
        depth = -(-self.layer.k // (self.layer.cuts * self.blocks.high)) * self.blocks.high
        for name in parts:
            if self._rather_whole(name, tiles[name], depth):
                self._resident(name, tiles[name], starts[name], held[name])
                parts = tuple(part for part in parts if part != name)
        done = 0
        for cut in tilings(self.layer.parts[0], depth, even=False):
            for turn, at, _ in _counted(self.emit, cut.outer, 1):
                brought = {}
                for i, name in ((1, "s"), (0, "t")):  # the block is loaded into the arrays while rows still arrive
                    matrix = self._resident(name, tiles[name], starts[name], held[name], moves=False)
                    part = replace(matrix, address=matrix.at(turn * cut.elements + done))
                    if name in parts and not self._stays(name, tiles[name], [own.axes for own in self.layer.parts]):
                        self._copy(name, tiles[name], [cut.tile], i, [starts[name] + at[i]], part)
                    brought[name] = part
                rows, columns = tiles["t"].elements, tiles["s"].elements
                sums = self._sums(acc, tiles["s"])
                self.blocks.multiply(brought["t"], brought["s"], rows, columns, cut.elements, sums, turn + done)
            done += _count(cut.outer.axes) * cut.elements

    def _rather_whole(self, name: str, tile: Tiling, depth: int) -> bool:
        """Whether the parts of a piece fall on so few channels each that they would take twice as long as all of it."""
        side, size = self.sides[name], self.dtype.bits // 8
        part, whole = (
            move_seconds(self.machine.copies, side, tile.elements, k, size)[0] for k in (depth, self.layer.k)
        )
        return self.layer.k // depth * part > 2 * whole

    def _place(self, name: str, slot: object) -> int:
        """Where the piece of a slot lies on chip. Turns around a loop have slots of their own, so that they need not
        wait for all of it."""
        if (name, slot) not in self.places:
            self.places[name, slot] = self.arena.take(self.sizes[name])
        return self.places[name, slot]

    # -- parts ----------------------------------------------------------------------------------------------------

    def _tiles(self, name: str, slots: int) -> Iterator[tuple[Tiling, tuple[Scalar, ...], int]]:
        limit = self.tiles.t if name == "t" else self.tiles.s
        for tiling in tilings(self.groups[name], limit, even=False):
            for starts, slot in walk(self.emit, tiling.outer, slots):
                yield tiling, starts, slot

    def _over_k(
        self, rows: Tiling, columns: Tiling, address: dict[str, Scalar], sums: Sums, parity: int
    ) -> _LastSlab | None:
        """Tiles of k pass by, and their products are added up in the accumulators; the last one is left over where it
        comes in strips."""
        added: Scalar = 0
        done: Scalar = 0
        tiles, kept = {"t": rows, "s": columns}, self.tiles.kept
        whole = self._resident(kept, tiles[kept], address[kept], self._place(kept, parity)) if kept else None
        slabs = [slab for part in self.layer.parts for slab in tilings(part, self.tiles.k, even=False)]
        last = None
        if self.tiles.strips is not None and len(slabs[-1].outer.axes) <= 1:
            *slabs, final = slabs
            before, last = _but_last(final)
            slabs += before
        for slab in slabs:
            turns = _count(slab.outer.axes)
            for turn, starts, slot in _counted(self.emit, slab.outer, SLOTS):
                pair = []
                for i, (name, tile) in enumerate(tiles.items()):
                    if whole is not None and name == kept:
                        pair.append(replace(whole, address=whole.at(turn * slab.elements + done)))
                        continue
                    start = address[name] + starts[i]
                    held = self._place(name, (parity, min(slot, SLOTS)))
                    pair.append(self._bring(name, tile, [slab.tile], i, [start], held))
                t, s = pair
                self.blocks.multiply(t, s, rows.elements, columns.elements, slab.elements, sums, added + turn)
            added = added + turns
            done = done + turns * slab.elements
        if last is None:
            return None
        places = {name: self._place(name, (parity, SLOTS + 1)) for name in tiles if whole is None or name != kept}
        return _LastSlab(last, address, places, whole and replace(whole, address=whole.at(done)), added)

    def _in_strips(
        self, last: _LastSlab, tiles: dict[str, Tiling], at: tuple[Scalar, ...], sums: Sums, out: int
    ) -> None:
        """The last slab: block after block of k, the last of them in strips whose results leave by themselves."""
        strips, size, done = self.tiles.strips, self.dtype.bits // 8, 0
        assert strips is not None
        own, other = ("t", "s") if strips.operand == "t" else ("s", "t")
        one, two = (0, 1) if own == "t" else (1, 0)
        blocks = list(_in_turn(last.nest, self.blocks.high))
        for number, (_, block, deep) in enumerate(blocks):
            ends = number == len(blocks) - 1
            if last.kept is not None:
                fixed = replace(last.kept, address=last.kept.at(done))
            else:
                place = last.places[other] + done * tiles[other].elements * size
                fixed = self._bring(other, tiles[other], [block.tile], two, [last.starts[other] + deep[two]], place)
            whole = Nest((0,) * (1 + len(at)), tiles[own].tile)
            for before, strip, moved in _in_turn(whole, strips.columns if ends else whole.elements):
                place = last.places[own] + (done * whole.elements + before * block.elements) * size
                start = last.starts[own] + deep[one] + moved[0]
                matrix = self._bring(own, strip, [block.tile], one, [start], place)
                t, s, rows, columns = (matrix, fixed, strip, tiles[other])
                if own == "s":
                    t, s, rows, columns = fixed, matrix, tiles[other], strip
                part = replace(sums, address=sums.at(*((before, 0) if own == "t" else (0, before))))
                loaded = own == "t" and before > 0 and columns.elements <= self.blocks.wide
                added = last.added + done
                self.blocks.multiply(
                    t, s, rows.elements, columns.elements, block.elements, part, added, loaded=loaded
                )  # fmt: skip
                if ends:
                    held = out + before * tiles[other].elements * self.out.element_bytes
                    self._finish(rows, columns, _plus(at, moved[1:]), part, held, 0)
            done += block.elements

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
        depth = sum(_count(axes) for axes in parts)
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
        rows = [replace(a, strides=(a.strides[0],)) for a in tile.tile]
        for axes, start in zip(parts, starts, strict=True):
            depths = [replace(a, strides=(a.strides[operand],)) for a in axes]
            for first, part in _in_blocks(depths, self.blocks.high) if matrix.block else [(0, depths)]:
                steps = [matrix.block * self.blocks.high, matrix.column][-len(part) :]
                inside = steps if matrix.block else scaled(part, matrix.column)
                begin = start + (first * depths[0].strides[0] if first else 0)
                place = matrix.at(done + first)
                bring(self.emit, tensor, begin, place, [*rows, *part], 0, [*scaled(tile.tile, matrix.row), *inside])
            done += _count(axes)

    def _finish(
        self, rows: Tiling, columns: Tiling, starts: tuple[Scalar, ...], sums: Sums, held: int, slot: int
    ) -> None:
        """Accumulators to the result's place; starts: there, and in operands of the epilogue. Tiles that follow each
        other have different slots."""
        if self.epilogue is not None:
            self._finish_with(self.epilogue, rows, columns, starts, sums, held, slot)
            return
        t, s, start = rows.tile, columns.tile, starts[0]
        direct = self.out.on_chip and len(t) <= 1 and len(s) <= 1
        size = self.out.element_bytes
        if direct:
            tile = Matrix(start, t[0].strides[1] if t else 0, s[0].strides[1] if s else 0)
        else:
            by_row = not (t and t[-1].strides[1] == size)
            tile = Matrix(held, columns.elements * size, size) if by_row else Matrix(held, size, rows.elements * size)
        drain = Drain(
            acc=sums.address, rows=rows.elements, columns=columns.elements, acc_row=sums.row, dst=tile.address,
            dst_type=self.out.dtype, dst_row=tile.row, dst_column=tile.column, scale=self.scale,
        )  # fmt: skip
        self.emit.issue("npu", drain)
        if not direct:
            inside = [*scaled(t, tile.row), *scaled(s, tile.column)]
            take_home(self.emit, self.out, tile.address, start, (*t, *s), 1, inside)

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


def _plus(*moves: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """Sums of addresses and how far they move."""
    first, *others = moves
    total = tuple(first)
    for more in others:
        total = tuple(a + b for a, b in zip(total, more, strict=True))
    return total


def _in_turn(nest: Nest, most: int) -> Iterator[tuple[int, Tiling, tuple[Scalar, ...]]]:
    """Pieces of at most so many elements one after the other: the elements before each, and where it begins."""
    before = 0
    for tiling in tilings(nest, most, even=False):
        for starts in every_turn(tiling.outer):
            yield before, tiling, starts
            before += tiling.elements


def _but_last(tiling: Tiling) -> tuple[list[Tiling], Nest]:
    """The tiles of one loop before the last one, and that."""
    if not tiling.outer.axes:
        return [], replace(tiling.outer, axes=tiling.tile)
    (axis,) = tiling.outer.axes
    before = replace(tiling.outer, axes=(replace(axis, count=axis.count - 1),))
    final = tiling.outer.moved([stride * (axis.count - 1) for stride in axis.strides])
    return [replace(tiling, outer=before)], replace(final, axes=tiling.tile)


def _merged(axes: Sequence[Axis]) -> int:
    """How many loops they are."""
    return len(Nest((0,) * len(axes[0].strides), tuple(axes)).merged().axes) if axes else 0


def _loops(axes: Sequence[Axis], operand: int) -> tuple[int, ...]:
    """Counts of the loops over rows of an operand, where there are several."""
    if len(axes) < 2:
        return ()
    own = tuple(Axis(x.count, (x.strides[operand], *x.strides[OUT:])) for x in axes)
    counts = Nest((0,) * (len(axes[0].strides) - OUT + 1), own).merged().counts()
    return counts if len(counts) > 1 else ()


def _count(axes: Sequence[Axis]) -> int:
    return prod(a.count for a in axes)


def _in_blocks(axes: Sequence[Axis], size: int) -> Iterator[tuple[int, list[Axis]]]:
    """The one loop over k as whole blocks and what lies in them, and the rest as one block: its first k, its loops."""
    (axis,) = axes
    whole, rest = divmod(axis.count, size)
    if whole:
        yield 0, [replace(axis, count=whole, strides=tuple(size * s for s in axis.strides)), replace(axis, count=size)]
    if rest:
        yield whole * size, [replace(axis, count=rest)]


def _counted(emit: Emitter, nest: Nest, slots: int) -> Iterator[tuple[Scalar, tuple[Scalar, ...], int]]:
    """`_rotating` that also numbers the turns."""
    strides = dense_strides([a.count for a in nest.axes], 1)
    axes = tuple(replace(a, strides=(*a.strides, n)) for a, n in zip(nest.axes, strides, strict=True))
    for starts, slot in _rotating(emit, Nest((*nest.starts, 0), axes), slots):
        yield starts[-1], starts[:-1], slot


def _rotating(emit: Emitter, nest: Nest, slots: int) -> Iterator[tuple[tuple[Scalar, ...], int]]:
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
