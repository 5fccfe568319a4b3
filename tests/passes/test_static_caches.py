"""Caches of fixed capacity that are written at positions, and movement that amounts to joining."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.ir.graph import Role
from pimc.passes.manager import PassContext
from tests.passes.graphs import only, ops, transformed

HEAD = """\
graph c(%past: f32[2, 3, 6, 4], %new: f32[2, 3, 2, 4], %at: i64[{at}]) {{
  constant %column: i64[2] = [2, 1]
  constant %spread: i64[4] = [{spread}]
  constant %each: i64[4] = [2, 3, 2, 4]
"""
SCATTER_ND = """\
  %p = transpose(%past) {perm=[2, 0, 1, 3]} : f32[6, 2, 3, 4]
  %n = transpose(%new) {perm=[2, 0, 1, 3]} : f32[2, 2, 3, 4]
  %i = reshape(%at, %column) : i64[2, 1]
  %s = scatter_nd(%p, %i, %n) : f32[6, 2, 3, 4]
  %present = transpose(%s) {perm=[1, 2, 0, 3]} : f32[2, 3, 6, 4]
  return %present
}
"""
SCATTER_ELEMENTS = """\
  %r = reshape(%at, %spread) : i64[{shape}]
  %i = expand(%r, %each) : i64[2, 3, 2, 4]
  %present = scatter_elements(%past, %i, %new) {{axis=2}} : f32[2, 3, 6, 4]
  return %present
}}
"""
TENSOR_SCATTER = """\
  %present = tensor_scatter(%past, %new, %at) : f32[2, 3, 6, 4]
  return %present
}
"""


def arrays(at: list[int] | list[list[int]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    past, new = (rng.standard_normal((2, 3, n, 4)).astype(np.float32) for n in (6, 2))
    return {"past": past, "new": new, "at": np.array(at)}


@pytest.mark.parametrize(
    ("text", "at", "positions"),
    [
        (HEAD.format(at="2", spread="1, 1, 2, 1") + SCATTER_ND, [3, 4], (2,)),
        (HEAD.format(at="2", spread="1, 1, 2, 1") + SCATTER_ELEMENTS.format(shape="1, 1, 2, 1"), [1, 5], (2,)),
        (
            HEAD.format(at="2, 2", spread="2, 1, 2, 1") + SCATTER_ELEMENTS.format(shape="2, 1, 2, 1"),
            [[1, 5], [2, 0]],
            (2, 2),
        ),
        (HEAD.format(at="2", spread="1, 1, 2, 1") + TENSOR_SCATTER, [1, 4], (2, 2)),
    ],
    ids=["scatter_nd", "scatter_elements", "requests at their own positions", "tensor_scatter"],
)
def test_a_cache_that_is_written_at_positions(
    text: str, at: list[int] | list[list[int]], positions: tuple[int, ...]
) -> None:
    graph = transformed(text, "fuse-cache,canonicalize", inputs=arrays(at))
    node = only(graph, "cache_write")
    assert graph.is_output(node.result)
    assert node.operands[0] is graph.inputs[0]
    assert graph.inputs[0].role is Role.CACHE
    assert node.operands[2] is not None
    assert node.operands[2].type.shape == positions
    assert not {"scatter_nd", "scatter_elements", "tensor_scatter", "transpose"} & set(ops(graph))


def test_a_cache_that_is_read_before_it_is_written_is_left_alone() -> None:
    text = HEAD.format(at="2", spread="1, 1, 2, 1") + SCATTER_ND.replace("return %present", "return %present, %p")
    assert "cache_write" not in ops(transformed(text, "fuse-cache", inputs=arrays([0, 1])))


JOIN = """\
graph j(%a: f32[2, 3, 4], %b: f32[2, 3, 2]) {
  constant %nothing: f32[2, 3, 6] = {zeros}
  constant %first: i64[4, 1] = [0, 1, 2, 3]
  constant %rest: i64[2, 1] = [4, 5]
  %n = transpose(%nothing) {perm=[2, 0, 1]} : f32[6, 2, 3]
  %p = transpose(%a) {perm=[2, 0, 1]} : f32[4, 2, 3]
  %q = transpose(%b) {perm=[2, 0, 1]} : f32[2, 2, 3]
  %s = scatter_nd(%n, %first, %p) : f32[6, 2, 3]
  %t = scatter_nd(%s, %rest, %q) : f32[6, 2, 3]
  %y = transpose(%t) {perm=[1, 2, 0]} : f32[2, 3, 6]
  return %y
}
"""


def test_parts_scattered_to_known_places_are_joined() -> None:
    graph = transformed(JOIN.replace("{zeros}", str([0.0] * 36)), "canonicalize")
    node = only(graph, "concat")
    assert ops(graph) == {"concat": 1}
    assert list(node.operands) == graph.inputs


def test_slices_stand_before_transpositions() -> None:
    text = """\
graph s(%x: f32[2, 5, 6]) {
  constant %lo: i64[2] = [1, 0]
  constant %hi: i64[2] = [3, 4]
  constant %axes: i64[2] = [0, 2]
  %t = transpose(%x) {perm=[2, 0, 1]} : f32[6, 2, 5]
  %y = slice(%t, %lo, %hi, %axes) : f32[2, 2, 4]
  return %y
}
"""
    graph = transformed(text, "canonicalize", context=PassContext())
    assert [n.op.name for n in graph.order()] == ["slice", "transpose"]
    assert only(graph, "slice").result.type.shape == (2, 4, 2)
