"""Accounts of engines whose parts work side by side, against a time line painted clock by clock."""

from collections import Counter
from itertools import groupby
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pimc.backends.timing import Turn
from pimc.sim import accounts
from pimc.sim.accounts import BUSY, HELD, OP, Account, Entry, Mark, Run, Sums

STEP = st.tuples(
    st.integers(-1, 3),
    st.integers(0, 9),
    st.integers(0, 30),
    st.integers(0, 20),
    st.sampled_from(["", "bus", "row"]),
)
"""op, when the stream is ready after the last, start after that, how long it works, what delayed it."""


def entries_of(steps: list[tuple[int, int, int, int, str]], at: int) -> list[Entry]:
    """Entries as an engine makes them: none begins before the stream is ready, nor during a hold."""
    found: list[Entry] = []
    ready = front = at
    for op, gap, late, busy, cause in steps:
        ready += gap
        if op < 0:
            found.append((HELD, ready, ready + late, 0, 0, f"wait:{cause}"))
            ready += late
        else:
            found.append((op, ready, ready + late, busy, ready + late + busy, cause))
        front = max(front, found[-1][2] + found[-1][3])
    return found


def logged(account: Account, entries: list[Entry]) -> None:
    """Some of an op's in a row as turns of a loop, others one by one."""
    for op, group in groupby(entries, lambda entry: entry[0]):
        own = list(group)
        at = own[0][1]
        turns = [Turn(ready - at, start - at, busy, done - at, cause) for _, ready, start, busy, done, cause in own]
        account.entries += [Run(op, at, turns)] if op != HELD and len(own) % 2 else own
        account.turns += len(own)
    for op, _, start, busy, _, _ in entries:
        account.frontier = max(account.frontier, start + busy)
        if op == HELD:
            account.held = start


def moved(entries: list[Entry], by: int) -> list[Entry]:
    return [(o, ready + by, start + by, b, done + by, cause) for o, ready, start, b, done, cause in entries]


def by_op(sums: Sums) -> Counter[int]:
    found: Counter[int] = Counter()
    for row in sums.segments.tolist():
        found[row[OP]] += row[BUSY]
    return found


def painted(entries: list[Entry]) -> tuple[int, Counter[int], Counter[str], int]:
    """Busy clocks, those by op, those without work by cause, and the end; the first in the stream takes a clock."""
    end = max((start + busy for _, _, start, busy, _, _ in entries), default=0)
    worker = np.full(end, HELD)
    reason: list[str] = [""] * end
    front = 0
    for op, ready, start, busy, _, cause in entries:
        for clock in range(front, max(front, start)):
            reason[clock] = "latency" if clock < ready else cause or "latency"
        for clock in range(start, start + busy):
            if worker[clock] == HELD:
                worker[clock] = op
        front = max(front, start + busy)
    works = worker != HELD
    ops = Counter(worker[works].tolist())
    return int(works.sum()), ops, Counter(r for r, w in zip(reason, works, strict=True) if not w), end


def seen(sums: Sums) -> tuple[int, Counter[int], Counter[str], int]:
    stalled = Counter({cause: time for cause, time in sums.stalled.items() if time})
    ops = Counter({op: time for op, time in by_op(sums).items() if time})
    return sums.busy, ops, stalled, sums.front.at


@given(st.lists(STEP, min_size=1, max_size=30))
def test_a_clock_is_busy_if_any_command_works_in_it(steps: list[tuple[int, int, int, int, str]]) -> None:
    entries = entries_of(steps, 0)
    account = Account()
    logged(account, entries)
    assert seen(account.sums()) == painted(entries)


@given(st.lists(STEP, min_size=1, max_size=30), st.integers(1, 5))
def test_sums_taken_before_the_end_are_those_of_the_whole(
    steps: list[tuple[int, int, int, int, str]], size: int
) -> None:
    entries = entries_of(steps, 0)
    account = Account()
    with patch.object(accounts, "MANY", 3):
        for begin in range(0, len(entries), size):
            logged(account, entries[begin : begin + size])
            account.settle()
            if begin % 2:
                account.mark()
    assert seen(account.sums()) == painted(entries)


@given(
    st.lists(STEP, min_size=1, max_size=6),
    st.lists(STEP, min_size=1, max_size=6),
    st.lists(STEP, max_size=6),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_turns_that_are_skipped_fill_the_gaps_of_one_another(
    first: list[tuple[int, int, int, int, str]],
    turn: list[tuple[int, int, int, int, str]],
    last: list[tuple[int, int, int, int, str]],
    times: int,
    outer: int,
) -> None:
    """Also in loops in loops: what a turn of the inner finds depends on which turn of the outer it is in."""
    begun = entries_of(first, 0)
    base = max(entry[1] if entry[0] != HELD else entry[2] for entry in begun)
    entries = entries_of(turn, base)
    shift = max(1, max(entry[1] if entry[0] != HELD else entry[2] for entry in entries) - base)
    account = Account()
    logged(account, begun)
    whole = list(begun)
    at = base
    opened = account.mark()

    def walk() -> Mark:
        nonlocal at
        mark = account.mark()
        logged(account, moved(entries, at - base))
        whole.extend(moved(entries, at - base))
        at += shift
        return mark

    walk()
    mark = walk()
    account.repeat(account.since(mark, at - shift), at, times, shift)
    for turns in range(times):
        whole += moved(entries, at - base + shift * turns)
    at += shift * times
    span = at - base
    outside = account.since(opened, base)
    account.repeat(outside, at, outer, span)
    inner = whole[len(begun) :]
    for turns in range(1, outer + 1):
        whole += moved(inner, span * turns)
    at += span * outer
    ended = entries_of(last, at)
    logged(account, ended)
    whole += ended
    assert seen(account.sums()) == painted(whole)
