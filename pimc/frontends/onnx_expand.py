"""ONNX nodes that stand for several of our ops. An expansion gives the values of the node's outputs, in order.

It may return None for a node that is one op after all, which `onnx_ops` then converts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pimc.frontends.onnx_einsum import einsum
from pimc.frontends.onnx_ops import MICROSOFT, Given, NeedsContents, OnnxNode, Unsupported, require_input
from pimc.frontends.onnx_steps import Steps
from pimc.ir.graph import Value
from pimc.ir.op import Array
from pimc.ir.types import DType

Expansion = Callable[[OnnxNode, Steps], Sequence[Value | None] | None]


def _number(value: float, like: Value) -> Array:
    """A scalar of the element type of `like`."""
    return np.asarray(value, like.type.dtype.numpy)


def _axes(*axes: int) -> Array:
    return np.asarray(axes, np.int64)


def _dim(s: Steps, x: Value, axis: int) -> Value:
    """The extent of one axis, i64[1]."""
    axis %= x.type.rank
    return s.call("shape", x, start=axis, end=axis + 1)


def _fill(s: Steps, x: Value, value: int, dtype: str) -> Value:
    """A tensor of the shape of x with the same value everywhere."""
    return s.call("constant_of_shape", s.call("shape", x), value=value, dtype=dtype)


# -- element-wise -----------------------------------------------------------------------------------------------------


def _mean(node: OnnxNode, s: Steps) -> Sequence[Value]:
    total = s.call("sum", *node.inputs)
    return (s.call("div", total, _number(len(node.inputs), total)),)


def _arc_sine(s: Steps, x: Value) -> Value:
    """atan(x / sqrt(1 - x * x)), which is right at -1 and 1 too."""
    root = s.call("sqrt", s.call("sub", _number(1, x), s.call("mul", x, x)))
    return s.call("atan", s.call("div", x, root))


def _asin(node: OnnxNode, s: Steps) -> Sequence[Value]:
    return (_arc_sine(s, require_input(node, 0)),)


def _acos(node: OnnxNode, s: Steps) -> Sequence[Value]:
    x = require_input(node, 0)
    return (s.call("sub", _number(math.pi / 2, x), _arc_sine(s, x)),)


def _asinh(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """sign(x) * log(|x| + sqrt(x * x + 1))"""
    x = require_input(node, 0)
    root = s.call("sqrt", s.call("add", s.call("mul", x, x), _number(1, x)))
    return (s.call("mul", s.call("sign", x), s.call("log", s.call("add", s.call("abs", x), root))),)


def _acosh(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """log(x + sqrt(x * x - 1))"""
    x = require_input(node, 0)
    root = s.call("sqrt", s.call("sub", s.call("mul", x, x), _number(1, x)))
    return (s.call("log", s.call("add", x, root)),)


def _atanh(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """log((1 + x) / (1 - x)) / 2"""
    x = require_input(node, 0)
    one = _number(1, x)
    ratio = s.call("div", s.call("add", one, x), s.call("sub", one, x))
    return (s.call("mul", s.call("log", ratio), _number(0.5, x)),)


def _shrink(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """x + bias below -lambd, x - bias above lambd, 0 between"""
    x = require_input(node, 0)
    bias, limit = (node.float(name, default) for name, default in (("bias", 0.0), ("lambd", 0.5)))
    inner = s.call("where", s.call("greater", x, _number(limit, x)), s.call("sub", x, _number(bias, x)), _number(0, x))
    below = s.call("less", x, _number(-limit, x))
    return (s.call("where", below, s.call("add", x, _number(bias, x)), inner),)


def _dropout(node: OnnxNode, s: Steps) -> Sequence[Value | None]:
    """Nothing is dropped in inference, and all of the mask is true."""
    x, ratio, training = require_input(node, 0), node.input(1), node.input(2)
    if training is not None and training.type.array is None:
        raise NeedsContents("whether it drops anything is not known", training)
    drops = training is not None and training.type.array is not None and bool(training.type.array.any())
    if drops and (ratio is None or ratio.type.array is None or bool(ratio.type.array.any())):
        raise Unsupported("a dropout of training")
    mask = _fill(s, x, 1, "bool") if len(node.outputs) > 1 and node.outputs[1] else None
    return s.call("identity", x), mask


def _biased_gelu(approximate: str) -> Expansion:
    def expansion(node: OnnxNode, s: Steps) -> Sequence[Value]:
        x, bias = require_input(node, 0), node.input(1)
        total = x if bias is None else s.call("add", x, bias)
        return (s.call("gelu", total, approximate=approximate),)

    return expansion


# -- along axes -------------------------------------------------------------------------------------------------------


def _layer_normalization(node: OnnxNode, s: Steps) -> Sequence[Value | None] | None:
    """Its statistics too, where they are read: the mean, and one by the deviation."""
    if not any(node.outputs[1:]):
        return None
    x = require_input(node, 0)
    axis, epsilon = node.int("axis", -1), node.float("epsilon", 1e-5)
    axes = _axes(*range(axis % x.type.rank, x.type.rank))
    wide = s.call("cast", x, to="f32") if node.int("stash_type", 1) == 1 and x.type.dtype is not DType.F32 else x
    mean = s.call("reduce_mean", wide, axes)
    centred = s.call("sub", wide, mean)
    variance = s.call("reduce_mean", s.call("mul", centred, centred), axes)
    inverse = s.call("reciprocal", s.call("sqrt", s.call("add", variance, _number(epsilon, wide))))
    return s.call("layer_normalization", *node.inputs, axis=axis, epsilon=epsilon), mean, inverse


def _batch_normalization(node: OnnxNode, s: Steps) -> Sequence[Value | None]:
    if node.int("training_mode", 0) or any(node.outputs[1:]):
        raise Unsupported("a batch normalization of training")
    x = require_input(node, 0)
    shape = _axes(-1, *[1] * (x.type.rank - 2))
    scale, bias, mean, variance = (s.call("reshape", node.input(i), shape) for i in range(1, 5))
    root = s.call("sqrt", s.call("add", variance, _number(node.float("epsilon", 1e-5), variance)))
    normal = s.call("div", s.call("sub", x, mean), root)
    return (s.call("add", s.call("mul", normal, scale), bias),)


def _instance_normalization(node: OnnxNode, s: Steps) -> Sequence[Value | None]:
    x = require_input(node, 0)
    shape, axes = _axes(-1, *[1] * (x.type.rank - 2)), _axes(*range(2, x.type.rank))
    scale, bias = (s.call("reshape", node.input(i), shape) for i in (1, 2))
    centred = s.call("sub", x, s.call("reduce_mean", x, axes))
    variance = s.call("reduce_mean", s.call("mul", centred, centred), axes)
    root = s.call("sqrt", s.call("add", variance, _number(node.float("epsilon", 1e-5), x)))
    return (s.call("add", s.call("mul", s.call("div", centred, root), scale), bias),)


def _global_pool(op: str) -> Expansion:
    def expansion(node: OnnxNode, s: Steps) -> Sequence[Value]:
        x = require_input(node, 0)
        return (s.call(op, x, _axes(*range(2, x.type.rank))),)

    return expansion


def _lp_normalization(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """x by its norm along an axis, 0 where that is 0"""
    x, p = require_input(node, 0), node.int("p", 2)
    if p not in (1, 2):
        raise Unsupported(f"the norm of order {p}")
    norm = s.call(f"reduce_l{p}", x, _axes(node.int("axis", -1)))
    return (s.call("div", x, s.call("where", s.call("equal", norm, _number(0, x)), _number(1, x), norm)),)


def _hardmax(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """1 at the first largest element along an axis, 0 elsewhere"""
    x = require_input(node, 0)
    axis = node.int("axis", -1 if node.version >= 13 else 1)
    if node.version < 13 and axis not in (-1, x.type.rank - 1):
        raise Unsupported("hardmax over several axes (opset below 13)")
    largest = s.call("arg_max", x, axis=axis, keepdims=0)
    return (s.call("one_hot", largest, _dim(s, x, axis), np.asarray([0, 1], x.type.dtype.numpy), axis=axis),)


# -- by position ------------------------------------------------------------------------------------------------------


def _eye_like(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """Ones on diagonal k, of the shape of a matrix"""
    x = require_input(node, 0)
    dtype = node.dtype("dtype") or x.type.dtype
    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
    rows, columns = (s.call("range", zero, s.call("reshape", _dim(s, x, i), _axes()), one) for i in (0, 1))
    diagonal = s.call("add", s.call("reshape", rows, _axes(-1, 1)), np.asarray(node.int("k", 0), np.int64))
    return (s.call("cast", s.call("equal", columns, diagonal), to=dtype.text),)


def _reverse_sequence(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """The first `lengths` elements of each sequence backwards: position p from length - 1 - p"""
    x, lengths = require_input(node, 0), require_input(node, 1)
    batch, time = node.int("batch_axis", 1), node.int("time_axis", 0)

    def along(axis: int) -> Array:
        return _axes(*(-1 if i == axis else 1 for i in range(x.type.rank)))

    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
    steps = s.call("range", zero, s.call("reshape", _dim(s, x, time), _axes()), one)
    place = s.call("reshape", steps, along(time))
    length = s.call("reshape", s.call("cast", lengths, to="i64"), along(batch))
    mirrored = s.call("sub", s.call("sub", length, one), place)
    source = s.call("where", s.call("less", place, length), mirrored, place)
    return (s.call("gather_elements", x, s.call("expand", source, s.call("shape", x)), axis=time),)


# -- quantized products of ONNX Runtime -------------------------------------------------------------------------------


def _scaled_product(s: Steps, product: Value, scales: Sequence[Given], bias: Value | None) -> Value:
    out = s.call("cast", product, to="f32")
    for scale in scales:
        out = s.call("mul", out, scale)
    return out if bias is None else s.call("add", out, bias)


def _matmul_integer_to_float(node: OnnxNode, s: Steps) -> Sequence[Value]:
    x, y, x_scale, y_scale, x_zero, y_zero, bias = (node.input(i) for i in range(7))
    product = s.call("matmul_integer", x, y, x_zero, y_zero)
    return (_scaled_product(s, product, (x_scale, y_scale), bias),)


def _qlinear_matmul(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """The product of the values that the levels stand for, in levels again."""
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (require_input(node, i) for i in range(8))
    x = s.call("dequantize_linear", a, a_scale, a_zero, axis=-2, output_dtype="f32")
    y = s.call("dequantize_linear", b, b_scale, b_zero, axis=-1, output_dtype="f32")
    return (s.call("quantize_linear", s.call("matmul", x, y), s.call("cast", scale, to="f32"), zero, axis=-2),)


def _dynamic_quantize_matmul(node: OnnxNode, s: Steps) -> Sequence[Value]:
    x, y, y_scale, y_zero, bias = (node.input(i) for i in range(5))
    levels, x_scale, x_zero = s.calls("dynamic_quantize_linear", x)
    product = s.call("matmul_integer", levels, y, x_zero, y_zero)
    return (_scaled_product(s, product, (x_scale, y_scale), bias),)


def _flat_softmax(op: str) -> Expansion:
    """Before opset 13 all axes from the given one on were one."""

    def expansion(node: OnnxNode, s: Steps) -> Sequence[Value] | None:
        x = require_input(node, 0)
        axis, rank = node.int("axis", 1), x.type.rank
        if node.version >= 13 or node.domain:
            return None
        if not -rank <= axis < rank:
            raise Unsupported(f"axis {axis} of {x.type}")
        if axis % rank == rank - 1:
            return (s.call(op, x, axis=-1),)
        flat = s.call(op, s.call("flatten", x, axis=axis % rank), axis=-1)
        return (s.call("reshape", flat, s.call("shape", x)),)

    return expansion


def _packed_attention(node: OnnxNode, s: Steps) -> Sequence[Value | None] | None:
    """Query, key and value that come side by side, [B, S, heads, 3 (or 2), D], are taken apart."""
    query, key = require_input(node, 0), node.input(1)
    if node.input(2) is not None:
        return None
    packed, first = (query, 0) if key is None else (key, 1)
    count = 3 - first
    if packed.type.rank != 5 or packed.type.shape[3] != count:
        raise Unsupported("queries, keys and values packed otherwise than in the last but one of five dimensions")
    parts = s.calls("split", packed, None, axis=3, num_outputs=count)
    flat = [s.call("reshape", part, _axes(0, 0, -1)) for part in parts]
    operands = (*((query,) if first else ()), *flat, *node.inputs[3:])
    attributes = {k: v for k, v in node.attributes.items() if isinstance(v, (int, float))}
    return s.calls("ms_multi_head_attention", *operands, **attributes)


EXPANSIONS: dict[tuple[str, str], Expansion] = {
    ("", "Acos"): _acos,
    ("", "Acosh"): _acosh,
    ("", "Asin"): _asin,
    ("", "Asinh"): _asinh,
    ("", "Atanh"): _atanh,
    ("", "BatchNormalization"): _batch_normalization,
    ("", "Dropout"): _dropout,
    ("", "Einsum"): einsum,
    ("", "EyeLike"): _eye_like,
    ("", "GlobalAveragePool"): _global_pool("reduce_mean"),
    ("", "GlobalMaxPool"): _global_pool("reduce_max"),
    ("", "Hardmax"): _hardmax,
    ("", "InstanceNormalization"): _instance_normalization,
    ("", "LayerNormalization"): _layer_normalization,
    ("", "LogSoftmax"): _flat_softmax("log_softmax"),
    ("", "LpNormalization"): _lp_normalization,
    ("", "Mean"): _mean,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "ReverseSequence"): _reverse_sequence,
    ("", "Shrink"): _shrink,
    ("", "Softmax"): _flat_softmax("softmax"),
    (MICROSOFT, "BiasGelu"): _biased_gelu("none"),
    (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    (MICROSOFT, "FastGelu"): _biased_gelu("tanh"),
    (MICROSOFT, "MatMulIntegerToFloat"): _matmul_integer_to_float,
    (MICROSOFT, "MultiHeadAttention"): _packed_attention,
}
"""By domain and op type."""
