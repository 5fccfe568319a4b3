"""Activation functions that have attributes, and the softmax family."""

from __future__ import annotations

import math

import numpy as np

from pimc.ir.op import Array, OpClass, OpDef, op, require
from pimc.ir.ops.elementwise import erf, sigmoid
from pimc.ir.ops.rules import axis_of, broadcast, compatible, same_dtype, want_float, wide
from pimc.ir.types import TensorType


def _float_like(x: TensorType) -> TensorType:
    want_float(x)
    return TensorType(x.dtype, x.shape)


def softmax_rows(x: Array, axis: int = -1) -> Array:
    """Softmax in the type of `x`; a slice of minus infinities gives NaN, as exporters' masks expect."""
    if x.size == 0:
        return x
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return np.asarray(powers / np.sum(powers, axis=axis, keepdims=True))


@op("softmax", cls=OpClass.REDUCTION)
def softmax(x: TensorType, *, axis: int = -1) -> TensorType:
    """`exp(x) / sum(exp(x))` along an axis, computed in float32."""
    axis_of(axis, x.rank)
    return _float_like(x)


@softmax.reference
def _(x: Array, *, axis: int = -1) -> Array:
    return softmax_rows(wide(x), axis).astype(x.dtype)


@op("log_softmax", cls=OpClass.REDUCTION)
def log_softmax(x: TensorType, *, axis: int = -1) -> TensorType:
    """The logarithm of the softmax along an axis."""
    axis_of(axis, x.rank)
    return _float_like(x)


@log_softmax.reference
def _(x: Array, *, axis: int = -1) -> Array:
    shifted = wide(x) - np.max(wide(x), axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))).astype(x.dtype)


@op("gelu", cls=OpClass.ELEMENTWISE)
def gelu(x: TensorType, *, approximate: str = "none") -> TensorType:
    """`x * (1 + erf(x / sqrt(2))) / 2`, or its approximation by tanh."""
    require(approximate in ("none", "tanh"), f"approximate must be 'none' or 'tanh', not '{approximate}'")
    return _float_like(x)


@gelu.reference
def _(x: Array, *, approximate: str = "none") -> Array:
    v = wide(x)
    if approximate == "tanh":
        inner = np.tanh(v.dtype.type(math.sqrt(2 / math.pi)) * (v + v.dtype.type(0.044715) * v * v * v))
    else:
        inner = erf(v * v.dtype.type(math.sqrt(0.5)))
    return np.asarray(v * v.dtype.type(0.5) * (1 + inner)).astype(x.dtype)


@op("swish", cls=OpClass.ELEMENTWISE)
def swish(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """`x * sigmoid(alpha * x)`."""
    return _float_like(x)


@swish.reference
def _(x: Array, *, alpha: float = 1.0) -> Array:
    v = wide(x)
    return np.asarray(v * sigmoid(v * v.dtype.type(alpha))).astype(x.dtype)


@op("leaky_relu", cls=OpClass.ELEMENTWISE)
def leaky_relu(x: TensorType, *, alpha: float = 0.01) -> TensorType:
    """`x` where it is positive, else `alpha * x`."""
    return _float_like(x)


@leaky_relu.reference
def _(x: Array, *, alpha: float = 0.01) -> Array:
    v = wide(x)
    return np.where(v >= 0, v, v * v.dtype.type(alpha)).astype(x.dtype)


@op("prelu", cls=OpClass.ELEMENTWISE)
def prelu(x: TensorType, slope: TensorType) -> TensorType:
    """`x` where it is positive, else `slope * x`; the slope broadcasts to `x`."""
    compatible(broadcast(x.shape, slope.shape), x.shape, "the operand with the slope")
    same_dtype(x, slope)
    return _float_like(x)


prelu.reference(lambda x, slope: np.where(x >= 0, x, x * slope))


@op("elu", cls=OpClass.ELEMENTWISE)
def elu(x: TensorType, *, alpha: float = 1.0) -> TensorType:
    """`x` where it is positive, else `alpha * (exp(x) - 1)`."""
    return _float_like(x)


@elu.reference
def _(x: Array, *, alpha: float = 1.0) -> Array:
    v = wide(x)
    return np.where(v >= 0, v, v.dtype.type(alpha) * np.expm1(np.minimum(v, 0))).astype(x.dtype)


@op("hard_sigmoid", cls=OpClass.ELEMENTWISE)
def hard_sigmoid(x: TensorType, *, alpha: float = 0.2, beta: float = 0.5) -> TensorType:
    """`alpha * x + beta` held between 0 and 1."""
    return _float_like(x)


@hard_sigmoid.reference
def _(x: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    v = wide(x)
    return np.asarray(np.clip(v * v.dtype.type(alpha) + v.dtype.type(beta), 0, 1)).astype(x.dtype)


def _count(per_element: int, *definitions: OpDef) -> None:
    """Operations an element, each function (exponential, tanh, division) counted as one."""

    def flops(x: TensorType, *_: object, results: tuple[TensorType, ...], **__: object) -> int:
        return per_element * x.elements

    for definition in definitions:
        definition.flops(flops)


_count(5, softmax, log_softmax)
_count(8, gelu)
_count(4, swish)
