"""Lowering rules of the NPU: products on the systolic array, all else by the shared kernels on the vector unit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pimc.backends.affine import Scalar
from pimc.backends.kernels import library  # noqa: F401  (declares the kernels)
from pimc.backends.kernels.normalization import NORMS
from pimc.backends.kernels.places import given, place
from pimc.backends.kernels.products import Moves, matmul, register_products
from pimc.backends.kernels.quantized import lower_quantized
from pimc.backends.kernels.registry import register_kernels
from pimc.backends.kernels.vector_product import contract_on
from pimc.backends.lowering import CHAIN_RULES, Lowering, Tensor
from pimc.backends.npu import attention  # noqa: F401  (declares its rule)
from pimc.backends.npu.blocks import Twin
from pimc.backends.npu.matmul import contract, contract_with
from pimc.backends.npu.tile_ops import TileOps
from pimc.backends.npu.vector_unit import NPU
from pimc.ir.chains import twin_in
from pimc.ir.graph import Node
from pimc.ir.views import is_view_op


def _product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
             scale: float = 1.0, moved: Moves = (0, 0, 0)) -> None:  # fmt: skip
    """The arrays multiply floats, or the vector unit where it is faster; integers go through the vector unit."""
    if a.dtype.is_float:
        contract(at, a, b, out, batch, m, n, k, scale, moved)
    else:
        contract_on(NPU, at, a, b, out, batch, m, n, k, scale, moved)


def lower_with_ops(before: Sequence[Node], node: Node, followers: Sequence[Node], at: Lowering) -> int | None:
    """A product of floats and ops on its tiles: all followers, or those before one that asks for larger tiles.

    One of the followers may be a second product with the same left operand.
    """
    fused: int | None = None
    second = twin_in(node, followers)
    chain = [node, *followers]
    products = [node] if second is None else [node, followers[second]]
    row = at.emit.op + len(before)

    def product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
                scale: float = 1.0, moved: Moves = (0, 0, 0)) -> None:  # fmt: skip
        nonlocal fused
        twin = None
        if second is not None:
            twin = _twin(at, b, followers[second], 1 + second)
            if twin is None:
                return
        pairs = pairwise(followers)
        ends = [i for i, (a, b) in enumerate(pairs, 1) if _asks_for_more(b) and not is_view_op(a)]
        prologue = TileOps.of((), before, at, row - len(before)) if before else None
        for count in (len(followers), *reversed(ends)):
            after = TileOps.of(products, chain[: 1 + count], at, row) if count else None
            last = out if after is None else after.out
            if contract_with(prologue, after, at, a, b, last, batch, m, n, k, scale, moved, twin):
                fused = count
                return

    if 0 not in node.result.type.static_shape and given(node, 0).type.static_shape[-1]:
        with at.emit.on_op(row):
            matmul(node, at, NPU, product)
    return fused


def _asks_for_more(node: Node) -> bool:
    """Whether the tiles that a node, or the one behind it, is computed on must be larger than others."""
    return node.op.name in NORMS or is_view_op(node)


def lower_quantized_with_ops(before: Sequence[Node], node: Node, followers: Sequence[Node], at: Lowering) -> int | None:
    """A product with a quantized weight, and ops on its tiles up to a norm: chunks of columns have no whole rows."""
    count = next((i for i, follower in enumerate(followers) if follower.op.name in NORMS), len(followers))
    if before or not count or 0 in node.result.type.static_shape:
        return None
    after = TileOps.of([node], [node, *followers[:count]], at, at.emit.op)
    if any(len([d for d in layout.dims[-1] if d[0] > 1]) > 1 for layout in (*after.layouts(), after.out.layout)):
        return None  # columns that do not lie at one distance

    def product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, *, moved: Moves, first: Scalar) -> bool:
        *batch, m, n = out.shape
        return contract_with(None, after, at, a, b, out, batch, m, n, a.shape[-1], 1.0, moved, first=first)

    level, position = at.emit.level, at.scratch.position
    if lower_quantized(node, at, NPU, product, after.out):
        return count
    at.emit.back_to(level)
    at.scratch.resume(position)
    return None


def _twin(at: Lowering, b: Tensor, node: Node, rows: int) -> Twin | None:
    """The right operand of a second product, if it lies like that of the first."""
    other = place(at, given(node, 1))
    alike = (other.space, other.dtype, other.layout.dims) == (b.space, b.dtype, b.layout.dims)
    away = other.layout.offset - b.layout.offset
    return Twin(away, rows) if alike and away else None


CHAIN_RULES["npu", "matmul"] = lower_with_ops
CHAIN_RULES["npu", "quantized_matmul"] = lower_quantized_with_ops
register_products(NPU, _product)
register_kernels(NPU)
