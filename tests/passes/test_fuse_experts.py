"""Products with gathered expert weights, in the forms that exporters write."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.ir.graph import Role
from tests.passes.graphs import only, ops, transformed

# 3 tokens, 2 experts each, of 4 with a matrix [5, 8]
HEAD = """\
graph e(%x: f32[3, 8], %ids: i64[3, 2]) {
  weight %w: f32[4, 5, 8] = random
  weight %turned: f32[4, 8, 5] = random
  constant %flat: i64[1] = [6]
  constant %column: i64[2] = [6, 1]
  constant %spread: i64[3] = [3, 1, 8]
  constant %each: i64[3] = [3, 2, 8]
  constant %right: i64[3] = [6, 8, 1]
  constant %left: i64[3] = [6, 1, 8]
"""
REPEATED = """\
  %a = reshape(%x, %spread) : f32[3, 1, 8]
  %b = expand(%a, %each) : f32[3, 2, 8]
"""
GATHER_ND = """\
  %i = reshape(%ids, %column) : i64[6, 1]
  %m = gather_nd(%w, %i) : f32[6, 5, 8]
"""
GATHER = """\
  %i = reshape(%ids, %flat) : i64[6]
  %m = gather(%w, %i) : f32[6, 5, 8]
"""
ON_THE_RIGHT = """\
  %v = reshape(%b, %right) : f32[6, 8, 1]
  %y = matmul(%m, %v) : f32[6, 5, 1]
  return %y
}
"""
STORED_TURNED = """\
  %i = reshape(%ids, %flat) : i64[6]
  %m = gather(%turned, %i) : f32[6, 8, 5]
  %v = reshape(%b, %left) : f32[6, 1, 8]
  %y = matmul(%v, %m) : f32[6, 1, 5]
  return %y
}
"""
TURNED_LATER = """\
  %i = reshape(%ids, %flat) : i64[6]
  %g = gather(%w, %i) : f32[6, 5, 8]
  %m = transpose(%g) {perm=[0, 2, 1]} : f32[6, 8, 5]
  %v = reshape(%b, %left) : f32[6, 1, 8]
  %y = matmul(%v, %m) : f32[6, 1, 5]
  return %y
}
"""
INPUTS = {
    "x": np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32),
    "ids": np.array([[0, 3], [3, 1], [2, 0]]),
}


@pytest.mark.parametrize(
    "body",
    [GATHER_ND + ON_THE_RIGHT, GATHER + ON_THE_RIGHT, STORED_TURNED, TURNED_LATER],
    ids=["gather_nd", "gather", "stored turned", "turned later"],
)
def test_gathered_weights_are_read_in_place(body: str) -> None:
    graph = transformed(HEAD + REPEATED + body, "fuse-experts", inputs=INPUTS)
    node = only(graph, "expert_matmul")
    shapes = [v.type.shape for v in node.inputs()]
    assert shapes == [(3, 1, 8), (4, 5, 8), (3, 2)]
    assert not {"gather", "gather_nd", "expand", "matmul"} & set(ops(graph))
    weight = node.operands[1]
    assert weight is not None
    # a weight stored the other way round is turned by a view of it, never copied
    assert weight.role is Role.WEIGHT or (weight.owner is not None and weight.owner.op.name == "transpose")


def test_vectors_of_their_own_for_each_expert() -> None:
    text = HEAD.replace("%x: f32[3, 8]", "%b: f32[6, 8]") + GATHER_ND + ON_THE_RIGHT
    inputs = {"b": np.random.default_rng(2).standard_normal((6, 8)).astype(np.float32), "ids": INPUTS["ids"]}
    node = only(transformed(text, "fuse-experts", inputs=inputs), "expert_matmul")
    assert [v.type.shape for v in node.inputs()] == [(3, 2, 8), (4, 5, 8), (3, 2)]


def test_columns_that_are_read_apart_become_products_apart() -> None:
    text = """\
graph e(%x: f32[3, 1, 8], %ids: i64[3, 2]) {
  weight %w: f32[4, 6, 8] = random
  constant %zero: i64[1] = [0]
  constant %mid: i64[1] = [3]
  constant %end: i64[1] = [6]
  constant %axis: i64[1] = [1]
  constant %shape: i64[2] = [6, 6]
  %y = expert_matmul(%x, %w, %ids) : f32[3, 2, 6]
  %r = reshape(%y, %shape) : f32[6, 6]
  %gate = slice(%r, %zero, %mid, %axis) : f32[6, 3]
  %up = slice(%r, %mid, %end, %axis) : f32[6, 3]
  %z = mul(%gate, %up) : f32[6, 3]
  return %z
}
"""
    inputs = {"x": INPUTS["x"].reshape(3, 1, 8), "ids": INPUTS["ids"]}
    graph = transformed(text, "canonicalize", inputs=inputs)
    assert ops(graph)["expert_matmul"] == 2
    assert "slice" not in ops(graph)
    assert {n.operands[1].type.shape for n in graph.order() if n.op.name == "expert_matmul" and n.operands[1]} == {
        (4, 3, 8)
    }


def test_matrices_with_several_vectors_are_left_alone() -> None:
    text = HEAD.replace("%x: f32[3, 8]", "%v: f32[6, 8, 2]") + GATHER_ND
    text += "  %y = matmul(%m, %v) : f32[6, 5, 2]\n  return %y\n}\n"
    inputs = {"v": np.random.default_rng(3).standard_normal((6, 8, 2)).astype(np.float32), "ids": INPUTS["ids"]}
    assert "expert_matmul" not in ops(transformed(text, "fuse-experts", inputs=inputs))
