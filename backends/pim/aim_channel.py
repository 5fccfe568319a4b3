"""One GDDR6-AiM channel and its controller: from clock to clock in which something happens.

In each clock, in this order: requests that were refused are offered again; the front end offers new ones; an answered
read is completed; a request is chosen and one command for it is issued. Requests for the banks' multipliers stay in
order, normal reads and writes ("plain") are scheduled first-ready, first-come first-served; the two kinds are never
queued together.

The rules are those of the AiM simulator, with switches where a real controller must differ (`AimSwitches`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from pimc.backends.pim.aim_line import LOSS, MARKER, NONE, PLAIN, Request
from pimc.backends.pim.aim_rules import (
    ACT,
    ACT16,
    BLOCKING,
    ONE_BANK,
    PRE,
    PREA,
    READING,
    REFAB,
    REGISTER,
    TMOD,
    WRA16,
    AimRules,
)

CLOSED = -1
NEVER = 1 << 60
NEVER_BEFORE = -NEVER
UNORDERED = PLAIN | {MARKER}
CHANGING = ("earliest", "recent", "rows", "queue", "reads", "writes", "activated", "answers", "issued")
"""What of a channel changes in place."""
MOST_WRITES = 25
"""More waiting writes than this are served before reads."""
FEW_WRITES = 7
"""Fewer waiting writes than this let reads come first again."""


class Plain(NamedTuple):
    """A normal read or write that waits."""

    arrival: int
    """requests with a smaller number came earlier"""
    request: Request


Constraints: TypeAlias = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]
"""Commands with the clock of the last one, and nodes of bank groups and banks with the first clock for a command."""


class Answer(NamedTuple):
    """A read, or a marker, on its way back."""

    done: int
    blocking: bool
    marker: bool


class Issue(NamedTuple):
    """`times` equal commands, issued every `period` clocks."""

    clock: int
    command: int
    bank: int
    row: int
    times: int = 1
    period: int = 1

    @property
    def last(self) -> int:
        return self.clock + (self.times - 1) * self.period


@dataclass
class AimChannel:
    """The state of a channel. `now` is the clock whose command is still to be chosen."""

    rules: AimRules
    now: int = 0
    due: int = NEVER
    """when the next refresh must be issued"""
    recent: dict[int, int] = field(default_factory=dict)
    """the commands that were issued, with the clock of the last one: they keep others of the channel"""
    earliest: dict[int, int] = field(default_factory=dict)
    """first clock for a command at a node below the channel: a bank group, or a bank"""
    rows: list[int] = field(default_factory=list)
    """the open row of each bank"""
    registers: bool = False
    """register mode"""
    queue: list[tuple[Request, int]] = field(default_factory=list)
    """requests that stay in order, in runs of equal ones"""
    reads: list[Plain] = field(default_factory=list)
    writes: list[Plain] = field(default_factory=list)
    activated: list[Plain] = field(default_factory=list)
    """plain requests whose row was opened for them"""
    write_mode: bool = False
    refused: tuple[Request, int] | None = None
    answers: list[Answer] = field(default_factory=list)
    """reads and markers, in the order in which they are completed"""
    written: int = -1
    """when the last command that answers nothing is done"""
    answered: int = -1
    """clock of the last completion: there is one a clock at most"""
    held: int = 0
    """blocking requests that are not completed"""
    arrivals: int = 0
    """number of the last arrival of plain requests; equal ones of one line have the same"""
    accepted: int = -1
    """clock at which the last refused request was accepted"""
    released: int = -1
    """clock at which the last blocking request was completed"""
    issued: list[Issue] = field(default_factory=list)
    alike: range | None = None
    """the clocks between which `due` might have been for the first refresh: everything would have come to the same"""

    def __post_init__(self) -> None:
        if not self.rows:
            self.rows = [CLOSED] * self.rules.banks

    # -- what comes in ----------------------------------------------------------------------------------------------

    def offer(self, request: Request, count: int) -> None:
        """New requests at clock `now`."""
        if request.command == LOSS:
            self.rows = [CLOSED] * self.rules.banks
            return
        if request.is_blocking:
            self.held += count
        left = self._accept(request, count)
        if left:
            self.refused = (request, left)

    def _retry(self, request: Request, count: int) -> None:
        left = self._accept(request, count)
        if left != count:
            self.refused = (request, left) if left else None
            if not left:
                self.accepted = self.now

    def _accept(self, request: Request, count: int) -> int:
        """Queue as many requests as there is room for; returns how many are refused."""
        return self._accept_plain(request, count) if request.is_plain else self._accept_ordered(request, count)

    def _accept_ordered(self, request: Request, count: int) -> int:
        if self.reads or self.writes or (self.activated and self.rules.switches.drains_activated):
            return count
        room = self.rules.queue - sum([n for _, n in self.queue])
        if room <= 0:
            return count
        taken = min(room, count)
        self._append(request, taken)
        return count - taken

    def _append(self, request: Request, count: int) -> None:
        if self.queue and self.queue[-1][0] == request:
            self.queue[-1] = (request, self.queue[-1][1] + count)
        else:
            self.queue.append((request, count))

    def _accept_plain(self, request: Request, count: int) -> int:
        if self.queue:
            return count
        is_read = request.command in READING
        own, others = (self.reads, self.writes) if is_read else (self.writes, self.reads)
        if self.rules.switches.forwards_any_address:
            if is_read and self.writes:
                self.answers.extend([Answer(self.now + 1, False, False)] * count)
                return 0
        elif any(p.request[1:] == request[1:] and p.request != request for p in (*others, *self.activated)):
            return count
        taken = min(self.rules.queue - len(own), count)
        self.arrivals += 1
        own.extend([Plain(self.arrivals, request)] * taken)
        return count - taken

    @property
    def is_waiting(self) -> bool:
        """Whether requests are still to be served."""
        return bool(self.queue or self.refused or self.reads or self.writes or self.activated)

    # -- time -------------------------------------------------------------------------------------------------------

    def advance(self, until: int) -> None:
        """Let the clocks before `until` pass; what was refused is offered again in each, and at `until`."""
        while self.now < until:
            self._rest(until)
            self.now = min(self._clock(self.now, until), until)
            if self.refused is not None:
                self._retry(*self.refused)
        if self.answers:
            self._complete(until - 1)

    def accept(self) -> None:
        """Go on until nothing is refused."""
        while self.refused is not None:
            self.now = self._clock(self.now, NEVER, accepting=True)
            if self.refused is not None:
                self._retry(*self.refused)

    def finish(self) -> None:
        """Serve all requests, and complete them; nothing more comes."""
        self.accept()
        while self.is_waiting:
            self.now = self._clock(self.now, NEVER)
        self._complete(NEVER)

    def copy(self) -> AimChannel:
        """The same, to go on otherwise."""
        copied = AimChannel.__new__(AimChannel)
        held = copied.__dict__ = self.__dict__.copy()
        for name in CHANGING:
            held[name] = held[name].copy()
        return copied

    def _complete(self, clock: int) -> None:
        """Complete reads and markers up to a clock, one in each."""
        while self.answers:
            head = self.answers[0]
            at = max(head.done, self.answered + 1, self.written + 1 if head.marker else 0)
            if at > clock:
                return
            self.answered = at
            del self.answers[0]
            if head.blocking:
                self.held -= 1
                if not self.held:
                    self.released = at

    def _clock(self, t: int, until: int, *, accepting: bool = False) -> int:
        """Choose and issue at clock `t`; returns the next clock at which something may happen."""
        if self.answers:
            self._complete(t)
        wake = NEVER
        if self.activated:
            wake, best, command = self._best(self.activated, t)
            if best is not None:
                return self._serve_plain(best, command, t)
        if t >= self.due:
            return wake if self.activated else self._refresh(t, until)
        if self.queue:
            return min(wake, self._serve_queue(t, until, accepting=accepting), self.due)
        entries = self._candidates()
        if entries:
            soonest, best, command = self._best(entries, t)
            if best is not None:
                return self._serve_plain(best, command, t)
            wake = min(wake, soonest)
        return min(wake, self.due)

    # -- requests that stay in order ----------------------------------------------------------------------------------

    def _serve_queue(self, t: int, until: int, *, accepting: bool = False) -> int:
        """Serve requests that stay in order from clock `t` on, and refresh, for as long as they are alone; beside
        activated requests, issue one command. Returns the clock at which something may happen next.

        accepting: only until nothing is refused.
        """
        queue, due, recent, before = self.queue, self.due, self.recent, self.rules.before_channel
        alone = not self.activated
        while queue and t < until:
            if self.answers:
                self._complete(t)
            if t >= due:
                t, due = self._refresh(t, until), self.due
                continue
            request, count = queue[0]
            final, bank, row = request
            if final == MARKER:
                self._drop(1)
                self.answers.append(Answer(t + 1, True, True))
                t += 1
                if not alone or self.refused is not None:
                    return t
                continue
            command = final if row == NONE else self._command(request)
            ready, clocks = 0, before[command]
            for previous, at in recent.items():
                if at + clocks[previous] > ready:
                    ready = at + clocks[previous]
            if bank != NONE:
                ready = self._ready(command, bank)
            if ready > t:
                if not alone:
                    return ready
                t = ready if ready < due else due
                if t >= until or t == due:
                    continue
                if self.answers:
                    self._complete(t)
            if not alone and self._is_guarded(command, bank):
                return t + 1
            if self.registers != (final in REGISTER):
                self._switch_mode(t)
                t += 1
            elif command != final:
                self._prepare(command, request, t)
                t += 1
            else:
                t = self._finals(request, count, t, (until if until < due else due) if alone else t)
            if not alone or (accepting and self.refused is None):
                break
        return t

    def _finals(self, request: Request, count: int, t: int, end: int) -> int:
        """Issue a final command at clock `t`, and equal ones behind it in the queue before `end`. Returns the clock
        after. Refused requests take the places of those that leave, and the last of them ends the run."""
        command, queue, refused, over = request.command, self.queue, self.refused, 0
        period = self.rules.period[command]
        if refused is not None and refused[0].command not in PLAIN:
            over = sum([n for _, n in queue]) + refused[1] - self.rules.queue
            if len(queue) == 1 and refused[0] == request:
                count += refused[1]
            if 0 < over < count:
                count = over
        if command == WRA16:
            count = 1
        elif t + (count - 1) * period >= end:
            count = max(1, (end - t + period - 1) // period)
        self._final(request, t, count, period)
        if over:
            self._move_up(over, count)
            if self.refused is None:  # in the clock after the one that makes room for it
                self.accepted = t + (over - 1) * period + 1
        elif queue[0][1] > count:
            queue[0] = (request, queue[0][1] - count)
        else:
            del queue[0]
        return t + (count - 1) * period + 1

    def _move_up(self, over: int, count: int) -> None:
        """`count` requests leave the queue; refused ones, `over` more than there is room for, take their places."""
        assert self.refused is not None
        request, waiting = self.refused
        left = max(0, over - count)
        self._append(request, waiting)
        self._drop(count)
        if left:
            tail, n = self.queue.pop()
            if n > left:
                self.queue.append((tail, n - left))
        self.refused = (request, left) if left else None

    def _drop(self, count: int) -> None:
        while count:
            request, n = self.queue[0]
            if n > count:
                self.queue[0] = (request, n - count)
                return
            del self.queue[0]
            count -= n

    # -- normal reads and writes --------------------------------------------------------------------------------------

    def _candidates(self) -> list[Plain]:
        """The reads or the writes, whichever turn it is."""
        writes = len(self.writes)
        if not self.write_mode:
            self.write_mode = writes > MOST_WRITES or not self.reads
        elif writes < FEW_WRITES and self.reads:
            self.write_mode = False
        return self.writes if self.write_mode else self.reads

    def _best(self, entries: list[Plain], t: int) -> tuple[int, Plain | None, int]:
        """The earliest request whose command may be issued, and the command; or the clock at which there is one."""
        soonest, of_channel, nodes, allowed = NEVER, dict[int, int](), self.rules.nodes, self.earliest.get
        for entry in entries:
            command, (group, own) = self._command(entry.request), nodes[entry.request.bank]
            ready = of_channel.get(command)
            if ready is None:
                ready = of_channel[command] = self._ready(command, NONE)
            ready = max(ready, allowed(group + command, 0), allowed(own + command, 0))
            if ready <= t:
                return t, entry, command
            if ready < soonest:
                soonest = ready
        return soonest, None, 0

    def _serve_plain(self, entry: Plain, command: int, t: int) -> int:
        request = entry.request
        if self._is_guarded(command, request.bank):
            return t + 1
        if self.registers:  # a plain request needs array mode
            self._switch_mode(t)
            return t + 1
        if command != request.command:
            self._prepare(command, request, t)
            if command == ACT:
                self._take(entry)
                self.activated.append(entry)
                self.activated.sort(key=lambda p: p.arrival)
            return t + 1
        self._final(request, t, 1, 1)
        self._take(entry)
        return t + 1

    def _take(self, entry: Plain) -> None:
        for held in (self.activated, self.reads, self.writes):
            if entry in held:
                held.remove(entry)
                return

    def _is_guarded(self, command: int, bank: int) -> bool:
        """A row is not closed while an activated request waits for its bank."""
        return command == PRE and any(p.request.bank == bank for p in self.activated)

    # -- commands -----------------------------------------------------------------------------------------------------

    def _command(self, request: Request) -> int:
        """The command that comes next for a request: itself, or what must come before it."""
        row = request.row
        if row == NONE:
            return request.command
        if request.bank != NONE:
            opened = self.rows[request.bank]
            return request.command if opened == row else ACT if opened == CLOSED else PRE
        opened = self.rows.count(row)
        if opened == len(self.rows):
            return request.command
        return ACT16 if opened + self.rows.count(CLOSED) == len(self.rows) else PREA

    def _ready(self, command: int, bank: int) -> int:
        """The first clock at which a command may be issued; some past clock if it could be long since."""
        t, clocks = 0, self.rules.before_channel[command]
        for previous, at in self.recent.items():
            if at + clocks[previous] > t:
                t = at + clocks[previous]
        if bank != NONE and command in ONE_BANK:
            group, own = self.rules.nodes[bank]
            t = max(t, self.earliest.get(group + command, 0), self.earliest.get(own + command, 0))
        return t

    def _issue(self, command: int, bank: int, row: int, t: int, count: int = 1, period: int = 1) -> None:
        last = t + (count - 1) * period
        self.recent[command] = last
        if command not in ONE_BANK:
            self.issued.append(Issue(t, command, NONE, row, count, period))
            return
        self.issued.append(Issue(t, command, bank, row, count, period))
        rules, allowed = self.rules, self.earliest.get
        for start, after in zip(rules.nodes[bank], (rules.after_group, rules.after_bank), strict=True):
            for later, clocks in after[command]:
                if last + clocks > allowed(start + later, 0):
                    self.earliest[start + later] = last + clocks

    def constraints(self) -> Constraints:
        """What keeps commands back, as seen from `now`: commands of the channel, and nodes of groups and banks. A
        refresh is left out where nothing that waits has to do with it."""
        now, longest = self.now, self.rules.longest
        recent = [(command, at - now) for command, at in self.recent.items() if at + longest[command] > now]
        if self.recent.get(REFAB, NEVER_BEFORE) + longest[REFAB] > now and not self._waits_for_rows():
            recent.remove((REFAB, self.recent[REFAB] - now))
        recent.sort()
        if not self.earliest:
            return tuple(recent), ()
        return tuple(recent), tuple(sorted([(node, at - now) for node, at in self.earliest.items() if at > now]))

    def _waits_for_rows(self) -> bool:
        """Whether a request waits for which a row may have to be opened."""
        array, refused = self.rules.array, self.refused
        if self.reads or self.writes or self.activated or (refused is not None and refused[0].command in array):
            return True
        return any(request.command in array for request, _ in self.queue)

    def free_at(self) -> int:
        """The clock from which on no command is kept back by those before it."""
        longest = self.rules.longest
        found = max([at + longest[command] for command, at in self.recent.items()], default=0)
        return max(found, *self.earliest.values(), 0)

    def _switch_mode(self, t: int) -> None:
        """Issue the command that switches between array and register mode."""
        self._issue(TMOD, NONE, NONE, t)
        self.registers = not self.registers

    def _prepare(self, command: int, request: Request, t: int) -> None:
        """Open or close rows."""
        opens = command in (ACT, ACT16)
        self._issue(command, request.bank, request.row if opens else NONE, t)
        row = request.row if opens else CLOSED
        if command in (ACT, PRE):
            self.rows[request.bank] = row
        else:
            self.rows = [row] * self.rules.banks

    def _final(self, request: Request, t: int, count: int, period: int) -> None:
        """Issue what was asked for."""
        command, bank, row = request
        last = t + (count - 1) * period
        if bank == NONE:
            self.recent[command] = last
            self.issued.append(Issue(t, command, NONE, row, count, period))
        else:
            self._issue(command, bank, row, t, count, period)
        latency = self.rules.latency[command]
        if command in READING:
            blocking = command in BLOCKING
            self.answers.extend(Answer(t + i * period + latency, blocking, False) for i in range(count))
        elif last + latency > self.written:
            self.written = last + latency
        if command == WRA16:
            self.rows = [CLOSED] * self.rules.banks

    # -- refresh ------------------------------------------------------------------------------------------------------

    def _alike(self) -> range:
        """When the refresh that comes now might have been due just as well: after the command before it, not after the
        next one would have been issued, and not after the refresh can begin."""
        due, requests = self.due, [request for request, _ in self.queue]
        is_open = self.rows.count(CLOSED) < len(self.rows)
        begins = self._ready(PREA if is_open else REFAB, NONE)
        waits = requests if self.refused is None else [*requests, self.refused[0]]
        ordered = not (self.reads or self.writes or self.activated or self.answers)
        if begins < due or not ordered or any(request.command in UNORDERED for request in waits):
            return range(due, due + 1)
        first = self.issued[-1].last + 1 if self.issued else 0
        last = begins
        if requests:
            last = min(last, self._ready(self._command(requests[0]), requests[0].bank))
        return range(min(first, due), max(last, due) + 1)

    def _rest(self, until: int) -> None:
        """Let all refreshes of a channel without work pass at once but for the last one before `until`."""
        interval, first = self.rules.refresh, self.due
        if first + interval >= until or self.is_waiting or self.answers or self._ready(REFAB, NONE) > first:
            return
        if any(row != CLOSED for row in self.rows):
            return
        times = (until - 1 - first) // interval
        self._issue(REFAB, NONE, NONE, first, times, interval)
        self.due += times * interval
        self.now = first + (times - 1) * interval + 1

    def _refresh(self, t: int, until: int) -> int:
        """Close all rows and refresh, before `until`; returns when it is time for the next step."""
        if self.alike is None:
            self.alike = self._alike()
        elif self.due not in self.alike:
            self.alike = range(0)  # a second one
        if self.rows.count(CLOSED) < len(self.rows):
            t = max(t, self._ready(PREA, NONE))
            if t >= until:
                return t
            self._issue(PREA, NONE, NONE, t)
            self.rows = [CLOSED] * self.rules.banks
            t += 1
        t = max(t, self._ready(REFAB, NONE))
        if t >= until:
            return t
        self._issue(REFAB, NONE, NONE, t)
        self.due += self.rules.refresh
        return t + 1
