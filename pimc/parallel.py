"""Chooses how a model is spread over the devices of a system, where `--parallel` gives no degrees: by cost.

What stages and shards would take is the sum of what their ops take on an idle machine, exchanges included: the same
estimates by which ops are placed. One layer of each kind stands for all of its kind. A published mapping is timed by
its own traces instead. Splits whose weights and caches do not fit are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import isqrt, prod
from typing import Protocol

from pimc.backends.cent.decoder import decoder_of
from pimc.backends.link.timing import Port
from pimc.backends.machine import Machine
from pimc.backends.planning import StageNodes, make_plan
from pimc.backends.program import Choice, Objective, SplitCost
from pimc.backends.sharing import is_divisible, shared, turns_on
from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Placement
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.views import is_view_op
from pimc.passes.abridge import abridge, repeated_layers
from pimc.passes.place import show_seconds
from pimc.record import record
from pimc.token_times import Tokens

CANONICAL_ENDS = "canonical-order"
"""The last pass before a graph is cut."""
CLOSE, FAR = 0.95, 1.25
"""The share of its capacity beyond which a device is planned in full, to see whether it holds what it must; and that
beyond which it certainly does not."""


class Asked(Protocol):
    """A model that is to be spread over the devices of a system: what the driver knows of it, and how it compiles."""

    graph: Graph
    """as it was read; it may be changed"""
    machine: Machine
    """of the whole system"""
    objective: Objective
    tokens: int
    """that a query gets by one pass"""

    def part_of(self, spec: TargetSpec) -> Machine:
        """The machine of a part of a device."""
        ...

    def run(self, graph: Graph, first: str | None, last: str, degrees: Mapping[str, int], machine: Machine) -> None:
        """Run the passes from the first named one (None: from the beginning) to the last."""
        ...


def choose(asked: Asked) -> Choice:
    """The best split of a model over the devices of a system, and the others.

    Raises CompileError (CAPACITY) where the model fits in no way.
    """
    found = list(_Cuts(asked).costs() if asked.machine.cuts_graphs else _published(asked))
    return _chosen(found, asked.objective, asked.machine.spec.system.devices)


# -- which one --------------------------------------------------------------------------------------------------------


def _chosen(found: Sequence[SplitCost], objective: Objective, devices: int) -> Choice:
    """Raises CompileError (CAPACITY) where none is possible."""
    possible = sorted((cost for cost in found if not cost.illegal), key=lambda cost: _rank(cost, objective))
    if not possible:
        least = max(found, key=lambda cost: (min(cost.pp * cost.tp, devices), -cost.pp))
        raise fail(
            Kind.CAPACITY,
            f"no split over the devices is possible; pp={least.pp},tp={least.tp}: {least.illegal}",
            help="more devices (--set system.devices=N), or smaller dimensions",
        )
    best, *others = possible
    refused = tuple(cost for cost in found if cost.illegal)
    return Choice(objective, best, (*others, *refused), _reason(best, others, len(refused), objective))


def _rank(cost: SplitCost, objective: Objective) -> tuple[float, int, int]:
    """The less the better; of equals fewer devices, and fewer stages."""
    first = cost.latency_seconds if objective == "latency" else -cost.tokens_per_s
    return first, cost.pp * cost.tp, cost.pp


def _reason(best: SplitCost, others: Sequence[SplitCost], refused: int, objective: Objective) -> str:
    """In a line: what the split takes, and the next best one."""
    what = "the least time of a query" if objective == "latency" else "most tokens a second"
    text = f"{what} of {len(others) + 1} possible splits: {_said(best, objective)}"
    if others:
        text += f"; next pp={others[0].pp},tp={others[0].tp}: {_said(others[0], objective)}"
    return text + (f"; {refused} do not fit" if refused else "")


def _said(cost: SplitCost, objective: Objective) -> str:
    return show_seconds(cost.latency_seconds) if objective == "latency" else f"{cost.tokens_per_s:.5g} tokens/s"


def _degrees(devices: int, layers: int, *, shares: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """Stages and shards to look at. shares: whether stages may share devices where there are so many shards."""
    for tp in _divisors(devices):
        fitting = {pp for pp in _divisors(devices // tp) if pp <= layers}
        more = {pp for pp in _divisors(layers) if pp > devices // tp} if shares(tp) else set()
        for pp in sorted(fitting | more):
            yield pp, tp


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


# -- graphs that are cut ----------------------------------------------------------------------------------------------


@record
class _Part:
    """Some nodes of a device's graph: what they take, and what they keep."""

    seconds: float = 0.0
    rows: int = 0
    """bytes of memory, in whole rows of all channels"""
    caches: int = 0
    """bytes of them that each query in flight needs of its own"""

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.seconds + other.seconds, self.rows + other.rows, self.caches + other.caches)


@record
class _Shards:
    """What the devices of a group of some size do."""

    before: _Part
    """the first layer"""
    kinds: tuple[_Part, ...]
    """a layer of each kind"""
    after: _Part
    crossing: int
    """bytes from layer to layer"""


class _Cuts:
    """Splits of a machine for which graphs are cut: by shards of weights and heads, and by stages of layers."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.spec = asked.machine.spec
        asked.run(asked.graph, None, CANONICAL_ENDS, {}, asked.machine)
        self.whole = asked.graph.copy()
        self.layers = abridge(asked.graph, Rewriter(asked.graph, "abridge"))
        """the kind of each layer, in order"""
        self.short = asked.graph
        self.known: dict[tuple[int, int], _Shards | CompileError] = {}
        """by shards, and parts of a device"""
        self.machines = {1: asked.machine}
        """by parts of a device"""

    def costs(self) -> Iterator[SplitCost]:
        devices = self.spec.system.devices
        for pp, tp in _degrees(devices, max(1, len(self.layers)), shares=lambda _: is_divisible(self.spec)):
            yield self._cost(pp, tp)

    def _cost(self, pp: int, tp: int) -> SplitCost:
        try:
            spec = shared(self.spec, pp, tp)
            found = self._shards(spec, tp)
            stages = list(self._stages(found, pp))
            self._check_room(stages, pp, tp, spec)
        except CompileError as error:
            if error.diagnostics[0].kind is Kind.PIPELINE:
                raise  # passes that are left out are missing in any split
            return SplitCost(pp, tp, illegal=error.diagnostics[0].message)
        port = Port(spec.system.link, spec.system.link_bandwidth)
        hop = port.link.latency + port.wire_ps(found.crossing) if port.link.transfers != "free" else 0
        turns = turns_on(spec, pp, tp)
        latency = sum(stage.seconds for stage in stages) * turns + (pp - 1) * hop * turns * 1e-12
        return SplitCost(pp, tp, latency, pp * self.asked.tokens / latency if latency else 0.0)

    def _stages(self, found: _Shards, pp: int) -> Iterator[_Part]:
        """Layers are dealt to stages as `passes/pipeline_parallel.py` does it."""
        for stage in range(pp):
            own = [kind for i, kind in enumerate(self.layers) if i * pp // len(self.layers) == stage]
            part = sum((found.kinds[kind] for kind in own), found.before if stage == 0 else _Part())
            yield part + found.after if stage == pp - 1 else part

    def _check_room(self, stages: Sequence[_Part], pp: int, tp: int, spec: TargetSpec) -> None:
        """Raises CompileError (CAPACITY). What comes close to the capacity is planned in full."""
        turns, room = turns_on(spec, pp, tp), spec.dram.bytes
        others = pp - 1 if spec.npu is None else 0
        needs = [stage.rows + others * stage.caches for stage in stages]
        most = max(sum(needs[i : i + turns]) for i in range(0, pp, turns))
        if most > FAR * room:
            place = "each device" if spec.system.sharing == 1 else "each part of a device"
            raise fail(Kind.CAPACITY, f"it needs about {_gib(most)} on {place}, which has {_gib(room)}")
        if most > CLOSE * room:
            graph = self.whole.copy()
            self.asked.run(graph, "partition", "layout", {"pp": pp, "tp": tp}, self._machine(spec))

    def _machine(self, spec: TargetSpec) -> Machine:
        """A device, or a part of one."""
        parts = spec.system.sharing
        if parts not in self.machines:
            self.machines[parts] = self.asked.part_of(spec)
        return self.machines[parts]

    def _shards(self, spec: TargetSpec, tp: int) -> _Shards:
        """Raises CompileError, each time that it is asked for what is not possible."""
        key = tp, spec.system.sharing
        if key not in self.known:
            try:
                self.known[key] = self._found(self._machine(spec), tp)
            except CompileError as error:
                self.known[key] = error
        found = self.known[key]
        if isinstance(found, CompileError):
            raise found
        return found

    def _found(self, machine: Machine, tp: int) -> _Shards:
        graph = self.short.copy()
        self.asked.run(graph, "partition", "place", {"tp": tp}, machine)
        groups = repeated_layers(graph) if self.layers else []
        if len(groups) != len(set(self.layers)):
            raise fail(Kind.PARALLEL, f"its layers are no longer alike when they are split {tp} ways")
        layered = {node for group in groups for layer in group for node in layer}
        before, after = _outside(graph, layered)
        return _Shards(
            before=self._part(graph, before, machine),
            kinds=tuple(self._part(graph, group[-1], machine) for group in groups),
            after=self._part(graph, after, machine),
            crossing=_crossing(groups[0][-1], layered, machine.spec) if groups else 0,
        )

    def _part(self, graph: Graph, nodes: Sequence[Node], machine: Machine) -> _Part:
        if not nodes:
            return _Part()
        members = set(nodes)
        ordered = [node for node in graph.order() if node in members]
        plan = make_plan(
            graph, machine.spec, StageNodes(1, ordered, ordered), cache_tokens=machine.cache_tokens,
            banked=machine.banked,
        )  # fmt: skip
        seconds = sum(_seconds(node, machine) for node in ordered)
        return _Part(seconds, plan.used["dram"], plan.by_role.get("caches", 0))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def _seconds(node: Node, machine: Machine) -> float:
    """What a placed node takes by itself."""
    placement = node.fact(Placement)
    if placement is None or is_view_op(node):
        return 0.0
    if placement.seconds:
        return placement.seconds
    return machine.estimate(node, next(e for e in machine.engines() if e.name == placement.engine))


def _outside(graph: Graph, layered: Collection[Node]) -> tuple[list[Node], list[Node]]:
    """The nodes before all layers, and those that need one."""
    behind: set[Node] = set()
    before: list[Node] = []
    for node in graph.order():
        if node in layered or any(v.owner in behind for v in node.inputs()):
            behind.add(node)
        else:
            before.append(node)
    return before, [node for node in graph.order() if node in behind and node not in layered]


def _crossing(layer: Sequence[Node], layered: Collection[Node], spec: TargetSpec) -> int:
    """Bytes that come to a layer from others."""
    own = set(layer)
    read = dict.fromkeys(v for n in layer for v in n.inputs() if v.owner in layered and v.owner not in own)
    return sum(prod(value.type.static_shape) for value in read) * spec.element_bytes


# -- published mappings -----------------------------------------------------------------------------------------------


def _published(asked: Asked) -> Iterator[SplitCost]:
    """Splits of CENT's published mapping: stages share devices where nothing is split."""
    machine = asked.machine
    asked.run(asked.graph, None, "schedule", {}, machine)
    decoder = decoder_of(asked.graph)
    blocks, keys = len(decoder.blocks), decoder.positions[-1]
    for pp, tp in _degrees(machine.devices, blocks, shares=lambda shards: shards == 1):
        try:
            token = Tokens(machine.spec, asked.graph, {"pp": pp, "tp": tp}).at(keys).breakdown
        except CompileError as error:
            yield SplitCost(pp, tp, illegal=error.diagnostics[0].message)
            continue
        yield SplitCost(pp, tp, token.token_latency_ms / 1000, token.tokens_per_s)
