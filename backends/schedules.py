"""Which machine passes see: that of a published mapping, where a target names one that makes programs by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pimc.backends.machine import Estimates, Machine, Simulate
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.target import TargetSpec


def _cent() -> type[Machine]:
    from pimc.backends.cent.machine import CentMachine

    return CentMachine


SCHEDULES: dict[str, Callable[[], type[Machine]]] = {"": lambda: Machine, "cent": _cent}
"""By the name of the mapping's schedule; each is imported when a target has it."""


def scheduled_machine(
    spec: TargetSpec,
    simulate: Simulate,
    cache_tokens: int | None = None,
    banked: frozenset[str] = frozenset(),
    parallel: Mapping[str, int] | None = None,
    estimates: Estimates | None = None,
) -> Machine:
    """The machine of a target. simulate: gives the seconds of a program; the others are as for `Machine`."""
    kind = SCHEDULES[mapping_of(spec).schedule]()
    return kind(spec, simulate, cache_tokens, banked, dict(parallel or {}), estimates or Estimates())
