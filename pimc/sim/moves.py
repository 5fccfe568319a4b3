"""How many bytes go from where to where, out of what engines count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pimc.backends.engines import spec_of
from pimc.backends.program import Program
from pimc.backends.target import PimSpec, TargetSpec
from pimc.record import record
from pimc.sim.timing import EngineTiming, Timing

Way = tuple[str, str]
"""from, to"""
Count = Callable[[TargetSpec, PimSpec], int]
"""bytes of one"""

BY_BYTES: Mapping[str, Way] = {
    "bytes read": ("DRAM", "on-chip buffer"),
    "bytes written": ("on-chip buffer", "DRAM"),
    "link bytes": ("device", "other devices"),
}
"""Counters that are bytes already."""


def _column(spec: TargetSpec, pim: PimSpec) -> int:
    return pim.macs_per_bank * spec.element_bytes


def _columns(spec: TargetSpec, pim: PimSpec) -> int:
    return spec.dram.banks * _column(spec, pim)


def _results(spec: TargetSpec, pim: PimSpec) -> int:
    return spec.dram.banks * spec.element_bytes


BY_COMMAND: Mapping[str, tuple[Way, Count]] = {
    "MAC16": (("banks", "multipliers"), _columns),
    "COMP": (("banks", "multipliers"), _columns),
    "WRGB": (("on-chip buffer", "global buffers"), _column),
    "GWRITE": (("banks", "global buffers"), lambda spec, pim: spec.dram.row_bytes),
    "RDMAC16": (("accumulators", "on-chip buffer"), _results),
    "WRMAC16": (("on-chip buffer", "accumulators"), _results),
    "READRES": (("accumulators", "on-chip buffer"), _results),
    "COMPS_READRES": (("accumulators", "on-chip buffer"), _results),
}
"""DRAM commands of PIM engines, each for one channel."""


@record
class MoveReport:
    """Bytes from one place to another, over all devices."""

    source: str
    destination: str
    engine: str
    """that moves them"""
    bytes: int


def moves_of(program: Program, timing: Timing) -> Sequence[MoveReport]:
    """All that is counted, the most first. What engines move between an on-chip buffer and themselves is not."""
    spec = spec_of(program)
    total: Counter[tuple[Way, str]] = Counter()
    for engine in timing.engines:
        for name, number in engine.counters.items():
            found = _way(name, engine, spec)
            if found is not None:
                way, each = found
                total[way, engine.name] += each * number * len(engine.devices) * len(engine.instances)
    moves = [MoveReport(*way, engine, size) for (way, engine), size in total.items() if size]
    return tuple(sorted(moves, key=lambda m: (-m.bytes, m.source, m.destination)))


def _way(name: str, engine: EngineTiming, spec: TargetSpec) -> tuple[Way, int] | None:
    if name in BY_BYTES:
        return BY_BYTES[name], 1
    if engine.kind == "pim" and spec.pim is not None and name in BY_COMMAND:
        way, each = BY_COMMAND[name]
        return way, each(spec, spec.pim)
    return None
