"""Ops on the tiles of a product: those of its result, between the accumulators and its place (an epilogue), and those
of its left operand, as they come on chip (a prologue).

The accumulators of a tile are drained as float32 into a part of the buffer in which the vector unit works, one tile
after the other; what comes out goes to the last op's result, and what others read of what lies between to its own
place. An epilogue may go on with the tiles of two products of the same left operand, as that of a gate does. A prologue
begins with its operands, and its last result is what the arrays read. Operands of few bytes are brought once, others
tile by tile. Ops are element-wise, or norms of rows, for which tiles have whole rows, or go by groups of columns, of
which tiles have all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import lcm, prod

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.elementwise import recipe_of, source_of
from pimc.backends.kernels.groups import Group, group_of, seen_before, width_of
from pimc.backends.kernels.lanes import Lanes, Ref, Rehearsal, Source
from pimc.backends.kernels.levels import LEVELS, level_parameters, level_recipe
from pimc.backends.kernels.nest import SLOTS, Axis, dense_strides, nests
from pimc.backends.kernels.normalization import NORMS, norm_recipe
from pimc.backends.kernels.places import given
from pimc.backends.kernels.pointwise import Recipe, packed
from pimc.backends.kernels.rows import ROW_TEMPS
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu.tile_copy import bring
from pimc.backends.npu.vector_unit import NPU
from pimc.backends.program import Step
from pimc.backends.target import NpuSpec
from pimc.backends.vector import Elementwise, Reduce
from pimc.ir.chains import keeps
from pimc.ir.graph import Node, Value
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.ir.views import is_view_op
from pimc.record import record

SMALL = 1 << 16
"""Bytes up to which an operand is brought as a whole."""
MOST_REGIONS = 64
"""Tiles of a result on chip at a time, at most (`tile_search.py`), each of which loses some bytes to alignment."""
_SUMS = DType.F32.bits // 8
_PAIR = 2
"""Elements for which what goes by groups has one command of each kind."""


@record
class Made:
    """A value that there is on a tile: what arrays gave comes first, then the results of the stages."""

    number: int


@record
class Stage:
    """One op: its recipe, and its sources: values made before, operands by number, or numbers."""

    write: Recipe
    sources: tuple[int | float | Made, ...]
    keeps: int | None = None
    """number among what is kept of the value that it goes on with, if others read that, too"""
    by_row: bool = False
    """whether a tile must have all columns of its rows"""
    group: int = 1
    """columns, of so many next to each other, that a tile must have together"""
    op: int = -1
    """the row of the op table"""

    def refs(self, made: Mapping[int, Ref], operands: Sequence[Ref]) -> list[Source]:
        found: list[Source] = []
        for source in self.sources:
            if isinstance(source, Made):
                found.append(made[source.number])
            else:
                found.append(operands[source] if isinstance(source, int) else source)
        return found


Look = Callable[[Layout], Layout]
"""Where elements lie as they broadcast to the product, given where an operand lies."""


@record
class TileOps:
    """Ops one after another, and the operands that they have beside values made on the tile."""

    stages: tuple[Stage, ...]
    tensors: tuple[Tensor, ...]
    """as they lie in memory"""
    looks: tuple[Look, ...]
    """how each broadcasts to the product"""
    kept: tuple[Tensor, ...]
    """where values between ops go that others read"""
    out: Tensor
    given: int
    """values that arrays give, with which the ops begin: of one product, of two, or none"""
    stored: bool
    """whether the last result goes to its place"""

    @staticmethod
    def of(products: Sequence[Node], nodes: Sequence[Node], at: Lowering, op: int) -> TileOps:
        """Of nodes that read each other's results and those of products, which are among them. op: the row of the first
        in the op table. Views may come before a last op, which goes by groups."""
        stages: list[Stage] = []
        tensors: list[Tensor] = []
        looks: list[Look] = []
        views = [node for node in nodes if products and is_view_op(node)]
        kept: list[Tensor] = []
        made = {product.result: Made(i) for i, product in enumerate(products)}
        value: Value | None = None
        for row, node in enumerate(nodes, op):
            if node in products:
                value = node.result
                continue
            if node in views:
                made[node.result] = made[given(node, 0)]
                continue
            going = value is not None and keeps(node)
            if going and value is not None:
                kept.append(at.tensor(value))
            sources: list[int | float | Made] = []
            parameters = dict(level_parameters(node) or ()) if node.op.name in LEVELS else {}
            for v in node.inputs():
                source = made.get(v) or source_of(v, at)
                if v in parameters and isinstance(source, Tensor):
                    source = _along(source, parameters[v], node.result.type.rank)
                if isinstance(source, Tensor):
                    tensors.append(source)
                    sources.append(len(tensors) - 1)
                else:
                    sources.append(source)
            group, width = group_of(node), 1
            looks += [_plain if group is None else _look(views, group.spread)] * (len(tensors) - len(looks))
            if group is not None:
                member = Tensor("buffer", group.places(node.result.type.static_shape), DType.U8)
                sources.append(len(tensors))
                tensors.append(member)
                looks.append(_look(views))
                width = width_of(looks[-1](member.layout))
            number = len(kept) - 1 if going else None
            by_row = node.op.name in NORMS
            stages.append(Stage(_recipe(node, group), tuple(sources), number, by_row, width, row))
            made[node.result] = Made(len(made))
            value = node.result if products else None
        stored = bool(products) or keeps(nodes[-1])
        out = at.tensor(nodes[-1].result)
        if views:
            out = replace(out, layout=_look(views)(out.layout))
        return TileOps(tuple(stages), tuple(tensors), tuple(looks), tuple(kept), out, len(products), stored)

    @property
    def by_row(self) -> bool:
        """Whether tiles must have whole rows."""
        return any(stage.by_row for stage in self.stages)

    @cached_property
    def group(self) -> int:
        """Columns, of so many next to each other, that tiles must have together."""
        return lcm(*(stage.group for stage in self.stages))

    def is_small(self, operand: int) -> bool:
        tensor = self.tensors[operand]
        return not tensor.on_chip and tensor.bytes <= SMALL

    @cached_property
    def brought(self) -> list[int]:
        """Operands that come tile by tile."""
        return [i for i, t in enumerate(self.tensors) if not t.on_chip and not self.is_small(i)]

    @property
    def brought_bytes(self) -> int:
        """For each element of a tile."""
        return sum(self._bytes(i) for i in self.brought)

    def _bytes(self, operand: int) -> int:
        """For each element of a tile: of what both members of pairs have, half."""
        return -(-self.tensors[operand].element_bytes // (_PAIR if operand in self.shared else 1))

    def layouts(self) -> list[Layout]:
        """Where operands lie when tiles are computed on, and what is kept; small operands begin at 0 of their place on
        chip."""
        operands = [
            look(Layout.dense(t.layout.shape, t.element_bytes) if self.is_small(i) else t.layout)
            for i, (t, look) in enumerate(zip(self.tensors, self.looks, strict=True))
        ]
        return [*operands, *(t.layout for t in self.kept)]

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """Operands that groups, and both members of pairs, have together; and last, which of its pair an element is."""
        return tuple(s for stage in self.stages if stage.group > 1 for s in stage.sources if isinstance(s, int))

    @property
    def staged_bytes(self) -> int:
        """For the small operands."""
        return sum(padded(t.bytes) for i, t in enumerate(self.tensors) if self.is_small(i))

    @cached_property
    def _takes(self) -> list[Rehearsal]:
        found: list[Rehearsal] = []
        values = dict.fromkeys(range(self.given + len(self.stages)), Ref(0, DType.F32, (0, 1)))
        for stage in self.stages:
            found.append(Rehearsal(NPU, (1, 1 if stage.group == 1 else _PAIR)))
            stage.write(found[-1], stage.refs(values, self._views), self._views[-1])
        return found

    @property
    def _views(self) -> list[Ref]:
        return [Ref(0, t.dtype, (0, 1)) for t in (*self.tensors, self.out)]

    @property
    def moving_bytes(self) -> int:
        """For each element of a tile: what comes from memory or goes there while the next tile is computed."""
        shared = sum(self._bytes(i) for i in self.shared[:-1])
        leaving = [t for t in (*self.kept, self.out) if not t.on_chip or self.group > 1]
        return self.brought_bytes + shared + sum(t.element_bytes for t in leaving)

    @property
    def working_bytes(self) -> int:
        """For each element of a tile, once: sums of two tiles, values between two ops, and what recipes take."""
        rows = 1 if self.by_row else 0  # for the numbers of a row
        grids = SLOTS * self.given + self._grids[1]
        return _SUMS * grids + max(r.per_element for r in self._takes) + rows

    @cached_property
    def _grids(self) -> tuple[Sequence[int | None], int]:
        """In which grid on chip the value after each stage is (None: in its place), and how many there are beside those
        that arrays give, which come first. A grid is taken again where its value is not read any more."""
        last = {s.number: i for i, stage in enumerate(self.stages) for s in stage.sources if isinstance(s, Made)}
        holds: dict[int, int] = {number: number for number in range(self.given)}
        count, found = self.given, list[int | None]()
        for i in range(len(self.stages)):
            goes = i == len(self.stages) - 1 or self.stages[i + 1].keeps is not None
            if not goes:
                free = sorted(set(range(count)) - set(holds.values()), key=lambda grid: (grid < self.given, grid))
                grid = free[0] if free else count
                count = max(count, grid + 1)
                holds[self.given + i] = grid
            found.append(None if goes else holds[self.given + i])
            holds = {number: grid for number, grid in holds.items() if last.get(number, i) > i}
        return found, count - self.given

    def clocks(self, npu: NpuSpec) -> float:
        """Of the vector units, for each element."""
        clocks = sum(npu.vector.cycles(function) * part for function, part in self._passes)
        return clocks / (npu.vector.width * npu.cores)

    @property
    def commands(self) -> int:
        """Those of the vector units for a tile."""
        return len(self._passes)

    @cached_property
    def calls(self) -> int:
        """Commands of the vector units for each group of columns of a tile, but for those over all of it."""
        return sum(part < 1 for _, part in self._passes)

    @cached_property
    def _passes(self) -> list[tuple[str, float]]:
        """Functions, each with the part of the elements that it passes over."""
        found: list[tuple[str, float]] = []
        for rehearsal in self._takes:
            commands = [step.command for step in rehearsal.emit.take() if isinstance(step, Step)]
            functions = [c.function for c in commands if isinstance(c, Elementwise)]
            functions += ["add" for c in commands if isinstance(c, Reduce)]
            found += [(function, 1 / prod(rehearsal.counts)) for function in functions]
        return found

    @property
    def spare(self) -> int:
        """Bytes of a region that alignment may take."""
        rows = ROW_TEMPS if self.by_row else 0
        own = len(self.tensors) + len(self.kept)
        sums = SLOTS * max(1, self.given)
        values = max(2, self._grids[1])
        return padded(1) * (values + sums + own + rows + max(len(r.grids) for r in self._takes))

    def stage(self, emit: Emitter, arena: Arena) -> list[int]:
        """Bring the small operands; by operand, and what is kept, where it is (0: where it was)."""
        found: list[int] = []
        for i, tensor in enumerate(self.tensors):
            found.append(arena.take(tensor.bytes) if self.is_small(i) else 0)
            if self.is_small(i):
                shape = tensor.layout.shape
                dense = Layout.dense(shape, tensor.element_bytes, found[-1])
                for nest in nests([tensor.layout, dense], shape):
                    axes, (far, near) = nest.merged(), nest.starts
                    counts, strides = axes.counts(), (axes.strides(0), axes.strides(1))
                    issue_copy(emit, ("dram", "buffer"), far, near, tensor.dtype, counts, *strides)
        return [*found, *(0 for _ in self.kept)]

    def write(
        self, lanes: Lanes, working: Arena, given: Sequence[Ref], operands: Sequence[Ref], kept: Sequence[Ref], out: Ref
    ) -> None:
        """Compute a tile; `given` is what the arrays gave. Commands belong to the ops of the stages."""
        places, count = self._grids
        grids = [*given, *(lanes.temp() for _ in range(count))]
        made = dict(enumerate(given))
        first, *after = [*(stage.keeps for stage in self.stages), None]
        if first is not None:
            lanes("copy", given[-1], out=kept[first])
        for number, (stage, leaves, place) in enumerate(zip(self.stages, after, places, strict=True)):
            mark = working.mark()
            into = grids[place] if place is not None else out if leaves is None else kept[leaves]
            with lanes.emit.on_op(stage.op):
                stage.write(lanes, stage.refs(made, operands), into)
            made[self.given + number] = into
            working.reset(mark)


def _recipe(node: Node, group: Group | None) -> Recipe:
    if group is not None:
        return group.recipe
    if node.op.name in NORMS:
        return norm_recipe(node)
    return level_recipe(node) if node.op.name in LEVELS else recipe_of(node)


def _plain(layout: Layout) -> Layout:
    return layout


def _look(views: Sequence[Node], spread: Look = _plain) -> Look:
    """What the last of some views shows, in the shape of what they begin with."""

    def look(layout: Layout) -> Layout:
        found = seen_before(views, spread(layout))
        assert found is not None, "views of whole groups can be taken back"
        return found

    return look


def columns_from(layout: Layout, first: Scalar, count: int) -> tuple[Layout, Scalar]:
    """So many columns of an operand, where it has more than one, and bytes to the first that is meant."""
    if not layout.dims or layout.shape[-1] in (1, count):
        return layout, 0
    part = layout.sliced(len(layout.dims) - 1, 0, count)
    assert part is not None, "columns of an epilogue's operand lie at one distance"
    (step,) = (stride for extent, stride in layout.dims[-1] if extent > 1)
    return part, first * step


def _along(parameter: Tensor, axis: int, rank: int) -> Tensor:
    """A scale or zero point of one axis (or a single one) as it broadcasts to what has so many axes."""
    layout = parameter.layout
    own = layout.dims[0] if layout.dims and layout.shape != (1,) else ((1, 0),)
    dims = tuple(own if i == axis else ((1, 0),) for i in range(rank))
    return replace(parameter, layout=Layout(layout.offset, dims))


def for_all(emit: Emitter, ref: Ref, counts: Sequence[int], member: Ref, region: Arena) -> Ref:
    """What several groups share, on chip once for each, so that commands over all of them go by it as by the product.

    member: of its pair, which each element is; both share what there is.
    """
    own = [1 if step else count for step, count in zip(member.strides, counts, strict=True)]
    size = max(1, ref.dtype.bits // 8)
    strides = [0 if step else n for step, n in zip(member.strides, dense_strides(own, size), strict=True)]
    held = region.take(prod(own) * size)
    issue_copy(emit, ("buffer", "buffer"), ref.address, held, ref.dtype, own, ref.strides, strides)
    return Ref(held, ref.dtype, tuple(strides))


def operand_tile(
    emit: Emitter, tensor: Tensor, start: Scalar, axes: Sequence[Axis], index: int, region: Arena, *, resident: bool
) -> Ref:
    """A tile of an operand of ops (number `index` of the axes), brought on chip unless it is there."""
    if resident:
        return Ref(start, tensor.dtype, tuple(a.strides[index] for a in axes))
    strides, size = packed([replace(a, strides=(a.strides[index],)) for a in axes], tensor.element_bytes)
    held = region.take(size)
    moving = [(a, near) for a, near in zip(axes, strides, strict=True) if near]
    bring(emit, tensor, start, held, [a for a, _ in moving], index, [near for _, near in moving])
    return Ref(held, tensor.dtype, strides)
