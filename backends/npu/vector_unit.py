"""Products on the vector unit, for those so small that the arrays' fill and skew take longer."""

from __future__ import annotations

from math import prod

from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.nest import chunk_of
from pimc.backends.kernels.product_nest import ProductNest
from pimc.backends.kernels.vector_product import MOST_DEPTH
from pimc.backends.npu.isa import Vec, VectorReduce, VectorScan
from pimc.backends.npu.timing import tree_levels
from pimc.backends.target import NpuSpec

NPU = VectorMachine("npu", "npu", lambda _: Vec, lambda _: VectorReduce, VectorScan)


def vector_seconds(npu: NpuSpec, nest: ProductNest) -> float:
    """What the passes of `kernels/vector_product.py` take for one turn of a nest's batch: for each row and stretch of k
    a product, its sum over k, and one addition."""
    vector = npu.vector
    units = vector.units * npu.cores
    m, n = (prod(x.count for x in axes) for axes in (nest.rows, nest.columns))
    depth = chunk_of(nest.depth, MOST_DEPTH)
    products = -(-n * -(-depth // vector.lanes) // units) * vector.cycles("mul")
    sums = -(-n // units) * tree_levels(depth, vector.lanes) * vector.tree
    added = -(-n // (vector.lanes * units)) * vector.cycles("add")
    stretches = m * -(-nest.depth // depth)
    return stretches * (products + sums + added + 3 * vector.latency) / npu.clock
