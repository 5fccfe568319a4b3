"""What must be the same whatever engine finds the time."""

from __future__ import annotations

from dataclasses import replace

from pimc.sim.timing import EngineTiming, Timing


def engines_of(timing: Timing) -> tuple[EngineTiming, ...]:
    """All but the causes of stalls, which the stepping engine of AiM channels does not tell."""
    return tuple(replace(e, stalled={"any": sum(e.stalled.values())}) for e in timing.engines)


def same(a: Timing, b: Timing) -> bool:
    parts_of_a, parts_of_b = ((t.time, engines_of(t), t.resources, t.ops) for t in (a, b))
    return parts_of_a == parts_of_b
