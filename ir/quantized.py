"""Low-bit integers: how levels are packed, what scales and zero points make of them, and weights made of them."""

from __future__ import annotations

import numpy as np

from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.ir.weights import Contents
from pimc.record import record

PACKED = frozenset({DType.I4, DType.U4})
"""Element types of which two share a byte."""


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The bytes that hold 4-bit elements of a shape: pairs along the last axis, each row in whole bytes."""
    return (*shape[:-1], -(-shape[-1] // 2)) if shape else (1,)


def pack(levels: Array) -> Array:
    """Pairs along the last axis in one byte (u8), the first one in the low half."""
    rows = np.atleast_1d(levels).astype(np.uint8) & 0xF
    if rows.shape[-1] % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[..., :1])], axis=-1)
    return np.asarray(rows[..., 0::2] | (rows[..., 1::2] << 4))


def unpack(packed: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    """The 4-bit elements of `shape` in bytes that follow `packed_shape`, one to a byte."""
    halves = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    levels = halves[..., : shape[-1]] if shape else halves[..., :1]
    if dtype is DType.I4:
        levels = (levels.astype(np.int8) ^ 8) - 8
    return levels.astype(dtype.numpy).reshape(shape)


def spread(parameter: Array, x: Array, axis: int, block_size: int) -> Array:
    """A scale or zero point (one, one per index of `axis`, or one per block along it) as it broadcasts to `x`."""
    if parameter.size == 1:
        return parameter.reshape(())
    at = axis % x.ndim
    if block_size:
        return np.take(np.repeat(parameter, block_size, at), np.arange(x.shape[at]), axis=at)
    return parameter.reshape([-1 if i == at else 1 for i in range(x.ndim)])


def dequantized(levels: Array, scale: Array, zero_point: Array | None, axis: int, block_size: int) -> Array:
    """`(levels - zero_point) * scale` in float32; integers are subtracted exactly."""
    numbers = levels.astype(np.int32)
    if zero_point is not None:
        zero = zero_point.astype(np.float32 if zero_point.dtype.kind == "f" else np.int32)
        numbers = numbers - spread(zero, levels, axis, block_size)
    return np.asarray(numbers.astype(np.float32) * spread(scale.astype(np.float32), levels, axis, block_size))


def expanded_name(levels: str) -> str:
    """What the weight that levels stand for is called when it lies in memory by its values."""
    return f"{levels}.expanded"


@record
class Nibbles:
    """Four-bit elements, two to a byte (the low half first) without gaps between rows, unpacked when asked for."""

    packed: Contents
    dtype: DType
    shape: tuple[int, ...]

    def array(self) -> Array:
        flat = np.asarray(self.packed.array()).view(np.uint8).reshape(-1)
        count = int(np.prod(self.shape, dtype=np.int64))
        return unpack(flat, self.dtype, (count,)).reshape(self.shape)

    def describe(self) -> str:
        return f"{self.packed.describe()}:{self.dtype.text}"


@record
class Dequantized:
    """A weight by its values, worked out of its levels when asked for."""

    levels: Contents
    scale: Contents
    zero_point: Contents | None
    axis: int
    block_size: int
    dtype: DType
    transposed: bool = False

    def array(self) -> Array:
        zero = self.zero_point.array() if self.zero_point is not None else None
        values = dequantized(self.levels.array(), self.scale.array(), zero, self.axis, self.block_size)
        return (values.T if self.transposed else values).astype(self.dtype.numpy)

    def describe(self) -> str:
        return f"expanded({self.levels.describe()})"
