"""A published mapping at many positions: what a token takes at each, from its own traces, without a program of each.

Sizes are read once, out of the model's graph. Every position is timed by its own commands (`backends/cent/clock.py`); a
test holds the results against whole compilations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from pimc.backends.analytic.isa import HostToken
from pimc.backends.analytic.timing import Forms
from pimc.backends.cent.clock import TraceClock
from pimc.backends.cent.decoder import decoder_of
from pimc.backends.cent.machine import CentMachine
from pimc.backends.cent.program import BLOCK, Publisher
from pimc.backends.cent.split import split_of
from pimc.backends.isa import Command
from pimc.backends.pim.aim_controller import LINES, OPEN_CLOCKS, trace_clocks
from pimc.backends.pim.aim_walk import TraceRun
from pimc.backends.program import Flight
from pimc.driver import Options, lower_model
from pimc.ir.diagnostics import Kind, fail
from pimc.sim.breakdown import Breakdown, Step, table
from pimc.sim.energy import Prices


@dataclass(frozen=True, slots=True)
class Position:
    """A token at one position."""

    keys: int
    """that it attends to, its own among them"""
    breakdown: Breakdown
    seconds: float
    """of a run that does it: what `pimc compile` reports"""


class Positions:
    """The positions of a model's tokens on a split of a target whose mapping is CENT's published one."""

    def __init__(self, model: str | Path, target: str | Path, options: Options) -> None:
        lowered = lower_model(model, target, replace(options, until="schedule", observers=()))
        machine = lowered.machine
        if not isinstance(machine, CentMachine):
            raise fail(Kind.UNAVAILABLE, f"'{machine.name}' has no published mapping", help="use -t cent-published")
        decoder = decoder_of(lowered.graph)
        machine.homes(lowered.graph)  # refuses what does not fit
        self.spec = machine.spec
        split = split_of(self.spec, len(decoder.blocks), options.parallel)
        nodes = {node: index for index, node in enumerate(lowered.graph.scheduled())}
        self.publisher = Publisher(self.spec, split, decoder, nodes)
        self.keys = decoder.positions
        """of the new tokens that the model is bound to"""
        self.dims = lowered.dims
        self._clock = TraceClock(self.publisher)
        self._forms = Forms(self.spec)
        self._prices = Prices.of(self.spec)

    def moves_to(self, other: Positions, by: int) -> bool:
        """Whether another binding of the same model differs in nothing but in its one new token's position."""
        mine, its = self.publisher.decoder, other.publisher.decoder
        same = (mine.sizes, mine.vocabulary, len(mine.blocks)) == (its.sizes, its.vocabulary, len(its.blocks))
        return same and len(self.keys) == len(other.keys) == 1 and other.keys[0] - self.keys[0] == by

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

    def over(self, keys: Iterable[int]) -> Iterator[Position]:
        return (self.at(each) for each in keys)

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
