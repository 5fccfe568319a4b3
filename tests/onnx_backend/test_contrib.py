"""Ops of ONNX Runtime's own domain compute what ONNX Runtime does: interpreted, and compiled for all machines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

import pimc
from pimc.ir.op import Array
from tests.onnx_backend.backends import interpreted, simulated
from tests.onnx_backend.contrib_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contrib(case: Case) -> None:
    outputs, _ = interpreted(case.file, case.inputs)
    expected = _by_runtime(case) if case.known_to_runtime else outputs
    _compare(case, outputs, expected)
    for target in ("npu", "neupims", "cent"):
        _compare(case, simulated(target)(case.file, case.inputs)[0], expected)


def _by_runtime(case: Case) -> dict[str, Array]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    model = case.file.proto.SerializeToString()
    names = [name for name in case.outputs if name]
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, case.inputs), strict=True))


def _compare(case: Case, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, want in expected.items():
        found = outputs[name]
        assert found.shape == want.shape
        scale = 1.0 if want.dtype.kind in "iu" else float(np.max(np.abs(want.astype(np.float64)), initial=0)) or 1.0
        difference = np.max(np.abs(found.astype(np.float64) - want.astype(np.float64)), initial=0)
        assert difference <= case.tolerance * scale, name


@pytest.mark.parametrize("capacity", [12, 20])
@pytest.mark.parametrize("target", ["npu", "neupims", "newton", "cent"])
def test_group_query_attention_of_requests_whose_lengths_differ(tmp_path: Path, target: str, capacity: int) -> None:
    """Lengths are an input: new keys stand behind each request's own, in a cache that grows and in one with room."""
    batch, heads, kv, size, cached = 3, 4, 2, 8, 12
    rng = np.random.default_rng(3)
    shapes = {
        "q": (batch, 1, heads * size), "k": (batch, 1, kv * size), "v": (batch, 1, kv * size),
        "past_k": (batch, kv, capacity, size), "past_v": (batch, kv, capacity, size),
    }  # fmt: skip
    inputs: dict[str, Array] = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    valid = np.array([cached + 1, 6, 1])
    inputs["lengths"] = (valid - 1).astype(np.int32)
    float_info = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    total = onnx.helper.make_tensor("total", onnx.TensorProto.INT32, [], [cached + 1])
    node = onnx.helper.make_node(
        "GroupQueryAttention", ["q", "k", "v", "past_k", "past_v", "lengths", "total"], ["y", "now_k", "now_v"],
        domain="com.microsoft", num_heads=heads, kv_num_heads=kv,
    )  # fmt: skip
    room = max(capacity, cached + 1)
    graph = onnx.helper.make_graph(
        [node], "ragged",
        [*(float_info(n, shape=s) for n, s in shapes.items()),
         onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [batch])],
        [float_info("y", shape=shapes["q"]),
         *(float_info(n, shape=(batch, kv, room, size)) for n in ("now_k", "now_v"))],
        [total],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "ragged.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    runtime = pytest.importorskip("onnxruntime")
    wanted = runtime.InferenceSession(path).run(None, inputs)
    result = pimc.compile(path, target, values={**{f"in:{n}": a for n, a in inputs.items()}, "out:y": wanted[0]})
    assert result.comparison is not None
    assert result.comparison.ok
    assert result.outputs is not None
    for name, expected in zip(("now_k", "now_v"), wanted[1:], strict=True):
        for i, count in enumerate(valid):
            np.testing.assert_allclose(result.outputs[name][i, :, :count], expected[i, :, :count], rtol=1e-6)
