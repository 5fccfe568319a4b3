"""Attention in the shapes that exporters give it; the fused op must be the same function."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.ir.graph import Node
from pimc.passes.attention_mask import MaskPattern, classify, is_triangular
from tests.passes.graphs import only, ops, transformed

LOW = -3.4028234663852886e38


def shapes(node: Node) -> list[tuple[int, ...]]:
    return [v.type.static_shape for v in node.inputs()]


PLAIN = """\
graph a(%q: f32[2, 4, 3, 8], %k: f32[2, 4, 5, 8], %v: f32[2, 4, 5, 6]{inputs}) {{
  constant %scale: f32[] = 0.25
  constant %zero: f32[] = 0.0
  constant %low: f32[] = {low}
  %kt = transpose(%k) {{perm=[0, 1, 3, 2]}} : f32[2, 4, 8, 5]
  %m = matmul(%q, %kt) : f32[2, 4, 3, 5]
  %s = mul(%m, %scale) : f32[2, 4, 3, 5]
  {mask}
  %y = matmul({p}, %v) : f32[2, 4, 3, 6]
  return %y{more}
}}
"""


def plain(mask: str = "", p: str = "%p", inputs: str = "", more: str = "", low: float = LOW) -> str:
    return PLAIN.format(mask=mask, p=p, inputs=inputs, more=more, low=low)


SOFTMAX = "%p = softmax(%s) : f32[2, 4, 3, 5]"
ADDED = "%a = add(%s, %mask) : f32[2, 4, 3, 5]\n  %p = softmax(%a) : f32[2, 4, 3, 5]"


def test_scaled_scores() -> None:
    node = only(transformed(plain(SOFTMAX), "fuse-attention"), "attention")
    assert node.attributes == {"scale": 0.25}
    assert [v.name for v in node.inputs()] == ["q", "k", "v"]


@pytest.mark.parametrize("shape", ["2, 1, 3, 5", "1, 1, 1, 5", "3, 5", "2, 4, 3, 5", "5"])
def test_an_additive_mask_is_an_operand(shape: str) -> None:
    node = only(transformed(plain(ADDED, inputs=f", %mask: f32[{shape}]"), "fuse-attention"), "attention")
    assert node.operands[3] is not None
    assert node.operands[3].name == "mask"


def test_the_guard_against_rows_of_nan_is_taken_in() -> None:
    mask = ADDED + "\n  %t = is_nan(%p) : bool[2, 4, 3, 5]\n  %g = where(%t, %zero, %p) : f32[2, 4, 3, 5]"
    hidden = np.zeros((2, 1, 3, 5), np.float32)
    hidden[0, 0, 1] = -np.inf
    rng = np.random.default_rng(1)
    inputs = {n: rng.standard_normal(s).astype(np.float32) for n, s in
              (("q", (2, 4, 3, 8)), ("k", (2, 4, 5, 8)), ("v", (2, 4, 5, 6)))}  # fmt: skip
    text = plain(mask, "%g", ", %mask: f32[2, 1, 3, 5]")
    assert ops(transformed(text, "fuse-attention", inputs={**inputs, "mask": hidden})) == {"attention": 1}


@pytest.mark.parametrize("arms", ["%c, %s, %low", "%c, %low, %s"])
def test_a_condition_becomes_an_additive_mask(arms: str) -> None:
    mask = f"%a = where({arms}) : f32[2, 4, 3, 5]\n  %p = softmax(%a) : f32[2, 4, 3, 5]"
    graph = transformed(plain(mask, inputs=", %c: bool[2, 1, 1, 5]"), "fuse-attention")
    assert ops(graph) == {"where": 1, "attention": 1}
    assert str(only(graph, "where").result.type) == "f32[2, 1, 1, 5]"


def test_soft_cap() -> None:
    mask = """constant %cap: f32[] = 5.0
  %d = div(%s, %cap) : f32[2, 4, 3, 5]
  %t = tanh(%d) : f32[2, 4, 3, 5]
  %c = mul(%t, %cap) : f32[2, 4, 3, 5]
  %p = softmax(%c) : f32[2, 4, 3, 5]"""
    head, tail = mask.split("\n", 1)
    text = plain(tail.strip()).replace("  %kt =", f"  {head}\n  %kt =", 1)
    assert only(transformed(text, "fuse-attention"), "attention").attribute("softcap") == 5.0


def mask_of(rows: list[list[float]]) -> str:
    return ", ".join(str(x) for row in rows for x in row)


@pytest.mark.parametrize(
    ("rows", "attributes"),
    [
        ([[0.0] * 5] * 3, {}),
        ([[0.0] * 3 + [LOW] * 2, [0.0] * 4 + [LOW], [0.0] * 5], {"causal": True}),
        ([[LOW, 0.0, 0.0, LOW, LOW], [LOW, LOW, 0.0, 0.0, LOW], [LOW] * 3 + [0.0] * 2], {"causal": True, "window": 2}),
    ],
)
def test_a_known_mask_becomes_an_attribute(rows: list[list[float]], attributes: dict[str, object]) -> None:
    text = plain(ADDED).replace("  %kt =", f"  constant %mask: f32[3, 5] = [{mask_of(rows)}]\n  %kt =", 1)
    node = only(transformed(text, "fuse-attention"), "attention")
    assert node.attributes == {"scale": 0.25, **attributes}
    assert len(node.operands) == 3


@pytest.mark.parametrize("rows", [[[0.0, 0.5] * 2 + [0.0]] * 3, [[0.0] * 5, [LOW] * 5, [0.0] * 5]])
def test_a_known_mask_without_a_pattern_stays(rows: list[list[float]]) -> None:
    text = plain(ADDED).replace("  %kt =", f"  constant %mask: f32[3, 5] = [{mask_of(rows)}]\n  %kt =", 1)
    assert len(only(transformed(text, "fuse-attention"), "attention").operands) == 4


def test_weights_that_are_handed_out_are_left_alone() -> None:
    assert "attention" not in ops(transformed(plain(SOFTMAX, more=", %p"), "fuse-attention"))


def test_scaling_after_the_mask_scales_the_mask() -> None:
    mask = "%a = add(%s, %mask) : f32[2, 4, 3, 5]\n  %b = mul(%a, %scale) : f32[2, 4, 3, 5]\n"
    text = plain(mask + "  %p = softmax(%b) : f32[2, 4, 3, 5]", inputs=", %mask: f32[3, 5]")
    graph = transformed(text, "fuse-attention")
    node = only(graph, "attention")
    assert ops(graph) == {"attention": 1, "mul": 1}
    assert node.operands[3] is only(graph, "mul").result


def test_a_router_is_no_attention() -> None:
    text = """\
graph r(%x: f32[4, 8]) {
  weight %w: f32[8, 3] = random
  weight %v: f32[3, 8] = random
  %m = matmul(%x, %w) : f32[4, 3]
  %p = softmax(%m) : f32[4, 3]
  %y = matmul(%p, %v) : f32[4, 8]
  return %y
}
"""
    assert ops(transformed(text, "fuse-attention")) == {"matmul": 2, "softmax": 1}


SPLIT_SCALE_3D = """\
graph s(%q: f32[2, 4, 3, 8], %k: f32[2, 2, 5, 8], %v: f32[2, 2, 5, 8]) {
  constant %root: f32[] = 0.5
  constant %two: i64[1] = [2]
  constant %five: i64[5] = [2, 2, 2, 5, 8]
  constant %four: i64[4] = [2, 4, 5, 8]
  constant %three: i64[3] = [8, 5, 8]
  constant %back: i64[4] = [2, 4, 8, 5]
  %k1 = unsqueeze(%k, %two) : f32[2, 2, 1, 5, 8]
  %k2 = expand(%k1, %five) : f32[2, 2, 2, 5, 8]
  %k3 = reshape(%k2, %three) : f32[8, 5, 8]
  %k4 = transpose(%k3) {perm=[0, 2, 1]} : f32[8, 8, 5]
  %k5 = reshape(%k4, %back) : f32[2, 4, 8, 5]
  %ks = mul(%k5, %root) : f32[2, 4, 8, 5]
  %qs = mul(%q, %root) : f32[2, 4, 3, 8]
  %v1 = unsqueeze(%v, %two) : f32[2, 2, 1, 5, 8]
  %v2 = expand(%v1, %five) : f32[2, 2, 2, 5, 8]
  %v3 = reshape(%v2, %four) : f32[2, 4, 5, 8]
  %m = matmul(%qs, %ks) : f32[2, 4, 3, 5]
  %p = softmax(%m) : f32[2, 4, 3, 5]
  %y = matmul(%p, %v3) : f32[2, 4, 3, 8]
  return %y
}
"""


def test_repeated_heads_and_a_flattened_key_are_taken_back() -> None:
    graph = transformed(SPLIT_SCALE_3D, "fuse-attention")
    assert ops(graph) == {"attention": 1}
    node = only(graph, "attention")
    assert [v.name for v in node.inputs()] == ["q", "k", "v"]
    assert node.attributes == {"scale": 0.25}


GROUPED = """\
graph g(%q: f32[2, 6, {s}, 8], %k: f32[2, 2, 5, 8], %v: f32[2, 2, 5, 8]) {{
  constant %to: i64[4] = [2, 2, {rows}, 8]
  constant %from: i64[4] = [2, 6, {s}, 8]
  %g = reshape(%q, %to) : f32[2, 2, {rows}, 8]
  %kt = transpose(%k) {{perm=[0, 1, 3, 2]}} : f32[2, 2, 8, 5]
  %m = matmul(%g, %kt) : f32[2, 2, {rows}, 5]
  %p = softmax(%m) : f32[2, 2, {rows}, 5]
  %c = matmul(%p, %v) : f32[2, 2, {rows}, 8]
  %y = reshape(%c, %from) : f32[2, 6, {s}, 8]
  return %y
}}
"""


@pytest.mark.parametrize("queries", [1, 4])
def test_queries_grouped_by_key_head_get_their_heads_back(queries: int) -> None:
    graph = transformed(GROUPED.format(s=queries, rows=3 * queries), "fuse-attention,canonicalize")
    assert ops(graph) == {"attention": 1}
    assert shapes(only(graph, "attention"))[0] == (2, 6, queries, 8)


def test_one_key_head_for_all_queries() -> None:
    text = plain(SOFTMAX).replace("%k: f32[2, 4, 5, 8]", "%k: f32[2, 1, 5, 8]")
    text = text.replace("%v: f32[2, 4, 5, 6]", "%v: f32[2, 1, 5, 6]").replace(
        "%kt = transpose(%k) {perm=[0, 1, 3, 2]} : f32[2, 4, 8, 5]",
        "%kt = transpose(%k) {perm=[0, 1, 3, 2]} : f32[2, 1, 8, 5]",
    )
    node = only(transformed(text, "fuse-attention"), "attention")
    assert shapes(node) == [(2, 4, 3, 8), (2, 1, 5, 8), (2, 1, 5, 6)]


FLAT = """\
graph f(%x: f32[2, 3, 32], %k: f32[2, 4, 5, 8], %v: f32[2, 4, 5, 8], %alibi: f32[8, 1, 5], %mask: f32[2, 1, 3, 5]) {
  constant %heads: i64[4] = [2, 3, 4, 8]
  constant %flat: i64[3] = [8, 3, 8]
  constant %flatk: i64[3] = [8, 5, 8]
  constant %full: i64[4] = [2, 4, 3, 5]
  constant %scores: i64[3] = [8, 3, 5]
  constant %out: i64[4] = [2, 4, 3, 8]
  constant %scale: f32[] = 0.5
  %x1 = reshape(%x, %heads) : f32[2, 3, 4, 8]
  %x2 = transpose(%x1) {perm=[0, 2, 1, 3]} : f32[2, 4, 3, 8]
  %q = reshape(%x2, %flat) : f32[8, 3, 8]
  %k1 = reshape(%k, %flatk) : f32[8, 5, 8]
  %k2 = transpose(%k1) {perm=[0, 2, 1]} : f32[8, 8, 5]
  %v1 = reshape(%v, %flatk) : f32[8, 5, 8]
  %m = matmul(%q, %k2) : f32[8, 3, 5]
  %s = mul(%m, %scale) : f32[8, 3, 5]
  %a = add(%alibi, %s) : f32[8, 3, 5]
  %b = reshape(%a, %full) : f32[2, 4, 3, 5]
  %c = add(%b, %mask) : f32[2, 4, 3, 5]
  %p = softmax(%c) : f32[2, 4, 3, 5]
  %r = reshape(%p, %scores) : f32[8, 3, 5]
  %y = matmul(%r, %v1) : f32[8, 3, 8]
  %z = reshape(%y, %out) : f32[2, 4, 3, 8]
  return %z
}
"""


def test_heads_folded_into_the_batch_with_two_masks() -> None:
    graph = transformed(FLAT, "fuse-attention,canonicalize")
    node = only(graph, "attention")
    assert shapes(node)[:3] == [(2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 5, 8)]
    assert ops(graph) == {"reshape": 2, "transpose": 1, "add": 1, "attention": 1}


def test_heads_that_nothing_tells_apart_stay_together() -> None:
    text = """\
graph t(%q: f32[6, 3, 8], %k: f32[6, 5, 8], %v: f32[6, 5, 8]) {
  %kt = transpose(%k) {perm=[0, 2, 1]} : f32[6, 8, 5]
  %m = matmul(%q, %kt) : f32[6, 3, 5]
  %p = softmax(%m) : f32[6, 3, 5]
  %y = matmul(%p, %v) : f32[6, 3, 8]
  return %y
}
"""
    node = only(transformed(text, "fuse-attention"), "attention")
    assert shapes(node) == [(1, 6, 3, 8), (1, 6, 5, 8), (1, 6, 5, 8)]


def test_an_attention_op_with_repeated_heads_is_simplified() -> None:
    text = """\
graph o(%q: f32[1, 4, 3, 8], %k: f32[1, 2, 3, 8], %v: f32[1, 2, 3, 8]) {
  constant %two: i64[1] = [2]
  constant %five: i64[5] = [1, 2, 2, 3, 8]
  constant %four: i64[4] = [1, 4, 3, 8]
  constant %mask: bool[3, 3] = [true, false, false, true, true, false, true, true, true]
  %k1 = unsqueeze(%k, %two) : f32[1, 2, 1, 3, 8]
  %k2 = expand(%k1, %five) : f32[1, 2, 2, 3, 8]
  %k3 = reshape(%k2, %four) : f32[1, 4, 3, 8]
  %v1 = unsqueeze(%v, %two) : f32[1, 2, 1, 3, 8]
  %v2 = expand(%v1, %five) : f32[1, 2, 2, 3, 8]
  %v3 = reshape(%v2, %four) : f32[1, 4, 3, 8]
  %y = attention(%q, %k3, %v3, %mask) {scale=0.5} : f32[1, 4, 3, 8]
  return %y
}
"""
    node = only(transformed(text, "fuse-attention"), "attention")
    assert [v.name for v in node.inputs()] == ["q", "k", "v"]
    assert node.attributes == {"scale": 0.5, "causal": True}


def test_mask_patterns() -> None:
    causal = np.triu(np.full((4, 6), LOW, np.float32), 3)
    assert classify(causal, 4, 6) == MaskPattern(causal=True)
    assert is_triangular(causal)
    assert classify(np.zeros((1, 6), np.float32), 4, 6) == MaskPattern()
    assert classify(causal[None].repeat(2, 0), 4, 6) == MaskPattern(causal=True)
    assert classify(np.where(np.eye(4, dtype=bool), 0, LOW), 4, 4) == MaskPattern(causal=True, window=1)
    assert classify(np.full((4, 4), LOW), 4, 4) is None
    band = np.abs(np.arange(5)[:, None] - np.arange(5)) <= 1
    assert classify(band, 5, 5) is None
    assert not is_triangular(band)
