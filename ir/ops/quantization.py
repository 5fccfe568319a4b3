"""Ops between floats and low-bit integers."""

from __future__ import annotations

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.rules import axis_of, dtype_named, want_float, want_integer
from pimc.ir.types import DType, TensorType

_LIMITS = {
    DType.I4: (-8, 7),
    DType.U4: (0, 15),
    DType.I8: (-128, 127),
    DType.U8: (0, 255),
    DType.I16: (-32768, 32767),
    DType.U16: (0, 65535),
}


def _spread(parameter: Array, x: Array, axis: int, block_size: int) -> Array:
    """A scale or zero point (one, one per channel, or one per block) in a shape that broadcasts to `x`."""
    if parameter.size == 1 and not block_size:
        return parameter.reshape(())
    at = axis % x.ndim
    if block_size:
        return np.take(np.repeat(parameter, block_size, at), np.arange(x.shape[at]), axis=at)
    return parameter.reshape([-1 if i == at else 1 for i in range(x.ndim)])


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
    if scale.rank:
        axis_of(axis, max(x.rank, 2) if scale.rank == 1 else x.rank)
    return TensorType(dtype_named(output_dtype) if output_dtype else scale.dtype, x.shape)


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
    levels = x.astype(np.int32)
    if zero_point is not None:
        levels = levels - _spread(zero_point.astype(np.int32), x, axis, block_size)
    out = levels.astype(np.float32) * _spread(scale.astype(np.float32), x, axis, block_size)
    return np.asarray(out).astype(DType.parse(output_dtype).numpy if output_dtype else scale.dtype)


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
    kind = zero_point.dtype if zero_point is not None else dtype_named(output_dtype or "u8")
    require(kind in _LIMITS, f"cannot quantize to {kind.text}")
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
    levels = np.rint(x.astype(np.float32) / _spread(scale.astype(np.float32), x, axis, block_size))
    if zero_point is not None:
        levels = levels + _spread(zero_point.astype(np.float32), x, axis, block_size)
    return np.clip(levels, *_LIMITS[target]).astype(target.numpy)


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
