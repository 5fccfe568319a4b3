"""Which machine passes see: that of a published mapping, where a target names one that makes programs by itself."""

from __future__ import annotations

from collections.abc import Mapping

from pimc.backends.cent.machine import CentMachine
from pimc.backends.machine import Estimates, Machine, Simulate
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.target import TargetSpec

SCHEDULES: dict[str, type[Machine]] = {"cent": CentMachine}
"""By the name of the mapping's schedule."""


def scheduled_machine(
    spec: TargetSpec,
    simulate: Simulate,
    cache_tokens: int | None = None,
    banked: frozenset[str] = frozenset(),
    parallel: Mapping[str, int] | None = None,
    estimates: Estimates | None = None,
) -> Machine:
    """The machine of a target. simulate: gives the seconds of a program; the others are as for `Machine`."""
    kind = SCHEDULES.get(mapping_of(spec).schedule, Machine)
    return kind(spec, simulate, cache_tokens, banked, dict(parallel or {}), estimates or Estimates())
