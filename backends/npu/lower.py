"""Lowering rules of the NPU: products on the systolic array, all else by the shared kernels on the vector unit."""

from __future__ import annotations

from collections.abc import Sequence

from pimc.backends.kernels import library  # noqa: F401  (declares the kernels)
from pimc.backends.kernels.normalization import NORMS
from pimc.backends.kernels.places import given
from pimc.backends.kernels.products import Moves, matmul, register_products
from pimc.backends.kernels.registry import register_kernels
from pimc.backends.kernels.vector_product import contract_on
from pimc.backends.lowering import CHAIN_RULES, Lowering, Tensor
from pimc.backends.npu import attention  # noqa: F401  (declares its rule)
from pimc.backends.npu.matmul import contract, contract_with
from pimc.backends.npu.tile_ops import TileOps
from pimc.backends.npu.vector_unit import NPU
from pimc.ir.graph import Node


def _product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
             scale: float = 1.0, moved: Moves = (0, 0, 0)) -> None:  # fmt: skip
    """The arrays multiply floats, or the vector unit where it is faster; integers go through the vector unit."""
    if a.dtype.is_float:
        contract(at, a, b, out, batch, m, n, k, scale, moved)
    else:
        contract_on(NPU, at, a, b, out, batch, m, n, k, scale, moved)


def lower_with_ops(before: Sequence[Node], node: Node, followers: Sequence[Node], at: Lowering) -> int | None:
    """A product of floats and ops on its tiles: all followers, or those before a norm, which asks for more room."""
    fused: int | None = None
    row = at.emit.op + len(before) if before and at.emit.op >= 0 else at.emit.op

    def product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
                scale: float = 1.0, moved: Moves = (0, 0, 0)) -> None:  # fmt: skip
        nonlocal fused
        before_norms = [i for i, follower in enumerate(followers) if i and follower.op.name in NORMS]
        prologue = TileOps.of(None, before, at, row - len(before)) if before else None
        for count in (len(followers), *reversed(before_norms)):
            after = TileOps.of(node.result, followers[:count], at, row + 1) if count else None
            last = out if after is None else after.out
            if contract_with(prologue, after, at, a, b, last, batch, m, n, k, scale, moved):
                fused = count
                return

    at.emit.op = row
    if 0 not in node.result.type.static_shape and given(node, 0).type.static_shape[-1]:
        matmul(node, at, NPU, product)
    return fused


CHAIN_RULES["npu", "matmul"] = lower_with_ops
register_products(NPU, _product)
register_kernels(NPU)
