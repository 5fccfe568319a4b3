"""One order, whatever order the graph was written in."""

from __future__ import annotations

import pytest

from pimc.ir.diagnostics import InternalError
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.text import parse, show
from pimc.passes.canonical_order import CanonicalOrderPass
from pimc.passes.find_layers import find_layers
from pimc.passes.manager import PassContext
from tests.passes.graphs import transformed

GATED = """\
graph gated(%x: f32[2, 4]) {{
  weight %w.2: f32[4, 4] = random
  weight %w.10: f32[4, 4] = random
  constant {half}: f32[] = 0.5
  {body}
  return "y" = %y, "z" = %z
}}
"""
ONE = """%a = matmul(%x, %w.10) : f32[2, 4]
  %b = matmul(%x, %w.2) : f32[2, 4]
  %c = silu(%a) : f32[2, 4]
  %d = mul(%c, %b) : f32[2, 4]
  %y = mul(%half, %d) : f32[2, 4]
  %z = add(%a, %b) : f32[2, 4]"""
OTHER = """%l = matmul(%x, %w.2) : f32[2, 4]
  %m = matmul(%x, %w.10) : f32[2, 4]
  %z = add(%l, %m) : f32[2, 4]
  %n = silu(%m) : f32[2, 4]
  %o = mul(%l, %n) : f32[2, 4]
  %y = mul(%o, %number) : f32[2, 4]"""


def ordered(half: str, body: str) -> Graph:
    return transformed(GATED.format(half=half, body=body), "canonical-order")


def test_graphs_that_compute_the_same_become_the_same() -> None:
    graphs = [ordered("%half", ONE), ordered("%number", OTHER)]
    for graph in graphs:
        rewriter = Rewriter(graph)
        for i, node in enumerate(graph.order()):
            rewriter.rename(node.result, f"n{i}")
    assert show(graphs[0]) == show(graphs[1])


def test_the_order_of_operands() -> None:
    text = show(ordered("%half", ONE.replace("mul(%c, %b)", "mul(%c, %a)")))
    assert "%d = mul(%a, %c)" in text
    assert "%y = mul(%d, %const." in text
    assert "%z = add(%b, %a)" in text, "w.2 comes before w.10"


def test_running_it_again_changes_nothing() -> None:
    graph = ordered("%half", ONE)
    version, text = graph.version, show(graph)
    again = transformed(text, "canonical-order")
    assert show(again) == text
    CanonicalOrderPass().run(graph, Rewriter(graph), PassContext())
    assert graph.version == version


def test_constants_are_called_by_what_they_hold() -> None:
    text = """\
graph g(%x: f32[2]) {
  constant %a: f32[2] = [1.0, 2.0]
  constant %b: i64[1] = [2]
  %r = reshape(%x, %b) : f32[2]
  %y = add(%r, %a) : f32[2]
  return %y
}
"""
    names = [w.name for w in transformed(text, "canonical-order").weights]
    renamed = text.replace("%a", "%table").replace("%b", "%shape")
    assert names == [w.name for w in transformed(renamed, "canonical-order").weights]
    assert all(name.startswith("const.") for name in names)


def test_layers_stay_alike() -> None:
    layer = """
  weight %l{i}.w: f32[4, 4] = random
  weight %l{i}.v: f32[4, 4] = random
  %a{i} = matmul(%x{i}, %l{i}.w) : f32[1, 2, 2, 4]
  %b{i} = matmul(%x{i}, %l{i}.v) : f32[1, 2, 2, 4]
  %t{i} = attention(%a{i}, %b{i}, %b{i}) {{scale=0.5}} : f32[1, 2, 2, 4]
  %g{i} = mul({p}{i}, {q}{i}) : f32[1, 2, 2, 4]
  %s{i} = add(%t{i}, %g{i}) : f32[1, 2, 2, 4]
  %x{j} = add(%s{i}, %x{i}) : f32[1, 2, 2, 4]"""
    body = "".join(layer.format(i=i, j=i + 1, p="%a" if i % 2 else "%b", q="%b" if i % 2 else "%a") for i in range(3))
    text = f"graph g(%x: f32[1, 2, 2, 4]) {{\n  %x0 = abs(%x) : f32[1, 2, 2, 4]{body}\n  return %x3\n}}"
    before, after = (find_layers(g) for g in (parse(text), transformed(text, "canonical-order", tolerance=1e-5)))
    assert [len(group) for group in before] != [3]
    assert [len(group) for group in after] == [3]


def test_an_order_must_be_one() -> None:
    graph = parse(GATED.format(half="%half", body=ONE))
    rewriter = Rewriter(graph)
    with pytest.raises(InternalError, match="every node"):
        rewriter.reorder(graph.order()[1:])
    with pytest.raises(InternalError, match="before their readers"):
        rewriter.reorder(graph.order()[::-1])
    swapped = graph.order()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    rewriter.reorder(swapped)
    assert graph.order() == swapped
    assert show(parse(show(graph))) == show(graph)
