"""Lowering rules of the NPU: products on the systolic array, all else by the shared kernels on the vector unit."""

from __future__ import annotations

from collections.abc import Sequence

from pimc.backends.kernels import library  # noqa: F401  (declares the kernels)
from pimc.backends.kernels.products import Moves, register_products
from pimc.backends.kernels.registry import register_kernels
from pimc.backends.kernels.vector_product import contract_on
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu import attention  # noqa: F401  (declares its rule)
from pimc.backends.npu.matmul import contract
from pimc.backends.npu.vector_unit import NPU


def _product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
             scale: float = 1.0, moved: Moves = (0, 0, 0)) -> None:  # fmt: skip
    """The arrays multiply floats, or the vector unit where it is faster; integers go through the vector unit."""
    if a.dtype.is_float:
        contract(at, a, b, out, batch, m, n, k, scale, moved)
    else:
        contract_on(NPU, at, a, b, out, batch, m, n, k, scale, moved)


register_products(NPU, _product)
register_kernels(NPU)
