"""How a product is cut on the arrays, or that the vector unit does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pimc.backends.dma.timing import copy_time
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, walk
from pimc.backends.kernels.product_nest import OUT, A, B, ProductNest
from pimc.backends.kernels.vector_product import RowProducts, VectorShape
from pimc.backends.lowering import Cut, Lowering, Tensor
from pimc.backends.npu.blocks import Twin
from pimc.backends.npu.extents import Extents, Side
from pimc.backends.npu.grouped import Group, Groups, best_group
from pimc.backends.npu.isa import Fence
from pimc.backends.npu.machine import Machine, machine_of
from pimc.backends.npu.panels import Panels
from pimc.backends.npu.slabs import Slabs
from pimc.backends.npu.tile_ops import MOST_REGIONS, TileOps
from pimc.backends.npu.tile_search import best_tiles
from pimc.backends.npu.tiled import count_of
from pimc.backends.npu.tiles import DEEP, Limits, Tiles, move_seconds
from pimc.backends.npu.vector_unit import NPU, VectorProduct, VectorWork, vector_work
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Tile
from pimc.record import record

CLEARLY = 0.1
"""The vector unit is taken where it saves at least this part of the arrays' turnaround."""
_KEEPS_UP = 2.0
"""The vector unit may be faster than the arrays where it multiplies in less than so many times what memory takes."""
ABOUT = 1.02
"""Two products are cut side by side where that is estimated to need up to this part of the time apart: who asks for it
has compared the commands."""
SWAPS = {"ws": (False,), "is": (True,), "os": (False,), "either": (False, True)}
"""By dataflow: whether operands may be swapped, so that the activation stays and the weight streams."""


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


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
            if self._is_for_vector_unit():
                return None
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
        apart = e.on_vector_unit + 2 * self._moving(machine, e.out, e.t, e.s)
        if self.prologue is not None and not self.tensors[A].on_chip:
            side, rows = (e.streamed, e.t) if e.led == "t" else (e.stationary, e.s)
            apart += 2 * self._moving(machine, side, rows, e.k)
        seconds = choice.seconds(machine)
        if self.twin is None and seconds <= e.turns * (choice.cut.compute + apart):
            return True
        alone = self._alone().choice()
        known = 1.0 if self.twin is None else ABOUT
        return seconds <= known * (e.products * alone.seconds(machine) + e.turns * apart)

    def _alone(self) -> Contraction:
        return replace(self, epilogue=None, prologue=None, twin=None)

    def _is_for_vector_unit(self) -> bool:
        """Whether it does the product alone: what comes behind on their tiles makes the arrays no faster. Looked at
        where it keeps up with memory, and the search for the arrays' tiles may so be spared."""
        if self.prologue is not None:
            return False
        alone, spec = self._alone(), self.at.spec
        product = alone._vector_product()
        if product is None or product.multiplied(spec) > _KEEPS_UP * product.read(spec):
            return False
        choice = alone.choice()
        times, spared = (2, self._spared(choice)) if self.twin else (1, 0.0)
        return alone._vector_work(choice, times, spared) is not None

    def _spared(self, choice: Choice) -> float:
        """Seconds that two products need less side by side than one after the other, at most."""
        machine, e = machine_of(self.at), choice.extents
        rows, side = (e.s, e.stationary) if choice.swap else (e.t, e.streamed)
        moved = self._moving(machine, side, rows, e.k) + self._moving(machine, e.out, e.t, e.s)
        return machine.turnaround + e.turns * moved

    def _moving(self, machine: Machine, side: Side | None, rows: int, columns: int) -> float:
        return move_seconds(machine.copies, side, rows, columns, self.tensors[A].element_bytes)[0]

    @property
    def _has_whole_rows(self) -> bool:
        """Whether columns are one axis with all of the result's, where the epilogue goes by rows, and whole groups,
        where it goes by these."""
        if self.epilogue is None or not (self.epilogue.by_row or self.epilogue.group > 1):
            return True
        columns = [axis for axis in self.nest.columns if axis.count > 1]
        if count_of(columns) != self.tensors[OUT].shape[-1]:
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
            if not self.at.rehearsed:
                self._on_vector_unit(on_vector_unit.shape).run()
            return
        if isinstance(choice.cut, Tiles):
            self.run_tiles(choice, choice.cut)
            return
        self._begin(choice)
        if self.at.rehearsed:
            return
        nest = replace(self.nest, batch=choice.batch)
        Groups(self.at, machine_of(self.at), self.tensors, nest, self.scale, choice.cut, swap=choice.swap).run()

    def _begin(self, choice: Choice) -> None:
        if any(t.on_chip for t in self.tensors[:OUT]):  # an operand on chip may come from the vector unit
            self.at.emit.issue("npu", Fence())
        self._report(choice)

    def run_tiles(self, choice: Choice, tiles: Tiles) -> None:
        self._begin(choice)
        if self.at.rehearsed:
            return
        arena = Arena(self.at, self._want(choice.extents) + self._kept)
        nest = Nest(self.nest.starts, choice.batch)
        own = [ops.stage(self.at.emit, arena) for ops in (self.epilogue, self.prologue) if ops is not None]
        nest = nest.moved((0, 0, 0, *(place for places in own for place in places)))
        work = (Panels if tiles.piece else Slabs)(self, arena, choice, tiles)
        for starts, slot in walk(self.at.emit, nest, tiles.slots):
            work.run(starts, slot)

    def _vector_work(self, choice: Choice, times: int = 1, spared: float = 0.0) -> VectorWork | None:
        """How the vector unit does it, where it is faster for so many of them, for which the arrays need so many
        seconds less than for each by itself."""
        product, machine, turns = self._vector_product(), machine_of(self.at), choice.extents.turns
        most = times * choice.seconds(machine) - spared - CLEARLY * machine.turnaround
        products = times * choice.extents.products
        if product is None or products * turns * product.soon(self.at.spec) >= most:
            return None
        work = vector_work(
            self.at.spec, product, Arena.room(self.at), lambda shape: self._on_vector_unit(shape).wanted
        )
        faster = work is not None and products * work.seconds(turns, machine.copies.latency) < most
        return work if faster else None

    def _vector_product(self) -> VectorProduct | None:
        """None where the vector unit does not do it."""
        npu = self.at.spec.npu
        assert npu is not None
        if npu.products == "array" or self.at.tile is not None:
            return None
        sides = (
            self._side(A, self.nest.batch, self.nest.rows),
            self._side(B, self.nest.batch, self.nest.columns),
            self._side(OUT, self.nest.batch, self.nest.rows, self.nest.columns),
        )
        a, b, out = self.tensors
        return VectorProduct(
            count_of(self.nest.rows), count_of(self.nest.columns), self.nest.depth, sides,
            (a.element_bytes, b.element_bytes, out.element_bytes), a.on_chip,
        )  # fmt: skip

    def _on_vector_unit(self, shape: VectorShape) -> RowProducts:
        return RowProducts(NPU, self.at, self.tensors, self.nest, self.scale, shape)

    def _report_vector(self, choice: Choice, work: VectorWork) -> None:
        turns, copies = choice.extents.turns, copy_time(self.at.spec)
        if self.at.told is not None:
            moved, computed = turns * work.memory, turns * work.passes
            bounds = {"memory": moved, "vector unit": computed, "latency": copies.latency}
            parts = f"{microseconds(moved)} of transfers, {microseconds(computed)} on the vector unit"
            limit = max(bounds, key=lambda name: bounds[name])
            arrays = microseconds(choice.seconds(machine_of(self.at)))
            said = f"bound by {limit} ({parts}; {arrays} on the arrays)"
            seconds = choice.extents.products * work.seconds(turns, copies.latency)
            self.at.told(Cut(None, seconds, moved, computed, said))

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
        return min(found, key=lambda c: c.cut.usual)

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
            count_of(t_axes), count_of(s_axes), self.nest.depth, self.tensors[A].element_bytes,
            self._side(streamed, batch, t_axes), self._side(stationary, batch, s_axes),
            self._side(OUT, batch, t_axes, s_axes), count_of(batch),
            *self._of_epilogue(), self._together if swap else 1, 1 if swap else self._together,
            self._stays(streamed, stationary, t_axes, s_axes), self._cuts_of_k, *self._of_prologue(swap),
            ("t" if swap else "s") if self.twin else "", 0 if self.epilogue is None else self.epilogue.commands,
            _loops(t_axes, streamed), _loops(s_axes, stationary),
        )  # fmt: skip

    def _of_prologue(self, swap: bool) -> tuple[str, int, float]:
        """Of which operand, and for each element of it: bytes on chip of each tile, and seconds of the vector unit."""
        prologue, npu = self.prologue, self.at.spec.npu
        if prologue is None or npu is None:
            return "", 0, 0.0
        held = prologue.working_bytes + SLOTS * prologue.brought_bytes
        return "s" if swap else "t", held, prologue.clocks(npu) / npu.clock

    def _stays(self, streamed: int, stationary: int, t_axes: Sequence[Axis], s_axes: Sequence[Axis]) -> str:
        """Which operands commands can address where they are (`Tiled._stays`, for whatever tiles)."""
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
        if self.at.told is None:
            return
        cut, e, npu = choice.cut, choice.extents, self.at.spec.npu
        assert npu is not None
        m, n = (cut.s, cut.t) if choice.swap else (cut.t, cut.s)
        count = e.turns * -(-e.t // cut.t) * -(-e.s // cut.s) * -(-e.k // cut.k)
        stays = "sums stay" if npu.array.dataflow == "os" else "activation stays" if choice.swap else "weight stays"
        memory, compute = e.turns * cut.memory, e.turns * cut.compute
        parts = f"{microseconds(memory)} of transfers, {microseconds(compute)} of arrays"
        limit = f"bound by {cut.limit} ({parts}; {stays})"
        seconds, computing = choice.seconds(machine_of(self.at)), compute + e.turns * e.on_vector_unit
        self.at.told(Cut(Tile(m, n, cut.k, count), seconds, memory, computing, limit))

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
            depth = max((axes for _, axes in self.nest.contracted), key=count_of)
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
