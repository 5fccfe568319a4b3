"""The part of a target."""

from __future__ import annotations

from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail
from pimc.sim.check.aim_part import aim_part
from pimc.sim.check.newton_part import newton_part
from pimc.sim.check.part import Part


def part_of(spec: TargetSpec) -> Part:
    """What the checker knows of a target's memory. Raises CompileError (UNAVAILABLE) for a target without PIM."""
    if spec.pim is None:
        raise fail(
            Kind.UNAVAILABLE,
            f"'{spec.name}' has no memory whose commands are simulated one by one",
            help="targets with PIM have one",
        )
    return aim_part(spec) if spec.pim.style == "aim" else newton_part(spec, spec.pim)
