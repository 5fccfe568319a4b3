"""Matrix products."""

# ruff: noqa: N803  (attributes bear the names that ONNX gives them)

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.rules import agree, broadcast, compatible, same_dtype, want_float, want_integer, want_rank, wide
from pimc.ir.types import DType, Shape, TensorType

Results = tuple[TensorType, ...]


def product_shape(x: Shape, y: Shape) -> Shape:
    """The shape of numpy's `x @ y`."""
    require(bool(x) and bool(y), "the operands must have rank 1 or more")
    left: Shape = x if len(x) > 1 else (1, *x)
    right: Shape = y if len(y) > 1 else (*y, 1)
    agree(left[-1], right[-2], "the contracted dimensions")
    rows: Shape = left[-2:-1] if len(x) > 1 else ()
    columns: Shape = right[-1:] if len(y) > 1 else ()
    return (*broadcast(left[:-2], right[:-2]), *rows, *columns)


def _flops(x: TensorType, results: Results) -> int:
    depth = x.static_shape[-1] if x.rank else 1
    return 2 * results[0].elements * depth


@op("matmul", cls=OpClass.CONTRACTION)
def matmul(x: TensorType, y: TensorType) -> TensorType:
    """The matrix product over the last two dimensions; the others broadcast, vectors as in numpy."""
    return TensorType(same_dtype(x, y), product_shape(x.shape, y.shape))


@matmul.reference
def _(x: Array, y: Array) -> Array:
    return np.asarray(np.matmul(wide(x), wide(y))).astype(x.dtype, copy=False)


@matmul.flops
def _(x: TensorType, y: TensorType, *, results: Results) -> int:
    return _flops(x, results)


@op("gemm", cls=OpClass.CONTRACTION)
def gemm(
    x: TensorType,
    y: TensorType,
    c: TensorType | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> TensorType:
    """`alpha * x @ y + beta * c` for matrices, each of the factors optionally transposed; `c` broadcasts."""
    want_rank(x, 2, "the first operand")
    want_rank(y, 2, "the second operand")
    left = x.shape[::-1] if transA else x.shape
    right = y.shape[::-1] if transB else y.shape
    shape = product_shape(left, right)
    if c is not None:
        require(c.rank <= 2, f"the addend must have a rank of at most 2, but is {c}")
        for given, wanted in zip(broadcast(shape, c.shape), shape, strict=True):
            agree(given, wanted, "the addend")
    return TensorType(same_dtype(x, y, c), shape)


@gemm.reference
def _(
    x: Array,
    y: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    left, right = (wide(x).T if transA else wide(x)), (wide(y).T if transB else wide(y))
    out = np.matmul(left, right)
    if alpha != 1:
        out = out * out.dtype.type(alpha)
    if c is not None:
        out = out + (wide(c) if beta == 1 else wide(c) * out.dtype.type(beta))
    return np.asarray(out).astype(x.dtype, copy=False)


@gemm.flops
def _(x: TensorType, y: TensorType, c: TensorType | None = None, *, results: Results, **attributes: Any) -> int:
    depth = x.static_shape[0] if attributes.get("transA") else x.static_shape[1]
    return results[0].elements * (2 * depth + (c is not None))


@op("matmul_integer", cls=OpClass.CONTRACTION)
def matmul_integer(
    x: TensorType, y: TensorType, x_zero_point: TensorType | None = None, y_zero_point: TensorType | None = None
) -> TensorType:
    """The matrix product of 8-bit integers, less their zero points, in i32."""
    want_integer(x, "the first operand")
    want_integer(y, "the second operand")
    shape = product_shape(x.shape, y.shape)
    rows, columns = x.shape[:-1][-1:], y.shape[-1:]
    _zero_point(x_zero_point, rows, (*x.shape[:-1], 1), "the zero point of the first operand")
    _zero_point(y_zero_point, columns, (*y.shape[:-2], 1, *columns), "the zero point of the second operand")
    return TensorType(DType.I32, shape)


def _zero_point(zero: TensorType | None, vector: Shape, full: Shape, name: str) -> None:
    """Reject a zero point that is neither one number, nor one for each row (column), also spread over batches."""
    if zero is None:
        return
    want_integer(zero, name)
    if not zero.is_static or zero.elements != 1:
        compatible(zero.shape, vector if zero.rank == 1 else full, name)


@matmul_integer.reference
def _(x: Array, y: Array, x_zero_point: Array | None = None, y_zero_point: Array | None = None) -> Array:
    left, right = x.astype(np.int32), y.astype(np.int32)
    if x_zero_point is not None:
        zero = x_zero_point.astype(np.int32)
        left = left - (zero.reshape(-1, 1) if zero.ndim == 1 and zero.size > 1 else zero)
    if y_zero_point is not None:
        right = right - y_zero_point.astype(np.int32)
    return np.asarray(np.matmul(left, right))


@matmul_integer.flops
def _(x: TensorType, y: TensorType, *zeros: TensorType | None, results: Results) -> int:
    return _flops(x, results)


def _swapped(shape: Shape, trans: int, trans_batch: int) -> Shape:
    least = 3 if trans_batch else 2 if trans else 1
    require(len(shape) >= least, f"a factor that is transposed must have rank {least} or more, but has {len(shape)}")
    if trans_batch:  # the first batch dimension moves behind the others
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if trans else shape


def _swap(x: Array, trans: int, trans_batch: int) -> Array:
    if trans_batch:
        x = np.moveaxis(x, 0, -2)
    return np.swapaxes(x, -1, -2) if trans else x


@op("ms_fused_matmul", cls=OpClass.CONTRACTION)
def ms_fused_matmul(
    x: TensorType,
    y: TensorType,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> TensorType:
    """com.microsoft FusedMatMul: `alpha * x @ y`, factors optionally transposed."""
    left, right = _swapped(x.shape, transA, transBatchA), _swapped(y.shape, transB, transBatchB)
    return TensorType(same_dtype(x, y), product_shape(left, right))


@ms_fused_matmul.reference
def _(
    x: Array,
    y: Array,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Array:
    out = np.matmul(_swap(wide(x), transA, transBatchA), _swap(wide(y), transB, transBatchB))
    return np.asarray(out * out.dtype.type(alpha)).astype(x.dtype)


@ms_fused_matmul.flops
def _(x: TensorType, y: TensorType, *, results: Results, **attributes: Any) -> int:
    shape = _swapped(x.shape, attributes.get("transA", 0), attributes.get("transBatchA", 0))
    return _flops(TensorType(x.dtype, shape), results)


@op("ms_matmul_nbits", cls=OpClass.CONTRACTION)
def ms_matmul_nbits(
    x: TensorType,
    packed: TensorType,
    scales: TensorType,
    zero_points: TensorType | None = None,
    g_idx: TensorType | None = None,
    bias: TensorType | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    accuracy_level: int = 0,
) -> TensorType:
    """com.microsoft MatMulNBits: `x [.., K]` times a weight of N columns, packed in blocks of low-bit integers.

    `packed` is u8 [N, K/block, block*bits/8]; each block has a scale, and a packed zero point (else the middle).
    """
    want_float(x, "the first operand")
    require(bits in (2, 4, 8), f"bits must be 2, 4 or 8, not {bits}")
    require(g_idx is None, "g_idx (reordered groups) is not supported")
    require(x.rank >= 1, "the first operand must have rank 1 or more")
    require(K > 0 and N > 0 and block_size >= 16, f"{K} times {N} in blocks of {block_size} is not possible")
    agree(x.shape[-1], K, "the contracted dimension")
    require(packed.dtype is DType.U8, f"the packed weight must be of bytes, but is {packed}")
    blocks = -(-K // block_size)
    _holds(packed, N * blocks * (block_size * bits // 8), "the packed weight")
    _holds(scales, N * blocks, "the scales")
    if zero_points is not None:
        packed_zeros = zero_points.dtype is DType.U8
        _holds(zero_points, N * (-(-blocks * bits // 8) if packed_zeros else blocks), "the zero points")
    if bias is not None:
        compatible(bias.shape, (N,), "the bias")
    return TensorType(x.dtype, (*x.shape[:-1], N))


def _holds(x: TensorType, count: int, name: str) -> None:
    """Reject an operand that has not so many elements, in whatever shape."""
    require(not x.is_static or x.elements == count, f"{name} must have {count} elements, but is {x}")


def unpack_bits(packed: Array, bits: int) -> Array:
    """The unsigned integers in a row of bytes, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)


@ms_matmul_nbits.reference
def _(
    x: Array,
    packed: Array,
    scales: Array,
    zero_points: Array | None = None,
    g_idx: Array | None = None,
    bias: Array | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    accuracy_level: int = 0,
) -> Array:
    blocks = math.ceil(K / block_size)
    levels = unpack_bits(packed.reshape(N, blocks, -1), bits).astype(np.float32)
    zeros: Array = np.full((N, blocks), 1 << (bits - 1), np.float32)
    if zero_points is not None and zero_points.dtype == np.uint8:
        zeros = unpack_bits(zero_points.reshape(N, -1), bits)[:, :blocks].astype(np.float32)
    elif zero_points is not None:
        zeros = zero_points.reshape(N, blocks).astype(np.float32)
    weight = (levels - zeros[..., None]) * scales.reshape(N, blocks, 1).astype(np.float32)
    out = np.matmul(wide(x), weight.reshape(N, -1)[:, :K].T)
    return np.asarray(out if bias is None else out + wide(bias)).astype(x.dtype)


@ms_matmul_nbits.flops
def _(x: TensorType, *operands: TensorType | None, results: Results, **attributes: Any) -> int:
    return _flops(x, results)
