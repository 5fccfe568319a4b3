"""Lowering rules of the NPU: products on the systolic array, all else by the shared kernels on the vector unit."""

from __future__ import annotations

from pimc.backends.kernels import library  # noqa: F401  (declares the kernels)
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.products import register_products
from pimc.backends.kernels.registry import register_kernels
from pimc.backends.npu.isa import Vec, VectorReduce, VectorScan
from pimc.backends.npu.matmul import contract

NPU = VectorMachine("npu", "npu", lambda _: Vec, lambda _: VectorReduce, VectorScan)

register_products(NPU, contract)
register_kernels(NPU)
