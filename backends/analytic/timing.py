"""The time of analytic commands: CENT's published formulas over the target's numbers, rounded to whole picoseconds.

Formulas of PNM units are those of CENT's evaluation (its PNM latency model), which pipelines the units of a pool
through the buffer's one port; those of the link are its CXL latency model: whole packets after one hop, parts of a
gather one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction

from pimc.backends.analytic.isa import BroadcastVector, GatherVector, HostToken, Norm, Rotate, SendVector, Softmax
from pimc.backends.isa import Command
from pimc.backends.target import PnmSpec, TargetSpec
from pimc.backends.timing import EngineDecl, Issued, Resources
from pimc.backends.vector import plain
from pimc.ir.diagnostics import InternalError
from pimc.record import record

SECOND = 10**12
"""in ps"""
ATTOSECONDS = 10**6
"""of one ps"""
WORK = "attoseconds of work"
"""The tally of what formulas give, before it is rounded."""


@record
class Pnm:
    """Clocks of the PNM units' formulas."""

    spec: PnmSpec

    @property
    def exponents(self) -> int:
        """One slot through every exponent unit."""
        spec = self.spec
        return spec.exponent_units * spec.buffer_read + spec.exponent_latency + spec.buffer_write

    @property
    def additions(self) -> int:
        """Two slots through every adder."""
        spec = self.spec
        return spec.adders * 2 * spec.buffer_read + spec.adder_latency + spec.buffer_write

    def norm(self, elements: int) -> Fraction:
        spec = self.spec
        slots = Fraction(elements, spec.lanes * spec.lanes)  # of the partial sums that banks of 16 values give
        reduced = spec.buffer_read + spec.reduction_latency + spec.buffer_write
        return slots / spec.adders * self.additions + reduced + spec.core_cycles("rsqrt")

    def softmax(self, heads: int, keys: int) -> Fraction:
        spec = self.spec
        rounds = Fraction(heads * keys, spec.lanes * spec.exponent_units)
        reciprocal = spec.lanes + Fraction(spec.core_cycles("reciprocal"), spec.cores) + spec.buffer_write
        return rounds * (self.exponents + self.additions) + heads * spec.reduction_latency + heads * reciprocal

    def rotary(self, elements: int) -> Fraction:
        return Fraction(elements * self.spec.core_cycles("rotary"), self.spec.cores)


@record
class Cxl:
    """Picoseconds of the link's formulas, for a device's share of the lanes."""

    latency: int
    bandwidth: int
    packet: int
    payload: int

    @staticmethod
    def of(spec: TargetSpec) -> Cxl:
        link = spec.system.link
        assert link.packet is not None
        return Cxl(link.latency, spec.system.link_bandwidth, link.packet.bytes, link.packet.payload)

    def packets(self, count: int) -> Fraction:
        return self.latency + Fraction(count * self.packet * SECOND, self.bandwidth)

    def vector(self, size: int) -> Fraction:
        """size: bytes."""
        return self.packets(-(-size // self.payload))

    def gather(self, size: int, devices: int) -> Fraction:
        part = -(-size // devices)
        return self.packets(-(-part // self.payload) * (devices - 1))


@record
class Forms:
    """How long commands take on a target, and what they use."""

    spec: TargetSpec

    def exact(self, command: Command) -> Fraction:
        """Picoseconds."""
        assert self.spec.pnm is not None
        pnm, clock, cxl = Pnm(self.spec.pnm), self.spec.pnm.clock_ps, Cxl.of(self.spec)
        width = self.spec.element_bytes
        match command:
            case Norm(elements=n, turns=turns):
                return pnm.norm(plain(n)) * plain(turns) * clock
            case Softmax(heads=heads, keys=keys, turns=turns):
                return pnm.softmax(plain(heads), plain(keys)) * plain(turns) * clock
            case Rotate(elements=n, turns=turns):
                return pnm.rotary(plain(n)) * plain(turns) * clock
            case SendVector(elements=n) | BroadcastVector(elements=n):
                return cxl.vector(plain(n) * width)
            case GatherVector(elements=n, devices=devices):
                return cxl.gather(plain(n) * width, plain(devices))
            case HostToken():
                assert self.spec.analytic is not None
                return Fraction(self.spec.analytic.host)
        raise InternalError(f"there is no formula for {command.mnemonic}")

    def used(self, command: Command) -> Counter[str]:
        """What energy is counted for, as CENT counts it: slots through the shared buffer, instructions, operations of
        each kind of unit, clocks of the scalar cores, values on the link. Not multiplied by turns, as there."""
        assert self.spec.pnm is not None
        pnm, lanes = self.spec.pnm, self.spec.pnm.lanes
        match command:
            case Norm(elements=n):
                slots = Fraction(plain(n), lanes * lanes)
                return _counted(
                    2 * (slots + 2), slots + 2, slots + 2, core=pnm.core_cycles("rsqrt"), reduce=1, add=slots
                )
            case Softmax(heads=h, keys=keys):
                heads = plain(h)
                slots = Fraction(heads * plain(keys), lanes)
                cores = heads * (lanes + pnm.core_cycles("reciprocal") + 1)
                reads, writes = 3 * slots + 2 * heads, 2 * slots + 2 * heads
                return _counted(reads, writes, writes, core=cores, reduce=heads, exp=slots, add=slots)
            case Rotate(elements=n):
                slots = Fraction(plain(n), lanes)
                core = Fraction(plain(n) * pnm.core_cycles("rotary"), pnm.cores)
                return _counted(slots, 2 * slots, plain(n), core=core)
            case SendVector(elements=n) | BroadcastVector(elements=n) | GatherVector(elements=n):
                return Counter({LINK_VALUES: plain(n)})
        return Counter()


BUFFER_READS, BUFFER_WRITES, INSTRUCTIONS = "buffer reads", "buffer writes", "instructions"
CORE_CLOCKS, REDUCTIONS, EXPONENTS, ADDITIONS = "core clocks", "reductions", "exponents", "additions"
LINK_VALUES = "link values"


def _counted(
    reads: Fraction | int,
    writes: Fraction | int,
    instructions: Fraction | int,
    *,
    core: Fraction | int = 0,
    reduce: int = 0,
    exp: Fraction | int = 0,
    add: Fraction | int = 0,
) -> Counter[str]:
    exact = {
        BUFFER_READS: reads, BUFFER_WRITES: writes, INSTRUCTIONS: instructions, CORE_CLOCKS: core,
        REDUCTIONS: reduce, EXPONENTS: exp, ADDITIONS: add,
    }  # fmt: skip
    return Counter({name: -(-number.numerator // number.denominator) for name, number in exact.items() if number})


@dataclass
class AnalyticTimer:
    """One engine: a command after the other. Times in ps."""

    clock_ps: int
    forms: Forms
    counters: Counter[str] = field(default_factory=Counter)
    tallies: Counter[str] = field(default_factory=Counter)
    free_at: int = 0

    def issue(self, command: Command, ready: int) -> Issued:
        exact = self.forms.exact(command)
        duration = round(exact)
        self.tallies[WORK] += round(exact * ATTOSECONDS)
        start = max(ready, self.free_at)
        self.free_at = start + duration
        self.counters.update(self.forms.used(command))
        return Issued(start, self.free_at, self.free_at, duration)

    def cost(self, command: Command) -> Hashable:
        return self.forms.exact(command)

    def relative(self, now: int) -> Hashable:
        return max(0, self.free_at - now)

    def shift(self, by: int, since: int) -> None:
        self.free_at += by


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> AnalyticTimer:
    """The timer of one engine of a device."""
    return AnalyticTimer(engine.clock_ps, Forms(spec))
