"""Products with chosen experts in the banks: the rows of the first expert, mapped to those of the chosen one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pimc.backends.affine import Scalar
from pimc.backends.dma.isa import MapRows
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.nest import walk
from pimc.backends.kernels.places import given, on_chip, place
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.layouts import BankPattern
from pimc.backends.pim.products import bank_pattern, rows_of, single
from pimc.ir.diagnostics import InternalError
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.record import record


@record
class ChosenExperts:
    """The operands of an `expert_matmul`: vectors [T, J, K] or [T, 1, K], results [T, J, N], and experts in banks."""

    node: Node
    at: Lowering
    x: Tensor
    y: Tensor
    ids: Tensor
    """on chip"""
    first: BankPattern
    """where the matrix of expert 0 lies"""
    rows: int
    """from expert to expert"""

    @staticmethod
    def of(node: Node, at: Lowering) -> ChosenExperts:
        w = at.tensor(given(node, 1))
        geometry = at.spec.dram.geometry
        step = single(w.layout.dims[0])
        if step is None or step % geometry.stride_row:
            raise InternalError(f"%{node.name}: experts do not follow each other by whole rows: {w}")
        one = replace(w, layout=Layout(w.layout.offset, w.layout.dims[1:]))
        pattern = bank_pattern(node, at, one)
        across, along = pattern.dims  # [N, K], and products take [K, N]
        first = replace(pattern, dims=(along, across))
        ids = given(node, 2)
        shape = ids.type.static_shape
        near = on_chip(at, Arena(at, 2 * ids.type.elements * 8), place(at, ids), shape)
        rows = step // geometry.stride_row or across.row[0] * across.row[1]
        return ChosenExperts(node, at, place(at, given(node, 0)), place(at, node.result), near, first, rows)

    @property
    def depth(self) -> int:
        return given(self.node, 0).type.static_shape[-1]

    @property
    def outputs(self) -> int:
        return self.node.result.type.static_shape[-1]

    def pairs(self, slots: int) -> Iterator[tuple[Scalar, Scalar, int]]:
        """Vector and result of every pair of token and choice, with a slot; its expert's rows are mapped before."""
        layout = self.ids.layout
        ids = replace(self.ids, layout=Layout(layout.offset, (*layout.dims, ((1, 0),))))
        for nest in rows_of(self.x, self.y, ids, shape=self.node.result.type.static_shape[:-1]):
            for (source, target, index), slot in walk(self.at.emit, nest, slots):
                self._map(index)
                yield source, target, slot

    def _map(self, index: Scalar) -> None:
        extent = given(self.node, 1).type.static_shape[0]
        command = MapRows(self.first.row, self.rows, self.rows, index, self.ids.dtype, extent)
        self.at.emit.issue("load", command)
