"""One node each: op, operands, attributes, and which operands are constants known to the compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pimc.ir.op import Array, Attribute
from tests.backends.kernel_harness import floats, integers


@dataclass(frozen=True)
class Case:
    op: str
    arrays: Sequence[Array | None]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    known: Sequence[int] = ()

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, a.shape)) if a is not None else "_" for a in self.arrays)
        chosen = ",".join(f"{k}={v}" for k, v in self.attributes.items()).replace(" ", "")
        return f"{self.op}-{shapes}-{chosen}"


def ints(*values: object) -> Array:
    return np.array(values, np.int64)


def number(value: float) -> Array:
    return np.array(value, np.float32)


def distinct(below: int, *shape: int) -> Array:
    """Indices without repetition along the last axis."""
    generator = np.random.default_rng(0)
    rows = [generator.permutation(below)[: shape[-1]] for _ in range(int(np.prod(shape[:-1])))]
    return np.stack(rows).reshape(shape)


def levels(*shape: int, dtype: type = np.uint8) -> Array:
    """8-bit integers over their whole range."""
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8).view(dtype)


def scales(*shape: int) -> Array:
    return np.abs(floats(*shape)) / 50 + np.float32(0.001)


_UNARY = (
    "abs", "neg", "sign", "reciprocal", "exp", "sin", "cos", "tan", "tanh", "atan", "sinh", "cosh", "erf", "floor",
    "ceil", "round", "relu", "sigmoid", "softplus", "softsign", "silu", "mish", "hard_swish", "gelu", "swish",
    "leaky_relu", "elu", "hard_sigmoid", "is_nan", "is_inf",
)  # fmt: skip

SMALL = [Case(name, [floats(7, 30)]) for name in _UNARY]
"""Cases that differ in nothing but their recipe."""
SMALL += [
    Case("sqrt", [np.abs(floats(7, 30))]),
    Case("log", [np.abs(floats(7, 30)) + 0.1]),
    Case("gelu", [floats(300)], {"approximate": "tanh"}),
    Case("not", [floats(40) > 0]),
    Case("bitwise_not", [integers(40)]),
    Case("is_inf", [np.array([np.inf, -np.inf, np.nan, 1], np.float32)], {"detect_negative": 0}),
    Case("is_inf", [np.array([np.inf, -np.inf, np.nan, 1], np.float32)], {"detect_positive": 0}),
    Case("is_nan", [np.array([np.inf, -np.inf, np.nan, 1], np.float32)]),
    Case("pow", [np.abs(floats(5, 6)) + 0.1, floats(6)]),
    *(Case("pow", [np.abs(floats(5, 6)) + 0.1, number(e)], known=(1,)) for e in (2, 3, 0.5, -0.5, -1, 1.7)),
    Case("pow", [integers(5, 6), ints(3)], known=(1,)),
    Case("mod", [floats(5, 6), floats(6)]),
    Case("mod", [integers(5, 6, low=-9), integers(6, low=1)]),
    Case("mod", [floats(5, 6), floats(6)], {"fmod": 1}),
    Case("div", [integers(5, 6, low=-9), integers(6, low=1)]),
    Case("clip", [floats(5, 6), number(-0.5), number(0.5)], known=(1, 2)),
    Case("clip", [floats(5, 6), None, number(0.5)], known=(2,)),
    Case("clip", [floats(5, 6), number(0.5)]),
    Case("clip", [floats(5, 6)]),
    Case("prelu", [floats(5, 6), floats(6)]),
    Case("max", [floats(5, 6), floats(6), floats(5, 1)]),
    Case("min", [floats(5, 6)]),
    Case("sum", [integers(5, 6), integers(6), integers(1)]),
    *(Case(name, [integers(5, 6), integers(6)]) for name in ("equal", "less", "less_or_equal", "greater",
                                                             "greater_or_equal")),
    *(Case(name, [floats(5, 6) > 0, floats(6) > 0]) for name in ("and", "or", "xor")),
    *(Case(f"bitwise_{name}", [integers(5, 6), integers(6)]) for name in ("and", "or", "xor")),
    Case("cast", [floats(3, 4) * 5], {"to": "i64"}),
    Case("cast", [floats(3, 4).round()], {"to": "bool"}),
    Case("cast", [integers(3, 4)], {"to": "f32"}),
    Case("sub", [number(1), floats(5, 6)], known=(0,)),
    Case("where", [floats(4, 6) > 0, number(-np.inf), floats(4, 1)], known=(1,)),
    Case("constant_of_shape", [ints(3, 5)], {"value": 2.5}, known=(0,)),
    *(Case(f"reduce_{name}", [floats(2, 0, 3), ints(1)], known=(1,)) for name in ("sum", "prod", "max", "min", "mean")),
    *(Case(f"reduce_{name}", [integers(2, 0), ints(1)], known=(1,)) for name in ("sum", "max", "min", "mean")),
    Case("reduce_max", [integers(0, 3), ints(0)], {"keepdims": 0}, (1,)),
]  # fmt: skip

SPATIAL = [
    Case("add", [floats(3, 8, 20), floats(8, 1)]),
    Case("mul", [floats(2, 3, 4, 5), floats(4, 5)]),
    Case("where", [floats(4, 6) > 0, floats(1, 6), floats(4, 1)]),
    Case("add", [integers(5, 6), integers(6)]),
    Case("reshape", [floats(4, 6, 8), ints(8, 24)], known=(1,)),
    Case("reshape", [floats(4, 6, 8), ints(6, 4, 8)], known=(1,)),
    Case("unsqueeze", [floats(4, 6), ints(1)], known=(1,)),
    Case("transpose", [floats(4, 6, 8)], {"perm": (2, 0, 1)}),
    Case("expand", [floats(4, 1, 8), ints(3, 4, 6, 8)], known=(1,)),
    Case("concat", [floats(4, 3, 8), floats(4, 5, 8)], {"axis": 1}),
    Case("concat", [floats(4, 3), floats(4, 5), floats(4, 4)], {"axis": -1}),
    Case("split", [floats(4, 12), ints(3, 8, 1)], {"axis": 1}, (1,)),
    Case("slice", [floats(6, 12), ints(1, -2), ints(5, -9), ints(0, 1), ints(2, -3)], {}, (1, 2, 3, 4)),
    Case("slice", [floats(6, 12, 2), ints(3), ints(9), ints(1)], {}, (1, 2, 3)),
    Case("tile", [floats(3, 4), ints(2, 3)], known=(1,)),
    Case("pad", [floats(3, 4), ints(1, 2, 0, 3)], known=(1,)),
    Case("pad", [floats(3, 4), ints(1, 2, 0, 3)], {"mode": "edge"}, (1,)),
    Case("pad", [floats(3, 4), ints(1, 2, 1, 3)], {"mode": "reflect"}, (1,)),
    Case("pad", [floats(4, 4), ints(-1, 2, 0, -1)], {}, (1,)),
    Case("trilu", [floats(2, 5, 6)], {"upper": 0}),
    Case("trilu", [floats(5, 6), np.array(-1)], {"upper": 1}, (1,)),
    Case("cache_append", [floats(1, 2, 5, 4), floats(1, 2, 3, 4)], {"axis": 2}),
    Case("softmax", [floats(3, 4, 50)]),
    Case("softmax", [floats(6, 20, 4)], {"axis": 1}),
    Case("log_softmax", [floats(5, 30)]),
    Case("layer_norm", [floats(4, 40), floats(40), floats(40, seed=1)], {"epsilon": 1e-5}),
    Case("layer_norm", [floats(2, 3, 40), floats(40)], {"epsilon": 1e-5}),
    Case("rms_norm", [floats(2, 3, 40), floats(40)], {"epsilon": 1e-5}),
    Case("layer_normalization", [floats(2, 3, 8, 4), floats(8, 4), floats(4)], {"axis": -2}),
    Case("reduce_mean", [floats(3, 5, 8), ints(-1)], known=(1,)),
    Case("reduce_sum", [floats(4, 5, 8), ints(0, 2)], {"keepdims": 0}, (1,)),
    Case("reduce_max", [integers(4, 50)]),
    Case("reduce_l1", [floats(4, 50), ints(1)], {}, (1,)),
    Case("reduce_l2", [floats(4, 50), ints(1)], {}, (1,)),
    Case("reduce_prod", [floats(4, 5), ints(1)], {}, (1,)),
    Case("arg_max", [floats(4, 70)], {"axis": 1}),
    Case("arg_max", [integers(4, 70, high=5)], {"axis": 1, "select_last_index": 1, "keepdims": 0}),
    Case("arg_min", [floats(4, 6, 3)], {"axis": 1}),
    Case("cum_sum", [floats(4, 60), ints(1)], {}, (1,)),
    Case("cum_sum", [integers(60, 4), ints(0)], {"exclusive": 1, "reverse": 1}, (1,)),
    Case("top_k", [floats(4, 30), ints(3)], {}, (1,)),
    Case("top_k", [floats(6, 5, 2), ints(2)], {"axis": 1, "largest": 0}, (1,)),
    Case("rotary", [floats(2, 3, 5, 8), floats(2, 5, 4), floats(2, 5, 4, seed=1)]),
    Case("rotary", [floats(2, 3, 5, 12), floats(1, 5, 4), floats(1, 5, 4, seed=1)], {"interleaved": True}),
    Case("rotary", [floats(2, 3, 5, 12), floats(1, 5, 4), floats(1, 5, 4, seed=1)]),
    Case("attention_softmax", [floats(2, 3, 5, 20)], {"causal": True}),
    Case("attention_softmax", [floats(2, 3, 5, 20), floats(2, 1, 5, 20), ints(7, 20)], {"causal": True}),
    Case("attention_softmax", [floats(2, 3, 5, 20), floats(1, 1, 5, 20) > 0, ints(0, 20)], {"softcap": 3.0}),
    Case("attention_softmax", [floats(2, 3, 5, 20), None, ints(9, 20)], {"window": 4, "causal": True}),
    Case("attention_softmax", [floats(2, 3, 1, 60), floats(1, 60)], {"window": 9}),
    Case("attention_softmax", [floats(2, 3, 1, 60)]),
    Case("gather", [floats(30, 12), integers(2, 5, low=-30, high=30)]),
    Case("gather", [floats(4, 9, 6), integers(3, high=9)], {"axis": 1}),
    Case("gather", [floats(4, 9), integers(3, 2, high=9)], {"axis": -1}),
    Case("gather", [integers(20), np.array(3)]),
    Case("gather", [floats(30, 700), integers(9, high=30)]),
    Case("gather_elements", [floats(4, 9, 3), integers(4, 5, 3, high=9)], {"axis": 1}),
    Case("gather_elements", [floats(6, 8), integers(2, 8, low=-6, high=6)], {"axis": 0}),
    Case("scatter_elements", [floats(4, 9), distinct(9, 4, 5), floats(4, 5)], {"axis": 1}),
    Case("scatter_elements", [floats(6, 8), integers(3, 8, high=6), floats(3, 8)], {"axis": 0, "reduction": "add"}),
    Case("gather_nd", [floats(4, 5, 6), integers(3, 2, low=-4, high=4)]),
    Case("gather_nd", [floats(4, 5, 6), integers(4, 3, 1, high=5)], {"batch_dims": 1}),
    Case("gather_nd", [floats(4, 5, 6), integers(7, 3, high=4)]),
    Case("scatter_nd", [floats(8, 6), ints([1], [-3], [4]), floats(3, 6)]),
    Case("scatter_nd", [floats(8, 6), ints([1, 2], [3, 0], [4, 5], [1, 2]), floats(4)], {"reduction": "add"}),
    Case("one_hot", [integers(3, 4, low=-6, high=6), np.array(6), floats(2)], {}, (1,)),
    Case("one_hot", [integers(3, 4, high=6), np.array(6), floats(2)], {"axis": 0}, (1, 2)),
    Case("tensor_scatter", [floats(2, 3, 9, 6), floats(2, 3, 4, 6), ints(5, 0)]),
    Case("tensor_scatter", [floats(3, 9, 6), floats(3, 4, 6), ints(5, 8, 2)], {"axis": 1, "mode": "circular"}),
    Case("tensor_scatter", [floats(2, 9, 2, 4), floats(2, 3, 2, 4)], {"axis": 1}),
    Case("tensor_scatter", [floats(2, 3, 8), floats(2, 3, 4), ints(1, 4)], {"axis": -1}),
    Case("quantize_linear", [floats(4, 24), number(0.03), levels()]),
    Case("quantize_linear", [floats(4, 24), scales(24), levels(24, dtype=np.int8)], {"axis": 1}),
    Case("quantize_linear", [floats(4, 10, 3), scales(4, 3, 3)], {"axis": 1, "block_size": 4, "output_dtype": "i8"}),
    Case("dequantize_linear", [levels(4, 24), number(0.03), levels()]),
    Case("dequantize_linear", [levels(6, 20, dtype=np.int8), scales(6), levels(6, dtype=np.int8)], {"axis": 0}),
    Case("dequantize_linear", [levels(5, 22), scales(5, 3), levels(5, 3)], {"axis": -1, "block_size": 8}),
]
"""Cases in which the place of operands and result matters."""

LONG = [
    Case("softmax", [floats(2, 3000)]),
    Case("log_softmax", [floats(2, 3001)]),
    Case("layer_norm", [floats(3, 2500), floats(2500), floats(2500, seed=1)], {"epsilon": 1e-5}),
    Case("rms_norm", [floats(1, 2500), floats(2500)], {"epsilon": 1e-5}),
    Case("reduce_mean", [floats(3, 2999), ints(-1)], known=(1,)),
    Case("reduce_max", [integers(2, 2999)]),
    Case("arg_max", [floats(3, 2999)], {"axis": 1}),
    Case("arg_max", [integers(3, 2999, high=7)], {"axis": 1, "select_last_index": 1}),
    Case("arg_min", [integers(3, 2999, high=7)], {"axis": 1}),
    Case("cum_sum", [integers(3, 2999), ints(1)], {}, (1,)),
    Case("cum_sum", [integers(2999), ints(0)], {"exclusive": 1, "reverse": 1}, (1,)),
    Case("attention_softmax", [floats(1, 2, 3, 1500)], {"causal": True}),
    Case("attention_softmax", [floats(2, 1, 3, 1500), floats(1500), ints(1200, 7)], {"causal": True, "window": 900}),
    Case("gelu", [floats(3, 2999)]),
    Case("transpose", [floats(130, 50)]),
    Case("gather", [floats(9, 3000), integers(4, high=9)]),
    Case("trilu", [floats(60, 50)]),
]
"""Rows that do not fit in a few KiB."""

PRODUCTS = [
    Case("matmul", [floats(3, 20), floats(20, 17)]),
    Case("matmul", [floats(20, 300), floats(300, 26)]),
    Case("matmul", [floats(2, 3, 20), floats(20, 17)]),
    Case("matmul", [floats(2, 1, 5, 20), floats(3, 20, 17)]),
    Case("matmul", [floats(20), floats(3, 20, 17)]),
    Case("matmul", [floats(3, 4, 20), floats(20)]),
    Case("matmul", [integers(4, 5, low=-3), integers(5, 6)]),
    Case("matmul_integer", [levels(4, 50), levels(50, 6, dtype=np.int8)]),
    Case("matmul_integer", [integers(2, 3, 20, low=-255, high=255).astype(np.int32), levels(20, 7)]),
    Case("matmul", [floats(2, 3, 0), floats(0, 4)]),
    Case("gemm", [floats(3, 0), floats(0, 4), floats(4)]),
    Case("attention_context", [floats(1, 2, 3, 0), floats(1, 2, 0, 8)]),
    Case("gemm", [floats(20, 6), floats(9, 20), floats(9)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("ms_fused_matmul", [floats(4, 2, 5), floats(2, 6, 5)], {"alpha": 0.5, "transBatchA": 1, "transB": 1}),
    Case("attention_scores", [floats(2, 4, 3, 16), floats(2, 2, 13, 16)], {"scale": 0.25}),
    Case("attention_context", [floats(2, 4, 3, 13), floats(2, 2, 13, 16)]),
    Case("attention_context", [floats(2, 4, 1, 130), floats(2, 2, 130, 16)]),
]

PLACES = [
    # operands, result, scratch bytes
    ("dram", "dram", 1 << 16),
    ("buffer", "buffer", 1 << 16),
    ("dram:padded", "dram:turned", 4096),
    ("dram:digits", "dram:cache", 4096),
    ("dram:cache", "buffer", 4096),
    ("dram:turned", "dram", 1 << 16),
    ("buffer:padded", "dram", 4096),
    ("buffer:digits", "buffer:turned", 1 << 16),
]
