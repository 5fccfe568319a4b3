"""Canonical forms of matrix products: `matmul` with a view of the weight, then `add`; packed weights unpacked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.op import Array
from pimc.ir.ops.contraction import unpack_bits
from pimc.ir.types import TensorType
from pimc.ir.weights import Contents
from pimc.passes.building import Builder, operand_at
from pimc.passes.match import is_constant, operand, skip

Rule = Callable[[Node, Rewriter], None]


@dataclass(frozen=True, slots=True)
class Computed:
    """Contents that follow from others, worked out when asked for."""

    sources: tuple[Contents, ...]
    compute: Callable[..., Array] = field(compare=False)
    label: str

    def array(self) -> Array:
        return self.compute(*(source.array() for source in self.sources))

    def describe(self) -> str:
        return f"{self.label}({', '.join(source.describe() for source in self.sources)})"


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
    if node.attribute("transBatchA") or node.attribute("transBatchB"):
        return
    builder = Builder(rewriter, node)
    x, y = (v for v in node.operands if v is not None)
    if min(x.type.rank, y.type.rank) < 2:
        return
    x = _swap_last(builder, x) if node.attribute("transA") else x
    y = _swap_last(builder, y) if node.attribute("transB") else y
    builder.replace(_scaled(builder, builder.call("matmul", x, y), _number(node, "alpha")))


def _swap_last(builder: Builder, x: Value) -> Value:
    rank = x.type.rank
    return builder.transpose(x, *range(rank - 2), rank - 1, rank - 2)


def matmul_nbits(node: Node, rewriter: Rewriter) -> None:
    """ms_matmul_nbits(x, packed, scales, zeros) -> matmul(x, w), w the weight with its packed values written out"""
    x, packed, scales = (operand_at(node, i) for i in range(3))
    zeros, bias = operand(node, 3), operand(node, 5)
    sources = _contents(packed, scales, zeros)
    if sources is None:
        return
    depth, width, bits, block = (int(_number(node, name)) for name in ("K", "N", "bits", "block_size"))
    dtype = x.type.dtype

    def unpacked(levels: Array, scale: Array, zero: Array | None = None) -> Array:
        blocks = math.ceil(depth / block)
        numbers = unpack_bits(levels.reshape(width, blocks, -1), bits).astype(np.float32)
        middle: Array = np.full((width, blocks), 1 << (bits - 1), np.float32)
        if zero is not None and zero.dtype == np.uint8:
            middle = unpack_bits(zero.reshape(width, -1), bits)[:, :blocks].astype(np.float32)
        elif zero is not None:
            middle = zero.reshape(width, blocks).astype(np.float32)
        weight = (numbers - middle[..., None]) * scale.reshape(width, blocks, 1).astype(np.float32)
        return np.ascontiguousarray(weight.reshape(width, -1)[:, :depth].T).astype(dtype.numpy)

    builder = Builder(rewriter, node)
    contents = Computed(sources, unpacked, f"unpack{bits}")
    w = rewriter.weight(f"{packed.name}.unpacked", TensorType(dtype, (depth, width)), contents, source=packed.source)
    out = builder.call("matmul", x, w)
    builder.replace(out if bias is None else builder.call("add", out, bias))


def dequantize(node: Node, rewriter: Rewriter) -> None:
    """dequantize_linear(weight, scale, zero) -> the weight by its values"""
    sources = _contents(*node.operands)
    if sources is None or node.result.type.array is not None:
        return
    op, attributes, given = node.op, dict(node.attributes), [v is not None for v in node.operands]

    def dequantized(*arrays: Array) -> Array:
        rest = iter(arrays)
        return op.evaluate([next(rest) if there else None for there in given], attributes)[0]

    x = operand_at(node, 0)
    contents = Computed(sources, dequantized, "dequantize")
    plain = TensorType(node.result.type.dtype, node.result.type.shape)
    w = rewriter.weight(f"{x.name}.dequantized", plain, contents, source=x.source)
    Builder(rewriter, node).replace(w)


def _contents(*values: Value | None) -> tuple[Contents, ...] | None:
    """The contents of the given operands, where all of them are weights or constants."""
    found = []
    for value in values:
        if value is not None:
            if value.role not in (Role.WEIGHT, Role.CONSTANT) or value.contents is None:
                return None
            found.append(value.contents)
    return tuple(found)


RULES: dict[str, tuple[Rule, ...]] = {
    "gemm": (gemm,),
    "matmul": (outer_product,),
    "ms_fused_matmul": (fused_matmul,),
    "ms_matmul_nbits": (matmul_nbits,),
    "dequantize_linear": (dequantize,),
}
