"""How long the parts of a token's way take under a published mapping, as its authors' tables have them.

All of it is what the engines of the program did: the clocks of the traces, and how long near-memory units, link and
host were at work. The parts of a token are a sum, as published. The run itself takes up to a memory clock more for each
block, since a trace begins at a whole one.
"""

from __future__ import annotations

from fractions import Fraction

from pimc.backends.analytic.timing import ATTOSECONDS, WORK
from pimc.backends.cent.program import BLOCK, EMBEDDING, HOST, LINK, PIM, PNM
from pimc.backends.engines import spec_of
from pimc.backends.pim.tallies import trace_clocks
from pimc.backends.program import Flight, Program
from pimc.backends.target import TargetSpec
from pimc.record import record
from pimc.sim.breakdown import Breakdown
from pimc.sim.energy import Energy
from pimc.sim.timing import EngineTiming, Timing

MS = 10**9
"""in ps"""


def breakdown_of(program: Program, timing: Timing, energy: Energy | None) -> Breakdown:
    """The table of a program's run, which a published mapping made.

    energy: of the run; what the ops of blocks take is the token's, as published.
    """
    flight = program.flight
    assert flight is not None
    spec = spec_of(program)
    own = {e.name: e for e in timing.engines if 0 in e.devices}
    turns = flight.blocks * flight.tokens
    in_blocks = {i for i, row in enumerate(program.ops) if row.layer >= 0}
    spent = [joules for op, joules in energy.ops.items() if op in in_blocks] if energy is not None else []
    step = Step(
        clocks=Fraction(own[PIM].tallies[trace_clocks(BLOCK)], turns),
        link=_work(own, LINK, turns),
        units=_work(own, PNM, turns),
        embedding=Fraction(own[PIM].tallies.get(trace_clocks(EMBEDDING), 0), flight.tokens),
        host=_work(own, HOST, flight.tokens),
        joules=sum(spent, Fraction(0)) / turns,
    )
    return table(step, flight, program.devices, spec)


@record
class Step:
    """What a token's way consists of: of a block, and of what comes once."""

    clocks: Fraction
    """of a block's trace"""
    link: Fraction
    """ps of a block, as all that follow but the next"""
    units: Fraction
    embedding: Fraction
    """clocks of the trace of embedding and head"""
    host: Fraction
    joules: Fraction
    """that all devices spend while each stage works on a block"""


def table(step: Step, flight: Flight, devices: int, spec: TargetSpec) -> Breakdown:
    """The published columns. devices: that are used."""
    clock = spec.dram.clock_ps
    pim, embedding = step.clocks * clock, step.embedding * clock
    block = pim + step.link + step.units
    token = block * flight.blocks + embedding + step.host
    return Breakdown(
        pim_cycles=int(step.clocks) if step.clocks.denominator == 1 else float(step.clocks),
        cxl_latency_ms=float(step.link / MS),
        acc_latency_ms=float(step.units / MS),
        block_latency_ms=float(block / MS),
        embedding_latency_ms=float(embedding / MS),
        token_latency_ms=float(token / MS),
        tokens_per_s=float(flight.queries * 1000 * MS / token),
        token_energy_mJ=float(step.joules * flight.blocks / flight.queries * 1000),
        total_power_W=float(step.joules / (pim * Fraction(1, 10**12))),
        device_utilization=devices / spec.system.devices,
        tokens=flight.tokens,
        queries=flight.queries,
    )


def _work(engines: dict[str, EngineTiming], name: str, times: int) -> Fraction:
    """Picoseconds of one of `times`."""
    return Fraction(engines[name].tallies[WORK] if name in engines else 0, times * ATTOSECONDS)
