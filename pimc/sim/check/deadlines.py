"""Refreshes: each is due an interval after the one before was, and must be issued before the next is due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pimc.sim.check.issued import Lane
from pimc.sim.check.part import CHANNEL, Part, RefreshRule
from pimc.sim.check.violation import Finding, Rule


def missed_refreshes(lane: Lane, part: Part, number: Mapping[str, int]) -> Iterator[Finding]:
    """Refreshes that were still to come when the next was due, as long as the channel has commands."""
    rule = part.refresh
    if rule is None or not rule.interval or not len(lane):
        return
    size = part.levels[rule.level]
    refreshes = lane.command == number[rule.command] if rule.command in number else np.zeros(len(lane), bool)
    for node in range(part.banks // size):
        own = refreshes if rule.level == CHANNEL else refreshes & (lane.bank // size == node)
        due = _missed(lane.cycle[own].tolist(), rule.interval, int(lane.cycle[-1]))
        if due:
            which = "" if rule.level == CHANNEL else f" of {rule.level} {node}"
            text = f"no {rule.command}{which} within {rule.interval} of when it was due"
            places = np.searchsorted(lane.cycle, np.array(due) + rule.interval, "left")
            yield Finding(_rule(rule, text), places, None, np.array(due))


def _rule(rule: RefreshRule, text: str) -> Rule:
    return Rule("refresh", text, rule.command, rule.level, "", rule.interval)


def _missed(cycles: list[int], interval: int, end: int) -> list[int]:
    """When the missed ones were due: a refresh counts for the first that is due and not issued or missed."""
    missed = []
    taken = 0
    for due in range(interval, end - interval + 1, interval):
        if taken < len(cycles) and cycles[taken] < due + interval:
            taken += 1
        else:
            missed.append(due)
    return missed
