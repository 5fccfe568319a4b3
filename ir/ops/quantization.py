"""Ops between floats and low-bit integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.contraction import product_shape
from pimc.ir.ops.rules import axis_of, compatible, dtype_named, want_float, want_integer, wide
from pimc.ir.quantized import dequantized, spread
from pimc.ir.types import DType, TensorType

LIMITS = {
    DType.I4: (-8, 7),
    DType.U4: (0, 15),
    DType.I8: (-128, 127),
    DType.U8: (0, 255),
    DType.I16: (-32768, 32767),
    DType.U16: (0, 65535),
}
"""The lowest and the highest level of each type that can be quantized to."""


@op("dequantize_linear", cls=OpClass.ELEMENTWISE)
def dequantize_linear(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str = "",
) -> TensorType:
    """`(x - zero_point) * scale`; scale and zero point per tensor, per index of `axis`, or per block along it."""
    want_integer(x, "the operand")
    want_float(scale, "the scale")
    for parameter in (scale, zero_point):
        if parameter is not None:
            _spreads(parameter, x, axis, block_size)
    return TensorType(dtype_named(output_dtype) if output_dtype else scale.dtype, x.shape)


def _spreads(parameter: TensorType, x: TensorType, axis: int, block_size: int) -> None:
    """Reject a scale or zero point that is not one, one per index of the axis, or one per block along it."""
    require(block_size >= 0, f"blocks have {block_size} elements")
    if parameter.is_static and parameter.elements == 1:
        return
    at = axis_of(axis, x.rank)
    if not block_size:
        compatible(parameter.shape, (x.shape[at],), "a scale or zero point")
        return
    extent = x.shape[at]
    blocks = -(-extent // block_size) if isinstance(extent, int) else None
    compatible(parameter.shape, (*x.shape[:at], blocks, *x.shape[at + 1 :]), "a scale or zero point")


@dequantize_linear.reference
def _(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str = "",
) -> Array:
    out = dequantized(x, scale, zero_point, axis, block_size)
    return out.astype(DType.parse(output_dtype).numpy if output_dtype else scale.dtype)


@op("quantized_matmul", cls=OpClass.CONTRACTION)
def quantized_matmul(
    x: TensorType,
    levels: TensorType,
    scale: TensorType,
    zero_point: TensorType | None = None,
    *,
    axis: int,
    block_size: int = 0,
    transposed: int = 0,
) -> TensorType:
    """`x @ w` with a weight that stays in low-bit integers: w = (levels - zero_point) * scale, expanded as it is read.

    levels [K, N], or [N, K] if `transposed`. scale and zero point: one, one per index of `axis` of the levels, or one
    per block along it.
    """
    want_float(x, "the first operand")
    want_integer(levels, "the levels")
    want_float(scale, "the scale")
    require(levels.rank == 2, f"the levels must be a matrix, but are {levels}")
    axis_of(axis, levels.rank)
    shape = levels.shape[::-1] if transposed else levels.shape
    return TensorType(x.dtype, product_shape(x.shape, shape))


@quantized_matmul.reference
def _(
    x: Array,
    levels: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int,
    block_size: int = 0,
    transposed: int = 0,
) -> Array:
    weight = dequantized(levels, scale, zero_point, axis, block_size)
    return np.asarray(np.matmul(wide(x), weight.T if transposed else weight)).astype(x.dtype)


@quantized_matmul.flops
def _(x: TensorType, *_: TensorType | None, results: tuple[TensorType, ...], **__: Any) -> int:
    return 2 * results[0].elements * x.static_shape[-1]


@op("quantize_linear", cls=OpClass.ELEMENTWISE)
def quantize_linear(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str = "",
    precision: int = 0,
    saturate: int = 1,
) -> TensorType:
    """`round(x / scale) + zero_point`, held within the type of the zero point, else `output_dtype`, else u8."""
    want_float(x)
    want_float(scale, "the scale")
    for parameter in (scale, zero_point):
        if parameter is not None:
            _spreads(parameter, x, axis, block_size)
    kind = zero_point.dtype if zero_point is not None else dtype_named(output_dtype or "u8")
    require(kind in LIMITS, f"cannot quantize to {kind.text}")
    return TensorType(kind, x.shape)


@quantize_linear.reference
def _(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str = "",
    precision: int = 0,
    saturate: int = 1,
) -> Array:
    target = DType.of(zero_point) if zero_point is not None else DType.parse(output_dtype or "u8")
    levels = np.rint(x.astype(np.float32) / spread(scale.astype(np.float32), x, axis, block_size))
    if zero_point is not None:
        levels = levels + spread(zero_point.astype(np.float32), x, axis, block_size)
    return np.clip(levels, *LIMITS[target]).astype(target.numpy)


@op("dynamic_quantize_linear", cls=OpClass.COMPOSITE)
def dynamic_quantize_linear(x: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    """`x` in u8, with the scale and zero point that its own range (with 0 in it) gives."""
    want_float(x)
    return TensorType(DType.U8, x.shape), TensorType(DType.F32, ()), TensorType(DType.U8, ())


@dynamic_quantize_linear.reference
def _(x: Array) -> tuple[Array, Array, Array]:
    low, high = np.float32(min(0, x.min(initial=0))), np.float32(max(0, x.max(initial=0)))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    levels = np.clip(np.rint(x / scale) + np.float32(zero), 0, 255).astype(np.uint8)
    return levels, np.asarray(scale, np.float32), np.asarray(zero)
