"""A machine as passes see it: what can run where, what it costs, where values live, and how programs are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from pimc.backends import emission
from pimc.backends.dma.copy import transferred
from pimc.backends.dma.timing import copy_time
from pimc.backends.kernels.elementwise import is_follower, is_leader, is_twin
from pimc.backends.kernels.groups import goes_by_groups
from pimc.backends.legality import why_not
from pimc.backends.lowering import CHAIN_RULES, RULES, Cut
from pimc.backends.lowering_memory import LoweringMemory
from pimc.backends.pim.tiles import shared_tiles
from pimc.backends.pim.tiles import tile_of as pim_tile
from pimc.backends.planning import (
    Plan,
    is_held,
    make_plan,
    nodes_by_stage,
    plan_node,
    plan_nodes,
    stored_bytes,
    wanted_in_banks,
)
from pimc.backends.program import Program
from pimc.backends.rehearsal import Rehearsed, rehearse, why_too_large
from pimc.backends.sharing import turns_on
from pimc.backends.target import TargetSpec, describe
from pimc.ir.facts import Epilogue, Placement, Prologue, Ragged, ReadAs, Tile
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.lengths import between_lengths
from pimc.ir.memory import Home
from pimc.ir.op import Attribute, OpClass
from pimc.ir.quantized import expanded_name
from pimc.ir.target import Engine
from pimc.ir.types import TensorType

Simulate = Callable[[Program], float]
"""Seconds that a program takes; the driver hands the simulator in, since backends lie below it."""

_COMPUTE = ("npu", "pim", "pnm")
_WORTH = 1.02
"""By so much a prologue must be faster by itself, since the loads of its product wait for it, and tiles are larger."""
_TIE = 1.001
"""Times that differ by less are equal: the choice is then for what needs less memory."""
_LONG = 100
"""Of what takes less than so many latencies of the memory, these are a visible part."""
_SAME = 1.00005
"""Estimates that differ by less are equal."""


@dataclass
class Estimates:
    """What a target was asked about single nodes: seconds, what limits them, how they are cut."""

    seconds: dict[object, float] = field(default_factory=dict)
    alone: dict[object, Rehearsed] = field(default_factory=dict)
    limits: dict[object, str] = field(default_factory=dict)
    tiles: dict[object, Tile | None] = field(default_factory=dict)
    gains: dict[object, bool] = field(default_factory=dict)
    """whether chains take less time on the tiles of their product"""
    rooms: dict[object, str] = field(default_factory=dict)
    """what is too large for the buffer"""


@dataclass
class Machine:
    """Implements `pimc.ir.target.Target` for a target description."""

    spec: TargetSpec
    simulate: Simulate
    cache_tokens: int | None = None
    """Room that caches get along their token axis, beyond what a graph needs (generation)."""
    banked: frozenset[str] = frozenset()
    """Weights that lie in the banks' pattern whoever reads them (another program of the same run wants them so)."""
    parallel: Mapping[str, int] = field(default_factory=dict)
    """Degrees of parallelism that were asked for: pp, tp."""
    estimates: Estimates = field(default_factory=Estimates)
    """found so far; compilations for one target can share them"""
    _planned: tuple[Graph, int, Mapping[int, Plan]] | None = field(default=None, init=False, repr=False)
    """the last plans, with the edits of their graph that they come after"""

    def __post_init__(self) -> None:
        emission.load_rules(self.spec)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def devices(self) -> int:
        return self.spec.system.devices * self.spec.system.sharing

    def turns(self, stages: int, group: int) -> int:
        return turns_on(self.spec, stages, group)

    @property
    def cuts_graphs(self) -> bool:
        return True

    @property
    def request_channels(self) -> int:
        pim = self.spec.pim
        return self.spec.dram.channels if pim is not None and pim.style == "newton" else 0

    @property
    def queues(self) -> frozenset[str]:
        return frozenset(e.queue for e in self.spec.engines() if e.queue)

    @property
    def takes_turns(self) -> bool:
        pim = self.spec.pim
        return pim is not None and pim.style == "newton" and pim.row_buffers == "single"

    @property
    def buffer_bytes(self) -> int:
        return self.spec.buffer_bytes

    def stored_bytes(self, type: TensorType) -> int:
        return stored_bytes(self.spec, type)

    def engines(self) -> Sequence[Engine]:
        return self._engines

    @cached_property
    def _engines(self) -> Sequence[Engine]:
        engines = (e for e in self.spec.engines() if not e.queue)
        return tuple(Engine(e.name, e.kind) for e in engines if e.kind in _COMPUTE or e.kind == "link")

    def why_not(self, node: Node, engine: Engine) -> str:
        if node.op.name == "quantized_matmul" and engine.kind == "pim" and node.operands[1] is not None:
            return f"its banks multiply {self.spec.storage_dtype.text}, not {node.operands[1].type.dtype.text}"
        if (engine.kind, node.op.name) not in RULES:
            return f"{engine.name} has no commands for {node.op.name}"
        if node.op.name == "quantized_matmul" and self._is_expanded_elsewhere(node):
            return "another program of this run has it by its values in the banks"
        return why_not(node, engine, self.spec) or self._why_too_large(node, engine)

    def lying(self, node: Node, engine: Engine) -> Sequence[tuple[Value, Hashable]]:
        if engine.kind != "pim":
            return ()
        return [(value, (kind, order)) for value, kind, order in wanted_in_banks(_placed_alone(node, engine))]

    def _why_too_large(self, node: Node, engine: Engine) -> str:
        """What operands of the banks need on chip and do not have, where an NPU may do with less."""
        if engine.kind != "pim" or self.spec.npu is None:
            return ""
        key = _key(node, engine)
        if key not in self.estimates.rooms:
            placed = _placed_alone(node, engine)
            homes = plan_node(placed, self.spec).homes
            self.estimates.rooms[key] = why_too_large(placed, self.spec, homes)
        return self.estimates.rooms[key]

    def _is_expanded_elsewhere(self, node: Node) -> bool:
        levels = node.operands[1]
        return levels is not None and expanded_name(levels.name) in self.banked

    def estimate(self, node: Node, engine: Engine) -> float:
        key = _key(node, engine)
        ragged = node.fact(Ragged)
        if engine.kind == "pim" and ragged is not None and ragged.channels and node.op.cls is OpClass.CONTRACTION:
            if key not in self.estimates.seconds:
                self.estimates.seconds[key] = self._fullest_channel(node, engine, ragged)
            return self.estimates.seconds[key]
        if key not in self.estimates.seconds:
            placed = _placed_alone(node, engine)
            plan = plan_node(placed, self.spec)
            cuts: list[Cut] = []
            self.estimates.seconds[key] = self.simulate(emission.emit_node(placed, self.spec, plan, cuts.append))
            self.estimates.limits[key] = cuts[0].limit if cuts else ""
        return self.estimates.seconds[key]

    def about(self, node: Node, engine: Engine) -> float:
        if engine.kind != "npu" or not emission.is_cut(node):
            return self.estimate(node, engine)
        return self._alone(node, engine).seconds  # even if its estimate is known: programs would depend on others

    def _alone(self, node: Node, engine: Engine) -> Rehearsed:
        key = _key(node, engine)
        if key not in self.estimates.alone:
            self.estimates.alone[key] = self._rehearsed([_placed_alone(node, engine)])
        return self.estimates.alone[key]

    def _fullest_channel(self, node: Node, engine: Engine, ragged: Ragged) -> float:
        """The longest that the requests of one channel take one after another, each as it takes alone."""
        load: Counter[int] = Counter()
        known = cache(lambda tokens: self.estimate(_of_one_request(node, tokens), engine))
        for channel, tokens in zip(ragged.channels, ragged.lengths, strict=True):
            load[channel] += round(between_lengths(known, tokens, self.spec.dram.banks) * 1e12)
        return max(load.values()) * 1e-12

    def may_follow(self, node: Node, product: Node) -> bool:
        placement = product.fact(Placement)
        if placement is None or (placement.engine, product.op.name) not in CHAIN_RULES or Ragged in product.facts:
            return False
        if node.op is product.op:
            return is_twin(node, product)
        if product.op.name == "matmul" and goes_by_groups(node, product):
            return self._comes_in_pieces(product)
        return is_follower(node, product)

    def _rehearsed(self, nodes: Sequence[Node]) -> Rehearsed:
        return rehearse(nodes, self.spec, plan_nodes(nodes, self.spec).homes)

    def _is_hidden(self, chain: Sequence[Node], rehearsed: Rehearsed, apart: Sequence[Node]) -> bool:
        """Whether all of a chain is computed on tiles, behind transfers that take no longer than those of the products
        with its nodes apart: this need not be timed. How weights are expanded is not told."""
        on_tiles = rehearsed.on_tiles == len(chain) - 1 and all(n.op.name != "quantized_matmul" for n in chain)
        long = rehearsed.seconds >= _LONG * copy_time(self.spec).latency
        return on_tiles and long and rehearsed.hides and rehearsed.seconds <= _SAME * self._rehearsed(apart).seconds

    def _takes(self, nodes: Sequence[Node]) -> float:
        """`_in_a_row`, of nodes that follow each other."""
        return self._in_a_row(self._emitted(nodes))

    def _in_a_row(self, program: Program) -> float:
        """Seconds of a program among others: the mean of what it takes on an idle machine, and where operands are there
        when they are needed, as where they come ahead, which memory allows in no less than all transfers take."""
        moving = copy_time(self.spec).least(self._transferred(program))
        return (self.simulate(program) + max(moving, self.simulate(self._at_once(program)))) / 2

    def _at_once(self, program: Program) -> Program:
        """The program on the machine whose transfers take no time."""
        return replace(program, target=self._without_transfers)

    @cached_property
    def _without_transfers(self) -> dict[str, Any]:
        dma = self.spec.dma
        free = None if dma is None else dma.model_copy(update={"transfers": "free"})
        return describe(self.spec.model_copy(update={"dma": free}))

    def gains_by_following(self, chain: Sequence[Node], kept: Sequence[bool], instead: int = 0) -> bool:
        key = "after", instead, tuple(kept), *self._told(chain)
        if key not in self.estimates.gains:
            fused = [
                n.with_fact(Epilogue(i, keeps)) if i else n
                for i, (n, keeps) in enumerate(zip(chain, kept, strict=True))
            ]
            # what has a place of its own where it is not on tiles after all
            aside = any(node.result.type != chain[-1].result.type for node in chain)
            part = 1 / _TIE if instead or aside else _TIE
            less = [*fused[: instead + 1], *chain[instead + 1 :]]
            rehearsed = self._rehearsed(fused)
            if rehearsed.on_tiles <= instead and rehearsed.on_tiles == self._rehearsed(less).on_tiles:
                gains = part > 1  # the commands are the same
            else:
                hidden = part > 1 and self._is_hidden(fused, rehearsed, less)
                gains = hidden or self._takes(fused) <= part * self._takes(less)
            self.estimates.gains[key] = gains
        return self.estimates.gains[key]

    def gains_by_joining(self, joined: Sequence[Node], apart: Sequence[Node]) -> bool:
        facts = tuple(node.fact(Epilogue) for node in (*joined, *apart))
        key = "beside", facts, *self._told((*joined, *apart))
        if key not in self.estimates.gains:
            rehearsed = self._rehearsed(joined)
            self.estimates.gains[key] = len(rehearsed.cuts) == 1 and (
                self._is_hidden(joined, rehearsed, apart) or self._is_joined_faster(joined, apart)
            )
        return self.estimates.gains[key]

    def _is_joined_faster(self, joined: Sequence[Node], apart: Sequence[Node]) -> bool:
        more, less = (self._score(self._emitted(nodes)) for nodes in (joined, apart))
        return more <= less

    def _score(self, program: Program) -> float:
        """Of programs that take about the same time, what they transfer counts, as in the search for tiles."""
        return self._in_a_row(program) + self._transferred(program) / self.spec.dram.bandwidth / 8

    def may_precede(self, node: Node, product: Node) -> bool:
        placement = product.fact(Placement)
        if placement is None or (placement.engine, product.op.name) not in CHAIN_RULES:
            return False
        # else all of it is there before the product begins
        return self._comes_in_pieces(node) and Ragged not in product.facts and is_leader(node, product)

    def _comes_in_pieces(self, node: Node) -> bool:
        """Whether the rows of a result are more than the arrays have."""
        rows, npu = node.result.type.elements // node.result.type.static_shape[-1], self.spec.npu
        return npu is not None and rows > npu.array.rows

    def gains_by_preceding(self, before: Sequence[Node], chain: Sequence[Node], keeps: bool) -> bool:
        followers = tuple(node.fact(Epilogue) for node in chain)
        key = "before", len(before), keeps, followers, *self._told((*before, *chain))
        if key not in self.estimates.gains:
            fused = [
                node.with_fact(Prologue(stage, keeps and stage == 1))
                for stage, node in zip(range(len(before), 0, -1), before, strict=True)
            ]
            apart, led = self._emitted([*before, *chain]), self._emitted([*fused, *chain])
            pairs = ((led, apart), (self._at_once(led), self._at_once(apart)))
            self.estimates.gains[key] = all(self.simulate(a) * _WORTH < self.simulate(b) for a, b in pairs)
        return self.estimates.gains[key]

    @staticmethod
    def _transferred(program: Program) -> int:
        return sum(transferred(stream.items) for stream in program.streams)

    def _told(self, nodes: Sequence[Node]) -> Iterator[Hashable]:
        """Nodes that follow each other on one engine, by what their time depends on, and which values they share."""
        first = nodes[0].fact(Placement)
        assert first is not None
        engine = next(e for e in self.engines() if e.name == first.engine)
        values = {v: n for n, v in enumerate(dict.fromkeys(v for node in nodes for v in node.inputs()))}
        return ((_key(node, engine), tuple(values[v] for v in node.inputs())) for node in nodes)

    def _emitted(self, nodes: Sequence[Node]) -> Program:
        """The commands of a few nodes, with a plan of their own."""
        return emission.emit_nodes(nodes, self.spec, plan_nodes(nodes, self.spec))

    def tile(self, node: Node, engine: Engine, homes: Mapping[Value, Home], chain: Sequence[Node] = ()) -> Tile | None:
        if node.op.cls is not OpClass.CONTRACTION and not node.op.name.startswith("attention_"):
            return None
        if engine.kind == "pim":
            return pim_tile(node, self.spec)
        chain = chain or (node,)
        key = tuple((_key(n, engine), tuple(_shape_of(homes[v]) for v in (*n.inputs(), *n.results))) for n in chain)
        if key not in self.estimates.tiles:
            ragged = chain[0].fact(Ragged) is not None  # requests are cut in ways of their own
            self.estimates.tiles[key] = None if ragged else rehearse(chain, self.spec, homes).tile
        return self.estimates.tiles[key]

    def shared_tiles(self, node: Node, engine: Engine) -> Sequence[Tile]:
        """Empty where another program of the same run reads the weights as they lie."""
        return shared_tiles(node, self.spec) if engine.kind == "pim" and not self.banked else ()

    def bound(self, node: Node, engine: Engine) -> str:
        if engine.kind != "npu" or not emission.is_cut(node):
            return ""
        known = self.estimates.limits.get(_key(node, engine))
        return self._alone(node, engine).limit if known is None else known

    def plans(self, graph: Graph) -> Mapping[int, Plan]:
        """The memory plan of each pipeline stage, which depends on nothing that follows from plans."""
        edits = graph.version - graph.late_notes
        if self._planned is None or self._planned[:2] != (graph, edits):
            self._planned = graph, edits, self._new_plans(graph)
        return self._planned[2]

    def _new_plans(self, graph: Graph) -> Mapping[int, Plan]:
        by_stage, queries = nodes_by_stage(graph), emission.pipeline_of(graph)[0]
        return {
            stage: make_plan(
                graph, self.spec, nodes, cache_tokens=self.cache_tokens, banked=self.banked, queries=queries
            )
            for stage, nodes in by_stage.items()
        }

    def homes(self, graph: Graph) -> Mapping[Value, Home]:
        return {v: h for plan in self.plans(graph).values() for v, h in plan.homes.items()}

    def emit(self, graph: Graph, dims: Mapping[str, int]) -> Program:
        """The program of a placed graph."""
        plans = self.plans(graph)
        if len(plans) == 1 and graph.homes:  # a pass may have moved values
            plans = {stage: replace(plan, homes={**plan.homes, **graph.homes}) for stage, plan in plans.items()}
        return emission.emit(graph, self.spec, plans, dims)

    def sequential(self, graph: Graph, memory: LoweringMemory) -> emission.Sequential:
        """What the program of a placed graph does, before it is split into streams."""
        return emission.sequential(graph, self.spec, self.plans(graph), memory)

    def program(self, graph: Graph, order: emission.Sequential, dims: Mapping[str, int]) -> Program:
        """The program of such a sequence."""
        return emission.program_of(graph, self.spec, order, dims)

    def pass_options(self) -> Mapping[str, Mapping[str, Attribute]]:
        return self.spec.passes


def _of_one_request(node: Node, tokens: int) -> Node:
    """A product of attention for one request with so many keys."""
    rewriter = Rewriter(Graph("estimate"), "estimate")
    a, b = node.inputs()
    lasts = tokens if node.op.name == "attention_context" else a.type.static_shape[3]
    moving = (1, *a.type.static_shape[1:3], lasts)
    held = (1, b.type.static_shape[1], tokens, b.type.static_shape[3])
    values = [
        rewriter.input("a", TensorType(a.type.dtype, moving)),
        rewriter.input("b", TensorType(b.type.dtype, held), role=Role.CACHE),
    ]
    return rewriter.add(node.op, values, node.attributes)


def _placed_alone(node: Node, engine: Engine) -> Node:
    facts = {**node.facts, Placement: Placement(engine.name, "estimate")}
    return replace(node, facts=facts)


def _key(node: Node, engine: Engine) -> object:
    operands = tuple(None if v is None else (v.type, v.role.name, is_held(v), _tiny_contents(v)) for v in node.operands)
    facts = node.fact(Ragged), node.fact(ReadAs), node.fact(Tile) if engine.kind == "pim" else None
    return engine.name, node.op.name, tuple(sorted(node.attributes.items())), operands, *facts


def _tiny_contents(value: Value) -> bytes | None:
    """Contents that an op may depend on (shapes, axes), as something to compare."""
    array = value.type.array
    return array.tobytes() if array is not None and array.size <= 64 else None


def _shape_of(home: Home) -> object:
    """A home but for where it begins."""
    return home.space, home.layout.dims, home.dtype
