"""What lowering the PIM products of both styles has in common: finding loops in the places of operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.nest import Nest, dense_strides, nests
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.layouts import BankPattern, pattern_of
from pimc.ir.diagnostics import InternalError
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout, pieces
from pimc.record import record


def vector_machine(at: Lowering) -> VectorMachine:
    """Whose vector commands help the PIM engine (scaling, partial sums)."""
    if at.spec.npu is not None:
        from pimc.backends.npu.vector_unit import NPU

        return NPU
    from pimc.backends.pnm.lower import PNM

    return PNM


def bank_pattern(node: Node, at: Lowering, tensor: Tensor) -> BankPattern:
    """The pattern of an operand that PIM multiplies with; placement has seen to it that there is one."""
    pattern = pattern_of(tensor.layout, at.spec.dram.geometry) if tensor.space == "dram" else None
    if pattern is None:
        raise InternalError(f"%{node.name}: its operand does not lie in PIM banks: {tensor}")
    return pattern


def single(digits: Sequence[Digit]) -> int | None:
    """The stride of a dimension that is one digit (0 if it has one index); None where it has more."""
    kept = [d for d in digits if d[0] != 1]
    if len(kept) > 1:
        return None
    return kept[0][1] if kept else 0


def element_stride(node: Node, tensor: Tensor) -> int:
    """Bytes between neighbours of the last dimension."""
    stride = single(tensor.layout.dims[-1])
    if stride is None:
        raise InternalError(f"%{node.name}: the last dimension of {tensor} is not regular")
    return stride or tensor.element_bytes


def rows_of(*tensors: Tensor, shape: Sequence[int]) -> list[Nest]:
    """The walks over all dimensions but the last."""
    return [n.merged() for n in nests([Layout(t.layout.offset, t.layout.dims[:-1]) for t in tensors], shape)]


@record
class Range:
    """A stretch of a dimension that is spread: `turns` of `together` indices, from index `start` on."""

    start: int
    turns: int
    together: int

    @property
    def stop(self) -> int:
        return self.start + self.turns * self.together


def ranges(extent: int, together: int) -> Iterator[Range]:
    """Whole turns, and what is left over."""
    whole, rest = divmod(extent, together)
    if whole:
        yield Range(0, whole, together)
    if rest:
        yield Range(whole * together, 1, rest)


def part(node: Node, layout: Layout, cuts: Sequence[tuple[int, int, int]], shape: Sequence[int]) -> Layout:
    """Ranges (dimension, start, stop) of a layout, under another shape."""
    for dim, start, stop in cuts:
        cut = layout.sliced(dim, start, stop)
        if cut is None:
            raise InternalError(f"%{node.name}: cannot take {start}:{stop} of dimension {dim} of {layout}")
        layout = cut
    shaped = layout.reshaped(shape)
    if shaped is None:
        raise InternalError(f"%{node.name}: cannot see {layout} as {tuple(shape)}")
    return shaped


def digits(layout: Layout, *dims: int) -> tuple[Digit, ...]:
    """The digits of some dimensions, in order."""
    return tuple(d for dim in dims for d in layout.dims[dim] if d[0] != 1)


def gather_vector(at: Lowering, tensor: Tensor, source: Scalar, near: Scalar, start: int, stop: int) -> None:
    """Bring elements start..stop of a vector together in the buffer, that do not lie at one distance.

    source: the address of element 0; near: where element `start` goes.
    """
    for index, piece in pieces(Layout(0, (tensor.layout.dims[-1],)), 0, start, stop):
        counts, strides = zip(*(piece.dims[0] or ((1, 0),)), strict=True)
        there = near + (index - start) * tensor.element_bytes
        dense = dense_strides(counts, tensor.element_bytes)
        spaces = (tensor.space, "buffer")
        issue_copy(at.emit, spaces, source + piece.offset, there, tensor.dtype, counts, strides, dense)
