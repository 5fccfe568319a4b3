"""Timers of PIM engines: the controller strategy that the target names.

A machine needs one of them: each is imported when a target has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pimc.backends.pim.memory_share import MemoryBeside, MemoryShare
from pimc.backends.target import AimPim, NewtonPim, TargetSpec
from pimc.backends.timing import EngineDecl, Resources, Timer
from pimc.by_identity import by_identity
from pimc.ir.diagnostics import Kind, did_you_mean, fail

if TYPE_CHECKING:
    from pimc.backends.pim.aim_states import States

Controller = Callable[[TargetSpec, EngineDecl, Resources], Timer]


def _aim(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> Timer:
    from pimc.backends.pim.aim_controller import AimTimer

    assert isinstance(spec.pim, AimPim)
    return AimTimer(states_of(spec), engine, resources)


@by_identity
def states_of(spec: TargetSpec) -> States:
    """What is known of the channels of a machine: the same for all its timers."""
    from pimc.backends.pim.aim_rules import AimRules
    from pimc.backends.pim.aim_states import States

    return States(AimRules.of(spec))


def _newton(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> Timer:
    from pimc.backends.pim.newton_controller import NewtonTimer
    from pimc.backends.pim.newton_rules import Rules

    assert isinstance(spec.pim, NewtonPim)
    rules = Rules.of(spec, spec.pim)
    beside = MemoryBeside(resources, rules.interval * engine.clock_ps) if rules.is_dual else None
    return NewtonTimer(rules, engine, beside or MemoryShare(resources))


CONTROLLERS: dict[str, Controller] = {
    "aim": _aim,
    "newton": _newton,
}
"""Strategies by name. What the published ones do otherwise are switches of the target."""


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> Timer:
    """The timer of one instance of a target's PIM engine."""
    assert spec.pim is not None
    name = spec.pim.controller
    if name not in CONTROLLERS:
        raise fail(Kind.NAME_UNKNOWN, f"no PIM controller '{name}'", help=did_you_mean(name, CONTROLLERS))
    return CONTROLLERS[name](spec, engine, resources)
