"""Products whose weight an activation chooses: the canonical form of mixtures of experts.

Shapes: T tokens, J experts a token, E experts, K and N columns in and out. Routing stays what exporters write: a
softmax or sigmoid of the router's scores, `top_k`, and a weighted sum of the J results of a token.
"""

from __future__ import annotations

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.rules import agree, same_dtype, want_float, want_integer, want_rank, wide
from pimc.ir.types import TensorType

Results = tuple[TensorType, ...]


@op("expert_matmul", cls=OpClass.CONTRACTION)
def expert_matmul(x: TensorType, w: TensorType, ids: TensorType) -> TensorType:
    """`y[t, j] = w[ids[t, j]] @ x[t, j]`: the matrix of a chosen expert times a vector of a token.

    x [T, J, K], or [T, 1, K] where all experts of a token read the same vector; w [E, N, K]; ids integers [T, J], in
    0 .. E - 1 (negatives count from the end); the result is [T, J, N]. The weight is read where it lies: choosing it
    moves nothing.
    """
    want_float(x, "x")
    want_rank(x, 3, "x")
    want_rank(w, 3, "the weight")
    want_rank(ids, 2, "the ids")
    want_integer(ids, "the ids")
    tokens = agree(x.shape[0], ids.shape[0], "the tokens of x and ids")
    if x.shape[1] != 1:
        agree(x.shape[1], ids.shape[1], "the experts a token of x and ids")
    agree(x.shape[2], w.shape[2], "the columns of x and the weight")
    require(w.shape[0] != 0, "there must be an expert")
    return TensorType(same_dtype(x, w), (tokens, ids.shape[1], w.shape[1]))


@expert_matmul.reference
def _(x: Array, w: Array, ids: Array) -> Array:
    vectors = np.broadcast_to(wide(x), (*ids.shape, x.shape[2]))
    result = np.empty((*ids.shape, w.shape[1]), vectors.dtype)
    chosen = np.where(ids < 0, ids + w.shape[0], ids)
    for expert in np.unique(chosen):
        if not 0 <= expert < w.shape[0]:
            raise IndexError(f"expert {expert} is chosen, but there are {w.shape[0]}")
        matrix = wide(w[expert])
        for place in zip(*np.nonzero(chosen == expert), strict=True):
            result[place] = matrix @ vectors[place]
    return result.astype(x.dtype, copy=False)


@expert_matmul.flops
def _(x: TensorType, w: TensorType, ids: TensorType, *, results: Results) -> int:
    return 2 * results[0].elements * x.static_shape[2]
