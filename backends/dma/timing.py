"""The time of copies.

A transfer occupies its queue for an issue slot, waits for the memory's first data, and then lasts as long as the
slowest channel needs for its accesses, refresh included (`moving.py`). Queues share the data buses; a transfer holds
them for its share of their whole bandwidth. A limit of the queue itself, or of the on-chip buffer's port, may last
longer. Transfers of further queues (small ones, beside the weights of
the NPU) take turns with others, access by access. Copies from and to paged caches have a descriptor for each block. A
transfer that begins beside PIM work in banks with two row buffers gets a share of the bus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pimc.backends.dma.block_traffic import accesses_in_blocks, blocks_of
from pimc.backends.dma.isa import Copy, Gather, Indexed, Load, LoadBlocks, MapBlocks, MapRows, Move, Store, StoreBlocks
from pimc.backends.dma.moving import Dram, chosen_ps, dram_of, held_ps, in_blocks_ps, least_ps, moving_ps
from pimc.backends.dma.traffic import Memory, Traffic, accesses_of, slots, traffic
from pimc.backends.isa import Command
from pimc.backends.quantity import PS_PER_S, period_ps
from pimc.backends.tally import Counted, Tally
from pimc.backends.target import DmaSpec, DramSpec, NewtonPim, TargetSpec
from pimc.backends.timing import EngineDecl, Issued, Resource, Resources
from pimc.backends.vector import plain
from pimc.by_identity import by_identity
from pimc.ir.diagnostics import InternalError
from pimc.ir.layout import Digit
from pimc.record import record

DATA_BUS = "dram.bus"
READS = (Load, Gather, MapBlocks)
WRITES = (Store, StoreBlocks)
"""What takes from the buffer while the memory's latency passes."""
INDEXED = (Indexed, MapRows)
"""What needs an index that may have been loaded right before."""
PIM_WORK = "pim"
"""The resource that tells until when PIM works."""


@record
class TransferTime:
    """A transfer's parts, in picoseconds: until its first data, as long as it lasts, as long as it holds the buses."""

    latency: int
    duration: int
    held: int


class DmaCosts:
    """What transfers cost on a target."""

    def __init__(self, spec: TargetSpec, dma: DmaSpec) -> None:
        self.dram: DramSpec = spec.dram
        self.dma = dma
        self.spec = spec
        self.memory = memory_of(spec)
        cycles = spec.dram.cycles
        clock = spec.dram.clock_ps
        self.read_latency = (cycles["nRCDRD"] + cycles["nCL"] + cycles["nBL"]) * clock + 2 * dma.latency
        self.write_latency = (cycles["nRCDWR"] + cycles["nCWL"] + cycles["nBL"]) * clock + 2 * dma.latency
        self.reads, self.writes = (dram_of(spec.dram, self.memory, writes=writes) for writes in (False, True))
        self.derated, self.plain_ps = self.reads.derated, self.reads.plain_ps
        self.port = _port_bandwidth(spec, dma)
        self.slot = spec.pnm.lanes * spec.element_bytes if spec.pnm is not None else 1
        """Bytes that pass the on-chip port together: a slot of the shared buffer where there is one."""
        pim = spec.pim
        self.bus_percent = pim.sharing.bus_percent if isinstance(pim, NewtonPim) and pim.row_buffers == "dual" else 0
        """of transfers beside PIM work; 0: there are none"""

    def beside(self, time: TransferTime) -> TransferTime:
        """The time of a transfer beside PIM work: its share of the bus has refresh taken from it already."""
        part = 100 * self.derated(1 << 20)
        whole = max(part, 100 * 100 * (1 << 20) // self.bus_percent)
        return TransferTime(time.latency, -(-time.duration * whole // part), -(-time.held * whole // part))

    def of(self, command: Command) -> tuple[TransferTime, int | None]:
        """A command's time, and the accesses that it asks of the memory."""
        time, asked = self._timed(command)
        return (TransferTime(0, 0, 0) if self.dma.transfers == "free" else time), asked

    def _timed(self, command: Command) -> tuple[TransferTime, int | None]:
        if isinstance(command, Move):
            size = command.dtype.bits // 8
            moved = self._slots(command.src_digits, size) + self._slots(command.dst_digits, size)
            return TransferTime(0, self._on_chip(moved), 0), None
        if isinstance(command, LoadBlocks | StoreBlocks):
            return self._in_blocks(command)
        if isinstance(command, MapBlocks):  # the table, and a register of the map for each access's entries
            size = command.table_bytes
            table = traffic(self.memory, ((size, 1),), 1)
            moving = self.derated(self.plain_ps(table))
            return self._transfer(table.accesses, moving, 0, reads=True), table.accesses
        if isinstance(command, Copy):
            reads = isinstance(command, Load)
            ends = command.src_digits, command.dst_digits
            far, near = ends if reads else ends[::-1]
            size = command.dtype.bits // 8
            asked = accesses_of(self.memory, far, size)
            moving = moving_ps(self.reads if reads else self.writes, far, size)
            return self._transfer(asked, moving, max(self._slots(near, size), self._passes(asked)), reads), asked
        if isinstance(command, Indexed):
            return self._indexed(command)
        if isinstance(command, MapRows):  # an index out of the buffer, and a register of the controller
            return TransferTime(0, self._on_chip(self._slots((), command.index_type.bits // 8)), 0), None
        raise InternalError(f"the copy engines have no time for {command.mnemonic}")

    def _in_blocks(self, command: LoadBlocks | StoreBlocks) -> tuple[TransferTime, int]:
        """A descriptor for each block that the loop nest comes to; what lies in one is copied as ever."""
        reads = isinstance(command, LoadBlocks)
        far, near = (command.src_digits, command.dst_digits) if reads else (command.dst_digits, command.src_digits)
        size, block = command.dtype.bits // 8, plain(command.block)
        issue, asked = blocks_of(far, size, block) * self._issue_ps, accesses_in_blocks(self.memory, far, size, block)
        moving = in_blocks_ps(self.reads if reads else self.writes, far, size, block)
        time = self._transfer(asked, moving, max(self._slots(near, size), self._passes(asked)), reads)
        return TransferTime(time.latency, max(time.duration, issue), time.held), asked

    @property
    def _issue_ps(self) -> int:
        return self.dma.issue * self.spec.system.sharing * period_ps(self.dma.clock)

    def _transfer(self, accesses: int, moving: int, chip_slots: int, reads: bool) -> TransferTime:
        """Of what keeps the slowest channel at work for `moving` picoseconds."""
        held = min(moving, held_ps(self.reads, accesses))
        latency = self.read_latency if reads else self.write_latency
        return TransferTime(latency, max(moving, self._on_chip(chip_slots)), held)

    def _indexed(self, command: Indexed) -> tuple[TransferTime, int | None]:
        """Each index is a transfer of its own, and its row lies anywhere in a table whose rows follow each other. Those
        of other tables, as of keys in banks, lie as the compiler spreads them: on all channels and ranks alike."""
        count, size = plain(command.count), command.dtype.bits // 8
        issue = count * self._issue_ps
        chip_slots = count * self._slots(((command.row_elements, size),), size)
        if command.space != "dram":
            return TransferTime(0, max(issue, self._on_chip(2 * chip_slots)), 0), None
        reads = isinstance(command, Gather)
        dram, row = self.reads if reads else self.writes, command.row_digits
        accesses, table = count * accesses_of(self.memory, row, size), _one_by_one(command.axis_digits, row, size)
        if count == 1:
            moving = moving_ps(dram, row, size)
        elif table is not None:
            moving = chosen_ps(dram, row, size, count, table)
        else:
            moving = dram.derated(dram.plain_ps(self._spread(row, size, count)))
        found = self._transfer(accesses, moving, chip_slots, reads)
        return TransferTime(found.latency, max(found.duration, issue), found.held), accesses

    def _spread(self, row: tuple[Digit, ...], size: int, count: int) -> Traffic:
        """Of so many rows that fall on all channels and ranks alike."""
        one = traffic(self.memory, row, size)
        accesses = one.accesses * count
        busiest = max(one.busiest, -(-accesses // self.dram.channels))
        rows = max(one.rows, -(-one.rows * accesses // max(1, one.busiest) // self.dram.channels))
        return Traffic(accesses, busiest, -(-rows // self.dram.ranks))  # tRRD and tFAW hold within a rank

    def _slots(self, digits: tuple[Digit, ...], element_bytes: int) -> int:
        return slots(digits, element_bytes, self.slot)

    def _passes(self, accesses: int) -> int:
        """Slots that the accesses of a shared buffer's memory bring or take, even if it is always the same one."""
        return accesses * self.dram.access_bytes // self.slot if self.slot > 1 else 0

    def _on_chip(self, count: int) -> int:
        """As long as the on-chip side of a transfer takes for so many slots."""
        return -(-count * self.slot * PS_PER_S // self.port)


def _one_by_one(table: Sequence[Digit], row: Sequence[Digit], element_bytes: int) -> Digit | None:
    """How many rows a table has, and how far apart they lie; None where distances differ or rows are interleaved."""
    (count, stride), *outer = [digit for digit in reversed(table) if digit[0] > 1] or [(1, 0)]
    for turns, step in outer:
        if step != count * stride:
            return None
        count *= turns
    extent = sum((turns - 1) * step for turns, step in row) + element_bytes
    return (count, stride) if extent <= stride else None


def memory_of(spec: TargetSpec) -> Memory:
    """What transfers see of a target's memory."""
    hashed = spec.dma is not None and spec.dma.channels == "hashed"
    return Memory(spec.dram.channels, spec.dram.row_bytes, spec.dram.access_bytes, hashed, spec.dram.banks)


@by_identity
def costs_of(spec: TargetSpec) -> DmaCosts:
    """Of a target that has DMA."""
    assert spec.dma is not None
    return DmaCosts(spec, spec.dma)


@record
class CopyTime:
    """What a search over tiles needs of `DmaCosts`: times in seconds, refresh included."""

    reads: Dram | None
    """none: copies take no time"""
    writes: Dram | None
    port: float
    """seconds for a byte on the on-chip side"""
    latency: float
    """of a read"""

    def of(
        self, digits: tuple[Digit, ...], element_bytes: int, elements: int, *, writes: bool = False
    ) -> tuple[float, float]:
        """How long a copy of a loop nest takes, and its share of the time of all buses."""
        dram = self.writes if writes else self.reads
        if dram is None:
            return 0.0, 0.0
        moving = moving_ps(dram, digits, element_bytes, about=True)
        held = min(moving, held_ps(dram, accesses_of(dram.memory, digits, element_bytes)))
        return max(moving / PS_PER_S, elements * element_bytes * self.port), held / PS_PER_S

    def least(self, moved: int) -> float:
        """No more seconds than a copy of so many bytes of memory takes, wherever they lie."""
        return 0.0 if self.reads is None else max(least_ps(self.reads, moved) / PS_PER_S, moved * self.port)

    def stream(self, moved: int, *, writes: bool = False) -> float:
        """Seconds of so many bytes as a part of a stream that keeps all channels at work."""
        dram = self.writes if writes else self.reads
        if dram is None:
            return 0.0
        return max(held_ps(dram, -(-moved // dram.memory.access_bytes)) / PS_PER_S, moved * self.port)


@by_identity
def copy_time(spec: TargetSpec) -> CopyTime:
    """How long copies take on a target that has DMA."""
    costs = costs_of(spec)
    if costs.dma.transfers == "free":
        return CopyTime(None, None, 0.0, 0.0)
    return CopyTime(costs.reads, costs.writes, 1 / costs.port, costs.read_latency / PS_PER_S)


def _port_bandwidth(spec: TargetSpec, dma: DmaSpec) -> int:
    """Bytes a second that the queue, or the port of the buffer, lets through."""
    limits = []
    if dma.bandwidth is not None:
        limits.append(dma.bandwidth * (spec.npu.cores if spec.npu is not None else 1))
    if spec.pnm is not None:
        slot = spec.pnm.lanes * spec.element_bytes
        limits.append(slot * spec.pnm.clock // max(spec.pnm.buffer_read, spec.pnm.buffer_write))
    return min(limits, default=spec.dram.bandwidth) // spec.system.sharing


@dataclass
class DmaTimer:
    """One queue. Transfers follow each other without waiting for the latency of those before."""

    clock_ps: int
    costs: DmaCosts
    bus: Resource
    issue_ps: int
    pim: Resource | None = None
    """PIM work, where transfers go on beside it"""
    shares: bool = False
    """its accesses take turns with those of transfers that came before"""
    tally: Tally = field(default_factory=Tally)
    slot_at: int = 0
    """when the queue may issue again"""
    free_at: int = 0
    """when its last transfer has passed"""
    done_at: int = 0
    moved_at: int = 0
    """when its last copy on chip is over, whose result the next store may take"""

    @property
    def counters(self) -> Counter[str]:
        return self.tally.sums()

    def issue(self, command: Command, ready: int) -> Issued:
        return self._issue(type(command), *self._costs(command), ready)

    def bind(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued] | None:
        return partial(self._issue, type(command), *self._costs(command)) if not command.is_affine else None

    def cost(self, command: Command) -> Hashable:
        time, _ = self.costs.of(command)
        kinds = (isinstance(command, kind) for kind in (INDEXED, WRITES, Move))
        return time.latency, time.duration, time.held, *kinds

    def _costs(self, command: Command) -> tuple[TransferTime, Counted]:
        """A command's time, and what it counts."""
        time, accesses = self.costs.of(command)
        if accesses is None:
            return time, ()
        access, moved = ("RD", "bytes read") if isinstance(command, READS) else ("WR", "bytes written")
        return time, ((access, accesses), (moved, accesses * self.costs.memory.access_bytes))

    def _issue(self, kind: type[Command], time: TransferTime, counted: Counted, ready: int) -> Issued:
        issued = ready if ready > self.slot_at else self.slot_at
        if issubclass(kind, INDEXED):
            issued = max(issued, self.done_at)
        elif issubclass(kind, WRITES):
            issued = max(issued, self.moved_at)
        asked = begin = issued + time.latency
        if self.free_at > begin:
            begin = self.free_at
        if self.pim is not None and self.pim.free_at > begin:
            time = self.costs.beside(time)
            asked = issued + time.latency
        cause = "queue" if begin > asked else ""
        if time.held:
            granted = (self.bus.share if self.shares else self.bus.acquire)(begin, time.held)
            cause = "data bus" if granted > begin else cause
            begin = granted
        end = self.free_at = begin + time.duration
        if end > self.done_at:
            self.done_at = end
        if kind is Move:
            self.moved_at = end
        if counted:
            self.tally.noted[counted] += 1
        start = begin - time.latency
        self.slot_at = max(issued + self.issue_ps, start)  # one waits: the buses are asked for no earlier than needed
        return Issued(start, self.slot_at, self.done_at, time.duration, cause)

    def relative(self, now: int) -> Hashable:
        return tuple(max(0, t - now) for t in (self.slot_at, self.free_at, self.done_at, self.moved_at))

    def shift(self, by: int, since: int) -> None:
        self.slot_at += by
        self.free_at += by
        self.done_at += by
        self.moved_at += by


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> DmaTimer:
    """The timer of one queue."""
    costs = costs_of(spec)
    issue = costs.dma.issue * spec.system.sharing * engine.clock_ps
    pim = resources[PIM_WORK] if costs.bus_percent else None
    return DmaTimer(engine.clock_ps, costs, resources[DATA_BUS], issue, pim, shares=bool(engine.queue))
