"""Pipeline parallelism: layers are dealt to stages in order, and values that cross are sent."""

from __future__ import annotations

from collections.abc import Sequence

from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Stage
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.passes.find_layers import ANCHORS, find_layers
from pimc.passes.match import opdef


def assign_stages(graph: Graph, rewriter: Rewriter, stages: int, turns: int = 1) -> None:
    """Give every node its stage. Layers are dealt evenly; what comes before or after goes with whom it serves.

    turns: neighbouring stages that take turns on the same devices.
    """
    order = {node: i for i, node in enumerate(graph.order())}
    layers = sorted((layer for group in find_layers(graph) for layer in group), key=lambda nodes: order[nodes[0]])
    if len(layers) < stages:
        raise _too_few(graph, len(layers), stages)
    stage = {node: index * stages // len(layers) for index, layer in enumerate(layers) for node in layer}
    layered = set(stage)
    for node in order:
        before = [stage[v.owner] for v in node.inputs() if v.owner is not None and v.owner in stage]
        if node not in layered and before:
            stage[node] = max(before)
        elif node in layered and before:
            stage[node] = max(stage[node], *before)
    for node in reversed(list(order)):
        if node not in stage:
            stage[node] = min((stage[u] for r in node.results for u in graph.users(r)), default=stages - 1)
    for node, index in stage.items():
        rewriter.set_fact(node, Stage(index // turns, index % turns))


def _too_few(graph: Graph, layers: int, stages: int) -> CompileError:
    """A model without repeated layers has none that were found, but may have one."""
    attentions = [node for node in graph.order() if node.op.name in ANCHORS]
    if not attentions:
        return fail(
            Kind.PARALLEL,
            f"'{graph.name}' has no layers that {stages} pipeline stages could share: a layer lies around an attention",
            notes=("attention that is written in an unknown way is not seen as one",),
            help="--parallel tp=N cuts the products of a model",
        )
    count = max(1, layers)
    return fail(
        Kind.PARALLEL,
        f"'{graph.name}' has {count} layer{'s' * (count > 1)}, which {'do' if count > 1 else 'does'} not make {stages} "
        "pipeline stages",
        attentions[-1].source,
        notes=("a layer lies around each attention; this is the last one",),
        help=f"--parallel pp={count} at most" if count > 1 else "--parallel tp=N cuts a layer over devices",
    )


def cut_stages(graph: Graph, rewriter: Rewriter) -> None:
    """Insert `send` and `receive` wherever a value crosses to a later stage."""
    for node in graph.order():
        for result in node.results:
            _cut(graph, rewriter, node, result)


def _cut(graph: Graph, rewriter: Rewriter, node: Node, value: Value) -> None:
    home = _index(node)
    for stage in sorted({_index(u) for u in graph.users(value)} - {home}):
        users = [u for u in graph.users(value) if _index(u) == stage]
        send = rewriter.add(opdef("send"), (value,), {"to": stage}, origins=(node,))
        receive = rewriter.add(opdef("receive"), (send.result,), {"from_": home}, origins=(node,))
        rewriter.set_fact(send, Stage(home, _turn([node])))
        rewriter.set_fact(receive, Stage(stage, _turn(users)))
        for user in users:
            for index, operand in enumerate(user.operands):
                if operand is value:
                    rewriter.set_operand(user, index, receive.result)


def _turn(nodes: Sequence[Node]) -> int:
    """The first turn that any of them has."""
    return min((fact.turn for n in nodes if (fact := n.fact(Stage)) is not None), default=0)


def _index(node: Node) -> int:
    fact = node.fact(Stage)
    return fact.index if fact is not None else 0
