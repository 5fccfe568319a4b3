"""The text form: what is printed is read back the same, and mistakes are told with their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.facts import Alternative, Fact, Layer, Nature, Phase, Placement, Stage, Work
from pimc.ir.graph import Graph, Rewriter, Role, Value
from pimc.ir.op import lookup
from pimc.ir.source import TextSpan
from pimc.ir.text import parse, show
from pimc.ir.types import DType, Sym, TensorType
from pimc.ir.verify import verify
from pimc.ir.weights import Contents, External, Inline, Missing, Random, Sharded, Sliced

TEXT = """\
graph tiny(%x: f32[batch, 4], cache %past: f32[batch, past, 4]) {
  dim batch = 1
  weight %w: f32[4, 4] = random
  weight %v: f16[4, 4] = random("other", 0.5)
  weight %e: bf16[4, 4] = external "a b.bin" 64
  weight %m: f16[4, 4] = missing
  weight %large: f16[4, 4] = elided "inline:0123"
  constant %axes: i64[1] = [1]
  constant %flag: bool[] = true
  constant %f: f32[3] = [0.1, -inf, nan]
  constant %"odd name:0": i32[0] = []
  %y = matmul(%x, %w) : f32[batch, 4]  #phase=decode #layer=0{index=2} #stage=1
  %u = unsqueeze(%y, %axes) : f32[batch, 1, 4]  #stage=1
  %all = concat(%past, %u) {axis=1} : f32[batch, past + 1, 4]  #stage=1
  %r = clip(%u, _, %f0) : f32[batch, 1, 4]  #stage=1
  %p, %q = split(%x) {axis=1, num_outputs=2} : f32[batch, 2], f32[batch, 2]  #stage=1
  return %all, "logits 1" = %y, %q
}
"""
TEXT = TEXT.replace("%f0", "%one").replace("  constant %axes", "  constant %one: f32[] = 1.0\n  constant %axes")


def test_shows_what_it_parsed() -> None:
    graph = parse(TEXT)
    assert show(graph) == TEXT
    verify(graph)


def test_types_may_be_left_out() -> None:
    graph = parse("graph g(%x: f32[n, 3]) { %y = transpose(%x) %z = matmul(%x, %y) {} return %z }")
    (value,) = [v for _, v in graph.outputs]
    assert str(value.type) == "f32[n, n]"


def test_known_contents_resolve_chains_of_shapes() -> None:
    graph = parse(
        """graph g(%x: f32[2, 6]) {
             constant %zero: i64[] = 0   constant %axes: i64[1] = [0]   constant %rest: i64[1] = [-1]
             %s = shape(%x)  %n = gather(%s, %zero)  %n1 = unsqueeze(%n, %axes)
             %t = concat(%n1, %n1, %rest) {axis=0}  %y = reshape(%x, %t)
             return %y }"""
    )
    assert graph.outputs[0][1].type.shape == (2, 2, 3)


def test_roles_facts_and_contents_survive() -> None:
    graph = Graph("a graph")
    rewriter = Rewriter(graph)
    shape = (Sym.named("n"), 3)
    x = rewriter.input("x", TensorType(DType.F16, shape), role=Role.CACHE)
    array = np.arange(200, dtype=np.float16).reshape(4, 50) / np.float16(7)
    rewriter.constant("large", array)
    held: dict[str, Contents] = {
        "external": External(Path("/somewhere/w.bin"), 128, DType.F32, (2, 2)),
        "inline": Inline(np.ones((99,), np.float32)),
        "small": Inline(np.full((2, 2), 1 / 3, np.float32)),
        "shard": Sharded(Random("w", DType.F32, (4, 2)), 0, 2, 1),
        "slice": Sliced(Random("w", DType.F32, (2, 4)), 1, 0, 2),
        "missing": Missing("missing"),
    }
    for name, contents in held.items():
        extent = (99,) if name == "inline" else (2, 2)
        rewriter.weight(name, TensorType(DType.F32, extent), contents)
    node = rewriter.add(lookup("gelu"), [x], {"approximate": "tanh"})
    facts: list[Fact] = [
        Phase.PREFILL,
        Work(Nature.SKINNY_GEMM, 10, 20, m=3, why='a "batch" of 3'),
        Placement("pim.0", "cheapest", (Alternative("npu", 1e-6, 2.5e-7), Alternative("pnm", illegal="no exp"))),
        Layer(0, 1),
        Stage(2),
    ]
    for fact in facts:
        rewriter.set_fact(node, fact)
    rewriter.output("y", node.result)
    back = parse(show(graph))
    assert show(back) == show(graph)
    assert list(back.order()[0].facts.values()) == facts
    assert back.inputs[0].role is Role.CACHE
    constant = back.value("large")
    assert constant is not None
    assert constant.contents is not None
    np.testing.assert_array_equal(constant.contents.array(), array)
    assert constant.type.array is not None
    assert "// " not in show(back)
    assert "// <text>:" in show(back, locations=True)


MISTAKES = {
    "the end": ("graph g() {", Kind.SYNTAX, 1, 12, "the text ends"),
    "token": ("graph g(%x: f32[2]) {\n  %y = add(%x %x) return %y }", Kind.SYNTAX, 2, 15, "'%x' is not expected"),
    "character": ("graph g(%x: f32[2]) { return ? }", Kind.SYNTAX, 1, 30, "'?' is not expected"),
    "string": ('graph g(%x: f32[2]) { return "a\tb" = %x }', Kind.SYNTAX, 1, 30, "is not expected"),
    "escape": (r'graph g(%"x\q": f32[2]) { return %x }', Kind.SYNTAX, 1, 9, "is not expected"),
    "op": ("graph g(%x: f32[2]) { %y = ad(%x, %x) return %y }", Kind.NAME_UNKNOWN, 1, 28, "no such op: 'ad'"),
    "value": ("graph g(%x: f32[2]) { %y = neg(%xx) return %y }", Kind.NAME_UNKNOWN, 1, 32, "%xx is not defined"),
    "twice": ("graph g(%x: f32[2], %x: f32[2]) { return %x }", Kind.NAME_TWICE, 1, 21, "%x is defined twice"),
    "result twice": ("graph g(%x: f32[2]) { %x = neg(%x) return %x }", Kind.NAME_TWICE, 1, 23, "%x is defined twice"),
    "output twice": ("graph g(%x: f32[2]) { return %x, %x }", Kind.NAME_TWICE, 1, 34, "two outputs"),
    "rule": ("graph g(%x: f32[2], %z: f32[3]) { %y = add(%x, %z) return %y }", Kind.TYPE, 1, 40, "do not broadcast"),
    "declared": ("graph g(%x: f32[2]) { %y = neg(%x) : f32[3] return %y }", Kind.TYPE, 1, 23, "but neg gives f32[2]"),
    "attribute": ("graph g(%x: f32[2]) { %y = neg(%x) {a=1} return %y }", Kind.TYPE, 1, 28, "no attribute 'a'"),
    "dtype": ("graph g(%x: f33[2]) { return %x }", Kind.TYPE, 1, 13, "unknown element type 'f33'"),
    "elements": ("graph g() { constant %c: i64[2] = [1] return %c }", Kind.TYPE, 1, 26, "has 2 elements, not 1"),
    "fraction": ("graph g() { constant %c: i64[] = 1.5 return %c }", Kind.TYPE, 1, 26, "no fractions"),
    "range": ("graph g() { constant %c: i8[] = 300 return %c }", Kind.TYPE, 1, 26, ""),
    "count": ("graph g(%x: f32[2]) { %a, %b = neg(%x) return %a }", Kind.TYPE, 1, 23, "gives 1 results"),
    "fact": ("graph g(%x: f32[2]) { %y = neg(%x) #phase=late return %y }", Kind.SYNTAX, 1, 37, "must be one of"),
    "no contents": (
        "graph g(%x: f32[2], %s: i64[1]) { %y = reshape(%x, %s) return %y }", Kind.TYPE, 1, 40, "are not known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_have_a_place(name: str) -> None:
    text, kind, line, column, message = MISTAKES[name]
    with pytest.raises(CompileError) as caught:
        parse(text, "g.txt")
    first = caught.value.diagnostics[0]
    assert first.kind is kind
    assert message in first.message
    assert isinstance(first.source, TextSpan)
    assert (first.source.file, first.source.line, first.source.column) == ("g.txt", line, column)
    assert first.source.text == text.splitlines()[line - 1]


def test_one_mistake_does_not_cause_others() -> None:
    with pytest.raises(CompileError) as caught:
        parse("graph g(%x: f32[2]) { %y = rellu(%x) %z = neg(%y) %u = cosine(%z) return %u }")
    messages = [d.message for d in caught.value.diagnostics]
    assert messages == ["no such op: 'rellu'", "no such op: 'cosine'"]
    assert caught.value.diagnostics[0].help == "did you mean 'relu'?"


def test_deep_nesting_is_no_crash() -> None:
    nested = "[" * 20000 + "]" * 20000
    with pytest.raises(CompileError, match="nested too deeply"):
        parse(f"graph g(%x: f32[4]) {{\n  %y = relu(%x) {{a={nested}}} : f32[4]\n  return %y\n}}\n")


# -- any graph -------------------------------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
dims = st.sampled_from([1, 2, 3, Sym.named("n"), Sym.named("seq.len") + 1, Sym.named("a") * 2 + Sym.named("b")])
floats = st.floats(width=32, allow_nan=False)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(names))
    rewriter = Rewriter(graph)
    shape = tuple(draw(st.lists(dims, max_size=3)))
    dtype = draw(st.sampled_from([DType.F32, DType.F16, DType.BF16]))
    values: list[Value] = [rewriter.input(draw(names), TensorType(dtype, shape))]
    elements = draw(st.lists(floats, min_size=1, max_size=80))
    rewriter.constant(draw(names), np.array(elements, np.float32))
    rewriter.constant(draw(names), np.array(elements, np.float32).astype(DType.BF16.numpy))
    rewriter.constant(draw(names), np.array(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)), np.int64))
    for _ in range(draw(st.integers(0, 6))):
        operand = draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["neg", "add", "cast", "leaky_relu", "clip", "concat"]))
        name = draw(names)
        if kind == "cast":
            node = rewriter.add(lookup(kind), [operand], {"to": operand.type.dtype.text}, name=name)
        elif kind == "leaky_relu":
            node = rewriter.add(lookup(kind), [operand], {"alpha": draw(floats)}, name=name)
        elif kind == "concat" and operand.type.rank:
            node = rewriter.add(lookup(kind), [operand, operand], {"axis": -1}, name=name)
        else:
            node = rewriter.add(lookup("add"), [operand, operand], name=name)
        if draw(st.booleans()):
            rewriter.set_fact(node, draw(st.sampled_from(list(Phase))))
            rewriter.set_fact(node, Work(Nature.GEMM, draw(st.integers(0, 10**18)), 4, why=draw(names)))
        values.append(node.result)
    for i, value in enumerate(draw(st.lists(st.sampled_from(values), max_size=3, unique=True))):
        rewriter.output(f"{draw(names)}{i}", value)
    return graph


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_any_graph_survives(graph: Graph) -> None:
    text = show(graph)
    back = parse(text)
    assert show(back) == text
    for value in graph.weights:
        same = back.value(value.name)
        assert same is not None
        assert value.contents is not None
        assert same.contents is not None
        assert same.type == value.type
        assert same.contents.array().tobytes() == value.contents.array().tobytes()
