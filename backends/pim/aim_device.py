"""An AiM device: one front end that decodes lines, and its channels.

Channels with the same history share a `Lane`. A line is decoded when the lines before it have been taken in and no read
that holds the front end is outstanding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

from pimc.backends.pim.aim_channel import NEVER
from pimc.backends.pim.aim_line import FIRST_CLOCK, LOSS, NONE, Line, Reply
from pimc.backends.pim.aim_rules import COMMANDS, REFAB
from pimc.backends.pim.aim_states import State, States, Transition
from pimc.backends.pim.cells import channels_of
from pimc.backends.pim.issues import TRAFFIC, IssueSink

NOTHING = Line(0, NONE, NONE, NONE, 0)
ROWS_LOST = Line(0, LOSS)


@dataclass(eq=False, slots=True)
class Lane:
    """Channels with the same history."""

    mask: int
    state: State
    base: int
    """the clock of the last offer"""
    due: int
    """when a refresh is due"""
    rows: tuple[int, ...] = ()
    """the rows of the state"""
    log: list[int] = field(default_factory=list)
    """numbers of the transitions since the channels came together"""
    last: int = 0
    """the clock of the last command"""
    blocked: int = 0
    """the last clock at which lines for these channels could not be decoded"""
    opens: int = 0
    """the first clock at which the last refresh keeps nothing back; the state tells of it where it keeps something"""

    def copy(self, mask: int = 0) -> Lane:
        """One of the same history, which is to be written down in another log."""
        return Lane(
            mask or self.mask, self.state, self.base, self.due, self.rows, [], self.last, self.blocked, self.opens
        )


class AimDevice:
    """The state of a device. All times are clocks; the first is 1."""

    def __init__(self, states: States, issues: IssueSink | None = None) -> None:
        rules = states.rules
        self.states = states
        self.issues = issues
        self.clock = FIRST_CLOCK
        """when the next line may be decoded"""
        self.decoded = 0
        """lines decoded in that clock"""
        self.lines_per_clock = rules.switches.lines_per_clock
        self.stalls_channels = rules.switches.stall == "channel"
        due = FIRST_CLOCK - 1 + rules.refresh if rules.refresh else NEVER
        lane = Lane((1 << rules.channels) - 1, states.idle, FIRST_CLOCK, due)
        self.of_channel = [lane] * rules.channels
        self.last = [0] * rules.channels
        """by channel: the clock of its last command before it came into its lane"""
        self.used: dict[int, Counter[str]] = defaultdict(Counter)
        """DRAM commands of each channel of a mask, but for what is still in the lanes' logs"""
        self.open = 0
        """clocks in which channels had a row open, but for those in the lanes' logs and since their bases"""
        self._lanes_in_order: list[Lane] | None = None

    # -- lines ------------------------------------------------------------------------------------------------------

    def decode(self, line: Line, at: int = 0) -> int:
        """Decode a line that comes at a clock; returns the clock at which it is decoded."""
        if at > self.clock:
            self.clock, self.decoded = at, 0
        mask = line[0]
        if not mask:
            return self._decoded()
        lane = self.of_channel[mask.bit_length() - 1]
        lanes = [lane] if lane.mask == mask else self._lanes(mask)
        if self.stalls_channels:
            self._wait(max([lane.blocked for lane in lanes]) + 1)
        t = self.clock
        blocked = 0
        for lane in lanes:
            state = self._offer(lane, t, line, line.row)
            if state.is_full or state.is_held:
                outlook = self.states.outlook(state, lane.due - t)
                lane.blocked = t + outlook.blocked
                if lane.blocked > blocked:
                    blocked = lane.blocked
        if len(lanes) > 1:
            self._join(lanes)
        self._decoded()
        if blocked and not self.stalls_channels:
            self._wait(blocked + 1)
        return t

    def begin(self, at: int) -> int:
        """Come to a clock, or stay at the present one if that is later; returns which it is."""
        self._wait(at)
        return self.clock

    def come_to(self, clock: int, decoded: int) -> None:
        """Be at a clock in which so many lines were decoded, with lanes that somebody else has replaced."""
        self.clock, self.decoded, self._lanes_in_order = clock, decoded, None

    def _wait(self, clock: int) -> None:
        if clock > self.clock:
            self.clock, self.decoded = clock, 0

    def _decoded(self) -> int:
        t = self.clock
        self.decoded += 1
        if self.decoded >= self.lines_per_clock:
            self.clock, self.decoded = t + 1, 0
        return t

    def _offer(self, lane: Lane, t: int, line: Line, row: int) -> State:
        """Let a lane come to clock `t`, and offer it the requests of a line for a row."""
        _, command, bank, _, count = line
        if t < lane.opens:
            self.tell_of_refresh(lane, t, command)
        rows, base, due = lane.rows, lane.base, lane.due
        step = (t - base, command, bank, row if row < 0 else rows.index(row) if row in rows else len(rows), count)
        found = lane.state.next.get(step) if t <= due else None
        if found is None:
            found = self.states.step(lane.state, step, due - base)
        if self.issues is not None:
            self._record(lane, found, row)
        if found.kept is not None:
            lane.rows = tuple(map((*rows, row).__getitem__, found.kept))
        state = lane.state = found.state
        if found.last >= 0:
            lane.last = base + found.last
        if found.refreshed:
            refresh = max([issue.last for issue in found.issues if issue.command == REFAB])
            lane.due, lane.opens = due + found.refreshed, base + refresh + self.states.refreshing
        lane.base = t
        lane.log.append(found.number)
        return state

    def lanes(self) -> list[Lane]:
        """All lanes, by their first channel."""
        if self._lanes_in_order is None:
            self._lanes_in_order = list({id(lane): lane for lane in self.of_channel}.values())
        return self._lanes_in_order

    def finish(self) -> int:
        """The last clock before a line for all channels could be decoded; all of them come to its end."""
        lanes = self.lanes()
        self._wait(max([lane.blocked for lane in lanes]) + 1)
        last = self.clock - 1
        for lane in lanes:
            self._offer(lane, self.clock, NOTHING, NONE)
        return last

    def restart(self, at: int) -> int:
        """Begin anew at a clock, or as soon as the present one is over: as if nothing had come before. Returns the
        first clock."""
        self.settle()
        self._wait(max(at, self.clock + (self.decoded > 0)))
        self.open = self.open_clocks()
        self.last = self.last_issued()
        rules = self.states.rules
        due = self.clock - 1 + rules.refresh if rules.refresh else NEVER
        lane = Lane((1 << rules.channels) - 1, self.states.idle, self.clock, due)
        self.of_channel = [lane] * rules.channels
        self._lanes_in_order = None
        return self.clock

    # -- what happened ------------------------------------------------------------------------------------------------

    def counts(self) -> list[Counter[str]]:
        """DRAM commands of each channel."""
        found: list[Counter[str]] = [Counter() for _ in self.of_channel]
        self.settle()
        for mask, total in self.used.items():
            for channel in channels_of(mask):
                found[channel].update(total)
        return found

    def total(self) -> Counter[str]:
        """DRAM commands over all channels."""
        found: Counter[str] = Counter()
        self.settle()
        for mask, total in self.used.items():
            for name, count in total.items():
                found[name] += count * mask.bit_count()
        return found

    def taken_counts(self) -> dict[int, Counter[str]]:
        """Commands by mask, which are counted anew from here on."""
        self.settle()
        taken = self.used
        self.used = defaultdict(Counter)
        return taken

    def open_clocks(self) -> int:
        """Clocks before the present one in which a row was open, summed up over the channels."""
        self.settle()
        return self.open + self._open_since_offers()

    def _open_since_offers(self) -> int:
        """Those since the last offer to each channel: however long ago that was."""
        return self.open_clocks_of(self.lanes())

    def put_open_clocks(self, clocks: int) -> None:
        """Let `open_clocks` be so many at the present clock: they are known, wherever the lanes' bases are."""
        self.settle()
        self.open = clocks - self._open_since_offers()

    def settle(self) -> None:
        """Count what is in the lanes' logs."""
        for lane in self.lanes():
            self._settle(lane)

    def last_issued(self) -> list[int]:
        """The clock of each channel's last command; 0: there was none."""
        return [max(lane.last, before) for lane, before in zip(self.of_channel, self.last, strict=True)]

    def _record(self, lane: Lane, taken: Transition, row: int) -> None:
        assert self.issues is not None
        known = (*lane.rows, row)
        for issue in taken.issues:
            opened = issue.row if issue.row < 0 else known[issue.row]
            for channel in channels_of(lane.mask):
                self.issues(
                    lane.base + issue.clock, channel, COMMANDS[issue.command],
                    None if issue.bank < 0 else issue.bank, None if opened < 0 else opened, issue.times, issue.period,
                )  # fmt: skip

    # -- for streams --------------------------------------------------------------------------------------------------

    def outlook(self, mask: int) -> Reply:
        """What becomes of the requests that the channels of a mask have got, if nothing more comes."""
        issued, done, cause = 0, 0, ""
        left = mask
        while left:
            lane = self.of_channel[left.bit_length() - 1]
            left &= ~lane.mask
            outlook = self.states.outlook(lane.state, lane.due - lane.base)
            if lane.base + outlook.issued > issued:
                issued, cause = lane.base + outlook.issued, outlook.cause
            done = max(done, lane.base + outlook.done)
        return Reply(issued, done, cause)

    def take(self, mask: int, line: Line, row: int, at: int) -> Reply:
        """Decode a line that is for channels and comes at a clock, and tell what becomes of it. row: the line's.

        The same as `decode` and `outlook`, for the usual case at one go: all channels of the mask have one history.
        """
        lane = self.of_channel[mask.bit_length() - 1]
        if lane.mask != mask:
            self.decode(line if line.row == row else line._replace(row=row), at)
            return self.outlook(mask)
        if at > self.clock:
            self.clock, self.decoded = at, 0
        t = self.clock
        state = self._offer(lane, t, line, row)
        left, outlook = lane.due - t, state.outlooks.get(NEVER)
        if outlook is None or outlook.done >= left:
            outlook = self.states.outlook(state, left)
        decoded = self.decoded + 1
        self.clock, self.decoded = (t, decoded) if decoded < self.lines_per_clock else (t + 1, 0)
        if state.is_full or state.is_held:
            lane.blocked = t + outlook.blocked
            if lane.blocked >= self.clock:
                self.clock, self.decoded = lane.blocked + 1, 0
        return Reply(t + outlook.issued, t + outlook.done, outlook.cause)

    def lose_rows(self, t: int) -> None:
        """Something else has used the memory until clock `t`: no row is open any more."""
        self._wait(t)
        for lane in self.lanes():
            self._offer(lane, self.clock, ROWS_LOST, NONE)
            if self.issues is not None:
                for channel in channels_of(lane.mask):
                    self.issues(self.clock, channel, TRAFFIC)

    def rows(self) -> tuple[int, ...]:
        """The rows that the states of the lanes know, lane by lane."""
        return tuple(row for lane in self.lanes() for row in lane.rows)

    def tell_of_refresh(self, lane: Lane, t: int, command: int) -> None:
        """Let a lane's state tell of the last refresh, if that may keep back what is offered at clock `t`."""
        if t < lane.opens and command in self.states.rules.array:
            lane.state = self.states.after_refresh(lane.state, lane.opens - self.states.refreshing - lane.base)

    # -- for passages -------------------------------------------------------------------------------------------------

    def lanes_of(self, mask: int) -> list[Lane]:
        """Those of some channels, which have no others."""
        lanes = self._lanes(mask)
        for lane in lanes:
            self._settle(lane)
        return lanes

    def relative_of(self, lanes: list[Lane]) -> Hashable:
        """As `relative`, seen from the present clock, without other channels."""
        clock = self.clock
        return self.decoded, tuple(
            [(x.mask, x.state.number, self._age(x), max(0, x.blocked - clock)) for x in lanes]
        )

    def open_clocks_of(self, lanes: list[Lane]) -> int:
        """Those since the last offer to each channel of some lanes."""
        clock, opened = self.clock, self.states.open_clocks
        return sum([x.mask.bit_count() * opened(x.state, clock - x.base, x.due - x.base) for x in lanes])

    def rename_rows(self, rows: tuple[int, ...]) -> None:
        at = 0
        for lane in self.lanes():
            size = len(lane.rows)
            lane.rows = rows[at : at + size]
            at += size

    def relative(self, clock: int) -> Hashable:
        """The state as seen from a clock, rows as their numbers, without what refresh will do; but it has closed the
        rows of lanes that were at rest meanwhile."""
        lanes = tuple(
            (lane.mask, lane.state.number, self._age(lane), max(0, lane.blocked - clock), max(0, lane.opens - clock),
             self.clock > lane.due and not lane.state.is_idle)
            for lane in self.lanes()
        )  # fmt: skip
        return self.clock - clock, self.decoded, lanes

    def _age(self, lane: Lane) -> int:
        """Clocks since the last offer; -1: so many that they make no difference."""
        age = self.clock - lane.base
        return age if age <= self.states.outlook(lane.state, NEVER).settled else -1

    def next_refresh(self) -> int | None:
        """The clock of the next refresh: of channels that have been used since the last one, if there are any."""
        interval = self.states.rules.refresh
        if not interval:
            return None
        recent = self.clock - interval
        due = min([lane.due for lane in self.lanes() if lane.base > recent], default=None)
        if due is None:
            due = self.of_channel[0].due
            due += max(0, -(-(self.clock - due) // interval)) * interval
        return due

    def shift(self, by: int, since: int) -> None:
        """Move what has happened from clock `since` on into the future. What is counted stays as it is."""
        opened = self.open_clocks()
        self.clock += by
        for lane in self.lanes():
            if lane.base >= since:
                lane.base += by
                lane.blocked += by
                lane.opens += by
                if lane.last >= since:
                    lane.last += by
        self.last = [last + by if last >= since else last for last in self.last]
        self.put_open_clocks(opened)

    # -- lanes ------------------------------------------------------------------------------------------------------

    def _lanes(self, mask: int) -> list[Lane]:
        """The lanes of a mask; those that it divides are split."""
        chosen: list[Lane] = []
        left = mask
        while left:
            lane = self.of_channel[left.bit_length() - 1]
            inside = lane.mask & mask
            if inside != lane.mask:
                lane = self._split(lane, inside)
            chosen.append(lane)
            left &= ~inside
        return chosen

    def _split(self, lane: Lane, inside: int) -> Lane:
        self._settle(lane)
        self._lanes_in_order = None
        lane.mask &= ~inside
        part = lane.copy(inside)
        for channel in channels_of(inside):
            self.of_channel[channel] = part
        return part

    def _join(self, lanes: list[Lane]) -> None:
        """Let lanes with the same state be one; all of them were offered something in the same clock."""
        known: dict[tuple[int, tuple[int, ...], int, int], Lane] = {}
        for lane in lanes:
            opens = max(lane.base, lane.opens)
            same = known.setdefault((lane.state.number, lane.rows, lane.due, opens), lane)
            if same is not lane:
                self._lanes_in_order = None
                self._settle(same)
                self._settle(lane)
                for channel in channels_of(lane.mask):
                    self.of_channel[channel] = same
                    self.last[channel] = max(self.last[channel], lane.last)
                if same.last != lane.last:
                    for channel in channels_of(same.mask):
                        self.last[channel] = max(self.last[channel], same.last)
                    same.last = 0
                same.mask |= lane.mask

    def _settle(self, lane: Lane) -> None:
        """Count the transitions of a lane for its channels."""
        if lane.log:
            total, transitions = self.used[lane.mask], self.states.transitions
            for number, times in Counter(lane.log).items():
                self.open += transitions[number].open_clocks * times * lane.mask.bit_count()
                for issue in transitions[number].issues:
                    total[COMMANDS[issue.command]] += issue.times * times
            lane.log.clear()
