"""A channel of Newton-style PIM memory that remembers: what a command does in a state is worked out once.

What a command does depends on how long ago things were, as far as that still matters, and on which row buffers hold the
same row; not on when it is, nor on which row that is. A state is that much of a `NewtonChannel`, with rows by number
and times as seen from its last command. Each state that is come to is kept once, for all channels under the same rules,
with what every command makes of it. Streams of tiles walk through few of them: a refresh makes channels forget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from pimc.backends.pim.newton_channel import MIXED, Done, NewtonChannel
from pimc.backends.pim.newton_rules import Rules

MOST_STATES = 1 << 17
"""Beyond so many, states are forgotten."""
_MOMENTS = ("compute_free", "read_free", "precharge_free", "vector_free", "gwrite_free")

Kind = Literal["global_write", "header", "compute", "read_result", "compute_and_read"]


@dataclass(eq=False, slots=True)
class Ask:
    """A command but for its row, when it is offered, and by whom."""

    kind: Kind
    operands: tuple[int, ...]
    has_row: bool


@dataclass(eq=False, slots=True)
class Move:
    """What a command does in a state; times from the last command before it."""

    done: Done
    by: int
    """when its own last DRAM command is issued"""
    to: State
    rows: tuple[int, ...] | None
    """of each row of the next state: its number here, the command's own being the last; None: the same as here"""
    counts: tuple[tuple[str, int], ...]


@dataclass(eq=False, slots=True)
class State:
    channel: NewtonChannel
    """in this state; time 0 is that of its last command"""
    moves: dict[tuple[Ask, int, int], Move] = field(default_factory=dict)


class States:
    """The states that channels under some rules have come to."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.horizon = max(rules.tras + rules.trp, rules.twindow, rules.trcd, rules.trrd_same, rules.trrd_other)
        """clocks after which an activation or precharge does not matter any more"""
        self.known: dict[Hashable, State] = {}
        self._asks: dict[tuple[Kind, tuple[int, ...]], Ask] = {}
        self.start, _ = self.state(NewtonChannel(rules))

    def ask(self, kind: Kind, *operands: int) -> Ask:
        key = kind, operands
        if key not in self._asks:
            self._asks[key] = Ask(kind, operands, kind != "read_result")
        return self._asks[key]

    def state(self, channel: NewtonChannel) -> tuple[State, tuple[int, ...]]:
        """The state that a channel is in, and the rows that it has open, by their number there."""
        now, oldest = channel.now, -self.horizon
        numbers: dict[int, int] = {}

        def number(row: int | None) -> int | None:
            return row if row is None or row == MIXED else numbers.setdefault(row, len(numbers))

        ranks: list[Hashable] = []
        for rank in channel.ranks:
            row = number(rank.row)
            normal = tuple((bank, number(own)) for bank, own in sorted(rank.normal.items()))
            acts = tuple([max(t - now, oldest) for t in rank.acts])
            precharged = tuple([max(t - now, oldest) for t in rank.precharged])
            normal_act = max(rank.normal_act - now, oldest)
            bank = rank.normal_bank if normal_act > oldest else 0
            ranks.append((row, normal, acts, precharged, max(0, rank.refreshed - now), normal_act, bank))
        moments = tuple([max(0, getattr(channel, name) - now) for name in _MOMENTS])
        due = channel.due - now if self.rules.interval else 0
        key = moments, due, channel.next_rank, channel.is_filling, tuple(ranks)
        found = self.known.get(key)
        if found is None:
            if len(self.known) >= MOST_STATES:
                self.known.clear()
            found = self.known[key] = State(self._numbered(channel, numbers))
        return found, tuple(numbers)

    def _numbered(self, channel: NewtonChannel, numbers: Mapping[int, int]) -> NewtonChannel:
        """The same channel with its last command at clock 0, and numbers for its rows."""
        copied = self.copy(channel)
        copied.shift(-channel.now)
        for rank in copied.ranks:
            rank.row = rank.row if rank.row is None or rank.row == MIXED else numbers[rank.row]
            rank.normal = {bank: numbers[row] for bank, row in rank.normal.items()}
        return copied

    def move(self, state: State, ask: Ask, row: int, at: int, rows: int) -> Move:
        """Work out what a command does. row: its number in the state; at: when it is offered; rows: how many there are
        with its own."""
        channel = self.copy(state.channel)
        kind, operands = ask.kind, ask.operands
        if kind == "global_write":
            done = channel.global_write(operands[0], row, at)
        elif kind == "header":
            done = channel.header(row, operands[0], operands[1], at)
        elif kind == "compute":
            done = channel.compute(row, operands[0], at)
        elif kind == "read_result":
            done = channel.read_result(at)
        else:
            done = channel.compute_and_read(row, operands[0], at)
        to, numbers = self.state(channel)
        same = numbers == tuple(range(rows))
        return Move(done, channel.now, to, None if same else numbers, tuple(channel.counts.items()))

    def copy(self, channel: NewtonChannel) -> NewtonChannel:
        copied = NewtonChannel(self.rules)
        for name in (*_MOMENTS, "now", "due", "next_rank", "is_filling"):
            setattr(copied, name, getattr(channel, name))
        for rank, like in zip(copied.ranks, channel.ranks, strict=True):
            rank.row, rank.refreshed = like.row, like.refreshed
            rank.normal_act, rank.normal_bank = like.normal_act, like.normal_bank
            rank.acts, rank.precharged, rank.normal = list(like.acts), list(like.precharged), dict(like.normal)
        return copied


@lru_cache(maxsize=8)
def states_of(rules: Rules) -> States:
    """What is known of channels under some rules."""
    return States(rules)


class RememberedChannel:
    """Does what a `NewtonChannel` does, by looking it up."""

    issues = None
    """nobody is told of DRAM commands"""

    def __init__(self, rules: Rules) -> None:
        self.states = states_of(rules)
        self.state = self.states.start
        self.rows: tuple[int, ...] = ()
        """by their number in the state"""
        self.now = 0
        self._counts: Counter[str] = Counter()
        self._taken: Counter[Move] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """DRAM commands so far."""
        for move, times in self._taken.items():
            for name, count in move.counts:
                self._counts[name] += count * times
        self._taken.clear()
        return self._counts

    def global_write(self, bank: int, row: int, at: int) -> Done:
        return self._done(self.states.ask("global_write", bank), row, at)

    def header(self, row: int, comps: int, results: int, at: int) -> Done:
        return self._done(self.states.ask("header", comps, results), row, at)

    def compute(self, row: int, count: int, at: int) -> Done:
        return self._done(self.states.ask("compute", count), row, at)

    def read_result(self, at: int) -> Done:
        return self._done(self.states.ask("read_result"), 0, at)

    def compute_and_read(self, row: int, count: int, at: int) -> Done:
        return self._done(self.states.ask("compute_and_read", count), row, at)

    def _done(self, ask: Ask, row: int, at: int) -> Done:
        now = self.now
        done = self.take(ask, row, at).done
        return Done(done.first + now, done.free + now, done.done + now, done.busy, done.cause)

    def take(self, ask: Ask, row: int, at: int) -> Move:
        """Execute a command; what it did, as seen from the last command before it."""
        state, rows = self.state, self.rows
        if not ask.has_row:
            number = -1
        elif row in rows:
            number = rows.index(row)
        else:
            number = len(rows)
            rows = (*rows, row)
        wait = at - self.now
        key = ask, number, wait if wait > 1 else 1
        move = state.moves.get(key)
        if move is None:
            move = state.moves[key] = self.states.move(state, *key, len(rows))
        self.rows = rows if move.rows is None else tuple([rows[i] for i in move.rows])
        self.state = move.to
        self.now += move.by
        self._taken[move] += 1
        return move

    def rows_lost(self) -> None:
        """Normal traffic has used the only row buffers, and closed them again."""
        channel = self.states.copy(self.state.channel)
        channel.rows_lost()
        self.state, _ = self.states.state(channel)
        self.rows = ()

    def relative(self, now: int) -> Hashable:
        return self.now - now, self.rows, self.state

    def shift(self, by: int) -> None:
        self.now += by
