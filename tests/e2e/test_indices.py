"""Indices out of range are errors at run time too, in every coordinate; products over nothing are zeros."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.driver import Options, checked_program, lower_model
from pimc.execution import run_program
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.op import Array
from pimc.ir.text import parse

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def computed(text: str, target: str, inputs: dict[str, Array]) -> Array:
    program = checked_program(lower_model(parse(text, "g"), target, Options(simulate=False)))
    return run_program(program, inputs, wide=True)["y"]


@pytest.mark.parametrize("target", ["npu", "cent"])
@pytest.mark.parametrize(
    ("vector", "expected"),
    [([1, 2], 6), ([-3, -4], 0), ([-1, 3], 11), ([3, 0], None), ([0, 4], None), ([0, -5], None), ([-4, 3], None)],
)
def test_index_vectors(vector: list[int], expected: int | None, target: str) -> None:
    text = "graph g(%x: f32[3, 4], %i: i64[1, 2]) {\n %y = gather_nd(%x, %i)\n return %y\n}"
    inputs: dict[str, Array] = {"x": X, "i": np.array([vector])}
    if expected is not None:
        assert computed(text, target, inputs).tolist() == [expected]
        return
    with pytest.raises(CompileError) as error:
        computed(text, target, inputs)
    assert [d.kind for d in error.value.diagnostics] == [Kind.INPUT_BAD]


@pytest.mark.parametrize("place", [3, -4])
def test_rows_beyond_a_table(place: int) -> None:
    text = """graph g(%x: f32[3, 4], %i: i64[1, 1], %u: f32[1, 4]) {
      %y = scatter_nd(%x, %i, %u)
      return %y
    }"""
    with pytest.raises(CompileError, match="out of range"):
        computed(text, "npu", {"x": X, "i": np.array([[place]]), "u": X[:1]})


@pytest.mark.parametrize("target", ["npu", "neupims", "newton", "cent"])
def test_products_over_nothing(target: str) -> None:
    text = "graph g(%x: f32[2, 0]) {\n weight %w: f32[0, 5] = random\n %y = matmul(%x, %w)\n return %y\n}"
    assert computed(text, target, {"x": np.zeros((2, 0), np.float32)}).tolist() == [[0.0] * 5] * 2
