"""Orders that follow from others are told from those that do not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from pimc.backends.orders import Order, follows, necessary

LOADED = Order("load", 0, "npu", 1)
MULTIPLIED = Order("npu", 1, "store", 2)
FREED = Order("store", 2, "load", 0, turns=1)


def by_giver(orders: Sequence[Order]) -> dict[str, list[Order]]:
    return {giver: [order for order in orders if order.giver == giver] for giver in {o.giver for o in orders}}


@pytest.mark.parametrize(
    ("order", "others"),
    [
        (Order("load", 0, "store", 2), [LOADED, MULTIPLIED]),
        (Order("npu", 1, "load", 0, turns=1), [MULTIPLIED, FREED]),
        (Order("npu", 1, "load", 5, turns=1), [MULTIPLIED, FREED]),
        (Order("npu", 0, "load", 0, turns=1), [MULTIPLIED, FREED]),
        (Order("store", 2, "npu", 1, turns=1), [FREED, LOADED]),
        (Order("load", 3, "npu", 1, turns=1), [Order("load", 3, "npu", 4)]),
        (Order("load", 3, "npu", 1, turns=1), [Order("load", 3, "store", 4), Order("store", 0, "npu", 0)]),
    ],
)
def test_an_order_follows_from_a_chain(order: Order, others: Sequence[Order]) -> None:
    assert follows(order, by_giver(others))


@pytest.mark.parametrize(
    ("order", "others"),
    [
        (Order("load", 0, "store", 2), [LOADED]),
        (Order("load", 1, "store", 2), [LOADED, MULTIPLIED]),  # the first one is given too early
        (Order("load", 0, "store", 1), [LOADED, MULTIPLIED]),  # the last one is taken too late
        (Order("load", 0, "store", 3), [LOADED, Order("npu", 0, "store", 2)]),  # given before the first was taken
        (Order("load", 3, "npu", 1), [Order("load", 3, "npu", 1, turns=1)]),
        (Order("store", 2, "npu", 0, turns=1), [FREED, LOADED]),
        (Order("npu", 1, "load", 0, turns=1), [Order("npu", 1, "store", 0, turns=1), FREED]),
    ],
)
def test_an_order_does_not_follow(order: Order, others: Sequence[Order]) -> None:
    assert not follows(order, by_giver(others))


def test_of_two_that_follow_from_each_other_one_is_kept() -> None:
    pair = [Order("load", 0, "npu", 4, turns=1), Order("load", 0, "npu", 4, turns=1)._replace(given=1)]
    assert necessary(pair, ()) == [pair[1]]
    alike = [Order("load", 0, "npu", 4, turns=1), Order("load", 0, "npu", 5, turns=1)]
    assert necessary(alike, ()) == [alike[0]]


Done = set[tuple[str, int, int]]
"""Engines, turns and positions."""


def completed(orders: Sequence[Order], turns: int) -> list[dict[tuple[str, int], Done]]:
    """By turn, engine and position: what of all engines is known to be complete when it begins."""
    engines, last = ("a", "b", "c", "d"), 4
    known: dict[str, Done] = {engine: set() for engine in engines}
    signals: dict[tuple[Order, int], Done] = {}
    found: list[dict[tuple[str, int], Done]] = []
    for turn in range(turns):
        begins: dict[tuple[str, int], Done] = {}
        for position in range(last):
            for engine in engines:
                for order in orders:
                    if (order.taker, order.taken) == (engine, position):
                        known[engine] |= signals.get((order, turn - order.turns), set())
                begins[engine, position] = set(known[engine])
            for engine in engines:
                own = {(engine, t, p) for t in range(turn + 1) for p in range(last) if (t, p) <= (turn, position)}
                for order in orders:
                    if (order.giver, order.given) == (engine, position):
                        signals[order, turn] = known[engine] | own
        found.append(begins)
    return found


@pytest.mark.parametrize("seed", range(60))
def test_what_is_left_out_changes_nobodys_knowledge(seed: int) -> None:
    rng = random.Random(seed)

    def some(count: int, turns: int) -> list[Order]:
        found: list[Order] = []
        while len(found) < count:
            giver, taker = rng.sample("abcd", 2)
            given, taken = rng.randrange(4), rng.randrange(4)
            if turns or given < taken:
                found.append(Order(giver, given, taker, taken, turns))
        return list(dict.fromkeys(found))

    within, carried = some(rng.randint(0, 6), 0), some(rng.randint(1, 8), 1)
    left = necessary(carried, within)
    assert completed([*within, *left], 5) == completed([*within, *carried], 5)
    for order in left:  # and each of the others matters
        fewer = [other for other in left if other != order]
        assert completed([*within, *fewer], 5) != completed([*within, *left], 5)
