"""The energy of a run, by the same accounting for every target: a sum over what engines count, and power over time.

All of it follows from the counts of the simulation (`ledger.py`) and the target's constants (`energy`), so that the
energy of an op is that of its commands, and the sum over ops and static power is the total.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from pimc.backends.engines import spec_of
from pimc.backends.pim.tallies import OPEN_CLOCKS, TRACES
from pimc.backends.program import Program
from pimc.backends.target import StaticPower, TargetSpec
from pimc.record import record
from pimc.sim.timing import EngineTiming, Timing

ATTO, NANO, PS = Fraction(1, 10**18), Fraction(1, 10**9), Fraction(1, 10**12)

Joules = Fraction


@dataclass
class Energy:
    """Joules of a run over all devices, exact. What no op stands for is static power, and work between ops (row -1)."""

    groups: dict[str, Joules] = field(default_factory=lambda: defaultdict(Fraction))
    """by the names that the target gives them"""
    engines: dict[str, Joules] = field(default_factory=lambda: defaultdict(Fraction))
    """what is counted, by engine"""
    ops: dict[int, Joules] = field(default_factory=lambda: defaultdict(Fraction))
    """what is counted, by row of the op table"""
    static: Joules = Fraction(0)
    """what belongs to no op: power over the time of the run"""

    @property
    def total(self) -> Joules:
        return sum(self.groups.values(), Fraction(0))


def energy_of(program: Program, timing: Timing, spec: TargetSpec | None = None) -> Energy | None:
    """The energy of a program's run; None where the target gives no constants."""
    spec = spec or spec_of(program)
    if not spec.energy.events and not spec.energy.static:
        return None
    found = Energy()
    prices = Prices.of(spec)
    for engine in timing.engines:
        number = len(engine.devices) * len(engine.instances)
        for op, counts in engine.counts.items():
            for group, joules in prices.spent(engine.kind, counts):
                _add(found, engine, op, group, joules * number)
    for name, static in spec.energy.static.items():
        if static.during == "run":
            places = program.devices * (spec.dram.channels if static.of == "channel" else 1)
            joules = static.power * NANO * timing.time * PS * places
            found.groups[name] += joules
            found.static += joules
    return found


@record
class Prices:
    """What a target's engines spend on what they count."""

    each: Mapping[str, Mapping[str, Sequence[tuple[str, Joules]]]]
    """by kind of engine and counter: the groups, and joules of one"""

    @staticmethod
    def of(spec: TargetSpec) -> Prices:
        prices: dict[str, dict[str, list[tuple[str, Joules]]]] = defaultdict(lambda: defaultdict(list))
        for group, events in spec.energy.events.items():
            for counter, each in events.each.items():
                prices[events.engine][counter].append((group, each * ATTO))
        clock = spec.dram.clock_ps * PS
        for group, static in spec.energy.static.items():
            share = _share(static, spec)
            if static.during == "traces":
                channels = spec.dram.channels if static.of == "channel" else 1
                prices["pim"][TRACES].append((group, static.power * NANO * clock * channels * share))
            if static.while_open:
                prices["pim"][OPEN_CLOCKS].append((group, static.while_open * NANO * clock * share))
        return Prices(prices)

    def spent(self, kind: str, counts: Mapping[str, int]) -> Iterator[tuple[str, Joules]]:
        """(group, joules) for what an engine of a kind has counted."""
        prices = self.each.get(kind, {})
        for name, count in counts.items():
            for group, price in prices.get(_counter(name), ()):
                yield group, price * count


def _share(static: StaticPower, spec: TargetSpec) -> Fraction:
    return Fraction(1, spec.dram.channels) if static.counted == "one" else Fraction(1)


def _counter(name: str) -> str:
    """The clocks of all traces cost the same."""
    return TRACES if name.startswith(TRACES) else name


def _add(found: Energy, engine: EngineTiming, op: int, group: str, joules: Joules) -> None:
    found.groups[group] += joules
    found.engines[engine.name] += joules
    found.ops[op] += joules
