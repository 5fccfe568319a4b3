"""The command bus, the modes of a channel, and what its buffers and registers hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pimc.sim.check.issued import NONE, Column, Lane
from pimc.sim.check.part import Mode, Part
from pimc.sim.check.violation import Finding, Rule


def crowded_cycles(lane: Lane, part: Part, number: Mapping[str, int]) -> Iterator[Finding]:
    """Cycles in which the bus would have to carry several commands."""
    off_bus = [number[rule.name] for rule in part.commands if not rule.on_bus and rule.name in number]
    places = np.flatnonzero(~np.isin(lane.command, off_bus))
    again = np.flatnonzero(np.diff(lane.cycle[places]) == 0) + 1
    names = {n: name for name, n in number.items()}
    for command in np.unique(lane.command[places[again]]).tolist():
        mine = again[lane.command[places[again]] == command]
        rule = Rule("bus", f"{names[command]} in the cycle of another command", names[command])
        yield Finding(rule, places[mine], places[mine - 1])


def wrong_modes(lane: Lane, part: Part, number: Mapping[str, int]) -> Iterator[Finding]:
    """Commands in the wrong mode of the channel; it begins in the array mode."""
    if part.switch is None:
        return
    switches = lane.command == number.get(part.switch, NONE)
    in_registers = (np.cumsum(switches) - switches) % 2 == 1
    for rule in part.commands:
        if rule.mode is None or rule.name not in number:
            continue
        wrong = in_registers if rule.mode is Mode.ARRAY else ~in_registers
        text = f"{rule.name} outside of {rule.mode.value}"
        yield Finding(Rule("mode", text, rule.name), np.flatnonzero((lane.command == number[rule.name]) & wrong))


def empty_sources(lane: Lane, part: Part, number: Mapping[str, int]) -> Iterator[Finding]:
    """Commands that take something out of what holds nothing."""
    for held in dict.fromkeys(name for rule in part.commands for name in rule.uses):
        users = [rule for rule in part.commands if held in rule.uses and rule.name in number]
        if not any((lane.command == number[rule.name]).any() for rule in users):
            continue
        fills = [number[rule.name] for rule in part.commands if held in rule.fills and rule.name in number]
        empties = [number[rule.name] for rule in part.commands if held in rule.empties and rule.name in number]
        is_empty = _last(lane, fills) <= _last(lane, empties)
        for rule in users:
            text = f"{rule.name} with nothing in {held}"
            bad = np.flatnonzero((lane.command == number[rule.name]) & is_empty)
            yield Finding(Rule("contents", text, rule.name), bad)


def _last(lane: Lane, commands: list[int]) -> Column:
    """For each command, the place of the last one of some kinds before it; NONE where there is none."""
    places = np.where(np.isin(lane.command, commands), np.arange(len(lane)), NONE)
    return np.concatenate([[NONE], np.maximum.accumulate(places)[:-1]])
