"""Copies of tiles between memory and chip, their loops in the order that memory likes."""

from __future__ import annotations

from collections.abc import Sequence

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.nest import Axis, dense_strides
from pimc.backends.lowering import Tensor


def bring(emit: Emitter, tensor: Tensor, start: Scalar, held: Scalar, axes: Sequence[Axis], operand: int,
          near: Sequence[int]) -> None:  # fmt: skip
    """From where a tensor is to `held` on chip; near: bytes from turn to turn of each axis there."""
    counts, far, inside = _longest_last([a.count for a in axes], [a.strides[operand] for a in axes], list(near))
    issue_copy(emit, (tensor.space, "buffer"), start, held, tensor.dtype, counts, far, inside)


def take_home(emit: Emitter, tensor: Tensor, held: Scalar, start: Scalar, axes: Sequence[Axis], operand: int,
              near: Sequence[int]) -> None:  # fmt: skip
    """From `held` on chip to the place of a result."""
    counts, far, inside = _longest_last([a.count for a in axes], [a.strides[operand] for a in axes], list(near))
    issue_copy(emit, ("buffer", tensor.space), held, start, tensor.dtype, counts, inside, far)


def scaled(axes: Sequence[Axis], unit: int) -> list[int]:
    """Byte strides of axes that are dense in units of `unit` bytes."""
    return list(dense_strides([a.count for a in axes], unit))


def _longest_last(counts: list[int], far: list[int], near: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The loops of a copy in the order of the far side's strides."""
    order = sorted(range(len(counts)), key=lambda i: -abs(far[i]))
    return [counts[i] for i in order], [far[i] for i in order], [near[i] for i in order]
