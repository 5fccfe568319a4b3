"""What is left op by op is told, with the reason."""

from __future__ import annotations

import onnx.parser
import pytest

from pimc.ir.text import parse
from pimc.passes.unrecognised import unrecognised
from tests.cli.harness import CommandLine

ATTENTION = """\
graph a(%q: f32[2, 4, 3, 8], %k: f32[2, 4, 8, 5], %v: f32[2, 4, 5, 6]) {{
  constant %two: f32[] = 2.0
  weight %w: f32[8, 5] = random
  {scores} : f32[2, 4, 3, 5]
  {between}
  %p = softmax(%t) : f32[2, 4, 3, 5]
  %y = matmul(%p, %v) : f32[2, 4, 3, 6]
  return %y{more}
}}
"""
PRODUCT = "%s = matmul(%q, %k)"
CHECKED = "%t = mul(%s, %two) : f32[2, 4, 3, 5]"


@pytest.mark.parametrize(
    ("scores", "between", "more", "why"),
    [
        (PRODUCT, "%t = sigmoid(%s) : f32[2, 4, 3, 5]", "", "sigmoid 't' lies between it and the product"),
        ("%s = matmul(%q, %w)", CHECKED, "", "its scores come from matmul 's' with the constant 'w'"),
        (PRODUCT, CHECKED, ", %t", "its operand 't' is also read by something else"),
        (PRODUCT, CHECKED, ", %s", "'s', which lies between it and the product, is also read by something else"),
        (PRODUCT, CHECKED, ", %p", "its result is read by matmul 'y', which is not one product"),
    ],
)
def test_why_a_softmax_is_no_attention(scores: str, between: str, more: str, why: str) -> None:
    (remark,) = unrecognised(parse(ATTENTION.format(scores=scores, between=between, more=more)))
    assert str(remark).startswith("softmax 'p' is not recognised as attention: " + why)


def test_routers_need_no_remark() -> None:
    text = """\
graph r(%x: f32[4, 8]) {
  weight %w: f32[8, 3] = random
  constant %k: i64[1] = [2]
  %m = matmul(%x, %w) : f32[4, 3]
  %p = softmax(%m) : f32[4, 3]
  %y, %ids = top_k(%p, %k) : f32[4, 2], i64[4, 2]
  return %y, %ids
}
"""
    assert unrecognised(parse(text)) == []


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        (
            "constant %a: i64[1] = [0]\n  %s = mul(%x, %x) : f32[4, 8]\n  %y = reduce_mean(%s, %a) : f32[1, 8]",
            "reduce_mean 'y' is not recognised as a normalisation: the mean is not over the last axis alone",
        ),
        (
            "%n = neg(%x) : f32[4, 8]\n  %c = concat(%n, %x) {axis=-1} : f32[4, 16]\n  %y = mul(%c, %c) : f32[4, 16]",
            "concat 'c' is not recognised as rotary embedding: the tensor has rank 2, not 4",
        ),
    ],
)
def test_other_leftovers(body: str, remark: str) -> None:
    graph = parse(f"graph g(%x: f32[4, 8]) {{\n  {body}\n  return %y\n}}")
    assert [str(r)[: len(remark)] for r in unrecognised(graph)] == [remark]


def test_a_cache_that_cannot_change_in_place() -> None:
    text = """\
graph c(%past: f32[1, 2, 5, 4], %new: f32[1, 2, 1, 4]) {
  %all = concat(%past, %new) {axis=2} : f32[1, 2, 6, 4]
  %twice = add(%past, %past) : f32[1, 2, 5, 4]
  return %all, %twice
}
"""
    (remark,) = unrecognised(parse(text))
    assert "an append to a cache: input 'past' is also read by something else" in str(remark)


MODEL = """\
<ir_version: 9, opset_import: ["" : 20]>
odd (float[1, 4, 3, 8] q, float[1, 4, 8, 5] k, float[1, 4, 5, 6] v) => (float[1, 4, 3, 6] y) {
  s = MatMul(q, k)
  t = Sigmoid(s)
  p = Softmax(t)
  y = MatMul(p, v)
}
"""


def test_the_command_line_tells_with_v(run: CommandLine) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), "odd.onnx")
    told = run("compile", "odd.onnx", "-t", "npu", "--no-sim", "-v")
    assert told.status == 0
    why = "sigmoid 't' lies between it and the product of queries and keys"
    assert told.err.splitlines() == [
        f"note: softmax 'p' is not recognised as attention: {why}",
        "note: what is not recognised is compiled op by op",
    ]
    assert run.done("compile", "odd.onnx", "-t", "npu", "--no-sim")
