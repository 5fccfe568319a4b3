"""The plain engine of an AiM device: every channel, clock by clock (`--sim-engine plain`).

It is the oracle of the fast one (`aim_device.py`): slow, and with nothing in it but the rules. In each clock, in this
order:

1. requests that a channel refused before are offered to it again;
2. the front end decodes lines, and offers their requests;
3. each channel completes a read and its writes, and issues one command.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pimc.backends.pim.aim_line import FIRST_CLOCK, MARKER, NONE, Line, Reply, Request
from pimc.backends.pim.aim_rules import (
    ACT,
    ACT16,
    CAUSES,
    COMMANDS,
    FINAL,
    NUMBER,
    ONE_BANK,
    PRE,
    PREA,
    RD,
    READING,
    REFAB,
    REGISTER,
    TMOD,
    WRA16,
    AimRules,
    Followers,
)
from pimc.backends.pim.issues import TRAFFIC, IssueSink

FINALS = frozenset(NUMBER[name] for name in FINAL)
HIGH, LOW = 0.8, 0.2
"""Writes have their turn from this part of a full buffer on, and until that part."""
CLOSED = None


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request in a buffer of a channel."""

    request: Request
    arrival: int
    """how many came before"""


@dataclass(frozen=True, eq=False)
class Answer:
    """A read or a marker that is done at a clock."""

    request: Request
    done: int


class Node:
    """A channel, a bank group or a bank: from which clock on it allows each command."""

    def __init__(self, followers: Followers) -> None:
        self._followers = followers
        self._not_before = [0] * len(COMMANDS)

    def copy(self) -> Node:
        twin = copy.copy(self)
        twin._not_before = self._not_before.copy()
        return twin

    def allows(self, command: int, clock: int) -> bool:
        return clock >= self._not_before[command]

    def issue(self, command: int, clock: int) -> None:
        for later, clocks in self._followers[command]:
            self._not_before[later] = max(self._not_before[later], clock + clocks)


class Channel:
    """The controller and the banks of one channel."""

    def __init__(self, number: int, rules: AimRules, issues: IssueSink | None) -> None:
        self.number, self.rules, self.issues = number, rules, issues
        self.refused: deque[Request] = deque()
        self.in_order: deque[Waiting] = deque()
        self.reads: list[Waiting] = []
        self.writes: list[Waiting] = []
        self.activated: list[Waiting] = []
        """plain requests for which a row has been opened"""
        self.answers: deque[Answer] = deque()
        self.written: list[int] = []
        """clocks at which what is not a read is done"""
        self.held = 0
        """blocking requests that are not completed"""
        self.node = Node(rules.after_channel)
        self.groups = [Node(rules.after_group) for _ in range(rules.banks // rules.group_size)]
        self.banks = [Node(rules.after_bank) for _ in range(rules.banks)]
        self.rows: list[int | None] = [CLOSED] * rules.banks
        self.register_mode = False
        self.writes_first = False
        self.refresh_due = FIRST_CLOCK - 1 + rules.refresh if rules.refresh else None
        self.arrivals = 0
        self.offered = FIRST_CLOCK
        """clock of the last offer of the front end"""
        self.since: list[tuple[int, int]] = []
        """(clock, command) of what was issued since"""
        self.counts: Counter[str] = Counter()
        self.open_clocks = 0
        """clocks in which a row was open"""
        self.last = 0
        """clock of the last command"""
        self.done = 0
        """clock at which something was completed last"""

    def copy(self) -> Channel:
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (list, deque, Counter)):
                setattr(twin, name, value.copy())
        twin.node = self.node.copy()
        twin.groups = [node.copy() for node in self.groups]
        twin.banks = [node.copy() for node in self.banks]
        return twin

    def begun_anew(self, clock: int) -> Channel:
        """A channel for which nothing has come before a clock; what it did is still counted."""
        fresh = Channel(self.number, self.rules, self.issues)
        fresh.counts, fresh.open_clocks, fresh.last = self.counts, self.open_clocks, self.last
        fresh.refresh_due = clock - 1 + self.rules.refresh if self.rules.refresh else None
        fresh.offered = clock
        return fresh

    def offered_now(self) -> None:
        """Something is offered, or everything is over: what was issued before is counted."""
        self.since.clear()

    def told(self) -> Counter[str]:
        """Commands that were issued before the last offer."""
        return self.counts - Counter(COMMANDS[command] for _, command in self.since)

    # -- what comes ---------------------------------------------------------------------------------------------------

    def offer(self, request: Request, clock: int) -> None:
        if request.is_blocking:
            self.held += 1
        if not self._takes(request, clock):
            self.refused.append(request)

    def retry(self, clock: int) -> None:
        while self.refused and self._takes(self.refused[0], clock):
            self.refused.popleft()

    def _takes(self, request: Request, clock: int) -> bool:
        switches = self.rules.switches
        if not request.is_plain:
            drained = not self.activated or not switches.drains_activated
            return not self.reads and not self.writes and drained and self._put(self.in_order, request)
        if self.in_order:
            return False
        if switches.forwards_any_address:
            if request.command == RD and self.writes:
                self.answers.append(Answer(request, clock + 1))
                return True
        elif self._meets_opposite(request):
            return False
        return self._put(self.reads if request.command == RD else self.writes, request)

    def _put(self, buffer: list[Waiting] | deque[Waiting], request: Request) -> bool:
        if len(buffer) >= self.rules.queue:
            return False
        self.arrivals += 1
        buffer.append(Waiting(request, self.arrivals))
        return True

    def _meets_opposite(self, request: Request) -> bool:
        """A write waits for reads of its row, a read for writes to it."""
        others = (waiting.request for waiting in (*self.reads, *self.writes, *self.activated))
        return any(o.command != request.command and o[1:] == request[1:] for o in others)

    # -- one clock ----------------------------------------------------------------------------------------------------

    def step(self, clock: int) -> None:
        if self.is_idle and not self._must_refresh(clock):
            self._turn()
            return
        self._complete(clock)
        self._work(clock)

    def _complete(self, clock: int) -> None:
        if self.answers and self.answers[0].done <= clock:
            request = self.answers[0].request
            if request.command != MARKER or not self.written:
                self.answers.popleft()
                self.held -= request.is_blocking
                self.done = clock
        if self.written:
            self.written = [done for done in self.written if done > clock]
            if not self.written:
                self.done = clock

    def _work(self, clock: int) -> None:
        active = self._best(self.activated, clock)
        if active is not None and self._ready(active.request, clock):
            self._serve(active, self.activated, clock)
        elif self._must_refresh(clock):
            if not self.activated:
                self._refresh(clock)
        elif self.in_order:
            self._work_in_order(clock)
        else:
            self._turn()
            buffer = self.writes if self.writes_first else self.reads
            plain = self._best(buffer, clock)
            if plain is not None and self._ready(plain.request, clock):
                self._serve(plain, buffer, clock)

    def _work_in_order(self, clock: int) -> None:
        head = self.in_order[0]
        if head.request.command == MARKER:
            self.in_order.popleft()
            self.answers.append(Answer(head.request, clock))
        elif self._ready(head.request, clock):
            self._serve(head, self.in_order, clock)

    def _turn(self) -> None:
        """Choose between reads and writes."""
        most = self.rules.queue - 1
        if not self.writes_first:
            self.writes_first = len(self.writes) > HIGH * most or not self.reads
        elif len(self.writes) < LOW * most and self.reads:
            self.writes_first = False

    def _best(self, buffer: Sequence[Waiting], clock: int) -> Waiting | None:
        """First ready, first come."""
        return min(buffer, key=lambda w: (not self._ready(w.request, clock), w.arrival), default=None)

    # -- commands -----------------------------------------------------------------------------------------------------

    def _command(self, request: Request) -> int:
        """What must be issued next for a request: itself, or what makes its row the open one."""
        final, bank, row = request
        if row == NONE:
            return final
        if bank != NONE:
            opened = self.rows[bank]
            return final if opened == row else ACT if opened is CLOSED else PRE
        if any(opened not in (CLOSED, row) for opened in self.rows):
            return PREA
        return ACT16 if CLOSED in self.rows else final

    def _ready(self, request: Request, clock: int) -> bool:
        return self._allowed(self._command(request), request.bank, clock)

    def _allowed(self, command: int, bank: int, clock: int) -> bool:
        nodes = self._nodes(bank) if command in ONE_BANK else [self.node]
        return all(node.allows(command, clock) for node in nodes)

    def _nodes(self, bank: int) -> list[Node]:
        if bank == NONE:
            return [self.node]
        return [self.node, self.groups[bank // self.rules.group_size], self.banks[bank]]

    def _serve(self, chosen: Waiting, buffer: list[Waiting] | deque[Waiting], clock: int) -> None:
        """Issue what comes next for a request whose command is ready; or the change of mode that it needs first."""
        request = chosen.request
        command = self._command(request)
        if command in (PRE, PREA, WRA16) and any(a.request.bank == request.bank for a in self.activated):
            return
        if self.register_mode != request.needs_registers:
            self._issue(TMOD, request, clock)
            self.register_mode = not self.register_mode
            return
        self._issue(command, request, clock)
        if command == request.command:
            buffer.remove(chosen)
            self._await(request, clock + self.rules.latency[command])
        elif command == ACT and request.is_plain:
            buffer.remove(chosen)
            self.activated.append(chosen)

    def _await(self, request: Request, done: int) -> None:
        if request.command in READING:
            self.answers.append(Answer(request, done))
        else:
            self.written.append(done)

    def _must_refresh(self, clock: int) -> bool:
        return self.refresh_due is not None and clock >= self.refresh_due

    def _refresh(self, clock: int) -> None:
        command = REFAB if all(row is CLOSED for row in self.rows) else PREA
        if not self.node.allows(command, clock):
            return
        self._issue(command, Request(command), clock)
        if command == REFAB:
            assert self.refresh_due is not None
            self.refresh_due += self.rules.refresh

    def _issue(self, command: int, request: Request, clock: int) -> None:
        bank, row = request.bank, request.row
        for node in self._nodes(bank):
            node.issue(command, clock)
        if command == ACT:
            self.rows[bank] = row
        elif command == PRE:
            self.rows[bank] = CLOSED
        elif command == ACT16:
            self.rows = [row] * len(self.rows)
        elif command in (PREA, WRA16):
            self.lose_rows()
        self.counts[COMMANDS[command]] += 1
        self.since.append((clock, command))
        self.last = clock
        self._tell(command, bank, row, clock)

    def lose_rows(self) -> None:
        self.rows = [CLOSED] * len(self.rows)

    def _tell(self, command: int, bank: int, row: int, clock: int) -> None:
        if self.issues is None:
            return
        at = bank if command in ONE_BANK and bank != NONE else None
        opened = row if row != NONE and command not in (PRE, PREA, TMOD, REFAB) and command not in REGISTER else None
        self.issues(clock, self.number, COMMANDS[command], at, opened)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is left to do."""
        waiting = self.refused or self.in_order or self.reads or self.writes or self.activated
        return not (waiting or self.answers or self.written)


class SteppedDevice:
    """The state of a device. All times are clocks; the first is 1."""

    def __init__(self, rules: AimRules, issues: IssueSink | None = None) -> None:
        self.rules = rules
        self.channels = [Channel(number, rules, issues) for number in range(rules.channels)]
        self.clock = FIRST_CLOCK
        """the present one; its channels have not worked yet"""
        self.decoded = 0
        """lines decoded in it"""
        self.busy: frozenset[Channel] = frozenset()
        """channels that had refused requests when the present clock began"""

    @property
    def issues(self) -> IssueSink | None:
        return self.channels[0].issues

    @issues.setter
    def issues(self, sink: IssueSink | None) -> None:
        for channel in self.channels:
            channel.issues = sink

    # -- lines --------------------------------------------------------------------------------------------------------

    def decode(self, line: Line, at: int = 0) -> int:
        """Decode a line that comes at a clock; returns the clock at which it is decoded."""
        named = [channel for channel in self.channels if line.mask >> channel.number & 1]
        while self.clock < at or not self._can_decode(named):
            self._step()
        decoded = self.clock
        request = Request(line.command, line.bank, line.row)
        for channel in named:
            channel.offered = decoded
            channel.offered_now()
            for _ in range(line.times):
                channel.offer(request, decoded)
        self.decoded += 1
        if self.decoded == self.rules.switches.lines_per_clock:
            self._step()
        if self.rules.switches.stall == "device":
            self._until_free(())
        return decoded

    def finish(self) -> int:
        """The last clock before a line for all channels could be decoded."""
        self._until_free(self.channels)
        for channel in self.channels:
            channel.offered_now()
        return self.clock - 1

    def _until_free(self, named: Iterable[Channel]) -> None:
        while not self._can_decode(named):
            self._step()

    def _can_decode(self, named: Iterable[Channel]) -> bool:
        """Whether a line for some channels can be decoded now."""
        if self.decoded == self.rules.switches.lines_per_clock:
            return False
        holding = self.channels if self.rules.switches.stall == "device" else named
        return not any(channel.held or channel.refused or channel in self.busy for channel in holding)

    def _step(self) -> None:
        for channel in self.channels:
            channel.step(self.clock)
            channel.open_clocks += any(row is not CLOSED for row in channel.rows)
        self.clock += 1
        self.decoded = 0
        self.busy = frozenset(channel for channel in self.channels if channel.refused)
        for channel in self.channels:
            channel.retry(self.clock)

    def lose_rows(self, at: int) -> None:
        """Something else has used the memory until a clock: no row is open any more."""
        while self.clock < at:
            self._step()
        for channel in self.channels:
            channel.offered_now()
            channel.lose_rows()
            if channel.issues is not None:
                channel.issues(self.clock, channel.number, TRAFFIC)

    def restart(self, at: int) -> int:
        """Begin anew at a clock, or as soon as the present one is over; returns the first clock."""
        while self.clock < at or self.decoded:
            self._step()
        self.channels = [channel.begun_anew(self.clock) for channel in self.channels]
        self.busy = frozenset()
        return self.clock

    # -- what happened ------------------------------------------------------------------------------------------------

    def counts(self) -> list[Counter[str]]:
        """DRAM commands of each channel."""
        return [channel.told() for channel in self.channels]

    def total(self) -> Counter[str]:
        """DRAM commands over all channels."""
        return sum(self.counts(), Counter())

    def open_clocks(self) -> int:
        """Clocks before the present one in which a row was open, summed up over the channels."""
        return sum(channel.open_clocks for channel in self.channels)

    def last_issued(self) -> list[int]:
        """The clock of each channel's last command; 0: there was none."""
        return [channel.last for channel in self.channels]

    def outlook(self, mask: int) -> Reply:
        """What becomes of the requests that the channels of a mask have got, if nothing more comes."""
        replies = [self._ahead(channel) for channel in reversed(self.channels) if mask >> channel.number & 1]
        last = max(replies, key=lambda reply: reply.issued)
        return last._replace(done=max(reply.done for reply in replies))

    def _ahead(self, channel: Channel) -> Reply:
        channel = channel.copy()
        channel.issues = None
        clock = self.clock
        while not channel.is_idle:
            channel.step(clock)
            clock += 1
            channel.retry(clock)
        asked = channel.since
        while asked and asked[-1][1] not in FINALS:
            asked.pop()
        before = next((CAUSES[command] for _, command in reversed(asked) if command in CAUSES), "")
        issued = asked[-1][0] if asked else channel.offered - 1
        return Reply(issued, max(channel.done, channel.offered), before)
