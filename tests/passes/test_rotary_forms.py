"""Rotations of pairs, in the forms that exporters write out."""

from __future__ import annotations

import pytest

from tests.passes.graphs import only, ops, transformed

# x [2 requests, 3 heads, 4 positions, 8 elements], tables of 4 columns
HEAD = """\
graph r(%x: f32[2, 3, 4, 8], %angles: f32[2, 1, 4, 4]) {
  constant %zero: i64[1] = [0]
  constant %one: i64[1] = [1]
  constant %two: i64[1] = [2]
  constant %three: i64[1] = [3]
  constant %four: i64[1] = [4]
  constant %eight: i64[1] = [8]
  constant %last4: i64[1] = [4]
  constant %column: i64[5] = [2, 3, 4, 4, 1]
  constant %whole: i64[4] = [2, 3, 4, 8]
  constant %paired: i64[5] = [2, 3, 4, 4, 2]
  constant %table: i64[5] = [2, 1, 4, 4, 1]
  constant %twice: i64[5] = [2, 1, 4, 4, 2]
  constant %wide: i64[4] = [2, 1, 4, 8]
  %cos = cos(%angles) : f32[2, 1, 4, 4]
  %sin = sin(%angles) : f32[2, 1, 4, 4]
"""
HALVES = """\
  %a = slice(%x, %zero, %four, %three) : f32[2, 3, 4, 4]
  %b = slice(%x, %four, %eight, %three) : f32[2, 3, 4, 4]
"""
SECONDS = """\
  %a = slice(%x, %zero, %eight, %three, %two) : f32[2, 3, 4, 4]
  %b = slice(%x, %one, %eight, %three, %two) : f32[2, 3, 4, 4]
"""
SPELLED = """\
  %ac = mul(%a, %cos) : f32[2, 3, 4, 4]
  %bs = mul(%sin, %b) : f32[2, 3, 4, 4]
  %first = sub(%ac, %bs) : f32[2, 3, 4, 4]
  %bc = mul(%cos, %b) : f32[2, 3, 4, 4]
  %as = mul(%a, %sin) : f32[2, 3, 4, 4]
  %second = add(%bc, %as) : f32[2, 3, 4, 4]
"""
JOINED = """\
  %y = concat(%first, %second) {axis=-1} : f32[2, 3, 4, 8]
  return %y
}
"""
STACKED = """\
  %u = reshape(%first, %column) : f32[2, 3, 4, 4, 1]
  %v = reshape(%second, %column) : f32[2, 3, 4, 4, 1]
  %w = concat(%u, %v) {axis=-1} : f32[2, 3, 4, 4, 2]
  %y = reshape(%w, %whole) : f32[2, 3, 4, 8]
  return %y
}
"""


@pytest.mark.parametrize(
    ("body", "interleaved", "moves"),
    [
        (HALVES + SPELLED + JOINED, False, 0),
        (SECONDS + SPELLED + STACKED, True, 0),
        (SECONDS + SPELLED + JOINED, False, 1),
    ],
    ids=["halves", "neighbours", "neighbours sorted into halves"],
)
def test_both_elements_of_pairs_written_out(body: str, interleaved: bool, moves: int) -> None:
    graph = transformed(HEAD + body, "fuse-rotary")
    assert only(graph, "rotary").attribute("interleaved") is interleaved
    assert ops(graph)["transpose"] == moves
    assert not {"mul", "sub", "concat", "slice"} & set(ops(graph))


def test_neighbours_turned_and_added() -> None:
    text = HEAD + SECONDS.replace("%a =", "%even =").replace("%b =", "%odd =")
    text += """\
  %minus = neg(%odd) : f32[2, 3, 4, 4]
  %u = reshape(%minus, %column) : f32[2, 3, 4, 4, 1]
  %v = reshape(%even, %column) : f32[2, 3, 4, 4, 1]
  %w = concat(%u, %v) {axis=-1} : f32[2, 3, 4, 4, 2]
  %turn = reshape(%w, %whole) : f32[2, 3, 4, 8]
  %c1 = reshape(%cos, %table) : f32[2, 1, 4, 4, 1]
  %c2 = expand(%c1, %twice) : f32[2, 1, 4, 4, 2]
  %c = reshape(%c2, %wide) : f32[2, 1, 4, 8]
  %s1 = reshape(%sin, %table) : f32[2, 1, 4, 4, 1]
  %s2 = expand(%s1, %twice) : f32[2, 1, 4, 4, 2]
  %s = reshape(%s2, %wide) : f32[2, 1, 4, 8]
  %xc = mul(%x, %c) : f32[2, 3, 4, 8]
  %ts = mul(%turn, %s) : f32[2, 3, 4, 8]
  %y = add(%xc, %ts) : f32[2, 3, 4, 8]
  return %y
}
"""
    graph = transformed(text, "fuse-rotary")
    node = only(graph, "rotary")
    assert node.attribute("interleaved") is True
    assert [v.type.shape for v in node.inputs()] == [(2, 3, 4, 8), (2, 4, 4), (2, 4, 4)]
    assert "expand" not in ops(graph)


def test_products_of_complex_numbers() -> None:
    text = (
        HEAD
        + """\
  %pairs = reshape(%x, %paired) : f32[2, 3, 4, 4, 2]
  %a = slice(%pairs, %zero, %one, %last4) : f32[2, 3, 4, 4, 1]
  %b = slice(%pairs, %one, %two, %last4) : f32[2, 3, 4, 4, 1]
  %c = reshape(%cos, %table) : f32[2, 1, 4, 4, 1]
  %s = reshape(%sin, %table) : f32[2, 1, 4, 4, 1]
  %ac = mul(%a, %c) : f32[2, 3, 4, 4, 1]
  %bs = mul(%b, %s) : f32[2, 3, 4, 4, 1]
  %real = sub(%ac, %bs) : f32[2, 3, 4, 4, 1]
  %as = mul(%a, %s) : f32[2, 3, 4, 4, 1]
  %bc = mul(%b, %c) : f32[2, 3, 4, 4, 1]
  %imag = add(%as, %bc) : f32[2, 3, 4, 4, 1]
  %w = concat(%real, %imag) {axis=-1} : f32[2, 3, 4, 4, 2]
  %y = reshape(%w, %whole) : f32[2, 3, 4, 8]
  return %y
}
"""
    )
    graph = transformed(text, "fuse-rotary")
    assert only(graph, "rotary").attribute("interleaved") is True
    assert "mul" not in ops(graph)


def test_a_rotated_part_between_others() -> None:
    """Latent attention rotates the last elements of queries, and exporters join all three parts at once."""
    body = SPELLED.replace("[2, 3, 4, 4]", "[2, 3, 4, 2]").replace("%cos", "%c").replace("%sin", "%s")
    text = HEAD.replace("f32[2, 1, 4, 4]", "f32[2, 1, 4, 2]")
    text += """\
  constant %six: i64[1] = [6]
  %c = identity(%cos) : f32[2, 1, 4, 2]
  %s = identity(%sin) : f32[2, 1, 4, 2]
  %rest = slice(%x, %zero, %four, %three) : f32[2, 3, 4, 4]
  %a = slice(%x, %four, %six, %three) : f32[2, 3, 4, 2]
  %b = slice(%x, %six, %eight, %three) : f32[2, 3, 4, 2]
"""
    text += body + "  %y = concat(%rest, %first, %second) {axis=-1} : f32[2, 3, 4, 8]\n  return %y\n}\n"
    graph = transformed(text, "fuse-rotary")
    assert only(graph, "rotary").result.type.shape == (2, 3, 4, 4)
    assert ops(graph)["concat"] == 1


def test_tables_of_other_numbers_are_left_alone() -> None:
    text = HEAD + HALVES + SPELLED.replace("%as = mul(%a, %sin)", "%as = mul(%a, %angles)") + JOINED
    assert "rotary" not in ops(transformed(text, "fuse-rotary"))
