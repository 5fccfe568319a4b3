"""The time of an AiM device's stream: its commands as lines for the front end, its channels on `AimDevice`.

Clock c of the device is the time from (c - 1) * clock_ps to c * clock_ps. The stream ends as the simulator's traces do,
with a marker to all channels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pimc.backends.affine import Affine, Scalar, evaluated
from pimc.backends.isa import Command
from pimc.backends.pim.aim_device import AimDevice
from pimc.backends.pim.aim_isa import Activate, BeginTrace, EndTrace
from pimc.backends.pim.aim_line import MARKER, Line
from pimc.backends.pim.aim_lines import OWN, LineMaker, shape_of
from pimc.backends.pim.aim_passage import MANY_LINES, command_through
from pimc.backends.pim.aim_runs import Repeated
from pimc.backends.pim.aim_states import States
from pimc.backends.pim.issues import IssueSink
from pimc.backends.pim.memory_share import MemoryShare
from pimc.backends.pim.tallies import LINES, OPEN_CLOCKS, trace_clocks
from pimc.backends.timing import EngineDecl, Issued, Resources, Turns
from pimc.backends.vector import plain
from pimc.ir.diagnostics import Kind, fail

if TYPE_CHECKING:
    from pimc.backends.pim.aim_steps import SteppedDevice

IDENTITY = "row"
"""The operand of which only matters whether it is that of an earlier command."""


NO_TRACE, OVER = -1, -2
"""In place of a trace's number: the stream is none, or its trace is over."""


@dataclass(slots=True)
class Trace:
    """What is known of the trace that a stream is in (BeginTrace)."""

    number: int = NO_TRACE
    begun: int = 0
    """its first clock"""
    lines: int = 0
    tallies: Counter[str] = field(default_factory=Counter)
    """of the traces that are over"""

    def ended(self, last: int) -> None:
        self.tallies[trace_clocks(self.number)] += last - self.begun + 1
        self.number = OVER


class AimTimer:
    """Keeps the time of an AiM device's stream."""

    def __init__(self, states: States, engine: EngineDecl, resources: Resources) -> None:
        self.clock_ps = engine.clock_ps
        self.rules = states.rules
        self.skipping = AimDevice(states)
        self.device: AimDevice | SteppedDevice = self.skipping
        self.lines = LineMaker(states.rules.channels)
        self.trace = Trace()
        self.memory = MemoryShare(resources)

    @property
    def tallies(self) -> Counter[str]:
        """What energy depends on besides DRAM commands: lines, clocks in which channels had a row open, summed up over
        them, and the clocks of each trace."""
        found = Counter(self.trace.tallies)
        found[LINES] = self.trace.lines
        found[OPEN_CLOCKS] = self.device.open_clocks()
        return found

    @property
    def issues(self) -> IssueSink | None:
        return self.device.issues

    @issues.setter
    def issues(self, sink: IssueSink | None) -> None:
        self.device.issues = sink

    @property
    def counters(self) -> Counter[str]:
        """DRAM commands, over all channels."""
        return self.device.total()

    # -- commands -----------------------------------------------------------------------------------------------------

    def issue(self, command: Command, ready: int) -> Issued:
        clock, device = self.clock_ps, self.device
        if isinstance(command, BeginTrace | EndTrace):
            return self._bounds(command, ready)
        plan = self.lines.plan(command)
        mask = plan.mask
        if mask >> self.rules.channels:
            have = self.rules.channels
            raise fail(Kind.PROGRAM_BAD, f"{command.mnemonic}: channels {mask:#x} of {have} do not exist")
        if mask and self.memory.is_disturbed:
            ready = self.memory.begin(ready)
            device.lose_rows(-(-ready // clock) + 1)
        at = decoded = -(-ready // clock) + 1
        if len(plan.lines) >= MANY_LINES and device is self.skipping:
            decoded, lines = command_through(self.skipping, self.lines, command, at)
            self.trace.lines += lines
        else:
            for line in self.lines.lines(command, plan):
                decoded = device.decode(line, at)
                self.trace.lines += 1
        free = (device.clock - 1) * clock
        if not mask:
            return Issued((decoded - 1) * clock, free, free, clock)
        issued, done, cause = device.outlook(mask)
        period = self.rules.period[plan.lines[0].command]
        start = max(at, issued - (plan.requests - 1) * period)
        self.memory.end((issued - 1 + period) * clock)
        return Issued((start - 1) * clock, free, done * clock, (issued - start + period) * clock, cause)

    def _bounds(self, command: BeginTrace | EndTrace, ready: int) -> Issued:
        """The device begins anew, or everything on it comes to an end."""
        trace, at = self.trace, -(-ready // self.clock_ps) + 1
        if isinstance(command, BeginTrace):
            trace.number = plain(command.number)
            trace.begun = self.device.restart(at)
            self.lines.activation = 0
            return Issued(ready, ready, ready, 0)
        self.device.decode(Line(self.lines.everyone, MARKER), at)
        trace.lines += 1
        last = self.device.finish()
        trace.ended(last)
        self.device.restart(last + 1)  # with closed rows until the next trace
        end = last * self.clock_ps
        return Issued((at - 1) * self.clock_ps, end, end, (last - at + 1) * self.clock_ps)

    def bind(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued] | None:
        """A command of one line, prepared: what is known of the channels' states gives its time."""
        line = self._only_line(command)
        if line is None:
            return None
        trace = self.trace
        mask, number, _, fixed, count = line
        at_row = evaluated(self.identity(command)) if fixed == OWN else None
        device, clock, period = self.skipping, self.clock_ps, self.rules.period[number]
        take, memory = self.skipping.take, self.memory
        lead = (count - 1) * period

        def issue(ready: int) -> Issued:
            if memory.is_disturbed:
                ready = memory.begin(ready)
                device.lose_rows(-(-ready // clock) + 1)
            at = -(-ready // clock) + 1
            issued, done, cause = take(mask, line, at_row(variables) if at_row else fixed, at)
            start = issued - lead if issued - lead > at else at
            trace.lines += 1
            memory.end((issued - 1 + period) * clock)
            busy = (issued - start + period) * clock
            return Issued((start - 1) * clock, (device.clock - 1) * clock, done * clock, busy, cause)

        return issue

    def bind_turns(
        self, command: Command, variables: dict[int, int], variable: int, time: Callable[[int], Issued]
    ) -> Callable[[int, int, int, int], Turns] | None:
        """A loop of one such command, whose turns come to the same from the same state."""
        line = self._only_line(command)
        if line is None:
            return None
        own = self.identity(command) if line.row == OWN else line.row
        step = dict(own.terms).get(variable, 0) if isinstance(own, Affine) else 0
        return Repeated(
            self.skipping, self.memory, self.trace, self.clock_ps, line.mask, (line.command, line.bank, line.times),
            evaluated(own), step, variables, variable, time,
        ).turns  # fmt: skip

    def _only_line(self, command: Command) -> Line | None:
        """The line of a command that is one line and nothing else, its row OWN where it is the command's."""
        moves = isinstance(self.identity(command), Affine)
        plan = self.lines.plan(command.resolved(defaultdict(int)) if moves else command)
        if (
            len(plan.lines) != 1
            or not plan.mask
            or plan.mask >> self.rules.channels
            or isinstance(command, Activate | EndTrace)
        ):
            return None
        if self.device is not self.skipping or self.issues is not None or self.skipping.stalls_channels:
            return None
        return plan.lines[0]

    def finish(self, ready: int) -> int:
        """The end of the stream: when all channels have said that they are done."""
        if self.trace.number == OVER:  # they have
            return ready
        everyone = (1 << self.rules.channels) - 1
        self.device.decode(Line(everyone, MARKER), -(-ready // self.clock_ps) + 1)
        return self.device.finish() * self.clock_ps

    def step(self) -> None:
        """Go through every clock from here on."""
        from pimc.backends.pim.aim_steps import SteppedDevice

        self.device = SteppedDevice(self.rules, self.device.issues)

    # -- steady states ------------------------------------------------------------------------------------------------

    def signature(self, command: Command) -> Hashable:
        """All that the time of a command depends on but the row, of which only matters whether it is open."""
        shape = shape_of(command)[1]
        return shape if isinstance(shape, tuple) else (shape,)

    def identity(self, command: Command) -> Scalar | None:
        """What matters of a command only by being equal to what it was in another one: its row."""
        row: Scalar | None = getattr(command, IDENTITY, None)
        return row

    def identities(self) -> tuple[int, ...]:
        """The rows that the state knows, always in the same order where `relative` is the same."""
        return self.skipping.rows()

    def rename(self, identities: tuple[int, ...]) -> None:
        self.skipping.rename_rows(identities)

    def relative(self, now: int) -> Hashable:
        clocks, part = divmod(now, self.clock_ps)
        return part, self.lines.activation, self.trace.number, self.skipping.relative(clocks)

    def deadline(self) -> int | None:
        """Until when the state as `relative` gives it tells all: the next refresh."""
        due = self.skipping.next_refresh()
        return None if due is None else (due - 1) * self.clock_ps

    def shift(self, by: int, since: int) -> None:
        clocks, part = divmod(by, self.clock_ps)
        if part:
            raise ValueError(f"{by} ps are not whole clocks of {self.clock_ps} ps")
        first = -(-since // self.clock_ps) + 1
        self.skipping.shift(clocks, first)
        if self.trace.begun >= first:
            self.trace.begun += clocks
