"""Random models: what they are made of, and how many of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fuzz import attention, axes, elementwise, indexing, products, shapes
from tests.fuzz.builder import FLOATS, Builder, Sample
from tests.fuzz.eager import Rejected

Maker = Callable[[Builder], object]


def fresh(b: Builder) -> object:
    dtype = b.pick((np.float32, np.float32, np.float16, np.int64, np.int32, np.bool_))
    return b.input(b.array(dtype, b.shape()))


MAKERS: tuple[tuple[int, Maker], ...] = (
    (8, elementwise.unary), (10, elementwise.binary), (1, elementwise.modulo), (3, elementwise.comparison),
    (3, elementwise.logical), (1, elementwise.bitwise), (3, elementwise.where), (1, elementwise.is_nan),
    (2, elementwise.clip), (3, elementwise.cast), (5, shapes.reshape), (1, shapes.flatten), (4, shapes.transpose),
    (4, shapes.slices), (4, shapes.concat), (3, shapes.split), (2, shapes.squeeze), (2, shapes.unsqueeze),
    (3, shapes.expand), (1, shapes.tile), (2, shapes.pad), (1, shapes.triangle), (1, shapes.shape_of),
    (2, shapes.shape_chain), (1, shapes.constant_of_shape), (1, shapes.arange), (3, indexing.gather),
    (1, indexing.gather_elements), (2, indexing.gather_nd), (1, indexing.scatter_nd), (1, indexing.scatter_elements),
    (1, indexing.one_hot), (1, indexing.non_zero), (5, axes.reduce), (1, axes.arg), (1, axes.top_k), (1, axes.cumsum),
    (3, axes.softmax), (2, axes.layer_norm), (2, axes.rms_norm), (1, axes.skip_norm), (4, products.matmul),
    (2, products.linear), (2, products.gemm), (1, products.fused_matmul), (1, products.matmul_integer),
    (1, products.dequantize), (1, products.matmul_nbits), (3, attention.attention), (1, attention.onnx_attention),
    (1, attention.group_query_attention), (1, attention.multi_head_attention), (2, attention.rotary),
    (2, attention.cache), (1, products.gated), (1, elementwise.again), (2, fresh),
)  # fmt: skip
"""Each kind of node with its weight: a function that draws operands and attributes, or raises Rejected."""

OPSETS = (7, 9, 10, 11, 12, *(13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23) * 3)
"""The opsets to draw from: the old ones rarely."""


def random_sample(seed: int) -> Sample:
    """A model of a few nodes with inputs and expected outputs, the same for the same seed."""
    chance = np.random.Generator(np.random.PCG64([seed, 71]))
    b = Builder(chance, opset=int(chance.choice(OPSETS)))
    for _ in range(1 + b.below(3)):
        dtype = b.pick(FLOATS) if b.maybe(0.8) else b.pick((np.int64, np.int32, np.bool_))
        b.input(b.array(dtype, b.shape()))
    weights = np.array([w for w, _ in MAKERS], np.float64)
    wanted = 1 + b.below(9)
    for _ in range(60):
        if not wanted:
            break
        try:
            MAKERS[int(chance.choice(len(MAKERS), p=weights / weights.sum()))][1](b)
            wanted -= 1
        except Rejected:
            continue
    return b.finish()
