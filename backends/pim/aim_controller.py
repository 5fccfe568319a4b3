"""The in-order controller of an AiM device: one stream, channel masks, a queue in front of each channel.

One command of the stream is decoded each clock, as long as the queues have room; reads of registers hold the stream
until they are answered. Channels with the same history share one state.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from pimc.backends.isa import Command
from pimc.backends.pim import aim_isa
from pimc.backends.pim.aim_channel import AimChannel, Request, latencies
from pimc.backends.pim.controller import CLOSED, Channel, PairTable, RefreshRule, Run
from pimc.backends.pim.memory_share import MemoryShare
from pimc.backends.target import AimPim, TargetSpec
from pimc.backends.timing import EngineDecl, Issued, Resources
from pimc.backends.vector import plain
from pimc.ir.diagnostics import Kind, fail

TABLE_ROWS = 1 << 29
"""The row that stands for the first activation table."""

REQUESTS: dict[type[Command], Callable[..., Request | None]] = {
    aim_isa.WriteGlobalBuffer: lambda c: Request("WRGB", plain(c.count)),
    aim_isa.WriteBias: lambda c: Request("WRMAC16", 1),
    aim_isa.ReadMac: lambda c: Request("RDMAC16", 1),
    aim_isa.ReadActivated: lambda c: Request("RDAF16", 1),
    aim_isa.MacAllBanks: lambda c: Request("MAC16", plain(c.count), None, plain(c.row)),
    aim_isa.MacOneBank: lambda c: Request("MAC", plain(c.count), plain(c.bank), plain(c.row)),
    aim_isa.Activate: lambda c: Request("AF16", 1, None, TABLE_ROWS + list(aim_isa.ACTIVATIONS).index(c.function)),
    aim_isa.ReadBank: lambda c: Request("RD", plain(c.count), plain(c.bank), plain(c.row)),
    aim_isa.WriteBank: lambda c: Request("WR", plain(c.count), plain(c.bank), plain(c.row)),
    aim_isa.WriteAllBanks: lambda c: Request("WRA16", 1, None, plain(c.row)),
    aim_isa.CopyBankToBuffer: lambda c: Request("RDCP", plain(c.count), plain(c.bank), plain(c.row)),
    aim_isa.CopyBufferToBank: lambda c: Request("WRCP", plain(c.count), plain(c.bank), plain(c.row)),
    aim_isa.MultiplyBanks: lambda c: Request("EWMUL16", plain(c.count), None, plain(c.row)),
    aim_isa.AddBuffers: lambda c: None,
}
"""What each command asks of its channels; None: nothing."""

BLOCKING = ("RDMAC16", "RDAF16")
"""Reads that hold the stream until they are answered."""


@dataclass
class Queue:
    """Requests that wait in front of a channel: (how many, when the last of them leaves, clocks between them)."""

    capacity: int
    runs: deque[tuple[int, int, int]] = field(default_factory=deque)
    held: int = 0

    def accepted(self, count: int, run: Run, at: int) -> int:
        """When the last of `count` requests, offered at a clock, finds room; `run` is when they leave."""
        while self.runs and self.runs[0][1] <= at:
            self.held -= self.runs.popleft()[0]
        self.runs.append((count, run.last, run.period))
        self.held += count
        while self.held - self.runs[0][0] >= self.capacity:
            self.held -= self.runs.popleft()[0]
        over = self.held - self.capacity
        if over <= 0:
            return 0
        head, last, period = self.runs[0]
        return last - (head - over) * period

    def relative(self, now: int) -> Hashable:
        return tuple((n, last - now, p) for n, last, p in self.runs if last > now)

    def shift(self, by: int) -> None:
        self.runs = deque((n, last + by, p) for n, last, p in self.runs)

    def copy(self) -> Queue:
        return Queue(self.capacity, deque(self.runs), self.held)


@dataclass
class Lane:
    """Channels with the same history."""

    mask: int
    channel: AimChannel
    queue: Queue


class AimTimer:
    """Keeps the time of an AiM device's stream."""

    def __init__(self, spec: TargetSpec, pim: AimPim, engine: EngineDecl, resources: Resources) -> None:
        self.clock_ps = engine.clock_ps
        self.channels = spec.dram.channels
        cycles = spec.cycles
        refresh = RefreshRule(cycles["nREFI"] if spec.dram.refresh else 0)
        channel = Channel(PairTable.of(spec.pair_constraints()), spec.dram.banks, spec.dram.banks_per_group, refresh)
        everyone = (1 << self.channels) - 1
        self.lanes = [Lane(everyone, AimChannel(channel, latencies(cycles)), Queue(pim.queue))]
        self.memory = MemoryShare(resources)
        self._ended = 0
        self._issued: Counter[str] = Counter()

    @property
    def counters(self) -> Counter[str]:
        """DRAM commands, over all channels."""
        total = Counter(self._issued)
        for lane in self.lanes:
            for name, count in lane.channel.channel.counts.items():
                total[name] += count * lane.mask.bit_count()
        return total

    def issue(self, command: Command, ready: int) -> Issued:
        request = REQUESTS[type(command)](command)
        at = -(-ready // self.clock_ps)
        if request is None:
            return self._issued_at(at, 1, at + 1, at + 1, "")
        mask = plain(getattr(command, "mask"))  # noqa: B009
        if not mask or mask >> self.channels:
            raise fail(Kind.PROGRAM_BAD, f"{command.mnemonic}: channels {mask:#x} of {self.channels} do not exist")
        offered, disturbed = self.memory.begin(at * self.clock_ps)
        at = max(at, -(-offered // self.clock_ps))
        lanes = self._lanes(mask)
        if disturbed:
            for lane in self.lanes:
                lane.channel.channel.set_row(None, CLOSED)
        runs = [lane.channel.run(request, at) for lane in lanes]
        first, last = min(r.first for r in runs), max(r.last for r in runs)
        latency = lanes[0].channel.latency[request.final]
        free = max(lane.queue.accepted(request.count, run, at) for lane, run in zip(lanes, runs, strict=True))
        if request.final in BLOCKING:
            free = last + latency + 1
        self.memory.end((last + 1) * self.clock_ps)
        self._merge(lanes, at)
        busy = min(last + 1 - first, request.count * runs[0].period)  # without a refresh between
        return self._issued_at(first, busy, max(at + 1, free), last + latency, runs[0].cause)

    def _issued_at(self, first: int, busy: int, free: int, done: int, cause: str) -> Issued:
        clock = self.clock_ps
        return Issued(first * clock, free * clock, done * clock, busy * clock, cause)

    # -- channels ---------------------------------------------------------------------------------------------------

    def _lanes(self, mask: int) -> list[Lane]:
        """The lanes of a mask; lanes that it divides are split."""
        if len(self.lanes) == 1 and self.lanes[0].mask == mask:
            return self.lanes
        chosen: list[Lane] = []
        for lane in list(self.lanes):
            inside = lane.mask & mask
            if not inside:
                continue
            if inside != lane.mask:
                rest = Lane(lane.mask & ~mask, lane.channel.copy(), lane.queue.copy())
                for name, count in lane.channel.channel.counts.items():
                    self._issued[name] += count * lane.mask.bit_count()
                lane.channel.channel.counts.clear()
                lane.mask = inside
                self.lanes.append(rest)
            chosen.append(lane)
        return chosen

    def _merge(self, touched: list[Lane], now: int) -> None:
        """Join lanes whose histories have come together again, for all that may be offered from a clock on."""
        if len(touched) < 2:
            return
        known: dict[Hashable, Lane] = {}
        kept: list[Lane] = []
        for lane in self.lanes:
            state = (lane.channel.channel.relative(now), lane.queue.relative(now))
            same = known.setdefault(state, lane)
            if same is lane:
                kept.append(lane)
                continue
            for name, count in lane.channel.channel.counts.items():
                self._issued[name] += count * lane.mask.bit_count()
            for name, count in same.channel.channel.counts.items():
                self._issued[name] += count * same.mask.bit_count()
            same.channel.channel.counts.clear()
            same.mask |= lane.mask
        self.lanes = kept

    # -- steady states ----------------------------------------------------------------------------------------------

    def relative(self, now: int) -> Hashable:
        clocks, part = divmod(now, self.clock_ps)
        lanes = tuple(
            (lane.mask, lane.channel.channel.relative(clocks), lane.queue.relative(clocks)) for lane in self.lanes
        )
        return part, lanes

    def shift(self, by: int) -> None:
        clocks, part = divmod(by, self.clock_ps)
        if part:
            raise ValueError(f"{by} ps are not whole clocks of {self.clock_ps} ps")
        for lane in self.lanes:
            lane.channel.channel.shift(clocks)
            lane.queue.shift(clocks)
