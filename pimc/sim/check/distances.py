"""Distances in time: pairs of commands, windows of activations, spans of work.

For each pair the nearest earlier command counts: where that one is far enough, all are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from pimc.sim.check.issued import NONE, Column, Lane
from pimc.sim.check.part import CHANNEL, Distance, Part, Span, Window
from pimc.sim.check.violation import Finding, Rule


def too_soon(lane: Lane, part: Part, number: Mapping[str, int]) -> Iterator[Finding]:
    """All pairs, windows and spans that were not kept; `number` gives the commands' numbers in the lane."""
    by_level: dict[str, list[Distance]] = defaultdict(list)
    for distance in part.distances:
        if distance.previous in number and distance.next in number and distance.clocks > 0:
            by_level[distance.level].append(distance)
    for level, distances in by_level.items():
        yield from _pairs(lane, level, part.levels[level], distances, number)
    for window in part.windows:
        yield from _window(lane, window, part.levels[window.level], number)
    for span in part.spans:
        yield from _span(lane, span, number)


def _pairs(
    lane: Lane, level: str, banks: int, distances: list[Distance], number: Mapping[str, int]
) -> Iterator[Finding]:
    involved = {name for d in distances for name in (d.previous, d.next)}
    places, starts = _by_node(lane, level, banks, [number[name] for name in involved])
    cycle, command = lane.cycle[places], lane.command[places]
    following: dict[str, Column] = {name: np.flatnonzero(command == number[name]) for name in involved}
    ranks = np.arange(len(places), dtype=np.int64)
    for previous in sorted({d.previous for d in distances}):
        if not len(following[previous]):
            continue
        last = np.full(len(places), NONE, np.int64)
        last[1:] = np.maximum.accumulate(np.where(command == number[previous], ranks, NONE))[:-1]
        for d in distances:
            at = following[d.next]
            if d.previous != previous or not len(at):
                continue
            before = last[at]
            apart = cycle[at] - cycle[before]
            bad = (before >= starts[at]) & (apart < d.clocks)
            if bad.any():
                yield _in_time(Finding(_rule_of(d), places[at[bad]], places[before[bad]], apart[bad]))


def _rule_of(d: Distance) -> Rule:
    text = f"{d.next} comes {d.clocks} after {d.previous} ({d.level})"
    return Rule("timing", text, d.next, d.level, d.previous, d.clocks)


def _in_time(finding: Finding) -> Finding:
    """Places in the order of the trace; those of `_pairs` and `_window` are by node."""
    order = np.argsort(finding.places, kind="stable")
    assert finding.earlier is not None
    assert finding.found is not None
    return Finding(finding.rule, finding.places[order], finding.earlier[order], finding.found[order])


def _by_node(lane: Lane, level: str, banks: int, commands: list[int]) -> tuple[Column, Column]:
    """Places of commands that are counted at a level, node by node, and for each the first place of its node."""
    wanted = np.isin(lane.command, commands)
    if level == CHANNEL:
        places = np.flatnonzero(wanted)
        return places, np.zeros(len(places), np.int64)
    places = np.flatnonzero(wanted & (lane.bank != NONE))
    node = lane.bank[places] // banks
    order = np.argsort(node, kind="stable")
    places, node = places[order], node[order]
    return places, np.searchsorted(node, node, "left")


def _window(lane: Lane, window: Window, banks: int, number: Mapping[str, int]) -> Iterator[Finding]:
    """Too many banks opened within the window."""
    opened = {number[name]: n for name, n in window.opened.items() if name in number}
    places, starts = _by_node(lane, window.level, banks, list(opened))
    if not len(places):
        return
    cycle = lane.cycle[places]
    weight = np.array([opened[c] for c in lane.command[places].tolist()], np.int64)
    sums = np.concatenate([[0], np.cumsum(weight)])
    # node by node on one axis, so that one search finds where each window begins
    lift = starts * (int(cycle.max()) + window.clocks + 1)
    first = np.searchsorted(cycle + lift, cycle + lift - window.clocks + 1, "left")
    bad = np.flatnonzero(sums[1:] - sums[first] > window.most)
    for name in window.opened:
        mine = bad[lane.command[places[bad]] == number.get(name, NONE)]
        text = f"at most {window.most} banks are opened within {window.clocks} ({window.level})"
        rule = Rule("timing", text, name, window.level, "", window.clocks)
        yield _in_time(Finding(rule, places[mine], places[first[mine]], cycle[mine] - cycle[first[mine]]))


def _span(lane: Lane, span: Span, number: Mapping[str, int]) -> Iterator[Finding]:
    """The last command of a span too soon after its first."""
    if span.first not in number or span.last not in number:
        return
    lasts = np.flatnonzero(lane.command == number[span.last])
    firsts = np.flatnonzero(lane.command == number[span.first])
    if not len(lasts) or not len(firsts):
        return
    begin = np.concatenate([[NONE], lasts[:-1]])  # the span starts behind the one before
    which = np.searchsorted(firsts, begin, "right")
    first = firsts[np.minimum(which, len(firsts) - 1)]
    apart = lane.cycle[lasts] - lane.cycle[first]
    bad = (first > begin) & (first < lasts) & (apart < span.clocks)
    text = f"{span.last} comes {span.clocks} after the first {span.first}"
    rule = Rule("timing", text, span.last, CHANNEL, span.first, span.clocks)
    yield Finding(rule, lasts[bad], first[bad], apart[bad])
