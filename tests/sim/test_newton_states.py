"""Channels that remember do what channels do that work everything out."""

from __future__ import annotations

import random

import pytest

from pimc.backends.pim.newton_channel import NewtonChannel
from pimc.backends.pim.newton_rules import Rules
from pimc.backends.pim.newton_states import RememberedChannel, states_of
from pimc.backends.target import NewtonPim
from pimc.backends.target_registry import load_target

TARGETS = ("neupims", "newton", "neupims-faithful", "newton-faithful")
OFF = (
    "precharge_waits_for_macs", "results_wait_for_macs", "gwrite_waits_for_macs", "keeps_row_times",
    "counts_activates", "gwrite_spans_ranks", "refresh_guard",
)  # fmt: skip


def rules_of(target: str, *overrides: str) -> Rules:
    spec = load_target(target, overrides)
    assert isinstance(spec.pim, NewtonPim)
    return Rules.of(spec, spec.pim)


def issue(channel: NewtonChannel | RememberedChannel, draw: random.Random, at: int) -> tuple[int, ...]:
    """A random command, and what it does."""
    row = draw.choice([5, 5, 6, 1024, draw.randrange(2000)])
    kind = draw.random()
    if kind < 0.02 and not channel_is_dual(channel):
        channel.rows_lost()
    if kind < 0.15:
        done = channel.global_write(draw.choice([0, 0, 3, 17]), row, at)
    elif kind < 0.55:
        done = channel.header(row, draw.choice([1, 8, 24, 32]), draw.choice([1, 4, 7]), at)
    elif channel_is_dual(channel):
        done = channel.compute_and_read(row, draw.randint(1, 32), at)
    elif kind < 0.8:
        done = channel.compute(row, draw.choice([1, 8, 32, 90]), at)
    else:
        done = channel.read_result(at)
    return done.first, done.free, done.done, done.busy, len(done.cause)


def channel_is_dual(channel: NewtonChannel | RememberedChannel) -> bool:
    return channel.rules.is_dual if isinstance(channel, NewtonChannel) else channel.states.rules.is_dual


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("target", TARGETS)
def test_random_commands(target: str, seed: int) -> None:
    draw = random.Random(seed)
    switch = draw.choice(OFF)
    overrides = [f"pim.switches.{switch}={draw.choice(['true', 'false'])}"] if seed % 3 else []
    overrides += ["dram.refresh=false"] if seed % 5 == 4 else []
    rules = rules_of(target, *overrides)
    plain, remembered = NewtonChannel(rules), RememberedChannel(rules)
    at = 0
    for step in range(400):
        at += draw.choice([0, 0, 0, 1, 30, 500, 9000]) if draw.random() < 0.3 else 0
        again = draw.getstate()
        expected = issue(plain, draw, at)
        draw.setstate(again)
        assert issue(remembered, draw, at) == expected, step
        at = draw.choice([at, expected[1]])
    assert remembered.counts == +plain.counts
    assert remembered.now == plain.now


def test_tiles_in_a_row_are_worked_out_once() -> None:
    """Other rows at other times: nothing new."""
    rules = rules_of("neupims")
    states_of.cache_clear()
    known = []
    for first in (0, 5000, 9000):
        channel = RememberedChannel(rules)
        at = 0
        for row in range(first, first + 200):
            at = channel.header(row, 8, 4, at).free
            for _ in range(4):
                at = channel.compute_and_read(row, 8, at).free
        known.append(sum(len(s.moves) for s in states_of(rules).known.values()))
    assert known[0] == known[2]
    assert known[0] < 500
