"""Small graphs as text, run through passes, with values compared before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pimc.ir.graph import Graph, Node
from pimc.ir.interp import run
from pimc.ir.op import Array
from pimc.ir.stage import GraphStage
from pimc.ir.text import parse, show
from pimc.passes.manager import PassContext, PassManager
from pimc.passes.pipeline import parse_pipeline


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.static_shape
        if value.type.dtype.is_float:
            arrays[value.name] = rng.standard_normal(shape).astype(value.type.dtype.numpy)
        else:
            arrays[value.name] = rng.integers(0, 2, shape).astype(value.type.dtype.numpy)
    return arrays


def transformed(
    text: str,
    passes: str,
    *,
    inputs: Mapping[str, Array] | None = None,
    start: GraphStage = GraphStage.CANONICAL,
    context: PassContext | None = None,
    tolerance: float = 2e-6,
) -> Graph:
    """The graph after the passes; asserts that it means the same and that its text can be read back."""
    graph = parse(text)
    given = dict(inputs) if inputs is not None else random_inputs(graph)
    expected = run(graph, given)
    PassManager().run(parse_pipeline(passes), graph, context, start=start)
    actual = run(graph, given)
    assert list(actual) == list(expected)
    for name, wanted in expected.items():
        scale = max(1e-30, float(np.abs(wanted).max()))
        assert float(np.abs(actual[name] - wanted).max()) / scale <= tolerance, name
    assert show(parse(show(graph))) == show(graph)
    return graph


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.order())


def only(graph: Graph, op: str) -> Node:
    found = [node for node in graph.order() if node.op.name == op]
    assert len(found) == 1, f"{len(found)} nodes are {op}"
    return found[0]
