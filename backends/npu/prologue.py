"""The left operand of a product where it is computed tile by tile, from what it is made of, instead of brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, tilings, walk
from pimc.backends.lowering import Tensor
from pimc.backends.npu.blocks import Matrix
from pimc.backends.npu.tile_copy import scaled, take_home
from pimc.backends.npu.tile_ops import TileOps, operand_tile
from pimc.backends.npu.tiles import made_at_once
from pimc.backends.npu.vector_unit import NPU


class Prologue:
    """Makes tiles [rows, k], each in the place that the product reads it from."""

    def __init__(self, emit: Emitter, ops: TileOps, made: Tensor, arena: Arena, rows: int, k: int) -> None:
        """made: the operand. rows, k: of the largest tile."""
        self.emit, self.ops, self.made = emit, ops, made
        self.rows = made_at_once(rows, k)
        elements = self.rows * k
        size, brought = elements * ops.working_bytes + ops.spare, elements * ops.brought_bytes + ops.spare
        self.working = Arena.within(arena.take(size), size)
        self.regions = [Arena.within(arena.take(brought), brought) for _ in range(SLOTS)]
        self.count = 0

    def make(self, start: Scalar, sources: Sequence[Scalar], axes: Sequence[Axis], tile: Matrix, rows: int) -> None:
        """Issue the commands of a tile, a few of its rows at a time.

        start, sources: first addresses in the operand's place, and in what it is made of; axes: the loops over both,
        of which the first `rows` go over rows. The arrays may read the tile behind a fence.
        """
        near = scaled(axes[:rows], tile.row)
        over = tuple(replace(a, strides=(*a.strides, n)) for a, n in zip(axes[:rows], near, strict=True))
        with self.emit.on_op(self.ops.stages[0].op):
            for tiling in tilings(Nest((start, *sources, tile.address), over), self.rows):
                for (first, *begin, place), _ in walk(self.emit, tiling.outer, SLOTS):
                    self._make_rows(first, begin, place, tiling.tile, axes[rows:], tile.column)

    def _make_rows(
        self, start: Scalar, sources: Sequence[Scalar], place: Scalar, rows: Sequence[Axis], depth: Sequence[Axis],
        column: int,
    ) -> None:  # fmt: skip
        emit, ops, region = self.emit, self.ops, self.regions[self.count % SLOTS]
        self.count += 1
        region.reset(0)
        self.working.reset(0)
        near = (*(a.strides[-1] for a in rows), *scaled(depth, column))
        axes = (*rows, *depth)
        operands = [
            operand_tile(emit, tensor, at, axes, 1 + i, region, resident=tensor.on_chip or ops.is_small(i))
            for i, (tensor, at) in enumerate(zip(ops.tensors, sources, strict=True))
        ]
        lanes = Lanes(emit, NPU, self.working, [a.count for a in axes])
        ops.write(lanes, self.working, (), operands, (), Ref(place, self.made.dtype, near))
        if ops.stored and not self.made.on_chip:
            take_home(emit, self.made, place, start, axes, 0, near)
