"""Orders between engines in the turns of a loop, and which of them follow from others.

An engine takes its commands in order, and signals once all before are complete. So an order is kept already where a
chain of others leads from the one engine to the other: each is given where the one before was taken, or later, and
together they are over in no more turns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Order(NamedTuple):
    """What engine `giver` does up to position `given` of a turn is complete before engine `taker` comes to position
    `taken`, so many turns later."""

    giver: str
    given: int
    taker: str
    taken: int
    turns: int = 0


def necessary(orders: Sequence[Order], kept: Sequence[Order]) -> list[Order]:
    """Those of some orders which do not follow from what is left of them and from others that are `kept` anyway."""
    of_giver: dict[str, dict[Order, None]] = defaultdict(dict)
    for order in (*orders, *kept):
        of_giver[order.giver][order] = None
    left: list[Order] = []
    for order in orders:
        del of_giver[order.giver][order]
        if not follows(order, of_giver):
            of_giver[order.giver][order] = None
            left.append(order)
    return left


def follows(order: Order, of_giver: Mapping[str, Iterable[Order]]) -> bool:
    """Whether an order is kept if others are, listed by who gives them."""
    known = {(order.giver, 0): order.given}
    """from which position on of a turn an engine comes after what is given"""
    work = [(order.giver, 0)]
    while work:
        engine, turn = work.pop()
        position = known[engine, turn]
        for _, given, taker, taken, turns in of_giver.get(engine, ()):
            taken_in = turn + turns + (given < position)
            if taken_in > order.turns or known.get((taker, taken_in), taken + 1) <= taken:
                continue
            if taker == order.taker and (taken_in < order.turns or taken <= order.taken):
                return True
            known[taker, taken_in] = taken
            work.append((taker, taken_in))
    return False
