"""Packed projections are taken apart, and products run over the axes that the activation has."""

from __future__ import annotations

import pytest

from pimc.ir.weights import Sliced
from tests.passes.graphs import ops, transformed

PACKED = """\
graph packed(%x: f32[2, 3, 8]) {{
  weight %w: f32[{w}] = random
  weight %b: f32[12] = random
  constant %last: i64[1] = [2]
  constant %s0: i64[1] = [0]
  constant %s4: i64[1] = [4]
  constant %s8: i64[1] = [8]
  constant %end: i64[1] = [12]
  {body}
  return %q, %k, %v
}}
"""
SLICES = """%q = slice(%p, %s0, %s4, %last) : f32[2, 3, 4]
  %k = slice(%p, %s4, %s8, %last) : f32[2, 3, 4]
  %v = slice(%p, %s8, %end, %last) : f32[2, 3, 4]"""
PLAIN = f"""%m = matmul(%x, %w) : f32[2, 3, 12]
  %p = add(%b, %m) : f32[2, 3, 12]
  {SLICES}"""
MERGED = f"""constant %flat: i64[2] = [6, 8]
  constant %deep: i64[3] = [2, 3, 12]
  %f = reshape(%x, %flat) : f32[6, 8]
  %t = transpose(%w) {{perm=[1, 0]}} : f32[8, 12]
  %m = matmul(%f, %t) : f32[6, 12]
  %a = add(%m, %b) : f32[6, 12]
  %p = reshape(%a, %deep) : f32[2, 3, 12]
  {SLICES}"""
DIVIDED = """%m = matmul(%x, %w) : f32[2, 3, 12]
  %q, %k, %v = split(%m) {axis=-1, num_outputs=3} : f32[2, 3, 4], f32[2, 3, 4], f32[2, 3, 4]"""


@pytest.mark.parametrize(
    ("w", "body", "expected"),
    [
        ("8, 12", PLAIN, {"matmul": 3, "add": 3}),
        ("12, 8", MERGED, {"matmul": 3, "add": 3, "transpose": 3}),
        ("8, 12", DIVIDED, {"matmul": 3}),
    ],
)
def test_a_packed_product_is_taken_apart(w: str, body: str, expected: dict[str, int]) -> None:
    graph = transformed(PACKED.format(w=w, body=body), "canonicalize,dce")
    assert ops(graph) == expected
    assert all(node.operands[0] is graph.inputs[0] for node in graph.order() if node.op.name == "matmul")
    parts = [v for v in graph.weights if v.name.startswith("w.")]
    assert [v.name for v in parts] == ["w.0:4", "w.4:8", "w.8:12"]
    for part in parts:
        assert isinstance(part.contents, Sliced)
        assert part.contents.array().shape == part.type.shape
        assert part.contents.describe().startswith("random[")


def test_a_small_packed_weight_stays_known_to_the_compiler() -> None:
    text = PACKED.format(w="8, 12", body=DIVIDED)
    known = text.replace("weight %w: f32[8, 12] = random", f"constant %w: f32[8, 12] = {list(range(96))}")
    graph = transformed(known, "canonicalize,dce")
    assert ops(graph) == {"matmul": 3}
    assert all(w.type.array is not None for w in graph.weights)


def test_products_whose_columns_are_read_twice_or_as_a_whole_stay_packed() -> None:
    text = PACKED.format(w="8, 12", body=PLAIN)
    overlapping = text.replace("%k = slice(%p, %s4, %s8, %last) : f32[2, 3, 4]", "%k = slice(%p, %s4, %end, %last)")
    assert ops(transformed(overlapping, "canonicalize,dce"))["matmul"] == 1
    whole = text.replace("return %q", "%n = abs(%p)\n  return %n, %q")
    assert ops(transformed(whole, "canonicalize,dce"))["matmul"] == 1
    assert ops(transformed(text.replace("return %q", "return %p, %q"), "canonicalize,dce"))["matmul"] == 1


def test_rows_that_are_merged_and_split_again() -> None:
    graph = transformed(
        """\
graph g(%x: f32[2, 4, 3, 2]) {
  weight %w: f32[8, 5] = random
  weight %b: f32[5] = random
  constant %flat: i64[2] = [6, 8]
  constant %deep: i64[3] = [2, 3, 5]
  %t = transpose(%x) {perm=[0, 2, 1, 3]} : f32[2, 3, 4, 2]
  %f = reshape(%t, %flat) : f32[6, 8]
  %m = matmul(%f, %w) : f32[6, 5]
  %a = add(%m, %b) : f32[6, 5]
  %y = reshape(%a, %deep) : f32[2, 3, 5]
  return %y
}
""",
        "canonicalize,dce",
    )
    assert ops(graph) == {"transpose": 1, "reshape": 1, "matmul": 1, "add": 1}
    product = next(n for n in graph.order() if n.op.name == "matmul")
    assert product.result.type.shape == (2, 3, 5)


def test_a_table_of_ones_does_not_change_the_form() -> None:
    """Cosines of position 0 are all ones; a rotation by them is still a rotation."""
    body = """\
graph g(%x: f32[1, 2, 1, 4]) {{
  constant %cos: f32[1, 1, 1, 4] = {cos}
  constant %sin: f32[1, 1, 1, 4] = {sin}
  constant %zero: i64[1] = [0]
  constant %two: i64[1] = [2]
  constant %four: i64[1] = [4]
  constant %last: i64[1] = [3]
  %lo = slice(%x, %zero, %two, %last) : f32[1, 2, 1, 2]
  %hi = slice(%x, %two, %four, %last) : f32[1, 2, 1, 2]
  %n = neg(%hi) : f32[1, 2, 1, 2]
  %r = concat(%n, %lo) {{axis=3}} : f32[1, 2, 1, 4]
  %c = mul(%x, %cos) : f32[1, 2, 1, 4]
  %s = mul(%r, %sin) : f32[1, 2, 1, 4]
  %y = add(%c, %s) : f32[1, 2, 1, 4]
  return %y
}}
"""
    for cos, sin in (("[1, 1, 1, 1]", "[0, 0, 0, 0]"), ("[0.5, 1, 0.5, 1]", "[0.5, 0, 0.5, 0]")):
        graph = transformed(body.format(cos=cos, sin=sin), "canonicalize,fuse-rotary,canonicalize,dce")
        assert ops(graph) == {"rotary": 1}


@pytest.mark.parametrize(
    ("shape", "given", "left"),
    [
        ((1, 5), "causal=true", {"scale": 0.5}),
        ((3, 5), "causal=true, window=5", {"scale": 0.5, "causal": True}),
        ((1, 5), "causal=true, window=3", {"scale": 0.5, "causal": True, "window": 3}),
    ],
)
def test_masks_that_hide_nothing(shape: tuple[int, int], given: str, left: dict[str, object]) -> None:
    queries, keys = shape
    text = f"""\
graph g(%q: f32[1, 2, {queries}, 4], %k: f32[1, 2, {keys}, 4], %v: f32[1, 2, {keys}, 4]) {{
  %y = attention(%q, %k, %v) {{scale=0.50000001, {given}}} : f32[1, 2, {queries}, 4]
  return %y
}}
"""
    (node,) = transformed(text, "canonicalize").order()
    assert dict(node.attributes) == left
