"""What it takes to bring the caches of a prefill to another machine, in time and in values.

Both ends run streams of their own (`backends/handover.py`), which are simulated like all others. A piece is read, then
sent, then stored, and each of the three takes the pieces in turn; so the whole ends as late as the slower end lets it:

    whole = max(reading and sending + hop + storing the last piece,
                reading the first piece + hop + receiving and storing)

which is exact for pieces that are alike. Where caches are sent layer by layer, a cache takes its turn on what paces the
transfer once the prefill has written it and those before it have had theirs. Reads for the transfer and those of the
prefill itself are simulated apart: that both want the same memory at once is not charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pimc.backends.engines import spec_of
from pimc.backends.handover import Crossing, Passage, check_moves_caches, crossing, handover
from pimc.backends.program import MapEntry, Program
from pimc.backends.verify import verify_program
from pimc.execution import SimEngine, time_program
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record
from pimc.sim.accounts import END, START

if TYPE_CHECKING:
    from pimc.sim.timing import EngineTiming, Timing
    from pimc.sim.values import RunState


@record
class End:
    """What one of the two machines does for the transfer."""

    program: Program
    timing: Timing


@record
class Handover:
    """The caches of a prefill on their way to the machine that decodes. Times in picoseconds."""

    sender: End
    receiver: End
    crossing: Crossing
    passages: Sequence[Passage]
    prefill_ps: int
    ready_ps: Sequence[int]
    """when the prefill has written each cache"""

    @property
    def bytes(self) -> int:
        """Of the caches as they are stored, each once."""
        return sum(p.bytes for p in self.passages)

    @property
    def sent_bytes(self) -> int:
        """What goes over the link: in whole packets, and to every device that holds a copy."""
        return sum(e.counters.get("link bytes", 0) * len(e.devices) for e in self.sender.timing.engines)

    @cached_property
    def whole_ps(self) -> int:
        """From the first read at one end to the last store at the other."""
        a, b, hop = self.sender.timing, self.receiver.timing, self.crossing.link.latency
        if not a.time:
            return 0
        return max(a.time + hop + self._tail_ps, self._head_ps + hop + b.time)

    @property
    def wire_ps(self) -> int:
        """How long the busiest port is held."""
        ends = (self.sender.timing, self.receiver.timing)
        return max((e.busy for t in ends for e in t.engines if e.kind == "link"), default=0)

    @property
    def _head_ps(self) -> int:
        """Until the first piece is on chip."""
        return min((int(e.segments[0, START]) for e in _links(self.sender.timing)), default=0)

    @property
    def _tail_ps(self) -> int:
        """From the arrival of the last piece on."""
        arrived = max((int(e.segments[:, END].max()) for e in _links(self.receiver.timing)), default=0)
        return self.receiver.timing.time - arrived

    @cached_property
    def _stages(self) -> Mapping[str, Sequence[int]]:
        """How long each cache keeps the busiest engine of its reading, the link, and the busiest of its storing."""
        found: dict[str, Sequence[int]] = {}
        for name, timing in (("reading", self.sender.timing), ("storing", self.receiver.timing)):
            links = {e.name for e in timing.engines if e.kind == "link"}
            busy = [timing.ops[i].busy if i in timing.ops else {} for i in range(len(self.passages))]
            found[name] = [max((time for e, time in b.items() if e not in links), default=0) for b in busy]
            wire = [max((time for e, time in b.items() if e in links), default=0) for b in busy]
            found["link"] = list(map(max, wire, found.get("link", wire)))
        return found

    @property
    def paced_by(self) -> str:
        """What takes longest: reading at one end, the link, or storing at the other."""
        return max(self._stages, key=lambda name: sum(self._stages[name]))

    def schedule(self, *, by_layer: bool) -> Sequence[int]:
        """When the turn of each cache comes on what paces the transfer, from the beginning of the prefill on."""
        starts: list[int] = []
        free = 0
        for ready, takes in zip(self.ready_ps, self._stages[self.paced_by], strict=True):
            starts.append(max(ready if by_layer else self.prefill_ps, free))
            free = starts[-1] + takes
        return starts

    @property
    def by_layer_ps(self) -> int:
        """From the end of the prefill to the last store, if every cache is sent off as soon as it is written."""
        starts, turns = self.schedule(by_layer=True), self._stages[self.paced_by]
        if not starts:
            return 0
        beside = self.whole_ps - sum(turns)  # the hop, and what the other stages do before the first and after the last
        return max(0, starts[-1] + turns[-1] + beside - self.prefill_ps)

    def exposed_ps(self, *, by_layer: bool) -> int:
        """What it adds to the time of the request."""
        return self.by_layer_ps if by_layer else self.whole_ps

    def carry(self, state: RunState) -> RunState:
        """Run both ends on values: from the memories that the prefill has left to those of the other machine."""
        from pimc.sim.values import execute

        _, left = execute(self.sender.program, {}, wide=state.format.wide, state=state)
        sent = {device.rank: device.sent for device in left.devices}
        _, arrived = execute(self.receiver.program, {}, wide=state.format.wide, received=sent)
        return arrived


def _links(timing: Timing) -> list[EngineTiming]:
    return [e for e in timing.engines if e.kind == "link" and len(e.segments)]


@record
class Cache:
    """A cache as the prefill gives it, the op there that writes it, and as the decode step takes it, by names."""

    given: str
    writer: str
    taken: str


def hand_over(
    prefill: Program, timing: Timing, decode: Program, caches: Sequence[Cache], engine: SimEngine
) -> Handover:
    """How the caches of a prefill get to another machine.

    Raises CompileError (UNAVAILABLE) where the two machines do not go together.
    """
    specs = [spec_of(p) for p in (prefill, decode)]
    for spec in specs:
        check_moves_caches(spec)
    rows = {row.name: index for index, row in enumerate(prefill.ops)}
    writers = [rows.get(cache.writer, -1) for cache in caches]
    passages = [
        Passage(
            _place(prefill, "output", cache.given),
            _place(decode, "cache", cache.taken),
            prefill.ops[row].layer if row >= 0 else -1,
        )
        for cache, row in zip(caches, writers, strict=True)
    ]
    programs = handover(prefill, decode, passages)
    for program in programs:
        verify_program(program)
    ends = [End(p, time_program(p, engine)) for p in programs]
    ready = [_end_of(prefill, timing, row) for row in writers]
    return Handover(ends[0], ends[1], crossing(*specs), passages, timing.time, ready)


def _place(program: Program, role: str, name: str) -> MapEntry:
    places = [e for e in program.memory if e.name == name]
    entry = next((e for e in places if e.role == role), places[0] if places else None)
    if entry is None:
        raise fail(Kind.UNAVAILABLE, f"the cache '{name}' of '{program.graph}' has no place on {program.target_name}")
    return entry


def _end_of(program: Program, timing: Timing, index: int) -> int:
    """When an op has ended; the end of the run where that is not known.

    Ops of identical layers share commands in a loop. Its turns take equally long, so that the k-th of n ends as much
    before the last as the turns between them take.
    """
    row = program.ops[index] if index >= 0 else None
    leader = index if row is None or row.shares < 0 else row.shares
    found = timing.ops.get(leader)
    if row is None or found is None:
        return timing.time
    turns = [i for i, other in enumerate(program.ops) if i == leader or other.shares == leader]
    if len(turns) == 1:
        return found.end
    single = found.active // len(turns)
    period = (found.end - found.start - single) / (len(turns) - 1)
    return round(found.start + single + period * turns.index(index))
