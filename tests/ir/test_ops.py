"""Every op's numpy meaning and type rule against ONNX Runtime, on one-node models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from pimc.ir.op import Array, Attribute, lookup
from pimc.ir.types import DType, TensorType

RNG = np.random.default_rng(7)
MS = "com.microsoft"


def f32(*shape: int, scale: float = 1.0) -> Array:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def i64(*values: Any) -> Array:
    return np.array(values[0] if len(values) == 1 else values, np.int64)


def i32(*values: int) -> Array:
    return np.array(values, np.int32)


@dataclass
class Case:
    """One application: the ONNX op with its attributes, and ours where they are spelled differently."""

    onnx_op: str
    name: str
    inputs: list[Any]
    """Arrays or numpy scalars; None where absent."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Attribute] | None = None
    domain: str = ""
    outputs: list[bool] = field(default_factory=lambda: [True])
    """Which outputs ONNX Runtime is asked for."""
    tolerance: float = 1e-6
    opset: int = 23

    @property
    def label(self) -> str:
        extra = "-".join(f"{k}={v}" for k, v in self.attributes.items())
        shapes = "x".join("_" if x is None else str(list(x.shape)).replace(" ", "") for x in self.inputs)
        return re.sub(r"[^\w=\[\],.-]", "", f"{self.name}-{shapes}-{extra}")[:110]


def unary() -> list[Case]:
    names = [
        "Abs", "Neg", "Sign", "Sqrt", "Reciprocal", "Exp", "Log", "Sin", "Cos", "Tan", "Tanh", "Atan", "Sinh", "Cosh",
        "Erf", "Floor", "Ceil", "Round", "Relu", "Sigmoid", "Softplus", "Softsign", "HardSwish", "Identity", "Mish",
    ]  # fmt: skip
    cases = []
    for name in names:
        x = np.abs(f32(3, 5)) + np.float32(0.1) if name in ("Sqrt", "Log") else f32(3, 5, scale=3)
        snake = {"HardSwish": "hard_swish"}.get(name, name.lower())
        cases.append(Case(name, snake, [x]))
    half = f32(4, 4).astype(np.float16)
    special = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    return [
        *cases,
        Case("Not", "not", [f32(4) > 0]),
        Case("Sqrt", "sqrt", [np.abs(half)]),
        Case("Neg", "neg", [i64([1, -2])]),
        Case("IsNaN", "is_nan", [special]),
        Case("IsInf", "is_inf", [special]),
        Case("IsInf", "is_inf", [special], {"detect_negative": 0}),
        Case("LeakyRelu", "leaky_relu", [f32(4)], {"alpha": 0.2}),
        Case("HardSigmoid", "hard_sigmoid", [f32(9, scale=4)], {"alpha": 0.25, "beta": 0.4}),
        Case("Elu", "elu", [f32(9)], {"alpha": 0.5}),
        Case("PRelu", "prelu", [f32(3, 4), f32(4)]),
        Case("Gelu", "gelu", [f32(3, 5, scale=2)]),
        Case("Gelu", "gelu", [f32(3, 5, scale=2)], {"approximate": "tanh"}),
        Case("Softmax", "softmax", [f32(3, 5, 2)], {"axis": 1}),
        Case("Softmax", "softmax", [f32(3, 5)]),
        Case("LogSoftmax", "log_softmax", [f32(3, 5)]),
        Case("Cast", "cast", [f32(6, scale=9)], {"to": 7}, {"to": "i64"}),
        Case("Cast", "cast", [i64([0, 2])], {"to": 9}, {"to": "bool"}),
        Case("Cast", "cast", [f32(6)], {"to": 10}, {"to": "f16"}),
        Case("Clip", "clip", [f32(9), np.float32(-0.5), np.float32(0.5)]),
        Case("Clip", "clip", [f32(9), None, np.float32(0.5)]),
    ]


def binary() -> list[Case]:
    cases = []
    for name in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        cases += [Case(name, snake, [f32(2, 1, 3), f32(4, 1)]), Case(name, snake, [i64([7, -7, 5]), i64([2, 2, 5])])]
    bits = f32(2, 3) > 0
    return [
        *cases,
        *(Case(name, name.lower(), [bits, f32(3) > 0]) for name in ("And", "Or", "Xor")),
        Case("Pow", "pow", [np.abs(f32(3, 2)), np.float32(1.5)]),
        Case("Pow", "pow", [f32(3, 2), np.float32(2)]),
        Case("Pow", "pow", [i64([2, 3]), i64([3, 2])]),
        Case("Mod", "mod", [i64([7, -7, 7]), i64([3, 3, -3])]),
        Case("Mod", "mod", [f32(5), f32(5)], {"fmod": 1}),
        Case("Max", "max", [f32(2, 3), f32(3), f32(2, 1)]),
        Case("Min", "min", [i64([1, 5]), i64([[3]])]),
        Case("Sum", "sum", [f32(2, 3), f32(3)]),
        Case("Where", "where", [f32(2, 1) > 0, f32(1, 3), np.float32(0)]),
    ]


def shapes() -> list[Case]:
    x = f32(2, 3, 4)
    return [
        Case("Shape", "shape", [x]),
        Case("Shape", "shape", [x], {"start": -2}),
        Case("Shape", "shape", [x], {"start": 0, "end": -1}),
        Case("Size", "size", [x]),
        Case("Reshape", "reshape", [x, i64(0, -1)]),
        Case("Reshape", "reshape", [x, i64(6, 4)]),
        Case("Reshape", "reshape", [np.float32(3), i64([1])]),
        Case("Reshape", "reshape", [f32(1), np.zeros(0, np.int64)]),
        Case("Reshape", "reshape", [f32(2, 0, 3), i64(3, 0)], {"allowzero": 1}),
        Case("Flatten", "flatten", [x], {"axis": 2}),
        Case("Flatten", "flatten", [x], {"axis": -1}),
        Case("Squeeze", "squeeze", [f32(1, 3, 1), i64([0])]),
        Case("Squeeze", "squeeze", [f32(1, 3, 1)]),
        Case("Unsqueeze", "unsqueeze", [f32(3), i64(0, -1)]),
        Case("Unsqueeze", "unsqueeze", [np.float32(3), i64([0])]),
        Case("Expand", "expand", [f32(3, 1), i64(2, 1, 4)]),
        Case("ConstantOfShape", "constant_of_shape", [i64(2, 3)]),
        Case("Range", "range", [i64(2), i64(11), i64(3)]),
        Case("Range", "range", [np.float32(1), np.float32(0), np.float32(-0.3)]),
        Case("Transpose", "transpose", [x], {"perm": [1, 2, 0]}),
        Case("Transpose", "transpose", [x]),
        Case("Concat", "concat", [f32(2, 3), f32(2, 1)], {"axis": -1}),
        Case("Split", "split", [f32(5, 2), i64(2, 3)], outputs=[True, True]),
        Case("Split", "split", [f32(2, 7)], {"axis": 1, "num_outputs": 3}, outputs=[True] * 3),
        Case("Slice", "slice", [x, i64([1]), i64([99]), i64([-1])]),
        Case("Slice", "slice", [x, i64(0, -1), i64(2, -(2**63)), i64(0, 1), i64(1, -1)]),
        Case("Slice", "slice", [x, i64([2]), i64([0]), i64([2]), i64([-1])]),
        Case("Slice", "slice", [x, i64(-1, 1), i64(2, 3)]),
        Case("Slice", "slice", [x, i64([3]), i64([-100]), i64([2]), i64([-2])]),
        Case("Tile", "tile", [f32(2, 3), i64(2, 1)]),
        Case("Pad", "pad", [f32(2, 3), i64(1, 0, 0, 2), np.float32(4)]),
        Case("Pad", "pad", [f32(2, 3), i64(1, -1), None, i64([1])]),
        Case("Pad", "pad", [f32(2, 5), i64(0, 2, 1, 3)], {"mode": "reflect"}),
        Case("Trilu", "trilu", [f32(2, 3, 4)]),
        Case("Trilu", "trilu", [f32(3, 4), i64(1)], {"upper": 0}),
    ]


def indexing() -> list[Case]:
    x = f32(3, 4, 2)
    three = i64([[0, 2], [1, -1]])
    return [
        Case("Gather", "gather", [x, three]),
        Case("Gather", "gather", [x, i64(1)], {"axis": 1}),
        Case("GatherElements", "gather_elements", [f32(3, 4), i64([[0, 2, -1], [1, 1, 0]])], {"axis": 1}),
        Case("GatherElements", "gather_elements", [f32(3, 4), i64([[0, 2], [1, 1]])]),
        Case("GatherND", "gather_nd", [x, three]),
        Case("GatherND", "gather_nd", [x, i64([[1], [0], [-1]])], {"batch_dims": 1}),
        Case("GatherND", "gather_nd", [f32(2, 3, 4, 5), i64(RNG.integers(0, 4, (2, 3, 6, 1)))], {"batch_dims": 2}),
        Case("ScatterND", "scatter_nd", [x, i64([[1], [0]]), f32(2, 4, 2)]),
        Case("ScatterND", "scatter_nd", [x, i64([[1, 1], [1, 1]]), f32(2, 2)], {"reduction": "add"}),
        Case("ScatterElements", "scatter_elements", [f32(3, 4), i64([[1, -1]]), f32(1, 2)], {"axis": 1}),
        Case("ScatterElements", "scatter_elements", [f32(3), i64([1, 1]), f32(2)], {"reduction": "max"}),
        Case("OneHot", "one_hot", [i64([1, -1, 5]), i64(4), np.array([0.5, 2], np.float32)]),
        Case("OneHot", "one_hot", [i64([[1, 0]]), i64([3]), np.array([0, 1], np.int64)], {"axis": 1}),
    ]


def reductions() -> list[Case]:
    x = f32(2, 3, 4)
    names = ["Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2"]
    cases = [
        Case(f"Reduce{n}", "reduce_" + ("sum_square" if n == "SumSquare" else n.lower()), [x, i64(0, -1)], a)
        for n in names
        for a in ({}, {"keepdims": 0})
    ]
    of_nothing = [
        replace(case, inputs=[np.zeros((2, 0, 3), dtype), i64([1])])
        for case in cases
        for dtype in (np.float32, np.int32, np.int64)
    ]
    tied = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)
    return [
        *cases,
        *of_nothing,
        Case("ReduceSum", "reduce_sum", [x]),
        Case("ReduceSum", "reduce_sum", [x], {"noop_with_empty_axes": 1}),
        Case("ReduceSum", "reduce_sum", [i64([[1, 2], [3, 4]]), i64([1])]),
        Case("ReduceMean", "reduce_mean", [f32(3, 4).astype(np.float16), i64([1])], tolerance=1e-3),
        Case("ArgMax", "arg_max", [tied], {"axis": 1}),
        Case("ArgMax", "arg_max", [tied], {"axis": -1, "select_last_index": 1, "keepdims": 0}),
        Case("ArgMin", "arg_min", [tied], {"axis": 1}),
        Case("CumSum", "cum_sum", [x, i64(1)]),
        Case("CumSum", "cum_sum", [x, i64(-1)], {"exclusive": 1, "reverse": 1}),
        Case("TopK", "top_k", [tied, i64([3])], outputs=[True, True]),
        Case("TopK", "top_k", [x, i64([2])], {"axis": 1, "largest": 0}, outputs=[True, True]),
    ]


def contractions() -> list[Case]:
    levels = RNG.integers(0, 256, (3, 2, 16), dtype=np.uint8)
    zeros = RNG.integers(0, 256, (3, 1), dtype=np.uint8)
    nbits = {"K": 64, "N": 3, "bits": 4, "block_size": 32}
    u8, i8 = RNG.integers(0, 255, (2, 4), dtype=np.uint8), RNG.integers(-128, 127, (4, 3), dtype=np.int8)
    return [
        Case("MatMul", "matmul", [f32(2, 1, 3, 4), f32(5, 4, 2)]),
        Case("MatMul", "matmul", [f32(4), f32(2, 4, 3)]),
        Case("MatMul", "matmul", [f32(3, 4), f32(4)]),
        Case("Gemm", "gemm", [f32(3, 4), f32(4, 2), f32(2)]),
        Case("Gemm", "gemm", [f32(4, 3), f32(2, 4), f32(3, 1)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
        Case("Gemm", "gemm", [f32(3, 4), f32(4, 2)]),
        Case("MatMulInteger", "matmul_integer", [u8, i8, np.uint8(3), np.int8(-2)]),
        Case("MatMulInteger", "matmul_integer", [u8, i8]),
        Case("FusedMatMul", "ms_fused_matmul", [f32(2, 3, 4), f32(2, 5, 4)], {"transB": 1, "alpha": 0.5}, domain=MS),
        Case("FusedMatMul", "ms_fused_matmul", [f32(2, 4, 3), f32(2, 4, 5)], {"transA": 1}, domain=MS),
        Case("MatMulNBits", "ms_matmul_nbits", [f32(2, 64), levels, f32(3, 2)], nbits, domain=MS),
        Case("MatMulNBits", "ms_matmul_nbits", [f32(2, 64), levels, f32(3, 2), zeros], nbits, domain=MS),
    ]


def normalizations() -> list[Case]:
    x, scale, bias = f32(2, 3, 8), f32(8), f32(8)
    simplified = Case("SimplifiedLayerNormalization", "ms_simplified_layer_normalization", [x, scale], {"axis": -1})
    return [
        Case("LayerNormalization", "layer_normalization", [x, scale, bias]),
        Case("LayerNormalization", "layer_normalization", [x, f32(3, 8)], {"axis": 1, "epsilon": 0.1}),
        Case("RMSNormalization", "rms_normalization", [x, scale], {"epsilon": 1e-3}),
        Case("LayerNormalization", "layer_norm", [x, scale, bias], {"epsilon": 1e-3}),
        Case("RMSNormalization", "rms_norm", [x, scale], {"epsilon": 1e-6}),
        simplified,
        Case(
            "SkipLayerNormalization", "ms_skip_layer_normalization", [x, f32(2, 3, 8), scale, bias, f32(8)],
            {"epsilon": 1e-5}, domain=MS, outputs=[True, False, False, True],
        ),
        Case(
            "SkipSimplifiedLayerNormalization", "ms_skip_simplified_layer_normalization", [x, f32(2, 3, 8), scale],
            {"epsilon": 1e-5}, domain=MS, outputs=[True, False, False, True],
        ),
    ]  # fmt: skip


def quantizations() -> list[Case]:
    i8 = RNG.integers(-128, 127, (3, 4), dtype=np.int8)
    return [
        Case("DequantizeLinear", "dequantize_linear", [i8, np.float32(0.1), np.int8(3)]),
        Case("DequantizeLinear", "dequantize_linear", [i8, f32(4), np.zeros(4, np.int8)]),
        Case("DequantizeLinear", "dequantize_linear", [i8, f32(3)], {"axis": 0}),
        Case("DequantizeLinear", "dequantize_linear", [i8, f32(3, 2)], {"axis": 1, "block_size": 2}),
        Case("QuantizeLinear", "quantize_linear", [f32(3, 4, scale=3), np.float32(0.1), np.uint8(9)]),
        Case("QuantizeLinear", "quantize_linear", [f32(3, 4), np.float32(0.5)]),
        Case("QuantizeLinear", "quantize_linear", [f32(3, 4), np.abs(f32(3)), np.zeros(3, np.int8)], {"axis": 0}),
        Case("DynamicQuantizeLinear", "dynamic_quantize_linear", [f32(3, 4)], outputs=[True] * 3),
        Case("DynamicQuantizeLinear", "dynamic_quantize_linear", [np.abs(f32(5))], outputs=[True] * 3),
    ]


def attentions() -> list[Case]:
    q, k, v = f32(2, 4, 3, 8), f32(2, 2, 3, 8), f32(2, 2, 3, 6)
    past = [f32(2, 2, 5, 8), f32(2, 2, 5, 6)]
    q3, k3, v3 = f32(2, 3, 32), f32(2, 5, 16), f32(2, 5, 12)
    heads = {"q_num_heads": 4, "kv_num_heads": 2}
    kv = [True, True, True]
    mask = np.where(f32(2, 1, 3, 8) > -1, 0, -1e9).astype(np.float32)
    cases: list[tuple[list[Any], dict[str, Any], list[bool]]] = [
        ([q, k, v], {"is_causal": 1}, [True]),
        ([q3, k3, v3], {**heads, "scale": 0.3}, [True]),
        ([q, k, v, mask, *past], {}, kv),
        ([q, k, v, None, *past], {"is_causal": 1}, kv),
        ([q, k, v, f32(3, 8) > 0, *past], {"softcap": 2.0}, kv),
        ([q, k, v, f32(2, 4, 3, 3)], {"softcap": 1.5, "qk_matmul_output_mode": 2}, [True, False, False, True]),
        ([q, k, v], {"qk_matmul_output_mode": 0}, [True, False, False, True]),
    ]
    found = [Case("Attention", "onnx_attention", i, a, outputs=o, tolerance=2e-6) for i, a, o in cases]
    tables = [f32(10, 4), f32(10, 4)]
    positions = i64([[0, 4, 2], [9, 1, 3]])
    x4, x3 = f32(2, 4, 3, 8), f32(2, 3, 32)
    rotary = [
        Case("RotaryEmbedding", "rotary_embedding", [x4, *tables, positions]),
        Case("RotaryEmbedding", "rotary_embedding", [x4, f32(2, 3, 4), f32(2, 3, 4)], {"interleaved": 1}),
        Case("RotaryEmbedding", "rotary_embedding", [x3, *tables, positions], {"num_heads": 4}),
        Case(
            "RotaryEmbedding", "rotary_embedding", [x4, f32(10, 2), f32(10, 2), positions], {"rotary_embedding_dim": 4}
        ),
        Case("RotaryEmbedding", "ms_rotary_embedding", [x3, positions, *tables], {"num_heads": 4}, domain=MS),
        Case("RotaryEmbedding", "ms_rotary_embedding", [x4, i64([2]), *tables], {"interleaved": 1}, domain=MS),
    ]
    return [*found, *rotary, *multi_head(), *group_query()]


def multi_head() -> list[Case]:
    q, k, v = f32(2, 3, 16), f32(2, 3, 16), f32(2, 3, 16)
    past: list[Any] = [f32(2, 4, 5, 4), f32(2, 4, 5, 4)]
    inputs: list[list[Any]] = [
        [q, k, v],
        [q, k, v, f32(48), np.array([[1, 1, 0], [1, 1, 1]], np.int32)],
        [q, k, v, None, None, f32(2, 4, 3, 8), *past],
        [q, k, v, None, None, f32(1, 1, 3, 8), *past],
    ]
    return [
        Case("MultiHeadAttention", "ms_multi_head_attention", i, a, domain=MS, outputs=[True, len(i) > 6, len(i) > 6])
        for i in inputs
        for a in ({"num_heads": 4}, {"num_heads": 4, "scale": 0.2, "unidirectional": 1})
    ]


def group_query() -> list[Case]:
    """Prefill (rows of other lengths), decode in a larger buffer, and a second chunk."""
    size = 16  # ONNX Runtime asks for a head size that is a multiple of 16 in its rotary tables
    tables: list[Any] = [f32(12, size // 2), f32(12, size // 2)]

    def past(length: int) -> list[Any]:
        return [f32(2, 2, length, size), f32(2, 2, length, size)]

    def new(count: int) -> list[Any]:
        return [f32(2, count, 4 * size), f32(2, count, 2 * size), f32(2, count, 2 * size)]

    heads = {"num_heads": 4, "kv_num_heads": 2}
    runs: list[tuple[list[Any], dict[str, Any]]] = [
        ([*new(5), *past(0), i32(4, 4), i32(5)[0], *tables], {"do_rotary": 1}),
        ([*new(5), *past(0), i32(4, 2), i32(5)[0], *tables], {"do_rotary": 1}),
        ([*new(5), *past(7), i32(4, 2), i32(5)[0]], {}),
        ([*(x[:1] for x in new(3) + past(4)), i32(6), i32(7)[0], *tables], {"do_rotary": 1}),
        ([*(x[:1] for x in new(3) + past(9)), i32(6), i32(7)[0]], {"local_window_size": 2}),
        ([*new(1), *past(7), i32(7, 4), i32(8)[0], *tables], {"do_rotary": 1, "rotary_interleaved": 1}),
        ([*new(1), *past(9), i32(6, 4), i32(7)[0], *tables], {"do_rotary": 1, "softcap": 3.0}),
        ([*new(1), *past(7), i32(7, 7), i32(8)[0]], {"local_window_size": 3, "scale": 0.4}),
        ([f32(2, 1, 8 * size), None, None, *past(7), i32(7, 3), i32(8)[0], *tables], {"do_rotary": 1}),
        ([*new(1), *past(7), i32(7, 7), i32(8)[0]], {"smooth_softmax": 1}),
    ]
    return [
        Case("GroupQueryAttention", "ms_group_query_attention", i, {**heads, **a}, domain=MS, outputs=[True] * 3)
        for i, a in runs
    ]


CASES = [
    case
    for family in (
        unary, binary, shapes, indexing, reductions, contractions, normalizations, quantizations, attentions
    )
    for case in family()
]  # fmt: skip


def run_onnx(case: Case) -> list[Array | None]:
    """The outputs of ONNX Runtime, None where not asked for."""
    names = [f"i{n}" if x is not None else "" for n, x in enumerate(case.inputs)]
    outputs = [f"o{n}" if wanted else "" for n, wanted in enumerate(case.outputs)]
    attributes: dict[str, Any] = dict(case.attributes)
    if case.onnx_op == "ConstantOfShape":
        attributes = {"value": helper.make_tensor("v", 1, [1], [0.0])}
    node = helper.make_node(case.onnx_op, names, outputs, domain=case.domain, **attributes)
    given = {n: np.asarray(x) for n, x in zip(names, case.inputs, strict=True) if x is not None}
    types = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items()
    ]
    wanted = [helper.make_empty_tensor_value_info(o) for o in outputs if o]
    graph = helper.make_graph([node], "one", types, wanted)
    opsets = [helper.make_opsetid("", case.opset), *([helper.make_opsetid(MS, 1)] if case.domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = iter(session.run(None, given))
    return [np.asarray(next(results)) if o else None for o in outputs]


def our_attributes(case: Case) -> Mapping[str, Attribute]:
    if case.ours is not None:
        return case.ours
    return {k: tuple(v) if isinstance(v, list) else v for k, v in case.attributes.items()}


def typed(x: Array | None) -> TensorType | None:
    return None if x is None else TensorType(DType.of(np.asarray(x)), np.shape(x), np.asarray(x))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_equals_onnx_runtime(case: Case) -> None:
    expected = run_onnx(case)
    definition, attributes = lookup(case.name), our_attributes(case)
    inputs = [None if x is None else np.asarray(x) for x in case.inputs]
    types = definition.infer([typed(x) for x in inputs], attributes)
    arrays = definition.evaluate(inputs, attributes)
    assert len(types) == len(arrays) >= len(expected)
    for index, wanted in enumerate(expected):
        assert (DType.of(arrays[index]), arrays[index].shape) == (types[index].dtype, types[index].shape)
        if wanted is None:
            continue
        got = arrays[index]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        if np.issubdtype(wanted.dtype, np.floating):
            finite = np.abs(wanted[np.isfinite(wanted)]).astype(np.float32)
            scale = max(1.0, float(finite.max())) if finite.size else 1.0
            np.testing.assert_allclose(got, wanted, rtol=0, atol=case.tolerance * scale)
        else:
            np.testing.assert_array_equal(got, wanted)
    assert definition.work([typed(x) for x in inputs], types, attributes) >= 0
