"""What is done to a product on its way out: ops on each tile, between the accumulators and its place.

The accumulators of a tile are drained as float32 into a part of the buffer in which the vector unit works, one tile
after the other; what comes out goes to the last op's result, and what others read of what lies between to its own
place. Operands of few bytes are brought once, others tile by tile. Ops are element-wise, or norms of rows, for which
tiles have whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pimc.backends.dma.copy import issue_copy
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.elementwise import recipe_of, source_of
from pimc.backends.kernels.lanes import Lanes, Ref, Rehearsal, Source
from pimc.backends.kernels.nest import SLOTS, nests
from pimc.backends.kernels.normalization import NORMS, norm_recipe
from pimc.backends.kernels.pointwise import Recipe
from pimc.backends.kernels.rows import ROW_TEMPS
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu.vector_unit import NPU
from pimc.backends.program import Step
from pimc.backends.target import NpuSpec
from pimc.backends.vector import Elementwise, Reduce
from pimc.ir.chains import keeps
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.ir.types import DType

SMALL = 1 << 16
"""Bytes up to which an operand is brought as a whole."""
MOST_REGIONS = 64
"""Tiles of a result on chip at a time, at most (`tiles.py`), each of which loses some bytes to alignment."""
_SUMS = DType.F32.bits // 8


@dataclass(frozen=True)
class Stage:
    """One op: its recipe, and its sources: the value so far (None), operands by number, or numbers."""

    write: Recipe
    sources: tuple[int | float | None, ...]
    keeps: int | None = None
    """number among what is kept of the value that it goes on with, if others read that, too"""
    by_row: bool = False
    """whether a tile must have all columns of its rows"""

    def refs(self, value: Ref, operands: Sequence[Ref]) -> list[Source]:
        return [value if s is None else operands[s] if isinstance(s, int) else s for s in self.sources]


@dataclass(frozen=True)
class Epilogue:
    """Ops one after another, and the operands that they have beside the value so far."""

    stages: tuple[Stage, ...]
    tensors: tuple[Tensor, ...]
    """as they lie in memory; they broadcast to the product"""
    kept: tuple[Tensor, ...]
    """where values between ops go that others read"""
    out: Tensor

    @staticmethod
    def of(product: Node, followers: Sequence[Node], at: Lowering) -> Epilogue:
        """Of nodes that each read the one before."""
        stages: list[Stage] = []
        tensors: list[Tensor] = []
        kept: list[Tensor] = []
        value = product.result
        for node in followers:
            if keeps(node):
                kept.append(at.tensor(value))
            sources: list[int | float | None] = []
            for v in node.inputs():
                source = None if v is value else source_of(v, at)
                if isinstance(source, Tensor):
                    tensors.append(source)
                    sources.append(len(tensors) - 1)
                else:
                    sources.append(source)
            number = len(kept) - 1 if keeps(node) else None
            by_row = node.op.name in NORMS
            recipe = norm_recipe(node) if by_row else recipe_of(node)
            stages.append(Stage(recipe, tuple(sources), number, by_row))
            value = node.result
        return Epilogue(tuple(stages), tuple(tensors), tuple(kept), at.tensor(value))

    @property
    def by_row(self) -> bool:
        """Whether tiles must have whole rows."""
        return any(stage.by_row for stage in self.stages)

    def is_small(self, operand: int) -> bool:
        tensor = self.tensors[operand]
        return not tensor.on_chip and tensor.bytes <= SMALL

    def layouts(self) -> list[Layout]:
        """Where operands lie when tiles are computed on, and what is kept; small operands begin at 0 of their place on
        chip."""
        operands = [
            Layout.dense(t.layout.shape, t.element_bytes) if self.is_small(i) else t.layout
            for i, t in enumerate(self.tensors)
        ]
        return [*operands, *(t.layout for t in self.kept)]

    @property
    def staged_bytes(self) -> int:
        """For the small operands."""
        return sum(padded(t.bytes) for i, t in enumerate(self.tensors) if self.is_small(i))

    @cached_property
    def _takes(self) -> list[Rehearsal]:
        found: list[Rehearsal] = []
        for stage in self.stages:
            found.append(Rehearsal(NPU, 2))
            stage.write(found[-1], stage.refs(Ref(0, DType.F32, (0, 0)), self._views), self._views[-1])
        return found

    @property
    def _views(self) -> list[Ref]:
        return [Ref(0, t.dtype, (0, 0)) for t in (*self.tensors, self.out)]

    @property
    def moving_bytes(self) -> int:
        """For each element of a tile: what comes from memory or goes there while the next tile is computed."""
        moved = [t for i, t in enumerate(self.tensors) if not t.on_chip and not self.is_small(i)]
        return sum(t.element_bytes for t in [*moved, *self.kept, self.out] if not t.on_chip)

    @property
    def working_bytes(self) -> int:
        """For each element of a tile, once: sums of two tiles, one value between two ops, and what recipes take."""
        between = len(self.stages) > 1
        rows = 1 if self.by_row else 0  # for the numbers of a row
        return _SUMS * (SLOTS + between) + max(r.per_element for r in self._takes) + rows

    def clocks(self, npu: NpuSpec) -> float:
        """Of the vector units, for each element."""
        return sum(npu.vector.cycles(f) for f in self._functions) / (npu.vector.width * npu.cores)

    @cached_property
    def _functions(self) -> list[str]:
        steps = [s.command for r in self._takes for s in r.emit.take() if isinstance(s, Step)]
        passes = [c.function for c in steps if isinstance(c, Elementwise)]
        return [*passes, *("add" for c in steps if isinstance(c, Reduce))]

    @property
    def spare(self) -> int:
        """Bytes of a region that alignment may take."""
        rows = ROW_TEMPS if self.by_row else 0
        own = len(self.tensors) + len(self.kept)
        return padded(1) * (2 + SLOTS + own + rows + max(len(r.grids) for r in self._takes))

    def stage(self, emit: Emitter, arena: Arena) -> list[int]:
        """Bring the small operands; by operand, and what is kept, where it is (0: where it was)."""
        found: list[int] = []
        for i, tensor in enumerate(self.tensors):
            found.append(arena.take(tensor.bytes) if self.is_small(i) else 0)
            if self.is_small(i):
                shape = tensor.layout.shape
                dense = Layout.dense(shape, tensor.element_bytes, found[-1])
                for nest in nests([tensor.layout, dense], shape):
                    axes, (far, near) = nest.merged(), nest.starts
                    counts, strides = axes.counts(), (axes.strides(0), axes.strides(1))
                    issue_copy(emit, ("dram", "buffer"), far, near, tensor.dtype, counts, *strides)
        return [*found, *(0 for _ in self.kept)]

    def write(
        self, lanes: Lanes, working: Arena, value: Ref, operands: Sequence[Ref], kept: Sequence[Ref], out: Ref
    ) -> None:
        """Compute a tile; `value` is what the arrays gave. The op that commands belong to counts on with the stages."""
        temps = (value, lanes.temp()) if len(self.stages) > 1 else (value,)
        product = lanes.emit.op
        first, *after = [*(stage.keeps for stage in self.stages), None]
        if first is not None:
            lanes("copy", value, out=kept[first])
        for number, (stage, place) in enumerate(zip(self.stages, after, strict=True), 1):
            mark = working.mark()
            if number == len(self.stages):
                into = out
            else:
                into = next(t for t in temps if t is not value) if place is None else kept[place]
            lanes.emit.op = product + number if product >= 0 else product
            stage.write(lanes, stage.refs(value, operands), into)
            value = into
            working.reset(mark)
        lanes.emit.op = product
