"""The controller of one channel of Newton-style PIM: takes the channel's stream, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping

from pimc.backends.affine import Affine, Scalar
from pimc.backends.isa import Command
from pimc.backends.pim.issues import IssueSink
from pimc.backends.pim.memory_share import MemoryBeside, MemoryShare
from pimc.backends.pim.newton_channel import Done, NewtonChannel
from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.pim.newton_rules import Rules
from pimc.backends.pim.newton_shared import SharedChannel
from pimc.backends.pim.newton_states import Kind as Asked
from pimc.backends.pim.newton_states import RememberedChannel
from pimc.backends.timing import SERVED, EngineDecl, Issued, Timer
from pimc.backends.vector import plain
from pimc.ir.diagnostics import InternalError, Kind, fail


class NewtonTimer:
    """Keeps the time of one channel's stream: by looking up what commands do, or, if somebody is told of the DRAM
    commands or asks for plain steps, by working it out each time."""

    def __init__(self, rules: Rules, engine: EngineDecl, memory: MemoryShare | MemoryBeside) -> None:
        self.clock_ps = engine.clock_ps
        self.rules = rules
        self.channel: NewtonChannel | RememberedChannel = RememberedChannel(rules)
        self.memory = memory

    def step(self) -> None:
        self.issues = self.channel.issues

    @property
    def issues(self) -> IssueSink | None:
        """Who is told of the DRAM commands."""
        return self.channel.issues

    @issues.setter
    def issues(self, sink: IssueSink | None) -> None:
        channel = NewtonChannel(self.rules)
        channel.issues = sink
        self.channel = channel

    @property
    def counters(self) -> Counter[str]:
        """DRAM commands of the channel."""
        return self.channel.counts

    def issue(self, command: Command, ready: int) -> Issued:
        clock = self.clock_ps
        if isinstance(self.memory, MemoryShare) and self.memory.is_disturbed:
            ready = self.memory.begin(ready)  # normal traffic waits for PIM, and PIM for what came before it
            self.channel.rows_lost()
        done = self._issue(command, -(-ready // clock))
        self.memory.end(max(done.free, min(done.first + done.busy, done.done)) * clock)
        return _in_time(done, clock)

    def _issue(self, command: Command, at: int) -> Done:
        channel = self.channel
        if isinstance(command, CompsReadResult) and self.rules.is_dual:
            return channel.compute_and_read(plain(command.row), plain(command.count), at)
        if isinstance(command, Comp) and not self.rules.is_dual:
            return channel.compute(plain(command.row), plain(command.count), at)
        if isinstance(command, ReadResult) and not self.rules.is_dual:
            return channel.read_result(at)
        if isinstance(command, Header):
            return channel.header(plain(command.row), plain(command.comps), plain(command.results), at)
        if isinstance(command, GlobalWrite):
            return channel.global_write(plain(command.bank), plain(command.row), at)
        kind = "dual" if self.rules.is_dual else "single"
        raise fail(Kind.PROGRAM_BAD, f"a PIM channel with {kind} row buffers does not take {command.mnemonic}")

    def follow(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued] | None:
        """What times a command as `issue` does, its row being what the counters of loops make it."""
        channel, clock = self.channel, self.clock_ps
        if not isinstance(channel, RememberedChannel):
            return None
        asked = _asked(command, self.rules.is_dual)
        if asked is None:
            return None
        kind, operands, row = asked
        if not all(isinstance(operand, int) for operand in operands):
            return None
        ask = channel.states.ask(kind, *map(plain, operands))
        base, terms = (row.base, row.terms) if isinstance(row, Affine) else (row, ())
        share = self.memory if isinstance(self.memory, MemoryShare) else None
        take, end = channel.take, self.memory.end

        def time(ready: int) -> Issued:
            if share is not None and share.is_disturbed:
                ready = share.begin(ready)
                channel.rows_lost()
            number = base
            for variable, factor in terms:
                number += factor * variables[variable]
            begun = channel.now * clock
            done = take(ask, number, -(-ready // clock)).done
            first, free, complete, busy = done.first * clock, done.free * clock, done.done * clock, done.busy * clock
            worked = first + busy if first + busy < complete else complete
            end(begun + (worked if worked > free else free))
            return Issued(begun + first, begun + free, begun + complete, busy, done.cause)

        return time

    def serving(self, reads: int) -> Timer:
        """Single row buffers serve no reads as long as there is PIM work."""
        return SharedTimer(self.rules, self.clock_ps, reads) if self.rules.is_dual else self

    def relative(self, now: int) -> Hashable:
        clocks, part = divmod(now, self.clock_ps)
        return part, self.channel.relative(clocks)

    def shift(self, by: int, since: int) -> None:
        clocks, part = divmod(by, self.clock_ps)
        if part:
            raise ValueError(f"{by} ps are not whole clocks of {self.clock_ps} ps")
        self.channel.shift(clocks)


class SharedTimer:
    """Keeps the time of one channel's stream, whose dual row buffers serve normal reads beside it."""

    def __init__(self, rules: Rules, clock_ps: int, reads: int) -> None:
        self.clock_ps = clock_ps
        self.channel = SharedChannel(rules, reads)
        self.done = 0
        """the clock at which all is complete"""

    @property
    def issues(self) -> IssueSink | None:
        """Who is told of the DRAM commands."""
        return self.channel.issues

    @issues.setter
    def issues(self, sink: IssueSink | None) -> None:
        self.channel.issues = sink

    @property
    def counters(self) -> Counter[str]:
        """DRAM commands of the channel, and how many reads it has served."""
        return self.channel.counts + Counter({SERVED: self.channel.served(self.done)})

    def issue(self, command: Command, ready: int) -> Issued:
        clock = self.clock_ps
        done = self._issue(command, -(-ready // clock))
        self.done = max(self.done, done.done)
        return _in_time(done, clock)

    def _issue(self, command: Command, at: int) -> Done:
        channel = self.channel
        if isinstance(command, CompsReadResult):
            return channel.compute_and_read(plain(command.row), plain(command.count), at)
        if isinstance(command, Header):
            return channel.header(plain(command.row), plain(command.comps), plain(command.results), at)
        if isinstance(command, GlobalWrite):
            return channel.global_write(plain(command.bank), plain(command.row), at)
        raise fail(Kind.PROGRAM_BAD, f"a PIM channel with dual row buffers does not take {command.mnemonic}")

    def finish(self, ready: int) -> int:
        """Reads are served until the last result is there."""
        self.channel.idle_until(self.done)
        return self.done * self.clock_ps

    def relative(self, now: int) -> Hashable | None:
        """Nothing repeats: reads count through rows."""
        return None

    def shift(self, by: int, since: int) -> None:
        raise InternalError("a channel that serves reads is stepped through, and never moved")


def _asked(command: Command, is_dual: bool) -> tuple[Asked, tuple[Scalar, ...], Scalar] | None:
    """What a command asks of a channel, and its row; None: that is not for such channels."""
    if isinstance(command, CompsReadResult) and is_dual:
        return "compute_and_read", (command.count,), command.row
    if isinstance(command, Comp) and not is_dual:
        return "compute", (command.count,), command.row
    if isinstance(command, ReadResult) and not is_dual:
        return "read_result", (), 0
    if isinstance(command, Header):
        return "header", (command.comps, command.results), command.row
    if isinstance(command, GlobalWrite):
        return "global_write", (command.bank,), command.row
    return None


def _in_time(done: Done, clock: int) -> Issued:
    """The same in picoseconds."""
    return Issued(done.first * clock, done.free * clock, done.done * clock, done.busy * clock, done.cause)
