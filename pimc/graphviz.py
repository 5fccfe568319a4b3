"""The graph of a compiled model for Graphviz: one box an op, coloured by engine, with what it takes in the run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pimc.amounts import percent, time_text
from pimc.driver import Result
from pimc.ir.facts import Layer
from pimc.ir.graph import Node, Value
from pimc.sim.report import OpReport

COLOURS = {"npu": "#9fc0e4", "pim": "#f0c08d", "pnm": "#9fd6bb", "link": "#c9d1d9"}
OTHER = "#e6b3cf"
LONGEST = 48
"""Characters of a name in a box."""


def dot(result: Result) -> str:
    """The graph of a simulated compilation; weights and constants are left out, layers are clusters."""
    assert result.report is not None
    lines = ["digraph pimc {", "  rankdir=TB;", '  node [shape=box, style="filled,rounded", fontname="sans-serif"];']
    reports = {op.name: op for op in result.report.ops}
    total = sum(op.seconds for op in result.report.ops) or 1.0
    nodes = result.graph.order()
    for number, (layer, members) in enumerate(groupby(nodes, key=_layer_of)):
        boxes = [_box(node, reports.get(node.name), total) for node in members]
        lines += _cluster(number, layer, boxes) if layer is not None else [f"  {box}" for box in boxes]
    lines += _inputs(result)
    lines += _edges(nodes)
    lines += _outputs(result)
    return "\n".join([*lines, "}"]) + "\n"


def _layer_of(node: Node) -> Layer | None:
    return node.fact(Layer)


def _cluster(number: int, layer: Layer, boxes: list[str]) -> Iterator[str]:
    yield f"  subgraph cluster_{number} {{"
    yield f'    label="layer {layer.index}"; color="#9aa5b1"; fontname="sans-serif";'
    yield from (f"    {box}" for box in boxes)
    yield "  }"


def _box(node: Node, op: OpReport | None, total: float) -> str:
    lines = [_shortened(node.name), node.op.name]
    engine = op.engine if op is not None else ""
    if op is not None:
        lines.append(f"{engine} · {op.nature or op.phase} · {time_text(op.seconds)}, {percent(op.seconds / total)}")
    colour = COLOURS.get(engine, OTHER)
    tip = op.reason if op is not None else ""
    return f"n{node.uid} [label={quoted(*lines)}, fillcolor={quoted(colour)}, tooltip={quoted(tip)}];"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"


def _inputs(result: Result) -> Iterator[str]:
    graph = result.graph
    for number, value in enumerate(graph.inputs):
        yield f"  i{number} [label={quoted(_shortened(value.name), str(value.type))}, shape=ellipse, fillcolor=white];"
        yield from (f"  i{number} -> n{user.uid};" for user in dict.fromkeys(graph.users(value)))


def _edges(nodes: list[Node]) -> Iterator[str]:
    made: dict[Value, Node] = {result: node for node in nodes for result in node.results}
    for node in nodes:
        for value in dict.fromkeys(node.inputs()):
            if value in made:
                yield f"  n{made[value].uid} -> n{node.uid} [tooltip={quoted(str(value.type))}];"


def _outputs(result: Result) -> Iterator[str]:
    graph = result.graph
    made = {value: node for node in graph.order() for value in node.results}
    for number, (name, value) in enumerate(graph.outputs):
        yield f"  o{number} [label={quoted(_shortened(name), str(value.type))}, shape=ellipse, fillcolor=white];"
        if value in made:
            yield f"  n{made[value].uid} -> o{number};"


def quoted(*lines: str) -> str:
    """Lines of text as a string of the language."""
    text = "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in each) for each in lines)
    text = text.encode("utf-8", "backslashreplace").decode()
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
