"""Graphs, the rewriter, the verifier and the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.ir.diagnostics import CompileError, InternalError, Kind
from pimc.ir.facts import Nature, Phase, Placement, Stage, Work
from pimc.ir.graph import Graph, Node, Rewriter, Role
from pimc.ir.interp import bind_inputs, run
from pimc.ir.op import lookup
from pimc.ir.source import Derived, NodeSource, roots
from pimc.ir.stage import RULES, GraphStage, illegal, required_facts
from pimc.ir.text import parse, show
from pimc.ir.types import DType, TensorType
from pimc.ir.verify import verify

CHAIN = """
graph chain(%x: f32[n, 4]) {
  weight %w: f32[4, 4] = random
  %a = matmul(%x, %w)
  %b = sigmoid(%a)
  %c = mul(%a, %b)
  %d = add(%c, %x)
  return %d
}
"""


def node(graph: Graph, name: str) -> Node:
    value = graph.value(name)
    assert value is not None
    assert value.owner is not None
    return value.owner


# -- rewriting -------------------------------------------------------------------------------------------------------


def test_a_pattern_is_replaced_and_its_places_are_kept() -> None:
    graph = parse(CHAIN)
    rewriter = Rewriter(graph, "fuse")
    old, inner = node(graph, "c"), node(graph, "b")
    places = [old.source, inner.source]
    a = graph.value("a")
    new = rewriter.replace(old, lookup("silu"), [a], absorbing=[inner])
    assert new.name == "c"
    assert graph.value("b") is None
    assert isinstance(new.source, Derived)
    assert new.source.pass_name == "fuse"
    assert list(roots(new.source)) == places
    assert [n.op.name for n in graph.order()] == ["matmul", "silu", "add"]
    verify(graph)


def test_what_is_read_cannot_be_removed() -> None:
    graph = parse(CHAIN)
    rewriter = Rewriter(graph, "p")
    with pytest.raises(InternalError, match="cannot remove %a, it is read by b, c"):
        rewriter.remove(node(graph, "a"))
    with pytest.raises(InternalError, match="cannot remove %d, it is read by d"):
        rewriter.remove(node(graph, "d"))


def test_dead_nodes_and_weights_go() -> None:
    graph = parse(CHAIN)
    rewriter = Rewriter(graph)
    rewriter.set_output("d", graph.inputs[0])
    assert rewriter.remove_dead() == 4
    assert len(graph) == 0
    assert not graph.weights


def test_version_counts_changes_only() -> None:
    graph = parse(CHAIN)
    rewriter = Rewriter(graph)
    before = graph.version
    rewriter.set_attribute(node(graph, "a"), "nothing", None)
    changed = graph.version
    assert changed > before
    rewriter.set_fact(node(graph, "a"), Phase.DECODE)
    rewriter.set_fact(node(graph, "a"), Phase.DECODE)
    assert graph.version == changed + 1
    rewriter.set_role(graph.inputs[0], Role.INPUT)
    rewriter.retype(graph.inputs[0], graph.inputs[0].type)
    rewriter.replace_uses(graph.inputs[0], graph.inputs[0])
    assert graph.version == changed + 1


def test_order_is_topological_and_ties_go_to_the_older() -> None:
    graph = parse("graph g(%x: f32[2]) { %a = neg(%x) %b = exp(%x) %c = add(%b, %a) return %c }")
    rewriter = Rewriter(graph)
    late = rewriter.add(lookup("sqrt"), [graph.inputs[0]], name="late")
    rewriter.set_operand(node(graph, "a"), 0, late.result)
    assert [n.name for n in graph.order()] == ["b", "late", "a", "c"]


def test_a_cycle_is_told() -> None:
    graph = parse("graph g(%x: f32[2]) { %a = neg(%x) %b = exp(%a) return %b }")
    Rewriter(graph).set_operand(node(graph, "a"), 0, node(graph, "b").result)
    with pytest.raises(CompileError, match="has a cycle"):
        graph.order()


def test_names_stay_unique() -> None:
    graph = Graph("g")
    rewriter = Rewriter(graph)
    type = TensorType(DType.F32, (1,))
    assert [rewriter.input("x", type).name for _ in range(3)] == ["x", "x.1", "x.2"]


def test_a_refused_type_names_the_operands() -> None:
    graph = Graph("g")
    rewriter = Rewriter(graph)
    x = rewriter.input("x", TensorType(DType.F32, (2, 3)))
    with pytest.raises(CompileError) as caught:
        rewriter.add(lookup("matmul"), [x, x], source=NodeSource("m.onnx", "MatMul_3", "MatMul"))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.kind is Kind.TYPE
    assert "matmul: the contracted dimensions: 3 does not match 2" in diagnostic.message
    assert diagnostic.notes == ("operands: f32[2, 3], f32[2, 3]",)
    assert str(diagnostic.source) == 'm.onnx: node "MatMul_3" (MatMul)'


def test_reading_the_dag() -> None:
    graph = parse(CHAIN)
    a, b, c, d = graph.order()
    assert graph.ancestors(c) == [a, b]
    assert graph.descendants(b) == [c, d]
    assert graph.longest_path(lambda n: 2.0 if n is b else 1.0) == (5.0, [a, b, c, d])
    assert graph.dominators() == {b: a, c: a, d: c}
    assert graph.view().nodes[a.uid]["op"] == "matmul"
    assert graph.dims() == ["n"]
    assert graph.use_count(a.result) == 2
    assert "> %b = sigmoid(%a) : f32[n, 4]" in graph.window(b)


# -- verifying -------------------------------------------------------------------------------------------------------


def diagnostics(graph: Graph, stage: GraphStage = GraphStage.IMPORTED) -> list[str]:
    with pytest.raises(CompileError) as caught:
        verify(graph, stage)
    return [f"{d.kind.name} {d.message}" for d in caught.value.diagnostics]


def test_all_wrong_types_are_told_with_a_window() -> None:
    graph = parse(CHAIN)
    graph.order()[1].results[0].type = TensorType(DType.F16, (3, 4))
    with pytest.raises(CompileError) as caught:
        verify(graph)
    first, second = list(caught.value.diagnostics)
    assert "%b is f16[3, 4], but sigmoid gives f32[n, 4]" in first.message
    assert "> %b = sigmoid(%a)" in first.window
    assert "different element types" in second.message


def test_edges_that_do_not_agree() -> None:
    graph = parse(CHAIN)
    graph.order()[2].operands = (graph.inputs[0], graph.inputs[0])
    messages = diagnostics(graph)
    assert "GRAPH %x does not know that %c reads it" in messages
    assert "GRAPH %a is said to be read by %c, which does not" in messages


def test_outputs_must_exist() -> None:
    graph = parse("graph g(%x: f32[2]) { %y = neg(%x) return }")
    assert diagnostics(graph) == ["GRAPH graph 'g' has no outputs"]
    other = parse("graph g(%x: f32[2]) { %y = neg(%x) return %y }")
    Rewriter(graph).output("y", other.outputs[0][1])
    assert "GRAPH output 'y' is %y, which is not in the graph" in diagnostics(graph)


def test_stages_ask_for_more_and_more() -> None:
    graph = parse(CHAIN)
    verify(graph, GraphStage.IMPORTED)
    assert any("every dimension is a number" in m for m in diagnostics(graph, GraphStage.BOUND))
    graph = parse(CHAIN.replace("n,", "3,"))
    verify(graph, GraphStage.CANONICAL)
    messages = diagnostics(graph, GraphStage.TAGGED)
    assert messages[0] == "STAGE at stage TAGGED %a must have: Phase, Work"
    assert len(messages) == 4
    rewriter = Rewriter(graph)
    for n in graph.order():
        rewriter.set_fact(n, Phase.DECODE)
        rewriter.set_fact(n, Work(Nature.GEMV, 1, 1))
    verify(graph, GraphStage.TAGGED)
    assert len(diagnostics(graph, GraphStage.PLACED)) == 4
    for n in graph.order():
        rewriter.set_fact(n, Placement("npu", "the only one"))
    verify(graph, GraphStage.SCHEDULED)


def test_a_cut_graph_is_cut_everywhere() -> None:
    graph = parse(CHAIN.replace("n,", "3,"))
    rewriter = Rewriter(graph)
    first, *others = graph.order()
    rewriter.set_fact(first, Stage(0, 0))
    assert len(diagnostics(graph)) == len(others)
    for n in others:
        rewriter.set_fact(n, Stage(1, 0))
    verify(graph)


def test_ops_have_their_stages() -> None:
    assert illegal(lookup("ms_group_query_attention"), GraphStage.BOUND) is None
    assert illegal(lookup("ms_group_query_attention"), GraphStage.TAGGED) is not None
    assert illegal(lookup("all_reduce"), GraphStage.CANONICAL) is not None
    assert illegal(lookup("all_reduce"), GraphStage.PLACED) is None
    assert required_facts(GraphStage.PLACED) == (Phase, Work, Placement)
    assert set(RULES) == set(GraphStage)
    for rule in RULES.values():
        assert all(lookup(name) for name in rule.gone)


def test_a_shape_that_depends_on_data() -> None:
    graph = parse("graph g(%x: f32[4], %s: i64[1]) { %y = reshape(%x, %s) : f32[4] return %y }")
    verify(graph, GraphStage.BOUND)
    (message,) = diagnostics(graph, GraphStage.CANONICAL)
    assert message.startswith("DATA_DEPENDENT the shape of %y depends on data")


# -- running ---------------------------------------------------------------------------------------------------------


def test_outputs_of_a_chain() -> None:
    graph = parse(CHAIN)
    x = np.ones((2, 4), np.float32)
    w = graph.weights[0].contents
    assert w is not None
    a = x @ w.array()
    seen: list[str] = []
    outputs = run(graph, {"x": x}, observe=lambda n, _: seen.append(n.name))
    np.testing.assert_allclose(outputs["d"], a / (1 + np.exp(-a)) + x, rtol=1e-6)
    assert seen == ["a", "b", "c", "d"]


def test_inputs_and_weights_may_be_outputs() -> None:
    graph = parse('graph g(%x: f32[2]) { constant %c: i64[] = 3 return %c, %x, "again" = %x }')
    outputs = run(graph, {"x": np.zeros(2, np.float32)})
    assert list(outputs) == ["c", "x", "again"]
    assert outputs["c"].shape == ()


def mistakes(text: str, **inputs: np.ndarray) -> list[str]:
    with pytest.raises(CompileError) as caught:
        run(parse(text), inputs)
    assert all(d.kind is Kind.INPUT_BAD for d in caught.value.diagnostics)
    return [d.message for d in caught.value.diagnostics]


TWO = "graph g(%x: f32[n, 4], %y: i64[n + 1]) { return %x, %y }"


def test_inputs_are_checked() -> None:
    x, y = np.zeros((2, 4), np.float32), np.zeros(3, np.int64)
    assert bind_inputs(parse(TWO), {"x": x, "y": y}) == {"n": 2}
    assert mistakes(TWO, xx=x, y=y) == ["the model has no input 'xx'", "no array for input 'x'"]
    assert mistakes(TWO, x=x.astype(np.float64), y=y) == ["input 'x' has elements of type float64, but should be f32"]
    assert mistakes(TWO, x=x[0], y=y) == ["input 'x' has shape [4], but should be f32[n, 4]"]
    assert mistakes(TWO, x=x, y=y[:2]) == ["input 'y' has shape [2], but should be i64[3]"]
    same = "graph g(%x: f32[n], %y: f32[n]) { return %x, %y }"
    assert mistakes(same, x=x[0], y=x[0, :3]) == ["dimension 'n' is 3 in input 'y', but 4 in 'x'"]


def test_an_index_out_of_range_is_an_input_error() -> None:
    text = "graph g(%i: i64[1]) { weight %w: f32[3, 2] = random %y = gather(%w, %i) return %y }"
    assert "out of bounds" in mistakes(text, i=np.array([7]))[0]


def test_missing_weights_are_named() -> None:
    with pytest.raises(CompileError, match="weight 'w' has no data"):
        run(parse("graph g() { weight %w: f32[3] = missing return %w }"), {})


def test_a_partitioned_graph_is_not_interpreted() -> None:
    text = "graph g(%x: f32[3]) { %y = all_reduce(%x) {group=2} return %y }"
    with pytest.raises(CompileError, match="no meaning on a single device"):
        run(parse(text), {"x": np.zeros(3, np.float32)})


def test_text_is_the_same_after_every_edit() -> None:
    graph = parse(CHAIN)
    rewriter = Rewriter(graph, "fuse")
    rewriter.replace(node(graph, "c"), lookup("silu"), [graph.value("a")], absorbing=[node(graph, "b")])
    assert show(parse(show(graph))) == show(graph)
