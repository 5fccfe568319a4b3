"""Decides the order in which ops are emitted, so that engines work side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Beat, Layer, Placement, Position, Queue, ReadAs, SubBatch
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.op import OpClass
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.ir.views import is_view_op
from pimc.passes.beats import ATTENTION, BeatNodes, find_beats
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

SHORT = 16
"""A node that another engine waits for goes first if it takes at most one part in so many of the way still to go."""


@record
class SchedulePass(Pass):
    """List scheduling: of the nodes whose operands are ready, the one whose engine is free first goes next.

    Where one engine has all of a stretch, every order takes it as long, and that of the source stands. Ties go to the
    node with the longest way still to go, by estimated times, but for short ones that another engine waits for. Layers
    stay together (identical ones get the same order), so that they can become loops. Engines take their commands in the
    order found here; what may overlap follows from the memory that commands touch, and is kept apart by signals when
    streams are made.

        %a = matmul(%x, %w)  // npu                  %s = attention_scores(%q, %k)  // pim, position 0
        %s = attention_scores(%q, %k)  // pim   ->   %a = matmul(%x, %w)            // npu, position 1
    """

    name = "schedule"
    before = GraphStage.PLACED
    after = GraphStage.PLACED

    order: str = "list"
    """"list", "source" for the order of the graph, or "beats": beat after beat (what lies between two attentions, and
    the attention of the other sub-batch beside it), with a barrier between them"""
    prefetch: bool = True
    """operands of an op come from memory while the ops before are at work, as soon as their queue and the room on chip
    are free; otherwise ops follow each other"""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if self.order not in ("list", "source", "beats"):
            raise fail(Kind.PASS_OPTION, f"schedule.order is 'list', 'source' or 'beats', not '{self.order}'")
        nodes, target = graph.order(), context.target
        if self.order == "beats" and target is not None:
            times = _Times(target)
            beats = find_beats(nodes)
            for index, beat in enumerate(beats):
                for node in beat.nodes:
                    rewriter.set_fact(node, Beat(index, beat.name))
            nodes = [n for beat in beats for n in _Listing(graph, times).listed(beat.nodes)]
        elif self.order == "list" and target is not None:
            if graph.batch is not None:
                _set_queues(nodes, rewriter, target)
                _set_reading(graph, rewriter)
            if _is_halved(nodes):
                _set_layers(rewriter, _turns(find_beats(nodes)))
            nodes = _list_order(graph, target, _Times(target))
        for index, node in enumerate(nodes):
            rewriter.set_fact(node, Position(index, self.prefetch))


def _set_queues(nodes: Sequence[Node], rewriter: Rewriter, target: Target) -> None:
    """Nothing waits for vectors on their way into PIM, and for new keys and values, that does not need them."""
    for node in nodes:
        queue = "cache" if node.op.name == "cache_append" else "pim" if node.op.name in ATTENTION else ""
        queue = "link" if node.op.cls is OpClass.COLLECTIVE or _joins_sums(node) else queue
        if queue in target.queues:
            rewriter.set_fact(node, Queue(queue))


def _set_reading(graph: Graph, rewriter: Rewriter) -> None:
    """What grows a cache takes as long as the place of keys, or of values, asks for."""
    kinds = {"attention_scores": "key", "attention_context": "value"}
    for node in graph.order():
        cache = node.operands[1] if node.op.name in kinds else None
        if cache is not None and cache.owner is not None and cache.owner.op.name == "cache_append":
            rewriter.set_fact(cache.owner, ReadAs(kinds[node.op.name]))


def _joins_sums(node: Node) -> bool:
    """Whether it puts together what devices have exchanged piece by piece."""
    owners = [v.owner for v in node.inputs()] if node.op.name == "concat" else []
    return bool(owners) and all(o is not None and o.op.cls is OpClass.COLLECTIVE for o in owners)


def _is_halved(nodes: Sequence[Node]) -> bool:
    return any(n.fact(SubBatch) is not None for n in nodes)


def _list_order(graph: Graph, target: Target, times: Mapping[Node, float]) -> list[Node]:
    """Stretch by stretch. Those of two sub-batches are pairs of beats, and follow on what is at work already."""
    nodes = graph.order()
    if not _is_halved(nodes):
        return [n for stretch in _stretches(nodes) for n in _Listing(graph, times).listed(stretch)]
    beats = find_beats(nodes)
    listing = _Listing(graph, times, {n: i for i, beat in enumerate(beats) for n in beat.nodes}, target.takes_turns)
    return [n for turn in _turns(beats) for n in listing.listed(turn)]


def _turns(beats: Sequence[BeatNodes]) -> list[tuple[Node, ...]]:
    """Pairs of beats of two sub-batches: what lies between two attentions, of both, and an attention of each. All but
    the first and the last do the same."""
    return [tuple(node for beat in beats[i : i + 2] for node in beat.nodes) for i in range(0, len(beats), 2)]


def _set_layers(rewriter: Rewriter, turns: Sequence[Sequence[Node]]) -> None:
    """Let turns be what layers are otherwise, so that those that are alike become a loop."""
    for index, turn in enumerate(turns):
        for node in turn:
            rewriter.set_fact(node, Layer(0, index))


def finish_seconds(graph: Graph, target: Target) -> float:
    """When a placed graph is done by the estimates of its ops, each engine taking its own in the order of a list
    schedule; engines that exclude each other are one."""
    times = _Times(target)
    free: dict[str, float] = {}
    done: dict[Node, float] = {}
    for node in _list_order(graph, target, times):
        engine = "" if target.takes_turns else _engine(node)
        ready = max((done[v.owner] for v in node.inputs() if v.owner in done), default=0.0)
        done[node] = max(ready, free.get(engine, 0.0)) + times[node]
        free[engine] = done[node]
    return max(done.values(), default=0.0)


def _stretches(nodes: Sequence[Node]) -> list[Sequence[Node]]:
    """Runs of nodes of one layer, and what lies between."""
    stretches: list[list[Node]] = []
    last: object = None
    for node in nodes:
        layer = node.fact(Layer)
        if not stretches or layer != last:
            stretches.append([])
        stretches[-1].append(node)
        last = layer
    return [*stretches]


def _seconds(node: Node, target: Target) -> float:
    placement = node.fact(Placement)
    engine = next((e for e in target.engines() if placement is not None and e.name == placement.engine), None)
    if engine is None or is_view_op(node) or node.op.name in ("send", "receive"):
        return 0.0
    return target.estimate(node, engine)


class _Times(dict[Node, float]):
    """Estimated seconds of nodes, found when they are asked for."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def __missing__(self, node: Node) -> float:
        seconds = self[node] = _seconds(node, self.target)
        return seconds


class _Listing:
    """A list schedule, stretch by stretch."""

    def __init__(
        self, graph: Graph, times: Mapping[Node, float], rank: Mapping[Node, int] | None = None, turns: bool = False
    ) -> None:
        """rank: of nodes that could begin at the same time, those with the least go first, then those with the longest
        way to go. turns: engines exclude each other."""
        self.graph, self.times, self.rank, self.turns = graph, times, rank or {}, turns
        self.free: dict[str, float] = {}
        self.done: dict[Node, float] = {}

    def listed(self, nodes: Sequence[Node]) -> list[Node]:
        if not self.rank and len({self._engine(n) for n in nodes}) == 1:
            return list(nodes)
        inside = {n: i for i, n in enumerate(nodes)}
        ahead = _ways_to_go(self.graph, nodes, self.times)
        opens = {n for n in nodes if self.times[n] * SHORT <= ahead[n] and self._opens(n, inside)}
        missing = {n: len({v.owner for v in n.inputs() if v.owner in inside}) for n in nodes}
        ready = [n for n in nodes if not missing[n]]
        order: list[Node] = []
        while ready:
            node = min(
                ready, key=lambda n: (self._start(n), self.rank.get(n, 0), n not in opens, -ahead[n], inside[n])
            )
            ready.remove(node)
            order.append(node)
            self.done[node] = self.free[self._engine(node)] = self._start(node) + self.times[node]
            for user in {u for r in node.results for u in self.graph.users(r) if u in inside}:
                missing[user] -= 1
                if not missing[user]:
                    ready.append(user)
        return order

    def _opens(self, node: Node, inside: Mapping[Node, int]) -> bool:
        """Whether another engine or queue waits for the node, be it through views."""
        users = (u for r in node.results for u in self.graph.users(r) if u in inside)
        return any(
            self._opens(u, inside) if is_view_op(u) else self._engine(u) != self._engine(node) for u in users
        )

    def _start(self, node: Node) -> float:
        ready = max((self.done[v.owner] for v in node.inputs() if v.owner in self.done), default=0.0)
        return max(ready, self.free.get(self._engine(node), 0.0))

    def _engine(self, node: Node) -> str:
        return "" if self.turns else _engine(node)


def _ways_to_go(graph: Graph, nodes: Sequence[Node], times: Mapping[Node, float]) -> dict[Node, float]:
    """The longest path from each node to the end of the stretch, the node included."""
    inside = set(nodes)
    ahead: dict[Node, float] = {}
    for node in reversed(nodes):
        users = (u for r in node.results for u in graph.users(r) if u in inside)
        ahead[node] = times[node] + max((ahead[u] for u in users), default=0.0)
    return ahead


def _engine(node: Node) -> str:
    """Where it queues."""
    placement, queue = node.fact(Placement), node.fact(Queue)
    if placement is None:
        return ""
    return f"{placement.engine}-{queue.name}" if queue is not None and placement.engine != "pim" else placement.engine
