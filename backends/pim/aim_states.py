"""Channel states as seen from the clock of the last offer, each made once, and what is known to follow from them.

Rows are numbered by first appearance, times count from the offer, and what is too long ago to matter is forgotten:
streams come back to few states, whatever rows they work on. What one state becomes is found on an `AimChannel` once and
looked up ever after. Refresh stays outside: a transition holds where no refresh is due in its time. Where one is, it is
kept by the clocks that were left until then, for all at which the refresh comes to the same (`AimChannel.alike`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pimc.backends.pim.aim_channel import NEVER, AimChannel, Answer, Issue, Plain
from pimc.backends.pim.aim_line import NONE, Request
from pimc.backends.pim.aim_rules import ACT, ACT16, CAUSES, PRE, PREA, REFAB, WRA16, AimRules

if TYPE_CHECKING:
    from pimc.backends.pim.aim_runs import Run

Rows = tuple[int, ...]
"""The rows that a state knows, by their numbers in it."""
Key = tuple[Any, ...]
MOST_AHEAD = 16
"""Ways ahead that are kept to be gone on with."""
Step = tuple[int, int, int, int, int]
"""Clocks that pass, then what comes: command, bank, row by its number in the state, how many requests (0: nothing)."""
NOTHING = (NONE, NONE, NONE, 0)


class Transition(NamedTuple):
    """What a step leads to."""

    number: int
    state: State
    kept: tuple[int, ...] | None
    """the new state's rows by their old numbers (the request's own row has the number after the last); None: as they
    were"""
    refreshed: int
    """clocks by which the next refresh has moved"""
    open_clocks: int
    """clocks of the step in which a row was open"""
    issues: tuple[Issue, ...]
    """DRAM commands, their clocks counted from the offer before, rows by number"""
    last: int
    """the clock of the last of them; -1: there is none"""


class Outlook(NamedTuple):
    """What happens to a state when nothing more comes; clocks count from the last offer. -1: it has happened before."""

    blocked: int
    """the last refused request was accepted, and the last blocking request completed"""
    issued: int
    """the last command was issued"""
    done: int
    """everything is completed"""
    settled: int
    """from here on, time changes nothing"""
    cause: str
    """what the last commands that were asked for had to wait for: row, mode, refresh, or nothing"""
    issues: tuple[Issue, ...]
    """DRAM commands"""


@dataclass(eq=False, slots=True)
class State:
    """A state, and what is known of it."""

    number: int
    key: Key
    is_full: bool
    """requests are refused"""
    is_held: bool
    """blocking requests are outstanding"""
    is_idle: bool
    """no row is open, and nothing is to be done"""
    rows: int
    """how many rows it knows"""
    next: dict[Step, Transition] = field(default_factory=dict)
    refreshing: dict[Step, dict[int, Transition]] = field(default_factory=dict)
    """the same where a refresh comes, by the clocks until it is due"""
    refreshed: dict[int, State] = field(default_factory=dict)
    """the same after a refresh, by its clock"""
    opened: dict[int, int] = field(default_factory=dict)
    """in how many clocks a row is open if nothing more comes and no refresh, by the clocks that pass"""
    outlooks: dict[int, Outlook] = field(default_factory=dict)
    """by the clocks until a refresh is due; NEVER: it comes after all that"""


class States:
    """All states that channels under some rules have been in."""

    def __init__(self, rules: AimRules) -> None:
        self.rules = rules
        self.refreshed = rules.least_interval()
        """clocks after which a refresh of a channel without work is over"""
        self.refreshing = rules.longest[REFAB]
        """clocks for which a refresh keeps others back"""
        self.passages: dict[Hashable, Any] = {}
        """what sequences of lines make of whole devices (`aim_passage.py`)"""
        self.known: dict[Key, State] = {}
        self.transitions: list[Transition] = []
        self.runs: defaultdict[Key, dict[Key, Run]] = defaultdict(dict)
        """what loops of one command come to"""
        self.ahead: dict[tuple[int, int], list[tuple[int, AimChannel]]] = {}
        """channels at clocks at which something may be offered next, from looking ahead: by the number of their state
        and the clocks until a refresh was due"""
        self.idle = self._intern(frozen(AimChannel(rules))[0], 0)

    def _intern(self, key: Key, rows: int) -> State:
        state = self.known.get(key)
        if state is None:
            idle = max(key[ROWS]) < 0 and not (key[REFUSED] or any(key[place] for place in WORK))
            state = State(len(self.known), key, key[REFUSED] is not None, bool(key[HELD]), idle, rows)
            self.known[key] = state
        return state

    def after_refresh(self, state: State, clock: int) -> State:
        """A state with what a refresh before the last offer still keeps back (`AimChannel.constraints` left it out)."""
        found = state.refreshed.get(clock)
        if found is None:
            recent, nodes = state.key[CONSTRAINTS]
            if all(command != REFAB for command, _ in recent):
                recent = tuple(sorted((*recent, (REFAB, clock))))
            key = (*state.key[:CONSTRAINTS], (recent, nodes), *state.key[CONSTRAINTS + 1 :])
            found = state.refreshed[clock] = self._intern(key, state.rows)
        return found

    def step(self, state: State, step: Step, left: int) -> Transition:
        """What a state becomes; `left`: clocks until a refresh is due."""
        if step[0] <= left:
            found = state.next.get(step)
            if found is None:
                found = state.next[step] = self._transition(state, step, NEVER)
        else:
            known = state.refreshing.setdefault(step, {})
            found = known.get(left)
            if found is None:
                found = known[left] = self._transition(state, step, left)
        return found

    def _transition(self, state: State, step: Step, left: int) -> Transition:
        """Times at rest are left out, so that few steps are to be walked: steps are split before and after them."""
        clocks = step[0]
        end = min(clocks, left)
        settled = self.outlook(state, NEVER).settled
        if settled < end:
            return self._split(state, step, end, left) if step != (end, *NOTHING) else self._rested(state, settled, end)
        if left == 0 and self.refreshed < clocks <= self.rules.refresh:
            return self._split(state, step, self.refreshed, left)
        return self._walk(state, step, left)

    def _rested(self, state: State, settled: int, clocks: int) -> Transition:
        """Nothing comes; from the first clocks on, time changes nothing."""
        first = self.step(state, (settled, *NOTHING), NEVER)
        opened = clocks - settled if max(first.state.key[ROWS]) >= 0 else 0
        return self._made(first.state, first.kept, first.refreshed, first.open_clocks + opened, first.issues)

    def _split(self, state: State, step: Step, at: int, left: int) -> Transition:
        """Nothing comes up to a clock, then what is to come."""
        clocks, command, bank, row, count = step
        first = self.step(state, (at, *NOTHING), left)
        known = first.kept if first.kept is not None else tuple(range(state.rows))
        label = row if row < 0 else known.index(row) if row in known else len(known)
        due = NEVER if left == NEVER else left + first.refreshed - at
        second = self.step(first.state, (clocks - at, command, bank, label, count), due)
        names = (*known, row)
        kept = known if second.kept is None else tuple([names[i] for i in second.kept])
        moved = [i._replace(clock=i.clock + at, row=names[i.row] if i.row >= 0 else i.row) for i in second.issues]
        return self._made(
            second.state,
            None if kept == tuple(range(state.rows)) else kept,
            first.refreshed + second.refreshed,
            first.open_clocks + second.open_clocks,
            (*first.issues, *moved),
        )

    def _made(
        self, state: State, kept: Rows | None, refreshed: int, open_clocks: int, issues: tuple[Issue, ...]
    ) -> Transition:
        last = issues[-1].last if issues else -1
        made = Transition(len(self.transitions), state, kept, refreshed, open_clocks, issues, last)
        self.transitions.append(made)
        return made

    def _walk(self, state: State, step: Step, left: int) -> Transition:
        clocks, command, bank, row, count = step
        channel = self._ahead(state, clocks, left) or self._thawed(state, left)
        channel.advance(clocks)
        if count:
            channel.offer(Request(command, bank, row), count)
        key, rows = frozen(channel)
        kept = None if rows == tuple(range(state.rows)) else rows
        opened = _open_clocks(state.key[ROWS], channel.issued, clocks)
        found = self._made(self._intern(key, len(rows)), kept, channel.due - left, opened, tuple(channel.issued))
        if left != NEVER:
            state.refreshing.setdefault(step, {}).update(dict.fromkeys(self._alike(channel, left, clocks), found))
        return found

    def _alike(self, channel: AimChannel, left: int, end: int) -> range:
        """For which clocks until a refresh is due the same would have come, up to an end: the next is due after it."""
        alike = channel.alike
        if alike is None or left not in alike:
            return range(left, left + 1)
        return range(min(left, max(alike.start, end - self.rules.refresh)), alike.stop)

    def open_clocks(self, state: State, clocks: int, left: int) -> int:
        """In how many clocks after an offer a row is open if nothing more comes; `left`: until a refresh is due."""
        if state.is_idle or not clocks:
            return 0
        if clocks > left:
            return self.step(state, (clocks, *NOTHING), left).open_clocks
        found = state.opened.get(clocks)
        if found is None:
            found = _open_clocks(state.key[ROWS], self.outlook(state, NEVER).issues, clocks)
            state.opened[clocks] = found
        return found

    def outlook(self, state: State, left: int) -> Outlook:
        """What a state becomes by itself; `left`: clocks until a refresh is due."""
        found = state.outlooks.get(NEVER) or self._look(state, NEVER)
        if found.done < left:
            return found
        return state.outlooks.get(left) or self._look(state, left)

    def _look(self, state: State, left: int) -> Outlook:
        channel = self._thawed(state, left)
        stops: list[tuple[int, AimChannel]] = []
        if channel.refused is not None:
            channel.accept()
            stops.append((channel.accepted, channel))
            channel = channel.copy()
        channel.finish()
        found = outlook_of(channel)
        if channel.alike is None:
            state.outlooks[left] = found
        else:
            state.outlooks.update(dict.fromkeys(self._alike(channel, left, found.settled), found))
        stops.append((found.done + 1, channel))
        if len(self.ahead) >= MOST_AHEAD:
            del self.ahead[next(iter(self.ahead))]
        self.ahead[state.number, left] = stops
        return found

    def _thawed(self, state: State, left: int) -> AimChannel:
        channel = thawed(state.key, self.rules)
        channel.due = left
        return channel

    def _ahead(self, state: State, clocks: int, left: int) -> AimChannel | None:
        """A channel on its way from a state to a clock, if there is one from looking ahead."""
        due, outlook = NEVER, state.outlooks.get(NEVER)
        if outlook is not None and outlook.done >= left:
            due = left
        stops = self.ahead.get((state.number, due), [])
        for place, (clock, channel) in reversed(list(enumerate(stops))):
            if clock <= clocks:
                del stops[place]
                if due == NEVER:
                    channel.due = left
                return channel
        return None


def _open_clocks(rows: Rows, issues: Sequence[Issue], clocks: int) -> int:
    """Clocks of a step in which a bank of the channel had a row open."""
    if CHANGING_ROWS.isdisjoint([issue.command for issue in issues]):
        return clocks if max(rows) >= 0 else 0
    total = since = 0
    banks = range(len(rows))
    now_open: set[int] = set()
    if max(rows) >= 0:
        now_open = set(banks) if min(rows) >= 0 else {bank for bank in banks if rows[bank] >= 0}
    for clock, command, bank, *_ in issues:
        if clock >= clocks:
            break
        if command not in CHANGING_ROWS:
            continue
        if now_open:
            total += clock - since
        since = clock
        if command == ACT:
            now_open.add(bank)
        elif command == PRE:
            now_open.discard(bank)
        else:
            now_open = set(banks) if command == ACT16 else set()
    return total + (clocks - since if now_open else 0)


CHANGING_ROWS = frozenset({ACT, ACT16, PRE, PREA, WRA16, REFAB})

# -- what a state is ---------------------------------------------------------------------------------------------------

ROWS, REGISTERS, QUEUE, REFUSED, READS, WRITES, ACTIVATED = range(7)
WRITE_MODE, ANSWERS, WRITTEN, HELD, CONSTRAINTS = range(7, 12)
"""Places in a key."""
WORK = (QUEUE, READS, WRITES, ACTIVATED, ANSWERS)


STARTING = {"now": 0, "due": NEVER, "answered": -1, "accepted": -1, "released": -1, "alike": None}
"""What a channel has at clock 0, whatever its state."""


def frozen(channel: AimChannel) -> tuple[Key, Rows]:
    """The state of a channel as seen from `now`, and the rows in it."""
    numbers: dict[int, int] = {}
    ranks: dict[int, int] = {}

    def row(old: int) -> int:
        return old if old < 0 else numbers.setdefault(old, len(numbers))

    def request(old: Request) -> Request:
        number = row(old.row)
        return old if number == old.row else Request(old.command, old.bank, number)

    def plain(entries: list[Plain]) -> tuple[Plain, ...]:
        return tuple([Plain(ranks[p.arrival], request(p.request)) for p in entries])

    now, opened, reads, writes, activated = channel.now, channel.rows, channel.reads, channel.writes, channel.activated
    first = opened[0]
    if reads or writes or activated:
        waiting = sorted({p.arrival for p in (*reads, *writes, *activated)})
        ranks = {arrival: rank for rank, arrival in enumerate(waiting)}
    key = (
        (row(first),) * len(opened) if opened.count(first) == len(opened) else tuple([row(r) for r in opened]),
        channel.registers,
        tuple([(r if r.row < 0 else request(r), n) for r, n in channel.queue]),
        None if channel.refused is None else (request(channel.refused[0]), channel.refused[1]),
        plain(reads) if reads else (),
        plain(writes) if writes else (),
        plain(activated) if activated else (),
        channel.write_mode,
        tuple([Answer(max(0, a.done - now), a.blocking, a.marker) for a in channel.answers]) if channel.answers else (),
        max(-1, channel.written - now),
        channel.held,
        channel.constraints(),
    )
    return key, tuple(numbers)


def thawed(key: Key, rules: AimRules) -> AimChannel:
    """A channel in a state, at clock 0."""
    rows, registers, queue, refused, reads, writes, activated, write_mode, answers, written, held, kept = key
    channel = AimChannel.__new__(AimChannel)
    channel.__dict__.update(  # many are made: its constructor takes longer
        STARTING,
        rules=rules,
        rows=list(rows),
        registers=registers,
        queue=list(queue),
        refused=refused,
        reads=list(reads),
        writes=list(writes),
        activated=list(activated),
        write_mode=write_mode,
        answers=list(answers),
        written=written,
        held=held,
        recent=dict(kept[0]),
        earliest=dict(kept[1]),
        arrivals=max([p.arrival for p in (*reads, *writes, *activated)]) if reads or writes or activated else 0,
        issued=[],
    )
    return channel


def outlook_of(channel: AimChannel) -> Outlook:
    """From what a channel has done when everything is completed."""
    issued, cause = _last_asked(channel.issued)
    done = max(channel.written, channel.answered, channel.accepted, issued, 0)
    settled = max(done + 1, channel.issued[-1].last + 1 if channel.issued else 0, channel.free_at())
    return Outlook(max(channel.accepted, channel.released), issued, done, settled, cause, tuple(channel.issued))


def _last_asked(issues: list[Issue]) -> tuple[int, str]:
    """The clock of the last command that was asked for, not counting a refresh after it; and what came right before the
    last ones that were."""
    asked = -1
    for issue in reversed(issues):
        if issue.command in CAUSES:
            if asked >= 0:
                return asked, CAUSES[issue.command]
        elif asked < 0:
            asked = issue.last
    return asked, ""
