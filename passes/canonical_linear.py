"""Canonical forms of matrix products: `matmul` with a view of the weight, then `add`; packed weights unpacked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Node, Rewriter, Value
from pimc.ir.op import Array
from pimc.ir.ops.contraction import unpack_bits
from pimc.ir.quantized import Nibbles
from pimc.ir.types import DType, TensorType
from pimc.ir.weights import Contents, Reshaped, Sliced
from pimc.passes.building import Builder, operand_at
from pimc.passes.match import is_constant, operand, skip
from pimc.record import record

Rule = Callable[[Node, Rewriter], None]


def _number(node: Node, name: str) -> float:
    value = node.attribute(name)
    assert isinstance(value, (int, float))
    return float(value)


def _scaled(builder: Builder, x: Value, factor: float) -> Value:
    return x if factor == 1.0 else builder.call("mul", x, builder.number(factor, x))


def gemm(node: Node, rewriter: Rewriter) -> None:
    """gemm(x, w, c, transB=1) -> add(matmul(x, transpose(w)), c)"""
    x, w, c = operand_at(node, 0), operand_at(node, 1), operand(node, 2)
    builder = Builder(rewriter, node)
    x = builder.transpose(x, 1, 0) if node.attribute("transA") else x
    w = builder.transpose(w, 1, 0) if node.attribute("transB") else w
    out = _scaled(builder, builder.call("matmul", x, w), _number(node, "alpha"))
    if c is not None and _number(node, "beta") != 0:
        out = builder.call("add", out, _scaled(builder, c, _number(node, "beta")))
    builder.replace(out)


def outer_product(node: Node, rewriter: Rewriter) -> None:
    """matmul(x [.., M, 1], y [.., 1, N]) -> mul(x, y) where one is constant: nothing is summed, as in rotary angles

    Products of two activations stay: those of an attention to a single key are what `fuse-attention` looks for.
    """
    x, y = (v for v in node.operands if v is not None)
    if min(x.type.rank, y.type.rank) >= 2 and x.type.shape[-1] == 1 and (_is_fixed(x) or _is_fixed(y)):
        builder = Builder(rewriter, node)
        builder.replace(builder.call("mul", x, y))


def _is_fixed(value: Value) -> bool:
    """Whether a value is a constant or weight, in whatever shape."""
    return is_constant(skip(value, "reshape", "unsqueeze", "squeeze", "transpose", "expand", "cast", "identity"))


def fused_matmul(node: Node, rewriter: Rewriter) -> None:
    """ms_fused_matmul(x, y, transB=1, alpha) -> mul(matmul(x, transpose(y)), alpha)"""
    builder = Builder(rewriter, node)
    x, y = (v for v in node.operands if v is not None)
    if min(x.type.rank, y.type.rank) < 2:
        return
    x = _batch_last(builder, x) if node.attribute("transBatchA") else x
    y = _batch_last(builder, y) if node.attribute("transBatchB") else y
    x = _swap_last(builder, x) if node.attribute("transA") else x
    y = _swap_last(builder, y) if node.attribute("transB") else y
    builder.replace(_scaled(builder, builder.call("matmul", x, y), _number(node, "alpha")))


def _batch_last(builder: Builder, x: Value) -> Value:
    """The first dimension behind all but the last."""
    return builder.transpose(x, *range(1, x.type.rank - 1), 0, x.type.rank - 1)


def _swap_last(builder: Builder, x: Value) -> Value:
    rank = x.type.rank
    return builder.transpose(x, *range(rank - 2), rank - 1, rank - 2)


def matmul_nbits(node: Node, rewriter: Rewriter) -> None:
    """ms_matmul_nbits(x, packed, scales, zeros) -> matmul(x, transpose(dequantize_linear(levels, scales, zeros)))"""
    x, packed, scales = (operand_at(node, i) for i in range(3))
    zeros, bias = operand(node, 3), operand(node, 5)
    if any(v is not None and (not is_constant(v) or v.contents is None) for v in (packed, scales, zeros)):
        raise fail(
            Kind.OP_UNSUPPORTED,
            "MatMulNBits with a weight that is no part of the model",
            node.source,
            help="export the model with its quantized weights stored in it",
        )
    depth, width, bits, block = (int(_number(node, name)) for name in ("K", "N", "bits", "block_size"))
    blocks = -(-depth // block)
    per_block = (width, blocks)
    builder = Builder(rewriter, node)
    levels = _static(rewriter, packed, _levels(packed, bits, (width, blocks * block), depth), (width, depth))
    scale = _static(rewriter, scales, Reshaped(_contents(scales), per_block), per_block, scales.type.dtype)
    if zeros is None:
        zero = rewriter.constant(f"{packed.name}.middle", np.asarray(1 << (bits - 1), np.uint8))
    elif zeros.type.dtype.is_float:
        zero = _static(rewriter, zeros, Reshaped(_contents(zeros), per_block), per_block, zeros.type.dtype)
    else:
        row = -(-blocks * bits // 8) * 8 // bits
        zero = _static(rewriter, zeros, _levels(zeros, bits, (width, row), blocks), per_block)
    w = builder.call("dequantize_linear", levels, scale, zero, axis=1, block_size=block, output_dtype=x.type.dtype.text)
    out = builder.call("matmul", x, builder.transpose(w, 1, 0))
    builder.replace(out if bias is None else builder.call("add", out, bias))


def _levels(packed: Value, bits: int, shape: tuple[int, int], columns: int) -> Contents:
    """Unsigned levels out of rows of packed bytes, of which the first `columns` are meant; two bits become four."""
    whole: Contents
    if bits == 8:
        whole = Reshaped(_contents(packed), shape)
    elif bits == 4:
        whole = Nibbles(_contents(packed), DType.U4, shape)
    else:
        whole = _Unpacked(_contents(packed), bits, shape)
    return whole if columns == shape[1] else Sliced(whole, 1, 0, columns)


@record
class _Unpacked:
    """Integers of fewer than four bits, which no memory holds by themselves."""

    packed: Contents
    bits: int
    shape: tuple[int, int]

    def array(self) -> Array:
        return unpack_bits(np.asarray(self.packed.array()).reshape(-1), self.bits).reshape(self.shape)

    def describe(self) -> str:
        return f"{self.packed.describe()}:u{self.bits}"


def _static(
    rewriter: Rewriter, like: Value, contents: Contents, shape: tuple[int, int], dtype: DType | None = None
) -> Value:
    """A weight made of an exporter's; without `dtype`, levels of 4 bits (8, if bytes hold one each)."""
    if dtype is None:
        inner = contents.whole if isinstance(contents, Sliced) else contents
        dtype = DType.U8 if isinstance(inner, Reshaped) else DType.U4
    return rewriter.weight(f"{like.name}.matrix", TensorType(dtype, shape), contents, source=like.source)


def _contents(value: Value) -> Contents:
    assert value.contents is not None
    return value.contents


RULES: dict[str, tuple[Rule, ...]] = {
    "gemm": (gemm,),
    "matmul": (outer_product,),
    "ms_fused_matmul": (fused_matmul,),
    "ms_matmul_nbits": (matmul_nbits,),
}
