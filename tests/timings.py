"""What must be the same whatever engine finds the time."""

from __future__ import annotations

from pimc.sim.timing import EngineTiming, Timing


def engines_of(timing: Timing) -> list[tuple[object, ...]]:
    """All but the causes of stalls, which the stepping engine of AiM channels does not tell."""
    return [_told(e) for e in timing.engines]


def _told(engine: EngineTiming) -> tuple[object, ...]:
    unit = engine.name, engine.devices, engine.instances
    return *unit, engine.end, engine.commands, engine.busy, sum(engine.stalled.values()), engine.idle, engine.counters


def same(a: Timing, b: Timing) -> bool:
    parts_of_a, parts_of_b = ((t.time, engines_of(t), t.resources, t.ops) for t in (a, b))
    return parts_of_a == parts_of_b
