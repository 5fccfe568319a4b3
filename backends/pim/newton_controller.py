"""The controller of one channel of Newton-style PIM: takes the channel's stream, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from pimc.backends.isa import Command
from pimc.backends.pim.issues import IssueSink
from pimc.backends.pim.memory_share import MemoryBeside, MemoryShare
from pimc.backends.pim.newton_channel import Done, NewtonChannel
from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.pim.newton_rules import Rules
from pimc.backends.pim.newton_shared import SharedChannel
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
        if isinstance(self.memory, MemoryShare):  # normal traffic waits for PIM, and PIM for what came before it
            ready, disturbed = self.memory.begin(ready)
            if disturbed:
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


def _in_time(done: Done, clock: int) -> Issued:
    """The same in picoseconds."""
    return Issued(done.first * clock, done.free * clock, done.done * clock, done.busy * clock, done.cause)
