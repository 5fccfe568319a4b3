"""Matrix products on the systolic arrays.

Which operand is stationary, and in which tiles both come from memory while those before are multiplied, is searched
(`tile_search.py`); where sums stay, both stream. Products gather in the accumulators. `contraction.py` chooses, and
`panels.py` and `slabs.py` have the loops over tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from pimc.backends.affine import Scalar
from pimc.backends.kernels.product_nest import product_nests
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu.blocks import Twin
from pimc.backends.npu.contraction import Contraction
from pimc.backends.npu.tile_ops import TileOps, columns_from


def contract(
    at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int, scale: float = 1.0,
    moved: Sequence[Scalar] = (0, 0, 0),
) -> None:  # fmt: skip
    """`out[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n]`; operands broadcast over the batch axes.

    moved: how far the first addresses of a, b and the result move with loops around the product.
    """
    for nest in product_nests(a, b, out, batch, m, n, k, moved):
        Contraction(at, (a, b, out), nest, scale).run()


def contract_with(
    prologue: TileOps | None, epilogue: TileOps | None, at: Lowering, a: Tensor, b: Tensor, out: Tensor,
    batch: Sequence[int], m: int, n: int, k: int, scale: float = 1.0, moved: Sequence[Scalar] = (0, 0, 0),
    twin: Twin | None = None, first: Scalar = 0,
) -> bool:  # fmt: skip
    """`contract`, with what makes tiles of a, and what follows on each tile of the result.

    twin: another operand like b, if there is one: the epilogue goes on with both products. first: where the columns of
    the result begin among those that operands of the epilogue have.

    False, and nothing is done, where it is not cut into such tiles, or would be so badly by what is left of the buffer
    that one after the other takes less.
    """
    cut = [] if epilogue is None else [columns_from(layout, first, n) for layout in epilogue.layouts()]
    also = [layout for layout, _ in cut]
    moved = (*moved, *(start for _, start in cut))
    sources = [] if prologue is None else prologue.layouts()
    nests = product_nests(a, b, out, batch, m, n, k, moved, also, sources)
    parts = [Contraction(at, (a, b, out), nest, scale, epilogue, prologue, twin) for nest in nests]
    choices = [choice for part in parts if (choice := part.in_tiles()) is not None and part.gains(choice[0])]
    if len(choices) < len(parts):
        return False
    for part, choice in zip(parts, choices, strict=True):
        part.run_tiles(*choice)
    return True
