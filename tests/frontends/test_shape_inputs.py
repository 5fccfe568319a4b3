"""Inputs whose contents decide shapes: taken from arrays, kept in the graph, and checked when the program runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pimc
from pimc.frontends import load_model
from pimc.frontends.onnx_import import import_file
from pimc.frontends.onnx_model import OnnxFile
from pimc.ir import interp
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.op import Array
from pimc.ir.text import parse, show

X = np.arange(12, dtype=np.float32).reshape(3, 4)
Arrays = dict[str, Array]


def reshaping(*nodes: onnx.NodeProto, s: tuple[int, int | str] = (TensorProto.INT64, 2)) -> OnnxFile:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("s", s[0], [s[1]]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    body = list(nodes) or [helper.make_node("Reshape", ["x", "s"], ["y"])]
    graph = helper.make_graph(body, "g", inputs, outputs)
    return OnnxFile("g.onnx", Path(), helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def test_contents_become_part_of_the_graph() -> None:
    graph = import_file(reshaping(), {"x": X, "s": np.array([2, 6])})
    assert [str(v.type) for v in graph.inputs] == ["f32[n, 4]", "i64[2]"]
    assert graph.inputs[0].type.array is None
    assert show(graph).startswith("graph g(%x: f32[n, 4], %s: i64[2] = [2, 6])")
    assert show(parse(show(graph), "g")) == show(graph)


def test_contents_are_followed_through_arithmetic() -> None:
    nodes = [helper.make_node("Add", ["s", "s"], ["t"]), helper.make_node("Reshape", ["x", "t"], ["y"])]
    graph = import_file(reshaping(*nodes), {"x": X, "s": np.array([1, 3])})
    total = graph.value("t")
    assert total is not None
    assert total.type.array is not None
    assert total.type.array.tolist() == [2, 6]


def test_arrays_that_no_shape_depends_on_say_nothing() -> None:
    nodes = [helper.make_node("Cast", ["s"], ["t"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "t"], ["y"])]
    graph = import_file(reshaping(*nodes, s=(TensorProto.INT64, 4)), {"x": X, "s": np.arange(4)})
    assert all(v.type.array is None for v in graph.inputs)


@pytest.mark.parametrize("array", [np.array([2.0, 6.0], np.float32), np.array([2, 3, 2])])
def test_arrays_must_fit(array: Array) -> None:
    with pytest.raises(CompileError) as caught:
        import_file(reshaping(), {"x": X, "s": array})
    assert caught.value.diagnostics[0].kind is Kind.INPUT_BAD


def test_the_program_is_for_these_contents_alone(tmp_path: Path) -> None:
    model, program = tmp_path / "g.onnx", tmp_path / "g.pimprog"
    onnx.save(reshaping().proto, model)
    values: Arrays = {"in:x": X, "in:s": np.array([2, 6]), "out:y": X.reshape(2, 6)}
    result = pimc.compile(model, "npu", values=values)
    assert result.comparison is not None
    assert result.comparison.ok
    pimc.save_program(result.program, program)
    assert pimc.simulate(program, values=values).comparison is not None
    with pytest.raises(CompileError, match=r"holds \[6, 2\], but the program was compiled for \[2, 6\]"):
        pimc.simulate(program, values={**values, "in:s": np.array([6, 2])})


def test_the_interpreter_takes_these_contents_alone() -> None:
    graph = import_file(reshaping(), {"x": X, "s": np.array([2, 6])})
    assert interp.run(graph, {"x": X, "s": np.array([2, 6])})["y"].shape == (2, 6)
    with pytest.raises(CompileError, match=r"holds \[6, 2\], but the graph is for \[2, 6\]"):
        interp.run(graph, {"x": X, "s": np.array([6, 2])})


def test_without_arrays_the_inputs_are_named(tmp_path: Path) -> None:
    model = tmp_path / "g.onnx"
    onnx.save(reshaping().proto, model)
    with pytest.raises(CompileError) as caught:
        pimc.compile(load_model(model), "npu", dims={"n": 3})
    (found,) = caught.value.diagnostics
    assert found.kind is Kind.DATA_DEPENDENT
    assert "'s' is i64[2], an input" in found.notes
    assert "--values" in str(found.help)
