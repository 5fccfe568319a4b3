"""The numbers that a sweep keeps of each point, and which of them are objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pimc.driver import Result
from pimc.record import record
from pimc.sim.report import Report

Number = int | float
Better = Literal["min", "max"]


@record
class Measured:
    """What numbers are taken from: a simulated point; `tokens`: new ones of all requests, where the model has any."""

    result: Result
    report: Report
    tokens: int | None


@record
class Quantity:
    """A number of a point. `of` gives None where a point has no such number."""

    unit: str
    better: Better
    doc: str
    of: Callable[[Measured], Number | None]


def _energy(m: Measured, part: str) -> float | None:
    found: float | None = getattr(getattr(m.report, "energy", None), part, None)
    return found


QUANTITIES: Mapping[str, Quantity] = {
    "seconds": Quantity("s", "min", "time of the run", lambda m: m.report.seconds),
    "cycles": Quantity("", "min", "of the target's main clock", lambda m: m.report.cycles),
    "bound_seconds": Quantity("s", "min", "time if the busiest resource never idled", lambda m: m.report.bound_seconds),
    "bound_share": Quantity("", "max", "the share of the bound that was reached", lambda m: m.report.bound_share),
    "tokens": Quantity("", "max", "new tokens of all requests", lambda m: m.tokens),
    "tokens_per_s": Quantity(
        "1/s",
        "max",
        "new tokens of all requests a second",
        lambda m: m.tokens / m.report.seconds if m.tokens is not None and m.report.seconds else None,
    ),
    "energy": Quantity("J", "min", "of the run, over all devices", lambda m: _energy(m, "total_j")),
    "power": Quantity("W", "min", "its mean over the run", lambda m: _energy(m, "power_w")),
    "flops": Quantity("", "min", "of all ops", lambda m: sum(o.flops for o in m.report.ops)),
    "bytes": Quantity("B", "min", "moved by all engines", lambda m: sum(m.report.bytes_moved.values())),
    "memory": Quantity("B", "min", "DRAM in use on a device", lambda m: m.result.program.extent.get("dram", 0)),
    "commands": Quantity(
        "", "min", "executed, over all engines of a device", lambda m: sum(e.commands for e in m.report.engines)
    ),
    "devices": Quantity("", "min", "of the machine", lambda m: m.report.devices),
}
"""Every number by its name, in the order of the tables."""


def measure(measured: Measured) -> dict[str, Number]:
    """The numbers that a point has."""
    found = {name: quantity.of(measured) for name, quantity in QUANTITIES.items()}
    return {name: number for name, number in found.items() if number is not None}
