"""Folding stretches into loops: the unrolled result is what was there, whatever the stretches are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import pytest

from pimc.backends.affine import Scalar, variable
from pimc.backends.isa import Command, address, command, operand
from pimc.backends.program import Item, Loop, Step, unrolled
from pimc.backends.roll import LONGEST_PERIOD, Stretch, roll


@command
@dataclass(frozen=True, slots=True)
class Touch(Command):
    """Test command: two addresses and a count."""

    mnemonic: ClassVar[str] = "TEST.TOUCH"
    a: Scalar = address("an address")
    b: Scalar = address("another")
    count: Scalar = operand("a count")


def layer(a: int, b: int, number: int, *, count: int = 4) -> Stretch:
    i = variable(number)
    return (
        Step("load", Touch(a, b, count)),
        Loop(number, 3, (Step("npu", Touch(a + i * 8, b, count)), Step("store", Touch(b, a + i * 16, 1)))),
    )


def executed(stretches: list[Stretch]) -> list[tuple[str, Command]]:
    return [(s.engine, s.command) for stretch in stretches for s in unrolled(stretch)]


def rolled_items(stretches: list[Stretch]) -> list[Stretch]:
    return [r.items for r in roll(stretches, 1000)]


def test_layers_at_a_constant_distance_become_one_loop() -> None:
    layers = [layer(100 + 64 * n, 7, n) for n in range(24)]
    (only,) = roll(layers, 1000)
    assert (only.first, only.period, only.count) == (0, 1, 24)
    assert executed([only.items]) == executed(layers)


def test_stretches_that_are_known_to_go_on_are_not_compared() -> None:
    layers = [layer(100 + 64 * n, 7, n) for n in range(6)]
    assert roll(layers, 1000, {3, 4, 5}) == roll(layers, 1000)
    (only,) = roll([*layers[:3], (), (), ()], 1000, {3, 4, 5})
    assert executed([only.items]) == executed(layers)


def test_buffers_that_take_turns_make_a_period_of_two() -> None:
    layers = [layer(64 * n, (7, 900)[n % 2], n) for n in range(12)]
    (only,) = roll(layers, 1000)
    assert (only.period, only.count) == (2, 6)
    assert executed([only.items]) == executed(layers)


def test_what_is_different_stays_outside() -> None:
    layers = [layer(5, 5, 0, count=9), *[layer(64 * n, 7, n) for n in range(1, 9)], layer(1, 2, 99)]
    rolled = roll(layers, 1000)
    assert [r.count * r.period for r in rolled] == [1, 8, 1]
    assert executed([r.items for r in rolled]) == executed(layers)


def test_an_irregular_step_ends_the_loop() -> None:
    starts = [0, 64, 128, 192, 1000, 1064, 1128]
    layers = [layer(start, 7, n) for n, start in enumerate(starts)]
    rolled = roll(layers, 1000)
    assert [(r.first, r.count) for r in rolled] == [(0, 4), (4, 3)]
    assert executed([r.items for r in rolled]) == executed(layers)


def test_two_turns_that_happen_to_match_do_not_hide_a_longer_loop() -> None:
    """Two stretches always lie at some constant distance; here the first of all is the odd one."""
    layers = [layer(64 * n, 7 if n else 900, n) for n in range(23)]
    rolled = roll(layers, 1000)
    assert sum(r.period for r in rolled) == 2
    assert executed([r.items for r in rolled]) == executed(layers)


@pytest.mark.parametrize("seed", range(60))
def test_random_stretches_unroll_to_themselves(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [(rng.randrange(0, 512, 8), rng.choice([0, 8, 64]), rng.randint(1, 3)) for _ in range(LONGEST_PERIOD)]
    period = rng.randint(1, LONGEST_PERIOD)
    layers: list[Stretch] = []
    for n in range(rng.randint(1, 14)):
        start, step, count = kinds[n % period]
        slip = 8 if rng.random() < 0.1 else 0
        layers.append(layer(start + step * (n // period) + slip, start, n, count=count))
    assert executed(rolled_items(layers)) == executed(layers)


def test_nothing_is_left_of_the_loop_variable_outside() -> None:
    layers: list[tuple[Item, ...]] = [layer(64 * n, 7, n) for n in range(4)]
    (only,) = roll(layers, 1000)
    (loop,) = only.items
    assert isinstance(loop, Loop)
    assert (loop.variable, loop.count) == (1000, 4)
