"""Quantized weights: as small in memory as in the model, right by ONNX Runtime, expanded where an engine wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pimc.backends.program import MapEntry
from pimc.backends.storage import load, save
from pimc.driver import Options, Result, compile_model
from pimc.ir.op import Array
from pimc.ir.quantized import pack
from pimc.ir.types import DType
from pimc.sim.values import execute
from tests.e2e.harness import DATA

Tensors = list[onnx.TensorProto]
RANDOM = np.random.Generator(np.random.PCG64(3))
DOMAINS = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]


@dataclass(frozen=True)
class Case:
    """A product of [2, 3, depth] with a weight of `width` columns, by nodes from `x` to `y`."""

    depth: int
    width: int
    nodes: list[onnx.NodeProto]
    weights: Tensors
    kept: Mapping[DType, int]
    """elements that lie in memory in a low-bit type"""


def _int4(name: str, array: Array, kind: int) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, array.shape, pack(array.reshape(-1)).tobytes(), raw=True)


def _array(name: str, array: Array) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(array, name)


def _scales(*shape: int) -> Array:
    return RANDOM.uniform(0.01, 0.1, shape).astype(np.float32)


def qdq_int8(axis: int | None) -> Case:
    """int8 [K, N] with one scale, or one for each column."""
    depth, width = 64, 48
    levels = RANDOM.integers(-128, 128, (depth, width)).astype(np.int8)
    scale = _scales(width) if axis is not None else _scales()
    zero = RANDOM.integers(-3, 3, scale.shape).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=axis or 1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    weights = [_array("w", levels), _array("s", scale), _array("z", zero)]
    return Case(depth, width, nodes, weights, {DType.I8: levels.size})


def qdq_blocked(kind: int, *, turned: bool, depth: int = 64, width: int = 48, with_zero: bool = True) -> Case:
    """4-bit blocks of 16 along K: [K, N], or [N, K] behind a transposition."""
    signed = kind == TensorProto.INT4
    low, high = (-8, 8) if signed else (0, 16)
    shape = (width, depth) if turned else (depth, width)
    axis = 1 if turned else 0
    blocks = tuple(-(-n // 16) if i == axis else n for i, n in enumerate(shape))
    levels = RANDOM.integers(low, high, shape).astype(np.int8)
    zero = RANDOM.integers(low, high, blocks).astype(np.int8)
    weights = [_int4("w", levels, kind), _array("s", _scales(*blocks))]
    weights += [_int4("z", zero, kind)] if with_zero else []
    names = ["w", "s", "z"] if with_zero else ["w", "s"]
    nodes = [helper.make_node("DequantizeLinear", names, ["d"], axis=axis, block_size=16)]
    if turned:
        nodes.append(helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", nodes[-1].output[0]], ["y"]))
    dtype = DType.I4 if signed else DType.U4
    return Case(depth, width, nodes, weights, {dtype: levels.size + (zero.size if with_zero else 0)})


def nbits(bits: int, *, depth: int = 64, width: int = 48, block: int = 32, zeros: str = "") -> Case:
    """MatMulNBits, its zero points packed, floats, or left out."""
    blocks = -(-depth // block)
    levels = RANDOM.integers(0, 1 << bits, (width, blocks * block)).astype(np.uint8)
    packed = pack(levels) if bits == 4 else levels
    weights = [_array("w", packed.reshape(width, blocks, -1)), _array("s", _scales(width * blocks))]
    kept = {DType.U4 if bits == 4 else DType.U8: width * depth}
    if zeros == "packed":
        points = RANDOM.integers(0, 1 << bits, (width, blocks)).astype(np.uint8)
        weights.append(_array("z", (pack(points) if bits == 4 else points).reshape(-1)))
        kept = {dtype: count + points.size for dtype, count in kept.items()}
    elif zeros == "floats":
        weights.append(_array("z", RANDOM.uniform(6, 10, width * blocks).astype(np.float32)))
    names = ["x", "w", "s", *(["z"] if zeros else [])]
    node = helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft", K=depth, N=width, bits=bits, block_size=block
    )
    return Case(depth, width, [node], weights, kept)


CASES: dict[str, Callable[[], Case]] = {
    "int8": lambda: qdq_int8(None),
    "int8-columns": lambda: qdq_int8(1),
    "int4-blocks": lambda: qdq_blocked(TensorProto.INT4, turned=False),
    "uint4-blocks": lambda: qdq_blocked(TensorProto.UINT4, turned=False),
    "int4-turned": lambda: qdq_blocked(TensorProto.INT4, turned=True),
    "uint4-turned-odd": lambda: qdq_blocked(TensorProto.UINT4, turned=True, depth=48, width=33),
    "int4-no-zero": lambda: qdq_blocked(TensorProto.INT4, turned=True, with_zero=False),
    "nbits4": lambda: nbits(4),
    "nbits4-zeros": lambda: nbits(4, zeros="packed", depth=96),
    "nbits4-float-zeros": lambda: nbits(4, zeros="floats"),
    "nbits4-ragged": lambda: nbits(4, depth=80, width=17, zeros="packed"),
    "nbits8": lambda: nbits(8),
}


def _model(case: Case) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, case.depth])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, case.width])
    graph = helper.make_graph(case.nodes, "g", [x], [y], case.weights)
    return helper.make_model(graph, opset_imports=DOMAINS, ir_version=10)


def _compiled(case: Case, folder: Path, target: str, *options: str) -> Result:
    model = _model(case)
    path = folder / "model.onnx"
    onnx.save(model, path)
    x = RANDOM.standard_normal((2, 3, case.depth)).astype(np.float32)
    plain = onnxruntime.SessionOptions()  # optimised, it rounds activations to 8 bits
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return compile_model(path, target, Options(pass_options=options), values={"in:x": x, "out:y": np.asarray(y)})


def _bytes(entry: MapEntry) -> int:
    return entry.layout.elements * max(1, entry.dtype.bits // 8)


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize("name", CASES)
def test_products_with_quantized_weights_agree_with_onnx_runtime(name: str, target: str, tmp_path: Path) -> None:
    result = _compiled(CASES[name](), tmp_path, target)
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", ["npu", "cent"])
def test_weights_keep_their_size_and_streams_move_no_more(name: str, target: str, tmp_path: Path) -> None:
    case = CASES[name]()
    result = _compiled(case, tmp_path, target, "place.expand=never")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison
    for dtype, elements in case.kept.items():
        entries = [e for e in result.program.memory if e.dtype is dtype and e.role == "weight"]
        assert sum(int(np.prod(e.shape)) for e in entries) == elements
        if dtype in (DType.I4, DType.U4):
            rows = sum(e.shape[0] for e in entries)
            assert elements / 2 <= sum(_bytes(e) for e in entries) <= elements / 2 + rows / 2
    assert "stays" in result.program.ops[0].reason
    assert result.report is not None
    weights = sum(_bytes(e) for e in result.program.memory if e.role in ("weight", "constant"))
    moved = sum(n for k, n in result.report.bytes_moved.items() if "read" in k or "load" in k) if target == "npu" else 0
    assert moved <= 4 * weights


def test_banks_get_the_weight_by_its_values_and_the_reason_says_so(tmp_path: Path) -> None:
    result = _compiled(nbits(4), tmp_path, "cent")
    (row,) = [r for r in result.program.ops if r.op == "matmul"]
    assert row.engine == "pim"
    assert "expanded when it is loaded" in row.reason
    assert "u4" in row.reason
    entry = next(e for e in result.program.memory if e.role == "weight")
    assert entry.name.endswith(".expanded")
    assert entry.shape == (64, 48)


def test_a_stored_program_names_packed_weights_and_computes_the_same(tmp_path: Path) -> None:
    for target in ("npu", "cent"):
        case = nbits(4, zeros="packed", depth=96)
        result = _compiled(case, tmp_path, target)
        save(result.program, tmp_path / "p.pimprog")
        x = RANDOM.standard_normal((2, 3, 96)).astype(np.float32)
        first, _ = execute(result.program, {"x": x}, wide=True)
        again, _ = execute(load(tmp_path / "p.pimprog"), {"x": x}, wide=True)
        np.testing.assert_array_equal(first["y"], again["y"])


def test_a_program_does_not_carry_quantized_weights_that_lie_in_a_file(tmp_path: Path) -> None:
    case = qdq_blocked(TensorProto.INT4, turned=True, depth=256, width=512)
    onnx.save(_model(case), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    for target in ("npu", "cent"):
        result = compile_model(tmp_path / "m.onnx", target, Options(), values="random")
        assert result.comparison is not None
        assert result.comparison.ok
        save(result.program, tmp_path / "m.pimprog")
        assert (tmp_path / "m.pimprog").stat().st_size < 16384 < 256 * 512 // 2
        x = RANDOM.standard_normal((2, 3, 256)).astype(np.float32)
        again, _ = execute(load(tmp_path / "m.pimprog"), {"x": x}, wide=True)
        np.testing.assert_array_equal(again["y"], execute(result.program, {"x": x}, wide=True)[0]["y"])


@pytest.mark.parametrize("name", ["nbits4-zeros", "int4-blocks", "int8-columns"])
def test_chunks_of_columns_in_a_small_buffer(name: str, tmp_path: Path) -> None:
    """Weights that do not fit on chip come in several chunks, in a loop."""
    model = _model(CASES[name]())
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    result = compile_model(path, "npu", Options(overrides=("buffer.bytes=32KiB",)), values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison
    assert "stays" in result.program.ops[0].reason


@pytest.mark.parametrize("degrees", [{"pp": 2}, {"tp": 2}], ids=["pp", "tp"])
@pytest.mark.parametrize("target", ["npu", "cent"])
def test_devices_hold_their_parts(target: str, degrees: dict[str, int]) -> None:
    dims = {"batch_size": 2, "sequence_length": 1, "past_sequence_length": 5, "total_sequence_length": 6}
    options = Options(dims=dims, parallel=degrees, overrides=("system.devices=2",), simulate=False)
    result = compile_model(DATA / "llamagqa-merged-genai-int4.onnx", target, options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison
    holding = {e.devices for e in result.program.memory if e.role == "weight" and e.dtype in (DType.U4, DType.BF16)}
    assert {device for devices in holding for device in devices} == {0, 1}


def test_a_cut_through_a_block_is_none(tmp_path: Path) -> None:
    """24 rows of a weight in blocks of 16 are not halves with a block each: both devices multiply with all of it."""
    case = nbits(4, depth=24, width=32, block=16)
    case.nodes[0].input[0] = "h"
    before = [helper.make_node("MatMul", ["x", "before"], ["p"]), helper.make_node("Relu", ["p"], ["h"])]
    weights = [*case.weights, _array("before", RANDOM.standard_normal((24, 24)).astype(np.float32))]
    path = tmp_path / "model.onnx"
    onnx.save(_model(replace(case, nodes=[*before, *case.nodes], weights=weights)), path)
    options = Options(parallel={"tp": 2}, overrides=("system.devices=2",), simulate=False)
    comparison = compile_model(path, "npu", options, values="random").comparison
    assert comparison is not None
    assert comparison.ok, comparison
