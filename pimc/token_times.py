"""What a token takes under a published mapping, from its own traces, without a program of each.

Sizes are read once, out of the model's graph. Every position is timed by its own commands (`backends/cent/clock.py`); a
test holds the results against whole compilations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property

from pimc.backends.analytic.isa import HostToken
from pimc.backends.analytic.timing import Forms
from pimc.backends.cent.clock import TraceClock
from pimc.backends.cent.decoder import decoder_of
from pimc.backends.cent.program import BLOCK, Publisher
from pimc.backends.cent.rows import check_capacity
from pimc.backends.cent.split import split_of
from pimc.backends.isa import Command
from pimc.backends.pim.aim_walk import TraceRun
from pimc.backends.pim.tallies import LINES, OPEN_CLOCKS, trace_clocks
from pimc.backends.program import Flight
from pimc.backends.target import TargetSpec
from pimc.ir.graph import Graph
from pimc.record import record
from pimc.sim.breakdown import Breakdown
from pimc.sim.energy import Prices
from pimc.sim.published_times import Step, table


@record
class Position:
    """A token at one position."""

    keys: int
    """that it attends to, its own among them"""
    breakdown: Breakdown
    seconds: float
    """of a run that does it: what `pimc compile` reports"""


class Tokens:
    """The tokens of a graph on a split of a machine whose mapping is CENT's published one."""

    def __init__(self, spec: TargetSpec, graph: Graph, degrees: Mapping[str, int]) -> None:
        """Raises CompileError where the graph is no decoder, the degrees are wrong, or there are too few rows."""
        decoder = decoder_of(graph)
        split = split_of(spec, len(decoder.blocks), degrees)
        nodes = {node: index for index, node in enumerate(graph.scheduled())}
        self.spec = spec
        self.publisher = Publisher(spec, split, decoder, nodes)
        check_capacity(spec, split, self.publisher.rows, len(decoder.blocks), graph.name)
        self._clock = TraceClock(self.publisher)
        self._forms = Forms(spec)
        self._prices = Prices.of(spec)

    def at(self, keys: int) -> Position:
        """The token that attends to so many keys."""
        publisher = self.publisher
        run = self._clock.block(keys)
        units = [step.command for step in publisher.units(keys)]
        step = Step(
            clocks=Fraction(run.clocks),
            link=self._exact(self._transfers),
            units=self._exact(units),
            embedding=Fraction(self._embedding),
            host=self._exact([HostToken()] if publisher.decoder.head is not None else []),
            joules=self._joules(run, units),
        )
        split = publisher.split
        flight = Flight(split.stages, len(publisher.decoder.blocks), 1)
        return Position(keys, table(step, flight, split.used, self.spec), self._seconds(run, units))

    @cached_property
    def _transfers(self) -> list[Command]:
        return [step.command for step in self.publisher.transfers()]

    @cached_property
    def _embedding(self) -> int:
        return self._clock.embedding.clocks if self.publisher.decoder.head is not None else 0

    def _exact(self, commands: Iterable[Command]) -> Fraction:
        """Picoseconds."""
        return sum((self._forms.exact(command) for command in commands), Fraction(0))

    def _seconds(self, run: TraceRun, units: list[Command]) -> float:
        """A run's time, whose commands take whole picoseconds and whose traces begin at whole clocks."""
        clock, blocks = self.spec.dram.clock_ps, len(self.publisher.decoder.blocks)
        beside = sum(round(self._forms.exact(command)) for command in (*units, *self._transfers))
        time = self._embedding * clock
        for _ in range(blocks):
            time = -(-time // clock) * clock + run.clocks * clock + beside
        host = round(self._exact([HostToken()])) if self.publisher.decoder.head is not None else 0
        return (time + host) * 1e-12

    def _joules(self, run: TraceRun, units: list[Command]) -> Fraction:
        """Of all devices, while each stage works on a block."""
        split = self.publisher.split
        total = self._spent("pim", _counts(run)) * len(split.masters)
        if split.helpers:
            total += self._spent("pim", _counts(self._clock.helper)) * len(split.helpers)
        used: Counter[str] = Counter()
        for command in (*units, *self._transfers):
            used.update(self._forms.used(command))
        return total + self._spent("analytic", used) * split.used

    def _spent(self, kind: str, counts: Mapping[str, int]) -> Fraction:
        return sum((joules for _, joules in self._prices.spent(kind, counts)), Fraction(0))


def _counts(run: TraceRun) -> Counter[str]:
    return run.commands + Counter({OPEN_CLOCKS: run.open_clocks, LINES: run.lines, trace_clocks(BLOCK): run.clocks})
