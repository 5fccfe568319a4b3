"""What an op would take elsewhere, and which passes ran, as plain data that JSON can hold."""

from __future__ import annotations

from math import isfinite
from typing import Any

from pimc.backends.program import Cost, OpRow, PassRow


def plain_costs(row: OpRow) -> list[list[Any]]:
    """`[engine, seconds]`, or `[engine, why it cannot]`."""
    return [[c.engine, c.illegal or c.seconds] for c in row.costs]


def costs_from(data: Any) -> tuple[Cost, ...]:
    """What `plain_costs` described. Raises ValueError on anything else."""
    if not isinstance(data, list) or not all(isinstance(each, list) and len(each) == 2 for each in data):
        raise ValueError(f"{data!r} are not costs")
    return tuple(_cost(*each) for each in data)


def _cost(engine: object, what: object) -> Cost:
    if not isinstance(engine, str):
        raise ValueError(f"{engine!r} is not an engine")
    if isinstance(what, str):
        return Cost(engine, 0.0, what)
    if isinstance(what, bool) or not isinstance(what, int | float) or not isfinite(what):
        raise ValueError(f"{what!r} is not a time")
    return Cost(engine, float(what))


def pass_from(data: Any) -> PassRow:
    """The pass of `[name, changed, ops]`. Raises ValueError on anything else."""
    name, changed, ops = data if isinstance(data, list) and len(data) == 3 else (None, None, None)
    if not isinstance(name, str) or not isinstance(changed, bool) or not isinstance(ops, int) or isinstance(ops, bool):
        raise ValueError(f"{data!r} is not a pass")
    return PassRow(name, changed, ops)
