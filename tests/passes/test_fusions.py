"""Norms, activations, rotary embedding and caches, in the forms that exporters write."""

from __future__ import annotations

import pytest

from pimc.ir.graph import Role
from tests.passes.graphs import only, ops, transformed

RMS = """\
graph rms(%x: f32[2, 3, 8]) {{
  weight %w: f32[8] = random
  constant %two: f32[] = 2.0
  constant %one: f32[] = 1.0
  constant %half: f32[] = -0.5
  constant %eps: f32[] = 1e-05
  constant %last: i64[1] = [-1]
  {square} : f32[2, 3, 8]
  %m = reduce_mean(%s, %last) : f32[2, 3, 1]
  %e = add(%m, %eps) : f32[2, 3, 1]
  {end}
  return %y
}}
"""
POW = "%s = pow(%x, %two)"
MUL = "%s = mul(%x, %x)"
RSQRT = """%r = sqrt(%e) : f32[2, 3, 1]
  %i = reciprocal(%r) : f32[2, 3, 1]
  %n = mul(%x, %i) : f32[2, 3, 8]
  %y = mul(%w, %n) : f32[2, 3, 8]"""
DIV = """%r = sqrt(%e) : f32[2, 3, 1]
  %i = div(%one, %r) : f32[2, 3, 1]
  %n = mul(%x, %i) : f32[2, 3, 8]
  %y = mul(%n, %w) : f32[2, 3, 8]"""
DIVIDED = """%r = sqrt(%e) : f32[2, 3, 1]
  %n = div(%x, %r) : f32[2, 3, 8]
  %y = mul(%n, %w) : f32[2, 3, 8]"""
POWER = """%i = pow(%e, %half) : f32[2, 3, 1]
  %n = mul(%x, %i) : f32[2, 3, 8]
  %y = mul(%n, %w) : f32[2, 3, 8]"""
BARE = """%r = sqrt(%e) : f32[2, 3, 1]
  %y = div(%x, %r) : f32[2, 3, 8]"""


@pytest.mark.parametrize("square", [POW, MUL])
@pytest.mark.parametrize("end", [RSQRT, DIV, DIVIDED, POWER, BARE])
def test_rms_norm_in_every_spelling(square: str, end: str) -> None:
    graph = transformed(RMS.format(square=square, end=end), "fuse-norm")
    assert ops(graph) == {"rms_norm": 1}
    assert only(graph, "rms_norm").attributes["epsilon"] == pytest.approx(1e-5)


def test_a_norm_over_another_axis_stays() -> None:
    text = RMS.format(square=MUL, end=BARE).replace("[-1]", "[1]").replace("[2, 3, 1]", "[2, 1, 8]")
    assert "rms_norm" not in ops(transformed(text, "fuse-norm"))


def test_a_norm_whose_mean_is_read_elsewhere_stays() -> None:
    text = RMS.format(square=MUL, end=RSQRT).replace("return %y", "return %y, %e")
    assert "rms_norm" not in ops(transformed(text, "fuse-norm"))


def test_layer_norm() -> None:
    graph = transformed(
        """\
graph ln(%x: f32[2, 3, 8]) {
  weight %w: f32[8] = random
  weight %b: f32[8] = random
  constant %eps: f32[] = 1e-05
  constant %last: i64[1] = [2]
  %m = reduce_mean(%x, %last) : f32[2, 3, 1]
  %d = sub(%x, %m) : f32[2, 3, 8]
  %s = mul(%d, %d) : f32[2, 3, 8]
  %v = reduce_mean(%s, %last) : f32[2, 3, 1]
  %e = add(%v, %eps) : f32[2, 3, 1]
  %r = sqrt(%e) : f32[2, 3, 1]
  %n = div(%d, %r) : f32[2, 3, 8]
  %g = mul(%n, %w) : f32[2, 3, 8]
  %y = add(%g, %b) : f32[2, 3, 8]
  return %y
}
""",
        "fuse-norm",
    )
    assert ops(graph) == {"layer_norm": 1}
    assert [v.name for v in only(graph, "layer_norm").inputs()] == ["x", "w", "b"]


def test_silu() -> None:
    graph = transformed(
        """\
graph g(%x: f32[4]) {
  %s = sigmoid(%x) : f32[4]
  %y = mul(%s, %x) : f32[4]
  return %y
}
""",
        "fuse-activation",
    )
    assert ops(graph) == {"silu": 1}


GELU = """\
graph g(%x: f32[16]) {{
  constant %half: f32[] = 0.5
  constant %one: f32[] = 1.0
  constant %two: f32[] = 2.0
  constant %three: f32[] = 3.0
  constant %root: f32[] = 1.41421354
  constant %a: f32[] = 0.044715
  constant %b: f32[] = 0.797884583
  {inner}
  %p = add(%t, %one) : f32[16]
  {end}
  return %y
}}
"""
ERF = "%i = div(%x, %root) : f32[16]\n  %t = erf(%i) : f32[16]"
TANH = """%c = pow(%x, %three) : f32[16]
  %k = mul(%c, %a) : f32[16]
  %s = add(%x, %k) : f32[16]
  %i = mul(%s, %b) : f32[16]
  %t = tanh(%i) : f32[16]"""
ENDS = [
    "%h = mul(%x, %half) : f32[16]\n  %y = mul(%h, %p) : f32[16]",
    "%h = mul(%x, %p) : f32[16]\n  %y = mul(%h, %half) : f32[16]",
    "%h = mul(%half, %p) : f32[16]\n  %y = mul(%x, %h) : f32[16]",
    "%h = mul(%x, %p) : f32[16]\n  %y = div(%h, %two) : f32[16]",
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("inner", "kind"), [(ERF, "none"), (TANH, "tanh")])
def test_gelu_in_every_grouping(inner: str, kind: str, end: str) -> None:
    graph = transformed(GELU.format(inner=inner, end=end), "fuse-activation", tolerance=5e-6)
    assert ops(graph) == {"gelu": 1}
    assert only(graph, "gelu").attribute("approximate") == kind


FACTORED = """%k = mul(%x, %a) : f32[16]
  %c = mul(%k, %x) : f32[16]
  %s = add(%c, %one) : f32[16]
  %r = mul(%x, %b) : f32[16]
  %i = mul(%r, %s) : f32[16]
  %t = tanh(%i) : f32[16]"""


def test_gelu_with_its_argument_taken_out_of_the_polynomial() -> None:
    graph = transformed(GELU.format(inner=FACTORED, end=ENDS[0]), "fuse-activation", tolerance=5e-6)
    assert ops(graph) == {"gelu": 1}


def test_silu_by_an_exponential() -> None:
    text = """\
graph s(%x: f32[16]) {
  constant %one: f32[] = 1.0
  %n = neg(%x) : f32[16]
  %e = exp(%n) : f32[16]
  %d = add(%e, %one) : f32[16]
  %y = div(%x, %d) : f32[16]
  return %y
}
"""
    assert ops(transformed(text, "fuse-activation")) == {"silu": 1}


def test_an_activation_whose_curve_is_read_is_left_alone() -> None:
    text = GELU.format(inner=ERF, end=ENDS[0]).replace("return %y", "return %y, %t")
    assert "gelu" not in ops(transformed(text, "fuse-activation"))


def test_a_norm_of_centred_numbers_is_a_layer_norm() -> None:
    text = """\
graph n(%x: f32[2, 3, 8]) {
  weight %w: f32[8] = random
  constant %last: i64[1] = [-1]
  %m = reduce_mean(%x, %last) : f32[2, 3, 1]
  %c = sub(%x, %m) : f32[2, 3, 8]
  %y = rms_norm(%c, %w) {epsilon=1e-05} : f32[2, 3, 8]
  return %y
}
"""
    assert ops(transformed(text, "fuse-norm")) == {"layer_norm": 1}


def test_another_polynomial_is_no_gelu() -> None:
    text = GELU.format(inner=TANH, end=ENDS[0]).replace("0.044715", "0.05")
    assert "gelu" not in ops(transformed(text, "fuse-activation"))


CACHE = """\
graph c(%past: f32[1, 2, 5, 4], %new: f32[1, 2, 1, 4]) {{
  %all = concat(%past, %new) {{axis={axis}}} : {type}
  return {out}
}}
"""


def test_a_lengthened_input_that_is_handed_out_is_a_cache() -> None:
    graph = transformed(CACHE.format(axis=-2, type="f32[1, 2, 6, 4]", out="%all"), "fuse-cache")
    assert ops(graph) == {"cache_append": 1}
    assert [v.role for v in graph.inputs] == [Role.CACHE, Role.INPUT]


def test_an_input_that_is_read_otherwise_is_no_cache() -> None:
    text = CACHE.format(axis=2, type="f32[1, 2, 6, 4]", out="%all, %past")
    assert ops(transformed(text, "fuse-cache")) == {"concat": 1}


ROTARY = """\
graph r(%x: f32[2, 3, 4, 8], %angles: f32[2, 4, {half}]) {{
  constant %zero: i64[1] = [0]
  constant %mid: i64[1] = [{half}]
  constant %width: i64[1] = [{width}]
  constant %end: i64[1] = [9223372036854775807]
  constant %last: i64[1] = [3]
  constant %heads: i64[1] = [1]
  {before}
  %f = concat(%angles, %angles) {{axis=-1}} : f32[2, 4, {width}]
  %cos = cos(%f) : f32[2, 4, {width}]
  %sin = sin(%f) : f32[2, 4, {width}]
  %c = unsqueeze(%cos, %heads) : f32[2, 1, 4, {width}]
  %s = unsqueeze(%sin, %heads) : f32[2, 1, 4, {width}]
  %straight = mul(%t, %c) : f32[2, 3, 4, {width}]
  %lo = slice(%t, %zero, %mid, %last) : f32[2, 3, 4, {half}]
  %hi = slice(%t, %mid, %end, %last) : f32[2, 3, 4, {half}]
  %n = neg(%hi) : f32[2, 3, 4, {half}]
  %turn = concat(%n, %lo) {{axis=3}} : f32[2, 3, 4, {width}]
  %turned = mul(%turn, %s) : f32[2, 3, 4, {width}]
  %r = add(%straight, %turned) : f32[2, 3, 4, {width}]
  {after}
}}
"""


def test_rotary_with_tables_of_half_width() -> None:
    text = ROTARY.format(half=4, width=8, before="%t = identity(%x) : f32[2, 3, 4, 8]", after="return %r")
    graph = transformed(text, "fuse-rotary")
    assert ops(graph) == {"identity": 1, "cos": 1, "sin": 1, "rotary": 1}
    assert [str(v.type) for v in only(graph, "rotary").inputs()][1:] == ["f32[2, 4, 4]"] * 2


def test_partial_rotary_takes_the_rest_in() -> None:
    text = ROTARY.format(
        half=2,
        width=4,
        before="%t = slice(%x, %zero, %width, %last) : f32[2, 3, 4, 4]",
        after="%rest = slice(%x, %width, %end, %last) : f32[2, 3, 4, 4]\n"
        "  %y = concat(%r, %rest) {axis=-1} : f32[2, 3, 4, 8]\n  return %y",
    )
    graph = transformed(text, "fuse-rotary")
    assert ops(graph) == {"cos": 1, "sin": 1, "rotary": 1}
    assert str(only(graph, "rotary").result.type) == "f32[2, 3, 4, 8]"


def test_rotary_with_unequal_halves_stays() -> None:
    text = ROTARY.format(half=4, width=8, before="%t = identity(%x) : f32[2, 3, 4, 8]", after="return %r")
    text = text.replace("%f = concat(%angles, %angles)", "%g = neg(%angles) : f32[2, 4, 4]\n  %f = concat(%angles, %g)")
    assert "rotary" not in ops(transformed(text, "fuse-rotary"))
