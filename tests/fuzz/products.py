"""Nodes of random models that multiply matrices, and quantized ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.builder import Builder


def matmul(b: Builder) -> object:
    x = b.floats(1)
    n = b.extent()
    shape: tuple[int, ...] = (x.shape[-1], n)
    if b.maybe(0.3):
        shape = (*[b.pick((d, 1)) for d in x.shape[:-2]], *shape)
    if b.maybe(0.1):
        shape = (x.shape[-1],)
    w = b.fresh(x.dtype, shape)
    if b.maybe(0.15) and x.rank >= 1:
        lead = b.extent()
        return b.op("MatMul", b.fresh(x.dtype, (lead, x.shape[-2] if x.rank > 1 else x.shape[0])), x)
    return b.op("MatMul", x, w)


def linear(b: Builder) -> object:
    """A product with a weight above the size of constants, with or without a bias."""
    x = b.value(lambda v: v.is_float and v.rank >= 2 and v.shape[-1] > 1)
    n = b.pick((33, 64, 96, 130))
    y = b.op("MatMul", x, b.constant(b.array(x.dtype, (x.shape[-1], n)) / np.sqrt(x.shape[-1]), x.dtype))
    return b.op("Add", y, b.constant(b.array(x.dtype, (n,)))) if b.maybe() else y


def gemm(b: Builder) -> object:
    x = b.value(lambda v: v.is_float and v.rank == 2)
    ta, tb = b.below(2), b.below(2)
    k, m = (x.shape[0], x.shape[1]) if ta else (x.shape[1], x.shape[0])
    n = b.extent()
    w = b.fresh(x.dtype, (n, k) if tb else (k, n))
    bias = b.fresh(x.dtype, b.pick(((n,), (m, n), (1, n), (m, 1), ()))) if b.maybe(0.7) else None
    more: dict[str, Any] = {"alpha": 0.5, "beta": 2.0} if b.maybe(0.3) else {}
    return b.op("Gemm", x, w, bias, transA=ta, transB=tb, **more)


def fused_matmul(b: Builder) -> object:
    x = b.value(lambda v: v.dtype == np.float32 and v.rank >= 2)
    ta, tb = b.below(2), b.below(2)
    k, n = x.shape[-2 if ta else -1], b.extent()
    w = b.fresh(x.dtype, (*x.shape[:-2], *((n, k) if tb else (k, n))))
    return b.op("FusedMatMul", x, w, domain="com.microsoft", transA=ta, transB=tb, alpha=float(b.pick((1.0, 0.25))))


def matmul_integer(b: Builder) -> object:
    x = b.floats(2)
    y, scale, zero = b.node("DynamicQuantizeLinear", b.op("Cast", x, to=1), outputs=3)
    w = b.constant(b.chance.integers(-20, 20, (x.shape[-1], b.extent())), np.int8)
    whole = b.op("MatMulInteger", y, w, zero)
    return b.op("Mul", b.op("Cast", whole, to=1), scale)


def dequantize(b: Builder) -> object:
    dtype = b.pick((np.int8, np.uint8))
    shape = (1 + b.below(8), 1 + b.below(8))
    whole = b.constant(b.chance.integers(0, 100, shape), dtype)
    if b.maybe():
        return b.op("DequantizeLinear", whole, b.constant(0.125, np.float32), b.constant(3, dtype))
    scale = b.constant(0.25 + b.chance.random(shape[1]), np.float32)
    return b.op("DequantizeLinear", whole, scale, b.constant(b.chance.integers(0, 9, shape[1]), dtype), axis=1)


def matmul_nbits(b: Builder) -> object:
    k, n, block = 32 * (1 + b.below(2)), b.pick((4, 8, 16)), b.pick((16, 32))
    x = b.fresh(np.float32, (*b.shape(b.below(2)), 1 + b.below(4), k))
    packed = b.constant(b.chance.integers(0, 256, (n, k // block, block // 2)), np.uint8)
    scales = b.constant(0.1 + b.chance.random(n * (k // block)), np.float32)
    zero = b.constant(b.chance.integers(0, 256, n * ((k // block + 1) // 2)), np.uint8) if b.maybe() else None
    return b.op("MatMulNBits", x, packed, scales, zero, domain="com.microsoft", K=k, N=n, bits=4, block_size=block)


def gated(b: Builder) -> object:
    """A gated feed-forward: silu(x A) * (x B) C."""
    x = b.value(lambda v: v.is_float and v.rank >= 2 and v.shape[-1] > 1)
    k, n = x.shape[-1], b.pick((24, 40))
    gate, up = (b.op("MatMul", x, b.constant(b.array(x.dtype, (k, n)) / k, x.dtype)) for _ in range(2))
    active = b.op("Mul", gate, b.op("Sigmoid", gate))
    return b.op("MatMul", b.op("Mul", active, up), b.constant(b.array(x.dtype, (n, k)) / n, x.dtype))
