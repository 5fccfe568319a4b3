"""Phases, natures, layers, and the parts of attention."""

from __future__ import annotations

import pytest

from pimc.ir.facts import Layer, Nature, Phase, Work
from pimc.ir.graph import Graph, Node
from pimc.ir.stage import GraphStage
from pimc.ir.text import parse
from pimc.passes.find_layers import find_layers
from pimc.passes.manager import PassContext, PassManager
from pimc.passes.pipeline import parse_pipeline
from pimc.passes.tag_phase import graph_phase
from tests.passes.graphs import only, ops, transformed

ATTENTION = """\
graph p(%q: f32[1, 4, {s}, 8], {inputs}%v: f32[1, 4, {t}, 8]{mask_input}) {{
  {key}
  %y = attention(%q, %k, %v{mask}) {{{attributes}}} : f32[1, 4, {s}, 8]
  %z = relu(%y) : f32[1, 4, {s}, 8]
  return %z{more}
}}
"""


def attention(
    s: int, past: int | None, *, causal: bool = False, how: str = "append", more: str = "", mask: str = ""
) -> str:
    new = f"f32[1, 4, {s}, 8]"
    t = s + (past or 0)
    if past is None:
        inputs, key = f"%x: {new}, ", f"%k = relu(%x) : {new}"
    elif how == "append":
        inputs = f"cache %past: f32[1, 4, {past}, 8], %x: {new}, "
        key, more = f"%k = cache_append(%past, %x) : f32[1, 4, {t}, 8]", more + ", %k"
    else:
        inputs = f"%past: f32[1, 4, {t}, 8], %at: i64[{s}, 4], %x: f32[{s}], "
        key, more = f"%k = scatter_nd(%past, %at, %x) : f32[1, 4, {t}, 8]", more + ", %k"
    return ATTENTION.format(
        s=s, t=t, inputs=inputs, key=key, more=more,
        attributes="scale=1.0" if not causal else "causal=true, scale=1.0",
        mask=", %mask" if mask else "", mask_input=f", %mask: {mask}" if mask else "",
    )  # fmt: skip


def tagged(text: str, passes: str = "tag-phase", context: PassContext | None = None) -> Graph:
    graph = parse(text)
    PassManager().run(parse_pipeline(passes), graph, context, start=GraphStage.CANONICAL)
    return graph


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        (attention(1, 16), Phase.DECODE),
        (attention(4, 16), Phase.CHUNKED),
        (attention(4, 0), Phase.PREFILL),
        (attention(1, 0), Phase.PREFILL),
        (attention(4, None, causal=True), Phase.PREFILL),
        (attention(4, None, more=", %k"), Phase.PREFILL),
        (attention(4, None), Phase.ENCODE),
        (attention(4, None, mask="f32[4, 4]"), Phase.ENCODE),
        (attention(1, 15, how="scatter"), Phase.DECODE),
        (attention(4, 12, how="scatter"), Phase.PREFILL),
    ],
)
def test_phase_from_query_length_and_dataflow(text: str, phase: Phase) -> None:
    graph = tagged(text)
    assert {n.fact(Phase) for n in graph.order()} == {phase}
    assert graph_phase(graph) is phase


def test_a_mask_made_from_a_triangle_is_causal() -> None:
    text = attention(3, None, mask="f32[1, 1, 3, 3]").replace(
        ", %mask: f32[1, 1, 3, 3]", ", %padding: bool[1, 1, 1, 3]"
    )
    mask = """constant %tri: bool[3, 3] = [true, false, false, true, true, false, true, true, true]
  constant %zero: f32[] = 0.0
  constant %low: f32[] = -1e30
  %both = and(%tri, %padding) : bool[1, 1, 3, 3]
  %mask = where(%both, %zero, %low) : f32[1, 1, 3, 3]
  %k ="""
    assert graph_phase(tagged(text.replace("%k =", mask))) is Phase.PREFILL


def test_the_user_may_say_the_phase() -> None:
    assert graph_phase(tagged(attention(4, None), context=PassContext(phase=Phase.DECODE))) is Phase.DECODE


def test_an_encoder_and_a_decoder_in_one_graph() -> None:
    text = """\
graph e(%x: f32[1, 2, 6, 4], %q: f32[1, 2, 1, 4], cache %past: f32[1, 2, 3, 4], %new: f32[1, 2, 1, 4]) {
  %e = attention(%x, %x, %x) {scale=1.0} : f32[1, 2, 6, 4]
  %m = relu(%e) : f32[1, 2, 6, 4]
  %k = cache_append(%past, %new) : f32[1, 2, 4, 4]
  %d = attention(%q, %k, %k) {scale=1.0} : f32[1, 2, 1, 4]
  %c = attention(%d, %m, %m) {scale=1.0} : f32[1, 2, 1, 4]
  %y = relu(%c) : f32[1, 2, 1, 4]
  return %y, %k
}
"""
    graph = tagged(text)
    phases = {n.name: n.fact(Phase) for n in graph.order()}
    encoder = {name for name, phase in phases.items() if phase is Phase.ENCODE}
    assert encoder == {"e", "m"}
    assert {phase for name, phase in phases.items() if name not in encoder} == {Phase.DECODE}
    assert graph_phase(graph) is Phase.MIXED


# -- nature ----------------------------------------------------------------------------------------------------------


def work(text: str, passes: str = "tag-phase,tag-nature", op: str | None = None) -> Work:
    graph = tagged(text, passes)
    node: Node = only(graph, op) if op else graph.order()[-1]
    found = node.fact(Work)
    assert found is not None
    return found


def product(x: str, y: str, result: str, *, weight: str = "y") -> str:
    other = "x" if weight == "y" else "y"
    types = {"x": x, "y": y}
    return f"""\
graph m(%{other}: f32[{types[other]}]) {{
  weight %{weight}: f32[{types[weight]}] = missing
  %r = matmul(%x, %y) : f32[{result}]
  return %r
}}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (product("1, 1, 64", "64, 32", "1, 1, 32"), (Nature.GEMV, 1, 32, 64, 1)),
        (product("8, 1, 64", "64, 32", "8, 1, 32"), (Nature.SKINNY_GEMM, 8, 32, 64, 1)),
        (product("8, 12, 64", "64, 32", "8, 12, 32"), (Nature.GEMM, 96, 32, 64, 1)),
        (product("6, 32, 64", "6, 64, 1", "6, 32, 1", weight="x"), (Nature.GEMV, 1, 32, 64, 6)),
        (product("64", "64, 32", "32"), (Nature.GEMV, 1, 32, 64, 1)),
        (product("8, 1", "1, 12", "8, 12", weight="x"), (Nature.ELEMENTWISE, 12, 8, 1, 1)),
    ],
)
def test_products_by_their_rows(text: str, expected: tuple[object, ...]) -> None:
    found = work(text)
    assert (found.nature, found.m, found.n, found.k, found.count) == expected


def test_thresholds_are_options() -> None:
    text = product("8, 1, 64", "64, 32", "8, 1, 32")
    assert work(text, "tag-phase,tag-nature{gemv_rows=8}").nature is Nature.GEMV
    assert work(text, "tag-phase,tag-nature{skinny_rows=4}").nature is Nature.GEMM


def test_bytes_count_the_weight_once_in_16_bits() -> None:
    found = work(product("8, 1, 64", "64, 32", "8, 1, 32"))
    assert found.bytes == 2 * (8 * 64 + 64 * 32 + 8 * 32)
    assert found.flops == 2 * 8 * 64 * 32
    assert found.intensity == pytest.approx(found.flops / found.bytes)


def heads(heads: int, kv: int, queries: int, batch: int = 1) -> str:
    return f"""\
graph h(%q: f32[{batch}, {heads}, {queries}, 8], %k: f32[{batch}, {kv}, 9, 8], %v: f32[{batch}, {kv}, 9, 4]) {{
  %y = attention(%q, %k, %v) {{scale=1.0}} : f32[{batch}, {heads}, {queries}, 4]
  return %y
}}
"""


@pytest.mark.parametrize(
    ("text", "nature", "m", "count", "why"),
    [
        (heads(4, 4, 1, 2), Nature.GEMV, 1, 8, "one query of one head uses its K and V once"),
        (heads(4, 2, 1), Nature.SKINNY_GEMM, 2, 2, "2 query heads share K and V"),
        (heads(4, 1, 5), Nature.SKINNY_GEMM, 20, 1, "4 query heads x 5 queries share K and V"),
    ],
)
def test_query_heads_that_share_keys(text: str, nature: Nature, m: int, count: int, why: str) -> None:
    found = work(text)
    assert (found.nature, found.m, found.count, found.why) == (nature, m, count, why)


def test_a_batch_that_shares_a_weight_is_said_to() -> None:
    text = """\
graph b(%q: f32[3, 2, 1, 4], %k: f32[3, 2, 9, 4], %x: f32[3, 1, 8]) {
  weight %w: f32[8, 16] = missing
  %a = attention(%q, %k, %k) {scale=1.0} : f32[3, 2, 1, 4]
  %y = matmul(%x, %w) : f32[3, 1, 16]
  return %y, %a
}
"""
    found = work(text, op="matmul")
    assert (found.nature, found.why) == (Nature.SKINNY_GEMM, "batch of 3 shares the weight")


def test_other_natures() -> None:
    graph = tagged(
        """\
graph n(%x: f32[2, 8], %i: i64[2], cache %past: f32[1, 1, 4, 8]) {
  weight %w: f32[100, 8] = missing
  constant %to: i64[4] = [1, 1, 2, 8]
  %e = gather(%w, %i) : f32[2, 8]
  %a = add(%x, %e) : f32[2, 8]
  %s = softmax(%a) : f32[2, 8]
  %r = reshape(%s, %to) : f32[1, 1, 2, 8]
  %c = cache_append(%past, %r) : f32[1, 1, 6, 8]
  return %c
}
""",
        "tag-phase,tag-nature",
    )
    found = {n.op.name: n.fact(Work) for n in graph.order()}
    assert {name: (w.nature.value, w.bytes) for name, w in found.items() if w is not None} == {
        "gather": ("movement", 2 * 2 * 8 * 2 + 2 * 8),
        "add": ("elementwise", 3 * 2 * 8 * 2),
        "softmax": ("reduction", 2 * 2 * 8 * 2),
        "reshape": ("movement", 0),
        "cache_append": ("movement", 2 * 2 * 8 * 2),
    }


# -- splitting -------------------------------------------------------------------------------------------------------


def test_attention_splits_into_its_parts_with_their_facts() -> None:
    text = heads(4, 2, 3).replace("{scale=1.0}", "{causal=true, scale=0.5, softcap=3.0}")
    graph = transformed(text, "tag-phase,tag-nature,find-layers,split-attention")
    assert [n.op.name for n in graph.order()] == ["attention_scores", "attention_softmax", "attention_context"]
    scores, softmax, context = graph.order()
    assert (context.name, scores.name, softmax.name) == ("y", "y_scores", "y_softmax")
    assert {n.fact(Phase) for n in graph.order()} == {Phase.CHUNKED}
    natures = [n.fact(Work) for n in graph.order()]
    assert [(w.nature, w.m, w.n, w.k) for w in natures if w is not None] == [
        (Nature.SKINNY_GEMM, 6, 9, 8),
        (Nature.REDUCTION, 0, 0, 0),
        (Nature.SKINNY_GEMM, 6, 4, 9),
    ]


# -- layers ----------------------------------------------------------------------------------------------------------


def decoder(layers: int, windows: dict[int, int] | None = None) -> str:
    lines = [
        "graph d(%ids: i64[1, 1], " + ", ".join(f"cache %past{i}: f32[1, 2, 7, 4]" for i in range(layers)) + ") {",
        "  weight %table: f32[50, 8] = random",
        "  constant %heads: i64[4] = [1, 2, 1, 4]",
        "  constant %flat: i64[3] = [1, 1, 8]",
    ]
    for i in range(layers):
        lines += [f"  weight %{w}{i}: f32[8, 8] = random" for w in ("q", "o", "f")] + [
            f"  weight %n{i}: f32[8] = random"
        ]
    lines.append("  %x0 = gather(%table, %ids) : f32[1, 1, 8]")
    for i in range(layers):
        window = (windows or {}).get(i, 0)
        lines += [
            f"  %h{i} = rms_norm(%x{i}, %n{i}) {{epsilon=1e-06}} : f32[1, 1, 8]",
            f"  %a{i} = matmul(%h{i}, %q{i}) : f32[1, 1, 8]",
            f"  %b{i} = reshape(%a{i}, %heads) : f32[1, 2, 1, 4]",
            f"  %k{i} = cache_append(%past{i}, %b{i}) : f32[1, 2, 8, 4]",
            f"  %c{i} = attention(%b{i}, %k{i}, %k{i}) {{scale=0.5, window={window}}} : f32[1, 2, 1, 4]"
            if window
            else f"  %c{i} = attention(%b{i}, %k{i}, %k{i}) {{scale=0.5}} : f32[1, 2, 1, 4]",
            f"  %d{i} = reshape(%c{i}, %flat) : f32[1, 1, 8]",
            f"  %e{i} = matmul(%d{i}, %o{i}) : f32[1, 1, 8]",
            f"  %r{i} = add(%x{i}, %e{i}) : f32[1, 1, 8]",
            f"  %f_{i} = matmul(%r{i}, %f{i}) : f32[1, 1, 8]",
            f"  %x{i + 1} = add(%r{i}, %f_{i}) : f32[1, 1, 8]",
        ]
    lines.append(f"  return %x{layers}, " + ", ".join(f"%k{i}" for i in range(layers)) + "\n}\n")
    return "\n".join(lines)


def test_identical_layers_correspond_node_by_node() -> None:
    graph = parse(decoder(5))
    (group,) = find_layers(graph)
    assert [len(layer) for layer in group] == [10] * 5
    for index, layer in enumerate(group):
        assert [n.name.rstrip("0123456789_") for n in layer] == [n.name.rstrip("0123456789_") for n in group[0]]
        assert {n.name for n in layer} >= {f"h{index}", f"c{index}", f"x{index + 1}"}


def test_layers_that_differ_make_groups_of_their_own() -> None:
    graph = tagged(decoder(6, {1: 4, 3: 4, 5: 4}), "find-layers")
    found = [n.fact(Layer) for n in graph.order() if n.op.name == "attention"]
    assert found == [Layer(i % 2, i // 2) for i in range(6)]
    assert {n.op.name for n in graph.order() if n.fact(Layer) is None} == {"gather"}


def test_a_single_layer_is_no_repetition() -> None:
    graph = tagged(decoder(1), "find-layers")
    assert all(n.fact(Layer) is None for n in graph.order())


def test_a_deep_model_is_fast_enough() -> None:
    graph = parse(decoder(40))
    PassManager().run(parse_pipeline("tag-phase,tag-nature,find-layers"), graph, start=GraphStage.CANONICAL)
    assert ops(graph)["attention"] == 40
    (group,) = find_layers(graph)
    assert len(group) == 40
