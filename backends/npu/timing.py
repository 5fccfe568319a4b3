"""The time of the NPU's commands.

Arrays (`array.py` has their numbers): a PRELOAD takes `load` clocks from when the last stream began, or `first_load`
where the array is empty; a MATMUL begins when its block is there and the stream before has entered, and its results are
complete `skew` clocks after its own stream. A MATMULOS begins when the stream before has entered, and what stayed
`unload` clocks after that began; with `accumulate` it goes on with the sums in the array. Where folds are serial,
whatever changes what stays begins when everything before is complete; where they alternate, a PRELOAD begins when the
last stream has entered.

Vector unit: a pass of a function works on `lanes` columns of `units` rows; reductions of a row of n elements take
tree(n) = 1 up to `lanes`, else ceil(n / lanes) + tree(ceil(n / lanes)). Its commands run one after another; DRAIN waits
for the array, and takes a pass, or no time through a port of its own. The array waits for the vector unit only at a
FENCE (of everything, or of the vector unit alone), but for the accumulators that a DRAIN still reads: products of a
tile may begin to arrive when the DRAINs of the tile before last are over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

from pimc.backends.isa import Command
from pimc.backends.npu.array import array_time
from pimc.backends.npu.isa import Drain, Fence, Matmul, MatmulOs, Preload
from pimc.backends.target import NpuSpec, TargetSpec, VectorSpec
from pimc.backends.timing import EngineDecl, Issued, Resource, Resources
from pimc.backends.vector import Elementwise, Reduce, Scan, plain
from pimc.ir.diagnostics import InternalError


def tree_levels(elements: int, lanes: int) -> int:
    """Steps of the reduction of one row."""
    if elements <= lanes:
        return 1
    groups = -(-elements // lanes)
    return groups + tree_levels(groups, lanes)


def vector_cycles(command: Command, vector: VectorSpec, cores: int = 1) -> int:
    """Clocks for which a command occupies the vector units of all cores."""
    units = vector.units * cores
    match command:
        case Elementwise(function=function, rows=rows, columns=columns):
            return _passes(plain(rows), plain(columns), vector.lanes, units) * vector.cycles(function)
        case Drain(rows=rows, columns=columns):
            return _passes(plain(rows), plain(columns), vector.lanes, units) * vector.cycles("copy")
        case Reduce(rows=rows, columns=columns):
            return -(-plain(rows) // units) * tree_levels(plain(columns), vector.lanes) * vector.tree
        case Scan(rows=rows, columns=columns):
            levels = (min(plain(columns), vector.lanes) - 1).bit_length() + 1
            return _passes(plain(rows), plain(columns), vector.lanes, units) * levels * vector.cycles("add")
    raise InternalError(f"the vector unit has no time for {command.mnemonic}")


def _passes(rows: int, columns: int, lanes: int, units: int) -> int:
    return -(-rows * -(-columns // lanes) // units)


@dataclass
class NpuTimer:
    """The core: commands are issued in order, one a clock; the array holds one that waits, the vector unit `waiting`.

    Times in ps.
    """

    clock_ps: int
    npu: NpuSpec
    unit: Resource | None = None
    """the vector unit, where another queue uses it, too"""
    counters: Counter[str] = field(default_factory=Counter)
    slot_at: int = 0
    """when the next command may be issued"""
    begun_at: int = 0
    """when the last MATMUL began: from then on the next block may be loaded"""
    next_at: int = 0
    """when its stream has passed"""
    loaded_at: int = 0
    """when the block of the last PRELOAD is in place"""
    unloaded_at: int = 0
    """when sums that stay may be others than those of the last MATMULOS"""
    array_done: int = 0
    vector_done: int = 0
    drains: tuple[int, int] = (0, 0)
    """when the DRAINs of the tile before last and of the last tile are over"""
    draining: bool = False

    def __post_init__(self) -> None:
        self.vector_begun: tuple[int, ...] = (0,) * self.npu.vector.waiting
        """when its last commands began, as many as may wait, the earliest first"""
        self.array = array_time(self.npu.array, self.npu.arrays)
        self.load, self.first_load = self.array.load * self.clock_ps, self.array.first_load * self.clock_ps
        self.skew, self.unload = self.array.skew * self.clock_ps, self.array.unload * self.clock_ps
        self.ahead = self.array.ahead * self.clock_ps
        """the part of the very first block that lies before time 0"""

    def issue(self, command: Command, ready: int) -> Issued:
        return self.bind(command, {})(ready)

    def bind(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued]:
        match command:
            case Preload():
                return self._preload
            case Matmul(rows=rows, k=k, columns=columns):
                stream = self.array.stream(plain(rows), plain(k), plain(columns)) * self.clock_ps
                return partial(self._matmul, stream, plain(rows) * plain(k) * plain(columns))
            case MatmulOs(rows=rows, k=k, columns=columns, accumulate=accumulate):
                stream = self.array.stream(plain(k), plain(rows), plain(columns)) * self.clock_ps
                work = plain(rows) * plain(k) * plain(columns)
                return partial(self._matmul_os, stream, work, bool(plain(accumulate)))
            case Fence(of=of):
                return partial(self._fence, of == "all")
            case Drain() if self.npu.drain == "free":
                return self._free_drain
        cycles = vector_cycles(command, self.npu.vector, self.npu.cores)
        return partial(self._vector, cycles, isinstance(command, Drain))

    def _fence(self, whole: bool, ready: int) -> Issued:
        at = max(ready, self.slot_at)
        done = self.slot_at = max(at, self.vector_done, self.array_done if whole else 0)
        return Issued(done, done, done, 0, "fence" if done > at else "")

    def _preload(self, ready: int) -> Issued:
        at = ready if ready > self.slot_at else self.slot_at
        earliest = max(at, self.array_done) if self.array.serial else at
        empty = self.array_done <= earliest
        begun = earliest if empty else self.next_at if self.array.alternating else self.begun_at
        start = begun if begun > at else at
        took = (self.first_load if empty else self.load) - self.ahead
        self.loaded_at, self.ahead = start + took, 0
        slot = at + self.clock_ps
        self.slot_at = slot if slot > start else start
        return Issued(start, self.slot_at, self.loaded_at, took, "array" if start > at else "")

    def _matmul(self, stream: int, work: int, ready: int) -> Issued:
        at = ready if ready > self.slot_at else self.slot_at
        free = self.next_at if self.next_at > self.loaded_at else self.loaded_at
        return self._streamed(work, at, at if at > free else free, stream)

    def _matmul_os(self, stream: int, work: int, goes_on: bool, ready: int) -> Issued:
        at = max(ready, self.slot_at)
        earliest = max(at, self.next_at)
        if not goes_on:
            earliest = max(earliest, self.array_done if self.array.serial else self.unloaded_at)
            stream, self.ahead = stream - self.ahead, 0
        issued = self._streamed(work, at, earliest, stream)
        self.unloaded_at, self.array_done = self.begun_at + self.unload, self.array_done + self.unload
        return issued._replace(done=self.array_done)

    def _streamed(self, work: int, at: int, earliest: int, stream: int) -> Issued:
        if self.draining:
            self.drains, self.draining = (self.drains[1], self.vector_done), False
        drained = self.drains[0] - self.skew
        start = earliest if earliest > drained else drained
        slot = at + self.clock_ps
        self.slot_at = slot if slot > self.begun_at else self.begun_at
        self.begun_at, self.next_at = start, start + stream
        self.array_done = start + self.skew + stream
        self.counters["MAC"] += work
        return Issued(start, self.slot_at, self.array_done, stream, "array" if start > at else "")

    def _free_drain(self, ready: int) -> Issued:
        at = max(ready, self.slot_at)
        start = max(at, self.array_done)
        self.draining, self.slot_at = True, at + self.clock_ps
        self.vector_done = max(self.vector_done, start)
        return Issued(start, self.slot_at, start, 0)

    def _vector(self, cycles: int, drains: bool, ready: int) -> Issued:
        at = max(ready, self.slot_at)
        self.draining = self.draining or drains
        earliest = max(at, self.vector_done)
        cause = "vector unit" if earliest > at else ""
        start = max(earliest, self.array_done) if drains else earliest
        cause = "array" if start > earliest else cause
        if self.unit is not None:
            granted = self.unit.acquire(start, cycles * self.clock_ps)
            cause = "vector unit" if granted > start else cause
            start = granted
        end = start + cycles * self.clock_ps
        self.slot_at = max(at + self.clock_ps, self.vector_begun[0])
        self.vector_begun = (*self.vector_begun[1:], start)
        self.vector_done = end + max(0, self.npu.vector.latency - 1) * self.clock_ps
        self.counters["vector passes"] += cycles
        return Issued(start, self.slot_at, self.vector_done, end - start, cause)

    def signature(self, command: Command) -> Hashable:
        """What a command's time depends on: its extents, not its addresses."""
        goes_on = command.accumulate if isinstance(command, MatmulOs) else 0
        return (goes_on, *(getattr(command, name, None) for name in ("function", "rows", "columns", "k", "of")))

    def relative(self, now: int) -> Hashable:
        times = (
            self.slot_at, self.begun_at, self.next_at, self.loaded_at, self.unloaded_at, self.array_done,
            *self.vector_begun, self.vector_done, *self.drains,
        )  # fmt: skip
        return (self.draining, *(max(0, t - now) for t in times))

    def shift(self, by: int, since: int) -> None:
        self.slot_at += by
        self.begun_at += by
        self.next_at += by
        self.loaded_at += by
        self.unloaded_at += by
        self.array_done += by
        self.vector_begun = tuple(t + by for t in self.vector_begun)
        self.vector_done += by
        self.drains = (self.drains[0] + by, self.drains[1] + by)


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> NpuTimer:
    """The timer of the core."""
    assert spec.npu is not None
    has_second = any(e.of == "npu" for e in spec.engines())
    return NpuTimer(engine.clock_ps, spec.npu, resources["vector unit"] if has_second else None)
