"""Element by element over tensors of any size and layout: tiles come from memory, are computed on, and go back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, Rehearsal, Source, VectorMachine
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, nests, tilings, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.types import DType

Recipe = Callable[[Lanes, Sequence[Source], Ref], None]
"""Writes the commands that compute a grid from sources into a result."""
ManyRecipe = Callable[[Lanes, Sequence[Source], Sequence[Ref]], None]
"""The same for several results."""


def pointwise(
    at: Lowering,
    machine: VectorMachine,
    sources: Sequence[Tensor | float],
    result: Tensor,
    shape: Sequence[int],
    recipe: Recipe,
    arena: Arena | None = None,
) -> None:
    """Compute `result` of `shape` from sources that broadcast to it. `arena` is one that the caller already holds."""

    def write(v: Lanes, given: Sequence[Source], out: Sequence[Ref]) -> None:
        recipe(v, given, out[0])

    pointwise_many(at, machine, sources, [result], shape, write, arena)


def pointwise_many(
    at: Lowering,
    machine: VectorMachine,
    sources: Sequence[Tensor | float],
    results: Sequence[Tensor],
    shape: Sequence[int],
    recipe: ManyRecipe,
    arena: Arena | None = None,
) -> None:
    """Compute several results of one shape from the same sources."""
    tensors = [s for s in sources if isinstance(s, Tensor)]
    for nest in nests([*(t.layout for t in (*tensors, *results))], shape):
        _Pointwise(at, machine, list(sources), tensors, list(results), nest.merged(), recipe, arena).run()


@dataclass
class _Pointwise:
    at: Lowering
    machine: VectorMachine
    sources: list[Tensor | float]
    tensors: list[Tensor]
    results: list[Tensor]
    nest: Nest
    recipe: ManyRecipe
    arena: Arena | None

    def run(self) -> None:
        rehearsal = Rehearsal(self.machine, (1,))
        views = [Ref(0, t.dtype, (0,)) for t in (*self.tensors, *self.results)]
        self.recipe(rehearsal, self._refs(views[: len(self.tensors)]), views[len(self.tensors) :])
        moved = [t.element_bytes for t in (*self.tensors, *self.results) if not t.on_chip]
        slots, per_element = 1, sum(moved) + rehearsal.per_element
        spare = rehearsal.extra + padded(1) * len(moved) * SLOTS
        arena = self.arena or Arena(self.at, per_element * self.nest.elements + spare)
        mark = arena.mark()
        limit = (arena.left - spare) // max(1, per_element)
        if per_element and limit < self.nest.elements:
            slots, per_element = SLOTS, per_element + sum(moved)
            limit = (arena.left - spare) // per_element
        for tiling in tilings(self.nest, max(1, limit) if per_element else self.nest.elements):
            arena.reset(mark)
            self._tile(arena, tiling, slots)
        arena.reset(mark)

    def _refs(self, refs: Sequence[Ref]) -> list[Source]:
        """The recipe's sources: views for the tensors, numbers as they are."""
        views = iter(refs)
        return [next(views) if isinstance(s, Tensor) else s for s in self.sources]

    def _tile(self, arena: Arena, tiling: Tiling, slots: int) -> None:
        emit, count = self.at.emit, len(self.tensors)
        held = [TileHolder(arena, t, tiling, i, slots) for i, t in enumerate((*self.tensors, *self.results))]
        for holder in held[:count]:
            holder.preload(emit)
        top = arena.mark()
        for starts, slot in walk(emit, tiling.outer, slots):
            arena.reset(top)
            refs = [holder.load(emit, start, slot) for holder, start in zip(held[:count], starts, strict=False)]
            out = [holder.view(start, slot) for holder, start in zip(held[count:], starts[count:], strict=True)]
            self.recipe(Lanes(emit, self.machine, arena, [a.count for a in tiling.tile]), self._refs(refs), out)
            for holder, start in zip(held[count:], starts[count:], strict=True):
                holder.store(emit, start, slot)


class TileHolder:
    """Where tiles of one tensor lie on chip: at their own place, or in slots that they are copied to or from."""

    def __init__(self, arena: Arena, tensor: Tensor, tiling: Tiling, operand: int, slots: int) -> None:
        self.tensor = tensor
        self.start = tiling.outer.starts[operand]
        self.axes = tuple(Axis(a.count, (a.strides[operand],)) for a in tiling.tile)
        self.fixed = tiling.fixed(operand)
        self.slots: list[int] = []
        self.strides = tuple(a.strides[0] for a in self.axes)
        if not tensor.on_chip:
            self.strides, size = packed(self.axes, tensor.element_bytes)
            self.slots = [arena.take(size) for _ in range(1 if self.fixed else slots)]

    def view(self, start: Scalar, slot: int) -> Ref:
        address = self.slots[slot % len(self.slots)] if self.slots else start
        return Ref(address, self.tensor.dtype, self.strides)

    def preload(self, emit: Emitter) -> None:
        """Load a tile that all turns share."""
        if self.slots and self.fixed:
            self._copy(emit, self.start, self.slots[0], ("dram", "buffer"))

    def load(self, emit: Emitter, start: Scalar, slot: int) -> Ref:
        """Bring the tile on chip, unless it is there."""
        if self.slots and not self.fixed:
            self._copy(emit, start, self.slots[slot], ("dram", "buffer"))
        return self.view(start, slot)

    def store(self, emit: Emitter, start: Scalar, slot: int) -> None:
        if self.slots:
            self._copy(emit, start, self.slots[slot % len(self.slots)], ("buffer", "dram"))

    def _copy(self, emit: Emitter, outside: Scalar, inside: Scalar, spaces: tuple[str, str]) -> None:
        axes = [(a.count, a.strides[0], s) for a, s in zip(self.axes, self.strides, strict=True) if a.strides[0]]
        counts, far, near = ([a[i] for a in axes] for i in range(3))
        if spaces[0] == "dram":
            issue_copy(emit, spaces, outside, inside, self.tensor.dtype, counts, far, near)
        else:
            issue_copy(emit, spaces, inside, outside, self.tensor.dtype, counts, near, far)


def packed(axes: Sequence[Axis], element_bytes: int) -> tuple[tuple[int, ...], int]:
    """Dense strides of a tile that holds each element once, however often it is repeated; and the tile's bytes."""
    strides: list[int] = []
    step = element_bytes
    for axis in reversed(axes):
        repeated = axis.strides[0] == 0
        strides.append(0 if repeated else step)
        step *= 1 if repeated else axis.count
    return tuple(reversed(strides)), step


def work_type(*sources: Source) -> DType:
    """The element type in which intermediate results of some operands are held."""
    kinds = {s.dtype for s in sources if isinstance(s, Ref)}
    return DType.I64 if kinds and not any(d.is_float for d in kinds) else DType.F32
