"""The memory plan: a home for every value of a placed graph.

What lives for ever (weights, caches, inputs, constants) lies in DRAM, one after the other in the order of first use, so
that repeated layers lie at constant distances. Operands that a PIM engine multiplies with lie in the bank
patterns that it needs, from a row boundary on. Results live in the on-chip buffer while somebody still reads them, if
they are small enough, else in DRAM. Results that are views of their operand (a transpose, a slice) own no memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pimc.backends.arena import Bump, FreeList
from pimc.backends.kernels.groups import group_of
from pimc.backends.paging import Pager, Table, parts_of
from pimc.backends.pim import layouts as pim_layouts
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.pim.tiles import slots_of
from pimc.backends.row_pitch import row_pitch
from pimc.backends.target import TargetSpec
from pimc.ir.blocks import Blocks
from pimc.ir.chains import chains_in, keeps, waiting
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Layer, Placement, Queue, Ragged, ReadAs, Stage, SubBatch
from pimc.ir.graph import Graph, Node, Role, Value, untransposed
from pimc.ir.layout import Layout
from pimc.ir.memory import Home
from pimc.ir.ops.caches import CACHE_AXIS, IN_PLACE
from pimc.ir.quantized import PACKED, packed_shape
from pimc.ir.target import MOST_HELD
from pimc.ir.types import DType, TensorType
from pimc.ir.views import is_view_op, views
from pimc.record import record

RESIDENT_SHARE = 2
"""One part in so many of the on-chip buffer holds results; the rest is for operands in passing."""
LARGEST_RESIDENT = 4
"""A result may take one part in so many of that part."""


@record
class BufferSplit:
    """How the on-chip buffer is divided, in bytes."""

    resident: int
    scratch: int

    @staticmethod
    def of(spec: TargetSpec, held: int = 0) -> BufferSplit:
        """held: bytes at its beginning that are given away (`hold`)."""
        resident = held + (spec.buffer_bytes - held) // RESIDENT_SHARE // 4096 * 4096
        return BufferSplit(resident, spec.buffer_bytes - resident)

    @staticmethod
    def beside(spec: TargetSpec, homes: Iterable[Home]) -> BufferSplit:
        """What values that live there leave for operands in passing."""
        resident = BufferSplit.ends(homes)
        return BufferSplit(resident, spec.buffer_bytes - resident)

    @staticmethod
    def ends(homes: Iterable[Home]) -> int:
        """Where values that live there end, rounded up."""
        ends = (h.layout.span(max(1, h.dtype.bits // 8))[1] for h in homes if h.on_chip)
        return -(-max(ends, default=0) // 4096) * 4096


@dataclass
class Plan:
    """Homes by value, and how much of each space they take up (bytes from address 0)."""

    homes: dict[Value, Home] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    by_role: dict[str, int] = field(default_factory=dict)
    banked: frozenset[str] = frozenset()
    """Names of the weights that lie in the banks' pattern."""
    staging: int = 0
    """The first byte of the DRAM rows kept for operands on their way into PIM."""
    tables: list[Table] = field(default_factory=list)
    """Of the blocks of paged caches."""


def storage_type(spec: TargetSpec, dtype: DType) -> DType:
    """The type in which a target stores elements of a graph's type, each by itself: 4-bit ones take a byte then."""
    return spec.storage_dtype if dtype.is_float else _BYTES.get(dtype, dtype)


def stored_bytes(spec: TargetSpec, type: TensorType) -> int:
    """What a tensor takes, element after element."""
    return type.elements * max(1, storage_type(spec, type.dtype).bits // 8)


def is_held(value: Value) -> bool:
    """Whether a value stays on chip for several readers."""
    return value.owner is not None and value.owner.op.name == "hold"


ALIGNED_ROWS = frozenset({"attention_scores", "attention_softmax"})
"""Ops whose results are worked on row by row, and never seen in another shape: rows begin with whole accesses."""
_BYTES = {DType.I4: DType.I8, DType.U4: DType.U8}


@record
class StageNodes:
    """The nodes of one pipeline stage, as they are executed and in the order of the graph."""

    stage: int
    scheduled: Sequence[Node]
    topological: Sequence[Node]


def nodes_by_stage(graph: Graph) -> dict[int, StageNodes]:
    """The nodes of each pipeline stage, in the order of the stages."""
    found: tuple[dict[int, list[Node]], dict[int, list[Node]]] = (defaultdict(list), defaultdict(list))
    for by_stage, nodes in zip(found, (graph.scheduled(), graph.order()), strict=True):
        for node in nodes:
            by_stage[_stage(node)].append(node)
    return {s: StageNodes(s, found[0][s], found[1][s]) for s in sorted(found[0]) or [0]}


def make_plan(
    graph: Graph,
    spec: TargetSpec,
    own: StageNodes,
    *,
    cache_tokens: int | None = None,
    banked: frozenset[str] = frozenset(),
    queries: int = 1,
) -> Plan:
    """Plan the memory of the devices that execute one pipeline stage of a placed graph.

    cache_tokens: room that caches get along their token axis beyond what this graph needs (generation).
    banked: weights that lie in the banks' pattern whoever reads them here, since another program wants them so.
    queries: in flight at a time, in as many stages; all of them have caches here.
    Rows of matrices have gaps (`row_pitch.py`), unless the device is too small for these.
    Raises CompileError (CAPACITY) with the numbers where a device is too small.
    """
    mine = {v for n in own.scheduled for v in n.inputs()} | {r for n in own.scheduled for r in n.results}
    idle = [v for v in graph.inputs if not graph.users(v)] if own.stage == 0 else []
    outputs = [v for _, v in graph.outputs if v in mine or (own.stage == 0 and v.owner is None)]
    # Where an NPU computes, the batch is what keeps the stages busy; it is all there.
    others = queries - 1 if spec.npu is None else 0

    nodes = own.scheduled, own.topological
    return _with_gaps_if_they_fit(
        spec, lambda spec: _Planner(graph.name, *nodes, idle, outputs, spec, cache_tokens, banked, others).plan()
    )


def _with_gaps_if_they_fit(spec: TargetSpec, plan: Callable[[TargetSpec], Plan]) -> Plan:
    """A plan, without gaps behind rows where the device is too small for these."""
    try:
        return plan(spec)
    except CompileError as error:
        if error.diagnostics[0].kind is not Kind.CAPACITY or spec.dma is None or not spec.dma.row_gap:
            raise
    return plan(spec.model_copy(update={"dma": spec.dma.model_copy(update={"row_gap": 0})}))


def plan_node(node: Node, spec: TargetSpec) -> Plan:
    """Places for one node alone: what a whole plan would give its operands and results, for estimates."""
    return plan_nodes([node], spec)


def plan_nodes(nodes: Sequence[Node], spec: TargetSpec) -> Plan:
    """The same for a few nodes that follow each other."""
    every = [*(t for node in nodes for t in _transposes(node)), *nodes]
    return _with_gaps_if_they_fit(
        spec, lambda spec: _Planner(nodes[0].name, every, every, [], [], spec, None, frozenset()).plan()
    )


def _transposes(node: Node) -> list[Node]:
    """The transpositions of weights that a node reads through: they are views of what lies in memory."""
    found: list[Node] = []
    for value in node.inputs():
        stored, chain = untransposed(value)
        if stored.role is not Role.RESULT or is_held(stored):
            found += reversed(chain)
    return found


def _stage(node: Node) -> int:
    fact = node.fact(Stage)
    return fact.index if fact is not None else 0


_NOWHERE = FreeList(0, 0)
"""Room on chip for what has none there."""

_Leaving = dict[int, list[tuple[Value, int, FreeList]]]
"""By position: results that are read there for the last time, their bytes, and where these go back to."""


class _Planner:
    def __init__(
        self,
        name: str,
        nodes: Sequence[Node],
        topological: Sequence[Node],
        idle: Sequence[Value],
        outputs: Sequence[Value],
        spec: TargetSpec,
        cache_tokens: int | None,
        banked: frozenset[str],
        other_queries: int = 0,
    ) -> None:
        self.name = name
        self.other_queries = other_queries
        self.idle = idle
        self.outputs = outputs
        self.spec = spec
        self.cache_tokens = cache_tokens
        self.pager = Pager(spec, spec.paging) if spec.paging is not None else None
        self.plan_ = Plan(tables=self.pager.tables if self.pager is not None else [])
        self.homes = self.plan_.homes
        self.nodes = nodes
        self.topological = topological
        self.mapping = mapping_of(spec)
        self.bank = _bank_operands(self.nodes, banked, spec)
        self.vectors = _vectors(self.nodes) if self.mapping.one_vector_row else {}
        self.ragged = ragged_caches(self.nodes)
        self.packed = _packed_operands(self.nodes)
        self.linear = Bump()
        self.held, end = _held(nodes, outputs, spec)
        self.split = BufferSplit.of(spec, end)
        self.chip = FreeList(end, self.split.resident - end)
        self.chips = _by_half(nodes, self.chip)
        self.heads_apart = False
        """kv heads of a request lie in several channels"""
        self.channel_rows: Counter[int] = Counter()
        """Row indices that requests take in each channel, where they have channels of their own."""
        self.roots: dict[Value, Value] = {}
        """What owns the memory that a view lies in."""
        self.claimed = {*outputs, *_appended(nodes).values()}
        """What owns memory that an output is read from: no other output may lie in it."""

    def plan(self) -> Plan:
        """Weights and caches come first, and do not depend on anything else, so that the programs of successive
        steps of a generation agree where they are."""
        appended = _appended(self.nodes)
        if self.spec.pim is not None:  # decode will read the caches in PIM, even where this graph does not
            kinds = _cache_kinds(self.nodes)
            row = self.spec.dram.row_bytes // self.spec.element_bytes
            wide = {v for v in kinds if v.type.static_shape[-1] > row}  # a head must fit a row
            self.bank = {v: Demand(kind) for v, kind in kinds.items() if _is_cache(v) and v not in wide} | self.bank
        self.plan_.banked = frozenset(v.name for v in self.bank if v.role is Role.WEIGHT)
        lasting, passing = self._permanent(appended)
        self.heads_apart = self._is_crowded(lasting)
        geometry = self.spec.dram.geometry
        rows = Bump(self.mapping.first_row)
        for value in lasting:
            if value in self.bank:
                self._place_in_banks(value, self.bank[value], rows)
        waves = max((max(Counter(r.channels).values(), default=1) for r in self.ragged.values()), default=1)
        staging_rows = pim_layouts.staging_rows(self.spec, waves)
        self.plan_.staging = rows.take(staging_rows, 1) * geometry.stride_row
        self.linear = Bump(rows.next * geometry.stride_row)
        for value in (*lasting, *passing):
            if value in self.vectors:
                self._place_vector(value, self.vectors[value])
            elif value not in self.bank:
                self._place_linear(value)
        self._settle_tables(lambda n: self.linear.take(n, self.spec.dram.access_bytes))
        rows = Bump(-(-self.linear.next // geometry.stride_row))
        for value in self.bank:
            if value not in self.homes:
                self._place_in_banks(value, self.bank[value], rows)
        for past, result in appended.items():
            if result in self.homes:
                self.homes[past] = self.homes[result]
        self._place_results(rows)
        self._check_capacity()
        return self.plan_

    # -- what lives for ever --------------------------------------------------------------------------------------

    def _permanent(self, appended: Mapping[Value, Value]) -> tuple[list[Value], list[Value]]:
        """Weights and caches in the order of their first use; then inputs and constants likewise."""
        seen: dict[Value, None] = {}
        for node in self.topological:
            for value in node.inputs():
                if value.role is not Role.RESULT:
                    seen[appended.get(value, value)] = None
        seen.update(dict.fromkeys(self.idle))
        seen.update(dict.fromkeys(v for v in self.outputs if v.role is not Role.RESULT))
        lasting = [v for v in seen if v.role in (Role.WEIGHT, Role.RESULT)]
        return lasting, [v for v in seen if v.role not in (Role.WEIGHT, Role.RESULT)]

    def _is_crowded(self, lasting: Sequence[Value]) -> bool:
        """Whether fewer requests than channels do not fit with each in one: their heads are spread over more then."""
        pim = self.spec.pim
        if pim is None or pim.style != "newton" or self.mapping.one_vector_row or self.pager is not None:
            return False
        if self.ragged or not any(demand.kind in ("key", "value") for demand in self.bank.values()):
            return False
        need = pim_layouts.staging_rows(self.spec) * self.spec.dram.geometry.stride_row
        for value in dict.fromkeys((*lasting, *self.bank)):
            demand, shape = self.bank.get(value), self._capacity_shape(value)
            if demand is None:
                need += _product(shape) * storage_type(self.spec, value.type.dtype).bits // 8
            else:
                _, rows = pim_layouts.bank_layout(self.spec, demand.kind, 0, demand.shape(shape), demand.channels)
                need += rows * self.spec.dram.geometry.stride_row
        return need > self.spec.dram.bytes

    def _place_linear(self, value: Value) -> None:
        if self._is_paged(value):
            size = self._place_in_blocks(value, lambda n: self.linear.take(n, self.spec.dram.access_bytes))
            self._count(value, size)
            return
        if value in self.ragged:
            self._place_groups(value, self.ragged[value], self.linear.take)
            self._count(value, self.homes[value].bytes)
            return
        dtype = storage_type(self.spec, value.type.dtype)
        shape = self._capacity_shape(value)
        if value in self.packed:
            dtype, shape = value.type.dtype, packed_shape(shape)
        cell = max(1, dtype.bits // 8)
        pitch = cell * _product(shape[-1:]) if value in self.packed else row_pitch(self.spec, shape, cell)
        size = _product(shape[:-1]) * pitch
        if self.spec.dma is None and value.role in (Role.INPUT, Role.CONSTANT):
            self._place_on_chip(value, shape, dtype)
            return
        address = self.linear.take(size, self.spec.dram.access_bytes)
        self.homes[value] = Home("dram", Layout.dense(shape, cell, address, pitch or 1), dtype)
        self._count(value, size)

    def _is_paged(self, value: Value) -> bool:
        return self.pager is not None and _is_cache(value) and value.type.rank == 4

    def _place_in_blocks(self, value: Value, take: Callable[[int], int]) -> int:
        """A paged cache in stretches of memory; the bytes of its pool."""
        assert self.pager is not None
        dtype = storage_type(self.spec, value.type.dtype)
        parts = parts_of(
            value.type.static_shape, self._capacity_shape(value)[CACHE_AXIS], self.ragged.get(value), by_channel=False
        )
        placed = self.pager.linear(parts, dtype.bits // 8, take)
        return self._set_paged(value, placed)

    def _place_in_bank_blocks(self, value: Value, demand: Demand, take_rows: Callable[[int], int]) -> int:
        """A paged cache in rows of banks; the bytes of its pool."""
        assert self.pager is not None
        parts = parts_of(
            value.type.static_shape, self._capacity_shape(value)[CACHE_AXIS], self.ragged.get(value), by_channel=True
        )
        return self._set_paged(value, self.pager.in_banks(demand.kind, parts, demand.channels, take_rows))

    def _set_paged(self, value: Value, placed: Sequence[tuple[Layout, Blocks]]) -> int:
        layouts, blocks = tuple(p[0] for p in placed), tuple(p[1] for p in placed)
        parts = layouts if value in self.ragged else ()
        self.homes[value] = Home("dram", layouts[0], storage_type(self.spec, value.type.dtype), parts, blocks)
        return sum(size for _, size in {b.pool for b in blocks})

    def _place_groups(self, value: Value, ragged: Ragged, take: Callable[[int, int], int]) -> None:
        """A cache group by group, each as long as its longest request."""
        dtype = storage_type(self.spec, value.type.dtype)
        _, heads, _, depth = value.type.static_shape
        cell, parts = dtype.bits // 8, []
        for _, size, length in ragged.stretches():
            shape = (size, heads, length, depth)
            parts.append(Layout.dense(shape, cell, take(cell * _product(shape), self.spec.dram.access_bytes)))
        self.homes[value] = Home("dram", parts[0], dtype, tuple(parts))

    def _place_groups_in_banks(self, value: Value, kind: str, ragged: Ragged, rows: Bump) -> None:
        """A cache group by group: each request in its channel, or in all of them where it has none of its own."""
        _, heads, _, depth = value.type.static_shape
        parts: list[Layout] = []
        first = rows.next
        if ragged.channels:
            parts, ends = channel_groups(self.spec, kind, first, (heads, depth), ragged)
            for channel, end in ends.items():
                self.channel_rows[channel] += end - first
            rows.take(max(ends.values()) - first, 1)
        else:
            for _, size, length in ragged.stretches():
                layout, taken = pim_layouts.bank_layout(self.spec, kind, rows.next, (size, heads, length, depth))
                rows.take(taken, 1)
                parts.append(layout)
        self.homes[value] = Home("dram", parts[0], storage_type(self.spec, value.type.dtype), tuple(parts))
        self._count(value, (rows.next - first) * self.spec.dram.geometry.stride_row)

    def _place_in_banks(self, value: Value, demand: Demand, rows: Bump) -> None:
        if self._is_paged(value):
            self._count(value, self._place_in_bank_blocks(value, demand, lambda n: rows.take(n, 1)))
            return
        if value in self.ragged:
            self._place_groups_in_banks(value, demand.kind, self.ragged[value], rows)
            return
        shape = demand.shape(self._capacity_shape(value))
        layout, taken = pim_layouts.bank_layout(
            self.spec, demand.kind, rows.next, shape, demand.channels,
            heads_apart=self.heads_apart, slots=demand.slots,
        )  # fmt: skip
        rows.take(taken, 1)
        self.homes[value] = Home("dram", demand.layout(layout), storage_type(self.spec, value.type.dtype))
        self._count(value, taken * self.spec.dram.geometry.stride_row)

    def _place_vector(self, value: Value, node: Node) -> None:
        placement, operand = node.fact(Placement), node.operands[1]
        assert placement is not None and operand is not None
        shape, kind = value.type.static_shape, _PIM_OPERANDS[node.op.name][1]
        layout = pim_layouts.vector_layout(self.spec, kind, shape, operand.type.static_shape, placement.channels)
        self.homes[value] = Home("dram", layout, storage_type(self.spec, value.type.dtype))
        self._count(value, value.type.elements * self.spec.element_bytes)

    def _capacity_shape(self, value: Value) -> tuple[int, ...]:
        shape = value.type.static_shape
        owner = value.owner
        if self.cache_tokens is None or owner is None or owner.op.name != "cache_append":
            return shape
        axis = owner.attribute("axis")
        assert isinstance(axis, int)
        axis %= len(shape)
        return (*shape[:axis], max(shape[axis], self.cache_tokens), *shape[axis + 1 :])

    def _settle_tables(self, take: Callable[[int], int]) -> None:
        if self.pager is not None:
            self.pager.settle(self.homes, take)

    # -- what comes and goes --------------------------------------------------------------------------------------

    def _place_results(self, rows: Bump) -> None:
        geometry = self.spec.dram.geometry
        start = rows.next * geometry.stride_row
        dram = FreeList(start, max(0, geometry.bytes - start), self.spec.dram.access_bytes)
        ends = _last_uses(self.outputs, self.nodes, self.bank)
        inside = _inside_chains(self.nodes)
        aside = _set_aside(self.nodes, inside)
        chained: dict[Value, list[Value]] = defaultdict(list)
        for value, last in inside.items():
            chained[last].append(value)
        leaving: _Leaving = {}
        for value, address in self.held.items():
            dtype = storage_type(self.spec, value.type.dtype)
            self.homes[value] = Home("buffer", Layout.dense(value.type.static_shape, dtype.bits // 8, address), dtype)
        for value in self._foreign():
            self._place_result(value, self.chip, dram, permanent=_is_cache(value))
        self._settle_tables(lambda n: dram.take(n) or 0)

        def place(node: Node) -> None:
            chip = self.chips[_half(node)]
            for result in node.results:
                if result in inside or result in self.homes:
                    continue
                if self._is_scaled_in_banks(node):
                    self._place_scores(node, dram)
                    continue
                end = ends[result]
                permanent = end >= len(self.nodes)
                align = self.spec.dram.access_bytes if node.op.name in ALIGNED_ROWS and not permanent else 1
                room = _NOWHERE if result in aside else chip
                size = self._place_result(result, room, dram, permanent=permanent, align=align)
                leaving.setdefault(end, []).append((result, size, room))

        for node in _read_in_layers(self.nodes, ends):
            place(node)
        for position, node in enumerate(self.nodes):
            self._place_views(node)
            self._place_sum(node, position, ends, leaving)
            place(node)
            for result in node.results:
                for value in chained.get(result, ()):
                    self.homes[value] = self.homes[result]
            for value, size, own in leaving.pop(position, ()):
                home = self.homes[value]
                (own if home.on_chip else dram).give_back(home.layout.offset, size)
        self.plan_.used = {"dram": start + dram.high, "buffer": self.split.resident + self.split.scratch}

    def _place_sum(self, node: Node, position: int, ends: Mapping[Value, int], leaving: _Leaving) -> None:
        """What devices add up takes the place of their own part of it, if nobody reads that any more."""
        part = node.operands[0] if node.op.name == "all_reduce" else None
        going = [entry for entry in leaving.get(position, ()) if entry[0] is part]
        if part is None or not going or not self.homes[part].on_chip or ends[node.result] >= len(self.nodes):
            return
        leaving[position].remove(going[0])
        self.homes[node.result] = self.homes[part]
        leaving.setdefault(ends[node.result], []).append((node.result, *going[0][1:]))

    def _foreign(self) -> list[Value]:
        """Results that none of these nodes computes (a node that is planned alone reads some)."""
        own = {r for n in self.nodes for r in n.results}
        read = dict.fromkeys(
            v for n in self.nodes if n.op.name != "receive" for v in n.inputs() if v.role is Role.RESULT
        )
        return [v for v in read if v not in own and v not in self.homes]

    def _place_views(self, node: Node) -> None:
        """Results of a view op share the operand's memory, where the layout allows and no bank pattern is asked for.

        Each output has memory of its own, which is not that of an input, a weight or another output.
        """
        if not is_view_op(node):
            return
        operand = node.operands[0]
        if operand is None or operand not in self.homes:
            return
        home, root = self.homes[operand], self.roots.get(operand, operand)
        for result, layout in zip(node.results, views(node, home.layout), strict=True):
            if layout is None or result in self.homes or result.type.dtype is not operand.type.dtype:
                continue
            if result in self.outputs:
                if root.role is not Role.RESULT or root in self.claimed:
                    continue
                self.claimed.add(root)
            self.homes[result], self.roots[result] = replace(home, layout=layout), root

    def _place_result(self, value: Value, chip: FreeList, dram: FreeList, *, permanent: bool, align: int = 1) -> int:
        """Find room, on chip if it is small; the bytes that it takes. align: of rows in DRAM."""
        dtype = storage_type(self.spec, value.type.dtype)
        shape = value.type.static_shape
        cell = dtype.bits // 8
        size = cell * _product(shape)
        if self._is_paged(value) and value.owner is not None and value.owner not in self.nodes:
            return self._place_in_blocks(value, lambda n: dram.take(n) or 0)
        if value in self.ragged:  # of a node that is planned alone
            self._place_groups(value, self.ragged[value], lambda size, _: dram.take(size) or 0)
            return size
        if self.spec.dma is None:
            return self._place_on_chip(value, shape, dtype)
        if self.mapping.results_on_chip and value.owner is not None and _is_on_pim(value.owner):
            size = self._place_returned(value, chip, dtype)
            if size:
                return size
        elif not permanent and size <= chip.capacity // LARGEST_RESIDENT:
            address = chip.take(size)
            if address is not None:
                self.homes[value] = Home("buffer", Layout.dense(shape, cell, address), dtype)
                return size
        pitch = -(-row_pitch(self.spec, shape, cell) // align) * align
        size = _product(shape[:-1]) * pitch
        address = dram.take(size)
        if address is None:
            raise self._too_small(size)
        self.homes[value] = Home("dram", Layout.dense(shape, cell, address, pitch or 1), dtype)
        self.plan_.by_role["results"] = self.plan_.by_role.get("results", 0) + size
        return size

    def _is_scaled_in_banks(self, node: Node) -> bool:
        return (
            self.mapping.softmax_in_banks
            and node.op.name in ("attention_scores", "attention_softmax")
            and _is_on_pim(node)
        )

    def _place_scores(self, node: Node, dram: FreeList) -> None:
        """Scores in bank groups, for ever; their softmax takes their place."""
        value, scores = node.result, node.operands[0]
        follows = node.op.name == "attention_softmax" and _is_scores(scores)
        if follows and scores is not None and scores.owner in self.nodes:
            self.homes[value] = self.homes[scores]
            return
        row = self.spec.dram.geometry.stride_row
        shape = value.type.static_shape
        kv = _kv_heads(node, shape[1])
        _, taken = pim_layouts.scores_layout(self.spec, 0, shape, kv)
        address = dram.take((taken + 1) * row)
        if address is None:
            raise self._too_small(taken * row)
        layout, _ = pim_layouts.scores_layout(self.spec, -(-address // row), shape, kv)
        self.homes[value] = Home("dram", layout, storage_type(self.spec, value.type.dtype))
        if follows and scores is not None:  # a softmax that is planned alone
            self.homes[scores] = self.homes[value]
        self.plan_.by_role["results"] = self.plan_.by_role.get("results", 0) + taken * row

    def _place_returned(self, value: Value, chip: FreeList, dtype: DType) -> int:
        """A place on chip with room for a value of every bank that takes part in each row; its bytes, 0: there is none.
        """
        shape, banks = value.type.static_shape, self.spec.dram.banks
        turns = max(1, -(-shape[-1] // (banks * self.spec.dram.channels)))
        room = (*shape[:-1], (-(-shape[-1] // banks) + turns - 1) * banks)
        size = dtype.bits // 8 * _product(room)
        address = chip.take(size)
        if address is None:
            return 0
        layout = Layout.dense(room, dtype.bits // 8, address)
        *outer, ((_, step),) = layout.dims
        self.homes[value] = Home("buffer", Layout(address, (*outer, ((shape[-1], step),))), dtype)
        return size

    def _place_on_chip(self, value: Value, shape: tuple[int, ...], dtype: DType) -> int:
        """Where there is no other way to reach it, with room for whole columns; the bytes that it takes.

        Raises CompileError: CAPACITY.
        """
        cell = max(1, dtype.bits // 8)
        whole = self.spec.dram.channels * self.spec.dram.access_bytes
        row = self._row_from_banks(value) * cell
        size = -(-(_product(shape[:-1]) * row or _product(shape) * cell) // whole) * whole
        address = self.chip.take(size)
        if address is None:
            raise fail(
                Kind.CAPACITY,
                f"inputs and results of '{self.name}' do not fit the on-chip buffer of '{self.spec.name}' "
                f"({self.split.resident} bytes for them), and it has no way to other memory",
                help="a larger buffer: --set buffer.bytes=64MiB",
            )
        self.homes[value] = Home("buffer", Layout.dense(shape, cell, address, row or 1), dtype)
        return size

    def _row_from_banks(self, value: Value) -> int:
        """Elements of a row of a product's result as its banks bring it, in whole columns; 0: it comes from elsewhere
        (where a node is planned alone, also from another product)."""
        node = value.owner
        for kind, operand in _multiplied(node) if node is not None and _is_on_pim(node) else ():
            home = self.homes.get(operand)
            return pim_layouts.padded_extent(home.layout, _OUTPUTS[kind]) if home is not None else 0
        return 0

    # -- capacity -------------------------------------------------------------------------------------------------

    def _count(self, value: Value, size: int) -> None:
        name = "caches" if value.role in (Role.CACHE, Role.RESULT) else f"{value.role.value}s"
        self.plan_.by_role[name] = self.plan_.by_role.get(name, 0) + size

    def _check_capacity(self) -> None:
        """Everything is counted in whole row indices, so that what fits a device fits each of its channels."""
        others = self.other_queries * self.plan_.by_role.get("caches", 0)
        if self.plan_.used["dram"] + others > self.spec.dram.bytes:
            raise self._too_small(others)

    def _channel_too_small(self, extra: int) -> Exception:
        """Requests fill one channel: how much they take there, and what it has left for them."""
        geometry = self.spec.dram.geometry
        row = geometry.banks * geometry.row_bytes
        channel, rows = max(self.channel_rows.items(), key=lambda item: (item[1], -item[0]))
        other_bytes = extra + sum(size for name, size in self.plan_.by_role.items() if name != "caches")
        others = -(-other_bytes // geometry.stride_row)
        mean = sum(self.channel_rows.values()) / geometry.channels
        have = geometry.rows - others
        return fail(
            Kind.CAPACITY,
            f"keys and values of the requests in channel {channel} need {_gib(rows * row)}, but a channel of "
            f"'{self.spec.name}' has {_gib(max(0, have) * row)} of its {_gib(geometry.rows * row)} left for them",
            notes=(
                f"on average the requests need {_gib(int(mean * row))} of a channel, and all else {_gib(others * row)}",
            ),
            help="balance them (--pass-config assign-requests.balance=greedy), take fewer or shorter requests, or "
            "spread the model over more devices (--set system.devices=N --parallel tp=T,pp=P)",
        )

    def _too_small(self, extra: int) -> Exception:
        if self.channel_rows:
            return self._channel_too_small(extra)
        need = sum(self.plan_.by_role.values()) + extra
        have = self.spec.dram.bytes
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in sorted(self.plan_.by_role.items()))
        if self.other_queries:
            parts += f", caches of {self.other_queries} other queries in flight"
        fewest = -(-need // have)
        shared = self.spec.system.sharing
        place = "device" if shared == 1 else "part of a device"
        one = f"a {place} of '{self.spec.name}'" + (f" ({self.spec.dram.channels} channels)" if shared > 1 else "")
        return fail(
            Kind.CAPACITY,
            f"'{self.name}' needs {_gib(need)} on each {place}, but {one} has {_gib(have)}",
            notes=(parts,),
            help=f"spread it over {fewest} times as many devices (--set system.devices=N --parallel tp=T,pp=P), "
            "or bind smaller dimensions",
        )


def _held(
    nodes: Sequence[Node], outputs: Sequence[Value], spec: TargetSpec
) -> tuple[dict[Value, int], int]:
    """What is held on chip for its readers, with its address, and where all of it ends, in whole pages.

    It lies at the beginning of the buffer, and gives its place to others when the last reader is done. Where most of
    the buffer would not do (an order that keeps many weights waiting), what does not fit is no longer held, but a copy
    in memory.
    """
    values = dict.fromkeys(v for n in nodes for v in (*n.inputs(), *n.results) if is_held(v))
    if not values:
        return {}, 0
    area = FreeList(0, spec.buffer_bytes * MOST_HELD // 100)
    ends, leaving = _last_uses(outputs, nodes), defaultdict[int, list[Value]](list)
    found: dict[Value, int] = {}

    def take(value: Value) -> None:
        address = area.take(stored_bytes(spec, value.type))
        if address is not None:
            found[value] = address
            leaving[ends[value]].append(value)

    own = {r for n in nodes for r in n.results}
    for value in values:
        if value not in own:  # of a node that is planned alone
            take(value)
    for position, node in enumerate(nodes):
        for value in node.results:
            if is_held(value):
                take(value)
        for value in leaving.pop(position, ()):
            area.give_back(found[value], stored_bytes(spec, value.type))
    return found, -(-area.high // 4096) * 4096


def _half(node: Node) -> int:
    half = node.fact(SubBatch)
    return half.index if half is not None else 0


def _by_half(nodes: Iterable[Node], chip: FreeList) -> list[FreeList]:
    """Sub-batches have parts of the buffer of their own, so that none waits until the other has read what it is done
    with."""
    count = 1 + max((_half(node) for node in nodes), default=0)
    if count == 1:
        return [chip]
    size = chip.capacity // count // 4096 * 4096
    return [FreeList(chip.base + i * size, size) for i in range(count)]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def _product(shape: Sequence[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total


def _appended(nodes: Iterable[Node]) -> dict[Value, Value]:
    """The grown cache by its contents before, for every append or write to an input."""
    found: dict[Value, Value] = {}
    for node in nodes:
        if node.op.name in IN_PLACE:
            past = node.operands[0]
            if past is not None and past.role in (Role.INPUT, Role.CACHE):
                found[past] = node.result
    return found


def ragged_caches(nodes: Iterable[Node]) -> dict[Value, Ragged]:
    """Caches whose requests have lengths of their own."""
    found: dict[Value, Ragged] = {}
    for node in nodes:
        ragged = node.fact(Ragged)
        if ragged is not None and node.op.name == "cache_append":
            found[node.result] = ragged
        elif ragged is not None and node.op.name in _RAGGED_READERS and node.operands[1] is not None:
            found[node.operands[1]] = ragged
    return found


_RAGGED_READERS = frozenset({"attention_scores", "attention_context"})


def channel_groups(
    spec: TargetSpec, kind: str, first: int, sizes: tuple[int, int], ragged: Ragged
) -> tuple[list[Layout], dict[int, int]]:
    """A place for each group of requests in their channels, and the row index at which each channel is free again.

    A group begins where the fullest of its channels ends, so that commands for all of them are the same.
    """
    heads, depth = sizes
    ends: dict[int, int] = defaultdict(lambda: first)
    parts: list[Layout] = []
    for start, size, length in ragged.stretches():
        members = range(start, start + size)
        channels = sorted({ragged.channels[i] for i in members})
        row = max(ends[c] for c in channels)
        shape = (size, heads, length, depth)
        parts.append(pim_layouts.requests_layout(spec, kind, row, shape, range(channels[0], channels[-1] + 1)))
        turns = size // len(channels)
        for i in members:
            rows = length if turns > 1 else ragged.lengths[i]
            ends[ragged.channels[i]] = row + turns * pim_layouts.request_rows(spec, kind, (heads, rows, depth))
    return parts, ends


def _is_cache(value: Value) -> bool:
    return value.owner is not None and value.owner.op.name in IN_PLACE


@record
class Demand:
    """A value must lie in a bank pattern: as which kind of PIM operand, and in which order that sees its axes."""

    kind: str
    """weight, experts, key or value"""
    order: tuple[int, ...] = ()
    """axis i of the operand is axis order[i] of the value; empty: as it is"""
    channels: tuple[int, ...] = ()
    """where it must lie; empty: anywhere"""
    slots: int = 1
    """of a weight: outputs that share a row"""

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[i] for i in self.order) if self.order else tuple(shape)

    def layout(self, layout: Layout) -> Layout:
        """The value's own layout, out of the operand's."""
        return layout.permuted([self.order.index(i) for i in range(len(self.order))]) if self.order else layout


_PIM_OPERANDS: Mapping[str, Mapping[int, str]] = {
    "matmul": {1: "weight"},
    "expert_matmul": {1: "experts"},
    "attention_scores": {1: "key"},
    "attention_context": {1: "value"},
    "attention": {1: "key", 2: "value"},
}
"""By op: the operands that banks multiply with, and as which kind."""
_OUTPUTS = {"weight": 1, "experts": 1, "key": 2, "value": 3}
"""By kind: the axis that the last one of a result comes from."""


def _bank_operands(nodes: Iterable[Node], banked: frozenset[str], spec: TargetSpec) -> dict[Value, Demand]:
    """What PIM engines multiply with, by value. Transposed weights are stored transposed rather than moved."""
    demands: dict[Value, Demand] = {}
    for node in nodes:
        placement = node.fact(Placement)
        channels = placement.channels if placement is not None else ()
        for value, kind, order in wanted_in_banks(node):
            if _is_on_pim(node) or value.name in banked:
                slots = slots_of(node, spec) if kind == "weight" and _is_on_pim(node) else 1
                demands.setdefault(value, Demand(kind, order, channels, slots))
    return demands


def wanted_in_banks(node: Node) -> Iterator[tuple[Value, str, tuple[int, ...]]]:
    """What banks multiply a node's vectors with, if it runs there: the value, as which kind, and its order of axes."""
    for kind, operand in _multiplied(node):
        value, order = _stored(operand)
        yield value, kind, order


def _multiplied(node: Node) -> Iterator[tuple[str, Value]]:
    """What banks multiply a node's vectors with, if it runs there: kind and value."""
    if node.op.name == "attention" and not _is_on_pim(node):  # whole elsewhere: nothing is said of banks
        return
    for index, kind in _PIM_OPERANDS.get(node.op.name, {}).items():
        value = node.operands[index]
        if value is not None:
            yield kind, value


def _stored(operand: Value) -> tuple[Value, tuple[int, ...]]:
    """What an operand is transposed from, where that is a weight or the like, and how."""
    value, transpositions = untransposed(operand)
    order: tuple[int, ...] = ()
    for node in transpositions:
        perm = node.attribute("perm")
        given = [int(i) for i in perm] if isinstance(perm, tuple) else []
        axes = tuple(given or reversed(range(value.type.rank)))
        order = tuple(axes[i] for i in order) if order else axes
    return (operand, ()) if value.role is Role.RESULT and order else (value, order)


def _vectors(nodes: Iterable[Node]) -> dict[Value, Node]:
    """Inputs that PIM engines multiply as they are with what lies in their banks, and for what."""
    found: dict[Value, Node] = {}
    for node in nodes:
        value = node.operands[0] if node.op.name in _PIM_OPERANDS and _is_on_pim(node) else None
        scaled = node.attributes.get("scale", 1.0) != 1.0 or node.op.name == "expert_matmul"
        if value is not None and value.role is Role.INPUT and not scaled:
            found.setdefault(value, node)
    return found


def _is_on_pim(node: Node) -> bool:
    placement = node.fact(Placement)
    return placement is not None and placement.engine == "pim"


def _is_scores(value: Value | None) -> bool:
    return value is not None and value.owner is not None and value.owner.op.name == "attention_scores"


def _kv_heads(node: Node, heads: int) -> int:
    """Heads of keys that scores belong to; all of them where nothing is known (a softmax that is planned alone)."""
    source = node if node.op.name == "attention_scores" else node.operands[0].owner if node.operands[0] else None
    keys = source.operands[1] if source is not None and source.op.name == "attention_scores" else None
    return keys.type.static_shape[1] if keys is not None else heads


def _packed_operands(nodes: Iterable[Node]) -> set[Value]:
    """4-bit weights that are read by nobody but ops which expand them."""
    read: dict[Value, bool] = {}
    for node in nodes:
        for index, value in enumerate(node.operands):
            if value is not None and value.type.dtype in PACKED and value.role in (Role.WEIGHT, Role.CONSTANT):
                read[value] = read.get(value, True) and index in _EXPANDED.get(node.op.name, ())
    return {value for value, only in read.items() if only}


_EXPANDED = {"quantized_matmul": (1, 3)}
"""Operands that an op takes two elements to a byte."""


def _cache_kinds(nodes: Iterable[Node]) -> dict[Value, str]:
    """Which caches are read as keys and which as values by attention, wherever it runs."""
    kinds: dict[Value, str] = {}
    for node in nodes:
        for kind, value in _multiplied(node):
            if kind in ("key", "value"):
                kinds.setdefault(value, kind)
        read = node.fact(ReadAs)
        if read is not None:  # by a node that may not be among these
            kinds.setdefault(node.result, read.kind)
        if node.op.name == "attention":
            caches = zip(("key", "value"), node.operands[1:3], strict=True)
            kinds = {**{cache: kind for kind, cache in caches if cache is not None}, **kinds}
    return kinds


def _inside_chains(nodes: Sequence[Node]) -> dict[Value, Value]:
    """Results that exist in tiles alone, each with the one that its chain ends in. If an op of the chain does need all
    of it at once, it may lie where that does, unless ops read elements that they have overwritten."""
    found: dict[Value, Value] = {}
    for chain in chains_in(nodes):
        if any(group_of(nodes[i]) is not None for i in chain.after):
            continue
        found.update({nodes[i].result: nodes[chain.product - 1].result for i in chain.before[:-1]})
        waits = waiting(nodes, chain)
        for i in (chain.product, *chain.after)[:-1]:
            if waits is not None and i <= waits:
                found[nodes[i].result] = nodes[waits].result
            elif not keeps(nodes[i + 1]):
                found[nodes[i].result] = nodes[chain.stop - 1].result
    return {value: last for value, last in found.items() if value is not last and value.type == last.type}


def _set_aside(nodes: Sequence[Node], inside: Mapping[Value, Value]) -> set[Value]:
    """Results that exist in tiles alone and cannot lie where their chain ends: those that wait for a second product,
    and those of another type. Needed as a whole they lie in memory."""
    found: set[Value] = set()
    for chain in chains_in(nodes):
        inner = (*chain.before[:-1], *(i for i in (chain.product, *chain.after)[:-1] if not keeps(nodes[i + 1])))
        found.update(nodes[i].result for i in inner if nodes[i].result not in inside)
    return found


def _read_in_layers(nodes: Sequence[Node], ends: Mapping[Value, int]) -> list[Node]:
    """What comes before the first layer and is read in layers. It is placed before all that is over by then, so that
    the first layer finds it and free memory where the others do: equal layers have equal addresses."""
    first = next((i for i, node in enumerate(nodes) if node.fact(Layer) is not None), 0)
    return [
        node
        for node in nodes[:first]
        if not is_view_op(node) and node.op.name != "all_reduce" and all(ends[r] >= first for r in node.results)
    ]


def _last_uses(
    outputs: Sequence[Value], nodes: Sequence[Node], banked: Container[Value] = frozenset()
) -> dict[Value, int]:
    """The position of the last node that reads each result or a view of it; outputs are read after the last one.

    What a queue of its own takes to a cache, or is spread over banks, counts as read until the cache is: others go on
    meanwhile.
    """
    ends: dict[Value, int] = {}
    leaving = set(outputs)
    chains = {i: chain.stop - 1 for chain in chains_in(nodes) for i in chain.all}
    for position in range(len(nodes) - 1, -1, -1):
        node = nodes[position]
        mine = [ends.get(r, position) for r in node.results]
        for result in node.results:
            if result in leaving:
                ends[result] = len(nodes)
            else:
                ends.setdefault(result, position)
        reach = chains.get(position, position)  # tiles of a chain come and go until the last is done
        if is_view_op(node):
            reach = max([position, *mine, *(ends[r] for r in node.results)])
        elif node.op.name in IN_PLACE and (node.fact(Queue) is not None or node.result in banked):
            reach = max([position, *mine])
        for value in node.inputs():
            ends[value] = max(ends.get(value, -1), reach)
    return ends
