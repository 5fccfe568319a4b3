"""The loops of a matrix product over three tensors in any layouts.

Batch axes along which one operand repeats count as rows (or columns) of the other, so that a batch that shares a
weight, or query heads that share keys, become one taller product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.kernels.nest import Axis, Segment, axes_of_segments, nests, spread
from pimc.backends.lowering import Tensor
from pimc.ir.layout import Digit, Layout
from pimc.record import record

A, B, OUT = 0, 1, 2
"""Positions of the operands and the result in starts and strides."""


@record
class ProductNest:
    """First addresses of a, b and the result, and the axes of batch, m and n; `contracted`: the ranges of k."""

    starts: tuple[Scalar, ...]
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    contracted: tuple[Segment, ...]

    @property
    def depth(self) -> int:
        return sum(prod(x.count for x in axes) for _, axes in self.contracted)


def product_nests(
    a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
    moved: Sequence[Scalar] = (0, 0, 0), also: Sequence[Layout] = (), like_a: Sequence[Layout] = (),
) -> Iterator[ProductNest]:  # fmt: skip
    """The regular parts of `out[batch, m, n] = a[batch, m, k] @ b[batch, k, n]`; operands broadcast over the batch.

    moved: bytes by which a, b and the result lie further on, and then the others, if there are more. also: of tensors
    that broadcast to the result, whose addresses and strides come behind those of the result. like_a: the same of
    tensors that broadcast to a; they have strides over k, too, behind those of a and b.
    """
    if k == 0 or 0 in (*batch, m, n):
        return
    shape = (*batch, m, n)
    made = [spread(layout, a.shape) for layout in like_a]
    layouts = [
        _spread(a.layout, batch, ((0,), m, n)),
        _spread(b.layout, batch, ((1,), m, n)),
        _spread(out.layout, batch, ((0, 1), m, n)),
        *(spread(layout, shape) for layout in also),
        *(_spread(layout, batch, ((0,), m, n)) for layout in made),
    ]
    key = Layout(b.layout.offset, (*b.layout.dims[:-2], b.layout.dims[-1], b.layout.dims[-2]))
    contracted = tuple(axes_of_segments([a.layout, key, *made], -1, k))
    for nest in nests(layouts, shape):
        nest = nest.moved((*moved, *(0 for _ in range(len(nest.starts) - len(moved)))))
        groups: dict[str, list[Axis]] = {"batch": [], "rows": [], "columns": []}
        for axis in nest.merged(within_dims=True).axes:
            groups[_group(axis, len(batch))].append(axis)
        yield ProductNest(
            nest.starts, tuple(groups["batch"]), tuple(groups["rows"]), tuple(groups["columns"]), contracted
        )


def _group(axis: Axis, batch_dims: int) -> str:
    if axis.dim == batch_dims or (axis.dim < batch_dims and axis.strides[B] == 0):
        return "rows"
    return "columns" if axis.dim > batch_dims or axis.strides[A] == 0 else "batch"


def _spread(layout: Layout, batch: Sequence[int], kept: tuple[tuple[int, ...], int, int]) -> Layout:
    """The batch dimensions broadcast, and m and n: `kept` names those (0, 1) that the tensor has, and their extents."""
    own, *extents = kept
    lead = spread(Layout(layout.offset, layout.dims[:-2]), batch)
    last: list[tuple[Digit, ...]] = [
        layout.dims[-2 + i] if i in own else ((extent, 0),) for i, extent in enumerate(extents)
    ]
    return Layout(layout.offset, (*lead.dims, *last))
