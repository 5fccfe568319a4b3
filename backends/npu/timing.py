"""The time of the NPU's commands.

Array (ONNXim's weight-stationary core, with `arrays` arrays that share the rows of a stream, as NeuPIMs has them), in
clocks, for H rows and W columns of an array and n = ceil(rows / arrays) of MATMUL:

    a MATMUL begins max(n before, minimum) after the one before, at least H if a PRELOAD lies between them;
    if the array was empty, a PRELOAD takes 2H - 1 clocks first;
    its results are complete H + W - 2 + max(n, minimum) clocks after it began.

Vector unit: a pass of a function works on `lanes` columns of `units` rows; reductions of a row of n elements take
tree(n) = 1 up to `lanes`, else ceil(n / lanes) + tree(ceil(n / lanes)). Its commands run one after another; DRAIN waits
for the array. The array waits for the vector unit only at a FENCE, but for the accumulators that a DRAIN still reads:
products of a tile may begin to arrive when the DRAINs of the tile before last are over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from pimc.backends.isa import Command
from pimc.backends.npu.isa import Drain, Fence, Matmul, Preload
from pimc.backends.target import NpuSpec, TargetSpec, VectorSpec
from pimc.backends.timing import EngineDecl, Issued, Resources
from pimc.backends.vector import Elementwise, Reduce, Scan, plain
from pimc.ir.diagnostics import InternalError


def tree_levels(elements: int, lanes: int) -> int:
    """Steps of the reduction of one row."""
    if elements <= lanes:
        return 1
    groups = -(-elements // lanes)
    return groups + tree_levels(groups, lanes)


def vector_cycles(command: Command, vector: VectorSpec) -> int:
    """Clocks for which a command occupies the vector unit."""
    match command:
        case Elementwise(function=function, rows=rows, columns=columns):
            return _passes(plain(rows), plain(columns), vector) * vector.cycles(function)
        case Drain(rows=rows, columns=columns):
            return _passes(plain(rows), plain(columns), vector) * vector.cycles("copy")
        case Reduce(rows=rows, columns=columns):
            return -(-plain(rows) // vector.units) * tree_levels(plain(columns), vector.lanes) * vector.tree
        case Scan(rows=rows, columns=columns):
            levels = (min(plain(columns), vector.lanes) - 1).bit_length() + 1
            return _passes(plain(rows), plain(columns), vector) * levels * vector.cycles("add")
    raise InternalError(f"the vector unit has no time for {command.mnemonic}")


def _passes(rows: int, columns: int, vector: VectorSpec) -> int:
    return -(-rows * -(-columns // vector.lanes) // vector.units)


@dataclass
class NpuTimer:
    """The core: commands are issued in order, one a clock; array and vector unit each hold one that waits.

    Times in ps.
    """

    clock_ps: int
    npu: NpuSpec
    counters: Counter[str] = field(default_factory=Counter)
    slot_at: int = 0
    """when the next command may be issued"""
    begun_at: int = 0
    """when the last MATMUL began: from then on the next block may be loaded"""
    next_at: int = 0
    """when its stream has passed"""
    loaded_at: int = 0
    """when the block of the last PRELOAD is in place"""
    array_done: int = 0
    vector_begun: int = 0
    vector_done: int = 0
    drains: tuple[int, int] = (0, 0)
    """when the DRAINs of the tile before last and of the last tile are over"""
    draining: bool = False

    def issue(self, command: Command, ready: int) -> Issued:
        at = max(ready, self.slot_at)
        match command:
            case Preload():
                return self._preload(at)
            case Matmul():
                return self._matmul(command, at)
            case Fence():
                done = max(at, self.array_done, self.vector_done)
                self.slot_at = done
                return Issued(done, done, done, 0, "fence" if done > at else "")
        return self._vector(command, at)

    def _preload(self, at: int) -> Issued:
        rows = self.npu.rows * self.clock_ps
        empty = self.array_done <= at
        start = at if empty else max(at, self.begun_at)
        self.loaded_at = start + (2 * rows - self.clock_ps if empty else rows)
        self.slot_at = max(at + self.clock_ps, start)
        busy = self.loaded_at - start
        return Issued(start, self.slot_at, self.loaded_at, busy, "array" if start > at else "")

    def _matmul(self, command: Matmul, at: int) -> Issued:
        if self.draining:
            self.drains, self.draining = (self.drains[1], self.vector_done), False
        npu, clock = self.npu, self.clock_ps
        stream = max(-(-plain(command.rows) // npu.arrays), npu.minimum_stream) * clock
        depth = (npu.rows + npu.columns - 2) * clock
        start = max(at, self.next_at, self.loaded_at, self.drains[0] - depth)
        self.slot_at = max(at + clock, self.begun_at)
        self.begun_at, self.next_at = start, start + stream
        self.array_done = start + depth + stream
        self.counters["MAC"] += plain(command.rows) * plain(command.k) * plain(command.columns)
        return Issued(start, self.slot_at, self.array_done, stream, "array" if start > at else "")

    def _vector(self, command: Command, at: int) -> Issued:
        earliest = max(at, self.vector_done)
        cause = "vector unit" if earliest > at else ""
        if isinstance(command, Drain):
            start = max(earliest, self.array_done)
            cause = "array" if start > earliest else cause
            self.draining = True
        else:
            start = earliest
        cycles = vector_cycles(command, self.npu.vector)
        end = start + cycles * self.clock_ps
        self.slot_at = max(at + self.clock_ps, self.vector_begun)
        self.vector_begun = start
        self.vector_done = end + max(0, self.npu.vector.latency - 1) * self.clock_ps
        self.counters["vector passes"] += cycles
        return Issued(start, self.slot_at, self.vector_done, end - start, cause)

    def signature(self, command: Command) -> Hashable:
        """What a command's time depends on: its extents, not its addresses."""
        return tuple(getattr(command, name, None) for name in ("function", "rows", "columns", "k"))

    def relative(self, now: int) -> Hashable:
        times = (
            self.slot_at, self.begun_at, self.next_at, self.loaded_at, self.array_done, self.vector_begun,
            self.vector_done, *self.drains,
        )  # fmt: skip
        return (self.draining, *(max(0, t - now) for t in times))

    def shift(self, by: int, since: int) -> None:
        self.slot_at += by
        self.begun_at += by
        self.next_at += by
        self.loaded_at += by
        self.array_done += by
        self.vector_begun += by
        self.vector_done += by
        self.drains = (self.drains[0] + by, self.drains[1] + by)


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> NpuTimer:
    """The timer of the core."""
    assert spec.npu is not None
    return NpuTimer(engine.clock_ps, spec.npu)
