"""Layer and RMS normalization: the canonical forms, ONNX's, and those of the com.microsoft domain."""

from __future__ import annotations

from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, OpDef, op, require
from pimc.ir.ops.rules import agree, axis_of, broadcast, compatible, same_dtype, want_float, wide
from pimc.ir.types import Dim, DType, TensorType


def rms_normalized(x: Array, axis: int, epsilon: float) -> Array:
    """`x / sqrt(mean(x * x) + epsilon)` over all dimensions from `axis` on."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = np.mean(x * x, axis=axes, keepdims=True)
    return np.asarray(x / np.sqrt(mean + x.dtype.type(epsilon)))


def standardized(x: Array, axis: int, epsilon: float) -> Array:
    """`x` less its mean, by the root of its variance plus epsilon, over all dimensions from `axis` on."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - np.mean(x, axis=axes, keepdims=True)
    return rms_normalized(centred, axis, epsilon)


def _scaled(x: Array, scale: Array, bias: Array | None, like: Array) -> Array:
    out = x * wide(scale)
    return np.asarray(out if bias is None else out + wide(bias)).astype(like.dtype)


def _vector(x: TensorType, *parameters: TensorType | None) -> None:
    """Each parameter is a vector as long as the last dimension of `x`."""
    require(x.rank >= 1, "the operand must have rank 1 or more")
    for parameter in parameters:
        if parameter is not None:
            require(parameter.rank == 1, f"scale and bias must be vectors, not {parameter}")
            agree(parameter.shape[0], x.shape[-1], "the length of scale or bias")
    same_dtype(x, *parameters)
    want_float(x)


def _trailing(x: TensorType, axis: int, *parameters: TensorType | None) -> TensorType:
    """Each parameter broadcasts to the dimensions of `x` from `axis` on."""
    want_float(x)
    axis_of(axis, x.rank)
    for parameter in parameters:
        if parameter is not None:
            compatible(broadcast(parameter.shape, x.shape), x.shape, "the operand with scale and bias")
    return TensorType(x.dtype, x.shape)


@op("rms_norm", cls=OpClass.COMPOSITE)
def rms_norm(x: TensorType, scale: TensorType, *, epsilon: float) -> TensorType:
    """`x / sqrt(mean(x * x) + epsilon) * scale` over the last axis, in float32."""
    _vector(x, scale)
    return TensorType(x.dtype, x.shape)


@rms_norm.reference
def _(x: Array, scale: Array, *, epsilon: float) -> Array:
    return _scaled(rms_normalized(wide(x), -1, epsilon), scale, None, x)


@op("layer_norm", cls=OpClass.COMPOSITE)
def layer_norm(x: TensorType, scale: TensorType, bias: TensorType | None = None, *, epsilon: float) -> TensorType:
    """`(x - mean(x)) / sqrt(variance(x) + epsilon) * scale + bias` over the last axis, in float32."""
    _vector(x, scale, bias)
    return TensorType(x.dtype, x.shape)


@layer_norm.reference
def _(x: Array, scale: Array, bias: Array | None = None, *, epsilon: float) -> Array:
    return _scaled(standardized(wide(x), -1, epsilon), scale, bias, x)


@op("layer_normalization", cls=OpClass.COMPOSITE)
def layer_normalization(
    x: TensorType,
    scale: TensorType,
    bias: TensorType | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> TensorType:
    """ONNX LayerNormalization, over all dimensions from `axis` on; without its outputs of mean and deviation."""
    return _trailing(x, axis, scale, bias)


@layer_normalization.reference
def _(
    x: Array,
    scale: Array,
    bias: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Array:
    return _scaled(standardized(wide(x), axis, epsilon), scale, bias, x)


@op("rms_normalization", cls=OpClass.COMPOSITE)
def rms_normalization(
    x: TensorType, scale: TensorType, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> TensorType:
    """ONNX RMSNormalization, over all dimensions from `axis` on."""
    return _trailing(x, axis, scale)


@op("ms_simplified_layer_normalization", cls=OpClass.COMPOSITE)
def ms_simplified_layer_normalization(
    x: TensorType, scale: TensorType, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> TensorType:
    """SimplifiedLayerNormalization of ONNX Runtime: RMS normalization by another name."""
    return _trailing(x, axis, scale)


def _rms(x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Array:
    return _scaled(rms_normalized(wide(x), axis, epsilon), scale, None, x)


rms_normalization.reference(_rms)
ms_simplified_layer_normalization.reference(_rms)


def _skip_types(x: TensorType, skip: TensorType, *parameters: TensorType | None) -> tuple[TensorType, ...]:
    _vector(x, *parameters)
    out = TensorType(same_dtype(x, skip), x.shape)
    compatible(broadcast(x.shape, skip.shape), x.shape, "the operand with the skip")
    ones: tuple[Dim, ...] = (*x.shape[:-1], 1)
    statistics = TensorType(DType.F32, ones)
    return out, statistics, statistics, out


def _skip_arrays(
    x: Array, skip: Array, scale: Array, beta: Array | None, bias: Array | None, epsilon: float, centre: bool
) -> tuple[Array, ...]:
    total = wide(x) + wide(skip)
    if bias is not None:
        total = total + wide(bias)
    mean = np.mean(total, axis=-1, keepdims=True) if centre else np.zeros((*x.shape[:-1], 1), np.float32)
    centred = total - mean
    deviation = 1 / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + total.dtype.type(epsilon))
    out = _scaled(rms_normalized(centred, -1, epsilon), scale, beta, x)
    return out, mean.astype(np.float32), deviation.astype(np.float32), total.astype(x.dtype)


@op("ms_skip_layer_normalization", cls=OpClass.COMPOSITE)
def ms_skip_layer_normalization(
    x: TensorType,
    skip: TensorType,
    gamma: TensorType,
    beta: TensorType | None = None,
    bias: TensorType | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[TensorType, ...]:
    """com.microsoft SkipLayerNormalization: layer norm of `x + skip + bias`; results in its order.

    They are: normalized, mean, inverse deviation, and the sum that was normalized.
    """
    return _skip_types(x, skip, gamma, beta, bias)


@ms_skip_layer_normalization.reference
def _(
    x: Array,
    skip: Array,
    gamma: Array,
    beta: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Array, ...]:
    return _skip_arrays(x, skip, gamma, beta, bias, epsilon, centre=True)


@op("ms_skip_simplified_layer_normalization", cls=OpClass.COMPOSITE)
def ms_skip_simplified_layer_normalization(
    x: TensorType, skip: TensorType, gamma: TensorType, bias: TensorType | None = None, *, epsilon: float = 1e-12
) -> tuple[TensorType, ...]:
    """com.microsoft SkipSimplifiedLayerNormalization: RMS norm of `x + skip + bias`; results in its order.

    They are: normalized, mean (0), inverse deviation, and the sum that was normalized.
    """
    return _skip_types(x, skip, gamma, bias)


@ms_skip_simplified_layer_normalization.reference
def _(x: Array, skip: Array, gamma: Array, bias: Array | None = None, *, epsilon: float = 1e-12) -> tuple[Array, ...]:
    return _skip_arrays(x, skip, gamma, None, bias, epsilon, centre=False)


def _count(per_element: int, *definitions: OpDef) -> None:
    def flops(x: TensorType, *_: object, results: tuple[TensorType, ...], **__: Any) -> int:
        return per_element * x.elements

    for definition in definitions:
        definition.flops(flops)


_count(4, rms_norm, rms_normalization, ms_simplified_layer_normalization)
_count(7, layer_norm, layer_normalization)
_count(5, ms_skip_simplified_layer_normalization)
_count(8, ms_skip_layer_normalization)
