"""Getting vectors to where GWRITE can take them, and results of tiles together.

Vectors reach a channel's global buffer through DRAM rows of that channel (staging): filling number f of a vector lies
in bank f mod banks of the staging row f div banks. Two stretches of staging rows take turns, in every wave of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from pimc.backends.affine import INSTANCE, Scalar, variable
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.nest import dense_strides
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.cells import CELL_BYTES, LANES
from pimc.backends.pim.layouts import STAGING_ROWS, STAGING_SLOTS
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.pim.products import vector_machine
from pimc.backends.target import NewtonPim
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.record import record


@record
class Source:
    """Elements in a memory: bytes from one to the next."""

    space: str
    dtype: DType
    element: int
    in_place: bool = False
    """GWRITE takes them from where they lie"""


Move = tuple[int, int, int]
"""One axis of what is staged: count, bytes moved on in the source (0: the same for all), bytes moved on in DRAM."""


def vector_operand(node: Node, at: Lowering) -> tuple[Tensor, bool]:
    """The operand that GWRITE takes, and whether it takes it from where it lies (seen as dense then): the rows before
    the first tile hold nothing else."""
    value = next(iter(node.inputs()))
    tensor = at.tensor(value)
    if at.marked:
        return tensor, True
    if not mapping_of(at.spec).one_vector_row or tensor.space != "dram":
        return tensor, False
    if tensor.layout.offset >= at.spec.dram.geometry.stride_row:
        return tensor, False
    return replace(tensor, layout=Layout.dense(value.type.static_shape, tensor.element_bytes)), True


def mark_vectors(node: Node, at: Lowering) -> Lowering:
    """Tell the channels that all vectors of an op are complete, where these are taken to be there.

    One element of each vector goes to where GWRITE takes them, in every channel.
    """
    tensor = at.tensor(next(iter(node.inputs())))
    if not mapping_of(at.spec).marks_vectors:
        return at
    geometry = at.spec.dram.geometry
    axes = [digit for dim in tensor.layout.dims[:-1] for digit in dim]
    counts, strides = [count for count, _ in axes], [stride for _, stride in axes]
    source = tensor.layout.offset
    if tensor.space != "buffer":
        near = at.scratch.take(prod(counts) * tensor.element_bytes)
        dense = list(dense_strides(counts, tensor.element_bytes))
        issue_copy(at.emit, (tensor.space, "buffer"), source, near, tensor.dtype, counts, strides, dense)
        source, strides = near, dense
    there = [geometry.stride_channel, *(0 for _ in counts)]
    all_channels = [geometry.channels, *counts]
    issue_copy(at.emit, ("buffer", "dram"), source, 0, tensor.dtype, all_channels, [0, *strides], there)
    return replace(at, marked=True)


def is_returned(at: Lowering, tensor: Tensor) -> bool:
    """Whether results that need no sums stay where they are returned."""
    return mapping_of(at.spec).results_on_chip and tensor.space == "buffer"


def filling_stride(at: Lowering) -> int:
    """Bytes in DRAM from one filling of a vector to the next, within a staging row."""
    return 0 if mapping_of(at.spec).one_vector_row else at.spec.dram.geometry.stride_bank


class Stage:
    """Copies vectors of `elements`, one for each turn of `moves`, into staging rows, times `scale`."""

    def __init__(
        self, at: Lowering, arena: Arena, source: Source, moves: Sequence[Move], elements: int, scale: float = 1.0
    ) -> None:
        self.at, self.source, self.moves, self.elements, self.scale = at, source, tuple(moves), elements, scale
        self.whole = -(-elements // LANES) * LANES
        self.is_direct = source.space == "buffer" and self.whole == elements and scale == 1.0
        self.slots: list[int] = []
        if not self.is_direct and not source.in_place:
            counts = [c for c, s, _ in moves if s]
            size = prod(counts) * self.whole * CELL_BYTES
            self.near = self._near_strides()
            self.slots = [arena.take(size) for _ in range(STAGING_SLOTS)]
            if self.whole != elements:
                self._clear(prod(counts))

    def put(self, address: Scalar, to: Scalar, slot: int) -> None:
        """Stage from `address` (in the source's space) to the DRAM address `to`, by way of scratch number `slot`."""
        if self.source.in_place:
            return
        emit, dtype = self.at.emit, self.source.dtype
        counts, far, there = ([m[i] for m in self.moves] for i in range(3))
        if self.is_direct:
            out = ([*counts, self.elements], [*far, self.source.element], [*there, CELL_BYTES])
            issue_copy(emit, ("buffer", "dram"), address, to, dtype, *out)
            return
        near = self.slots[slot % STAGING_SLOTS]
        kept = [i for i, m in enumerate(self.moves) if m[1]]
        issue_copy(
            emit, (self.source.space, "buffer"), address, near, dtype, [*(counts[i] for i in kept), self.elements],
            [*(far[i] for i in kept), self.source.element], [*(self.near[i] for i in kept), CELL_BYTES],
        )  # fmt: skip
        if self.scale != 1.0:
            grid = [*(counts[i] for i in kept), self.elements]
            ref = Ref(near, dtype, (*(self.near[i] for i in kept), CELL_BYTES))
            Lanes(emit, vector_machine(self.at), None, grid)("mul", ref, self.scale, out=ref)
        issue_copy(
            emit,
            ("buffer", "dram"),
            near,
            to,
            dtype,
            [*counts, self.whole],
            [*self.near, CELL_BYTES],
            [*there, CELL_BYTES],
        )

    def _near_strides(self) -> tuple[int, ...]:
        """Dense rows of scratch; what is the same for all is held once."""
        strides = dense_strides([c if s else 1 for c, s, _ in self.moves], self.whole * CELL_BYTES)
        return tuple(stride if move[1] else 0 for stride, move in zip(strides, self.moves, strict=True))

    def _clear(self, vectors: int) -> None:
        """Zeros behind the last elements: they meet padding in the banks, and must not be a NaN."""
        for slot in self.slots:
            rest = Ref(slot + self.elements * CELL_BYTES, self.source.dtype, (self.whole * CELL_BYTES, CELL_BYTES))
            counts = (vectors, self.whole - self.elements)
            Lanes(self.at.emit, vector_machine(self.at), None, counts)("copy", 0.0, out=rest)


@record
class Results:
    """Where results of tiles go: bytes from channel to channel, the first channel that takes part, and how many do."""

    first: int
    channel: int
    channels: int

    def address(self, base: Scalar) -> Scalar:
        if self.channels == 1:
            return base
        return base + variable(INSTANCE) * self.channel - self.first * self.channel


class Tiles:
    """The commands of tiles, for some channels, in the way of the target's row buffers."""

    def __init__(self, at: Lowering, first: int, channels: int, members: tuple[int, ...] | None = None) -> None:
        """members: those of the channels that take part, if not all do."""
        self.at, self.first = at, first
        everyone = channels == at.spec.dram.channels
        self.instances = members or (None if everyone else tuple(range(first, first + channels)))
        assert isinstance(at.spec.pim, NewtonPim)
        self.is_dual = at.spec.pim.row_buffers == "dual"
        self.banks = at.spec.dram.banks
        self.dtype = at.spec.storage_dtype
        self.sums = DType.parse(at.spec.accumulator)
        self.one_row = mapping_of(at.spec).one_vector_row
        self.staging_row = at.staging // at.spec.dram.geometry.stride_row

    def global_write(self, filling: Scalar, slot: int, count: int, *, over: int = 0) -> None:
        """GWRITE of a filling; `over`: staging rows before the one that it lies in (its bank is `filling`)."""
        row = self.staging_row + slot * STAGING_ROWS + over
        bank, row = (0, 0) if self.one_row else (filling, row)
        self._issue(GlobalWrite(bank, row, count, dtype=self.dtype))

    def header(self, row: Scalar, comps: int, results: int) -> None:
        self._issue(Header(row, comps, results))

    def result(self, row: Scalar, count: int, column: Scalar, vector: Scalar, address: Scalar) -> None:
        """One result of every bank."""
        if self.is_dual:
            self._issue(CompsReadResult(row, count, column, vector, address, self.banks, self.dtype, self.sums))
        else:
            self._issue(Comp(row, count, column, vector, self.dtype, self.sums))
            self._issue(ReadResult(address, self.banks, self.dtype))

    def _issue(self, command: GlobalWrite | Header | CompsReadResult | Comp | ReadResult) -> None:
        self.at.emit.issue("pim", command, self.instances)


class Sums:
    """Adds partial results of several fillings, if there are several, and moves them to where they belong."""

    def __init__(self, at: Lowering, arena: Arena, counts: Sequence[int], parts: int, part_bytes: int) -> None:
        """counts: of the grid of results; parts: how many are added, `part_bytes` apart."""
        self.at, self.counts, self.parts, self.part_bytes = at, tuple(counts), parts, part_bytes
        size = prod(counts)
        if parts > 1:
            self.total = Ref(arena.take(size * 4), DType.F32, dense_strides(counts, 4))
            self.rounded = arena.take(size * CELL_BYTES)

    def move(self, near: Scalar, strides: Sequence[int], target: Source, to: Scalar, out: Sequence[int]) -> None:
        """Results from `near` (bytes per axis `strides`) to `to` in the target's space (bytes per axis `out`)."""
        dtype = target.dtype
        lanes = Lanes(self.at.emit, vector_machine(self.at), None, self.counts)
        if self.parts > 1:
            lanes("add", *(Ref(near + i * self.part_bytes, dtype, tuple(strides)) for i in range(2)), out=self.total)
            with self.at.emit.loop(self.parts - 2) as i:
                further = Ref(near + (i + 2) * self.part_bytes, dtype, tuple(strides))
                lanes("add", self.total, further, out=self.total)
            if target.space == "buffer":
                lanes("copy", self.total, out=Ref(to, dtype, tuple(out)))
                return
            strides, near = dense_strides(self.counts, CELL_BYTES), self.rounded
            lanes("copy", self.total, out=Ref(near, dtype, tuple(strides)))
        issue_copy(self.at.emit, ("buffer", target.space), near, to, dtype, self.counts, strides, out)
