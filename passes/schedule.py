"""Decides the order in which ops are emitted, so that engines work side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Beat, Layer, Placement, Position, SubBatch
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.op import OpClass
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.ir.views import is_view_op
from pimc.passes.beats import BeatNodes, find_beats
from pimc.passes.manager import Pass, PassContext


@dataclass(frozen=True)
class SchedulePass(Pass):
    """List scheduling: of the nodes whose operands are ready, the one whose engine is free first goes next.

    Ties go to the node with the longest way still to go, by estimated times. Layers stay together (identical ones get
    the same order), so that they can become loops. Engines take their commands in the order found here; what may
    overlap follows from the memory that commands touch, and is kept apart by signals when streams are made.

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
    """with order=beats: operands of an op come from memory while the op before is at work"""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if self.order not in ("list", "source", "beats"):
            raise fail(Kind.PASS_OPTION, f"schedule.order is 'list', 'source' or 'beats', not '{self.order}'")
        nodes = graph.order()
        if self.order != "source" and context.target is not None:
            times = {n: _seconds(n, context.target) for n in nodes}
            stretches: Sequence[Sequence[Node]]
            if self.order == "beats":
                beats = find_beats(nodes)
                stretches = [beat.nodes for beat in beats]
                self._set_beats(rewriter, beats)
            elif any(n.fact(SubBatch) is not None for n in nodes):
                stretches = _turns(find_beats(nodes))
                _set_layers(rewriter, stretches)
            else:
                stretches = _stretches(nodes)
            nodes = [n for stretch in stretches for n in _listed(graph, stretch, times)]
        for index, node in enumerate(nodes):
            rewriter.set_fact(node, Position(index))

    def _set_beats(self, rewriter: Rewriter, beats: Sequence[BeatNodes]) -> None:
        for index, beat in enumerate(beats):
            for node in beat.nodes:
                rewriter.set_fact(node, Beat(index, beat.name, self.prefetch))


def _turns(beats: Sequence[BeatNodes]) -> list[tuple[Node, ...]]:
    """Pairs of beats of two sub-batches: what lies between two attentions, of both, and an attention of each. All but
    the first and the last do the same."""
    return [
        tuple(node for beat in beats[at : at + 2] for node in beat.nodes) for at in range(0, len(beats), 2)
    ]


def _set_layers(rewriter: Rewriter, turns: Sequence[Sequence[Node]]) -> None:
    """Let turns be what layers are otherwise, so that those that are alike become a loop."""
    for index, turn in enumerate(turns):
        for node in turn:
            rewriter.set_fact(node, Layer(0, index))


def finish_seconds(graph: Graph, target: Target) -> float:
    """When a placed graph is done by the estimates of its ops, each engine taking its own in the order of a list
    schedule; engines that exclude each other are one."""
    nodes = graph.order()
    times = {n: _seconds(n, target) for n in nodes}
    halved = any(n.fact(SubBatch) is not None for n in nodes)
    stretches = _turns(find_beats(nodes)) if halved else _stretches(nodes)
    free: dict[str, float] = {}
    done: dict[Node, float] = {}
    for node in (n for stretch in stretches for n in _listed(graph, stretch, times)):
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
    if engine is None or is_view_op(node) or node.op.cls is OpClass.COLLECTIVE:
        return 0.0
    return target.estimate(node, engine)


def _listed(graph: Graph, nodes: Sequence[Node], times: Mapping[Node, float]) -> list[Node]:
    inside = {n: i for i, n in enumerate(nodes)}
    ahead = _ways_to_go(graph, nodes, times)
    missing = {n: len({v.owner for v in n.inputs() if v.owner in inside}) for n in nodes}
    ready_at = dict.fromkeys(nodes, 0.0)
    ready = [n for n in nodes if not missing[n]]
    free: dict[str, float] = {}
    order: list[Node] = []
    while ready:
        node = min(ready, key=lambda n: (max(ready_at[n], free.get(_engine(n), 0.0)), -ahead[n], inside[n]))
        ready.remove(node)
        order.append(node)
        done = max(ready_at[node], free.get(_engine(node), 0.0)) + times[node]
        free[_engine(node)] = done
        for user in {u for r in node.results for u in graph.users(r) if u in inside}:
            missing[user] -= 1
            ready_at[user] = max(ready_at[user], done)
            if not missing[user]:
                ready.append(user)
    return order


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
    placement, half = node.fact(Placement), node.fact(SubBatch)
    beside = half is not None and half.beside
    return f"{placement.engine}{'-pim' if beside else ''}" if placement is not None else ""
