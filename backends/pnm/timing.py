"""The time of the PNM units (CENT's model).

Operands come out of the shared buffer slot by slot through one port. n slots on a pool of u units take
`n * operands * buffer_read`, and for each round of u slots the unit's latency and the write of a result. An operand
that is the same along a row is read once a row. Rows longer
than a slot are reduced in several levels. The scalar cores take their routine's clocks for each element. The units
share the port, and their commands run one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from pimc.backends.isa import Command
from pimc.backends.pnm.isa import Core, CoreReduce, CoreScan, Exponent, TreeReduce, VectorAdd, VectorMultiply
from pimc.backends.tally import Counted, Tally
from pimc.backends.target import PnmSpec, TargetSpec
from pimc.backends.timing import EngineDecl, Issued, Resources
from pimc.backends.vector import Elementwise, plain
from pimc.ir.diagnostics import InternalError


def cycles_of(command: Command, pnm: PnmSpec) -> int:
    """Clocks of one command."""
    match command:
        case Exponent():
            return _pooled(_slots(command, pnm), _reads(command, pnm), pnm.exponent_units, pnm.exponent_latency, pnm)
        case VectorAdd() | VectorMultiply():
            return _pooled(_slots(command, pnm), _reads(command, pnm), pnm.adders, pnm.adder_latency, pnm)
        case TreeReduce(rows=rows, columns=columns):
            return _tree(plain(rows), plain(columns), pnm)
        case Core(function=function, rows=rows, columns=columns):
            return -(-plain(rows) * plain(columns) // pnm.cores) * pnm.core_cycles(function)
        case CoreReduce(rows=rows, columns=columns) | CoreScan(rows=rows, columns=columns):
            return -(-plain(rows) // pnm.cores) * plain(columns) * pnm.core_default
    raise InternalError(f"the PNM units have no time for {command.mnemonic}")


def counts_of(command: Command, pnm: PnmSpec) -> dict[str, int]:
    """What energy is spent on: slots that units take, accesses of the shared buffer, instructions (one for each slot,
    or each element on the scalar cores), and clocks in which a core is at work."""
    match command:
        case Exponent():
            return _counted("exponents", _slots(command, pnm), _reads(command, pnm))
        case VectorAdd() | VectorMultiply():
            return _counted("additions", _slots(command, pnm), _reads(command, pnm))
        case TreeReduce(rows=rows, columns=columns):
            slots = sum(_levels(plain(rows), plain(columns), pnm))
            return _counted("reductions", slots, slots)
        case Core(function=function, rows=rows, columns=columns):
            elements = plain(rows) * plain(columns)
            moved = _counted("core clocks", _slots(command, pnm), _reads(command, pnm))
            return {**moved, "core clocks": elements * pnm.core_cycles(function), "instructions": elements}
        case CoreReduce(rows=rows, columns=columns) | CoreScan(rows=rows, columns=columns):
            elements, slots = plain(rows) * plain(columns), plain(rows) * -(-plain(columns) // pnm.lanes)
            results = slots if isinstance(command, CoreScan) else plain(rows)
            clocks = {"core clocks": elements * pnm.core_default, "instructions": elements}
            return {"buffer reads": slots, "buffer writes": results, **clocks}
        case Elementwise():  # on units that a plug-in brings, whose own part is for its prices to tell
            return _traffic(_slots(command, pnm), _reads(command, pnm))
    return {}


def _counted(unit: str, slots: int, reads: int) -> dict[str, int]:
    return {unit: slots, **_traffic(slots, reads)}


def _traffic(slots: int, reads: int) -> dict[str, int]:
    return {"buffer reads": reads, "buffer writes": slots, "instructions": slots}


def _slots(command: Elementwise, pnm: PnmSpec) -> int:
    return plain(command.rows) * -(-plain(command.columns) // pnm.lanes)


def _reads(command: Elementwise, pnm: PnmSpec) -> int:
    """Slots that come out of the buffer: those of each operand, one a row where a row has the same value everywhere;
    at least what starts the units."""
    letters = command.form.replace("i", "")
    repeated = sum(plain(getattr(command, f"{letter}_column")) == 0 for letter in letters)
    slots, rows = _slots(command, pnm), plain(command.rows)
    return max(slots, (len(letters) - repeated) * slots + repeated * rows)


def _pooled(slots: int, reads: int, units: int, latency: int, pnm: PnmSpec) -> int:
    return reads * pnm.buffer_read + -(-slots // units) * (latency + pnm.buffer_write)


def _tree(rows: int, columns: int, pnm: PnmSpec) -> int:
    """Levels of slots until one value is left of each row."""
    levels = _levels(rows, columns, pnm)
    return sum(_pooled(slots, slots, pnm.reduction_trees, pnm.reduction_latency, pnm) for slots in levels)


def _levels(rows: int, columns: int, pnm: PnmSpec) -> Iterator[int]:
    """Slots of each level."""
    while True:
        columns = -(-columns // pnm.lanes)
        yield rows * columns
        if columns <= 1:
            return


@dataclass
class PnmTimer:
    """The controller's units, one command at a time. Times in ps."""

    clock_ps: int
    pnm: PnmSpec
    parts: int = 1
    """parts of the device, for each of which the units do the same"""
    tally: Tally = field(default_factory=Tally)
    free_at: int = 0

    @property
    def counters(self) -> Counter[str]:
        return self.tally.sums()

    def issue(self, command: Command, ready: int) -> Issued:
        return self._issue(self._counts(command), self._clocks(command) * self.clock_ps, ready)

    def bind(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued] | None:
        if command.is_affine:
            return None
        return partial(self._issue, self._counts(command), self._clocks(command) * self.clock_ps)

    def cost(self, command: Command) -> Hashable:
        return self._clocks(command)

    def _clocks(self, command: Command) -> int:
        return cycles_of(command, self.pnm) * self.parts

    def _counts(self, command: Command) -> Counted:
        """Of one query: other parts of the device work for others."""
        return (command.mnemonic, 1), *counts_of(command, self.pnm).items()

    def _issue(self, counted: Counted, duration: int, ready: int) -> Issued:
        start = ready if ready > self.free_at else self.free_at
        end = self.free_at = start + duration
        self.tally.noted[counted] += 1
        return Issued(start, end, end, duration, "units" if start > ready else "")

    def relative(self, now: int) -> Hashable:
        return max(0, self.free_at - now)

    def shift(self, by: int, since: int) -> None:
        self.free_at += by


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> PnmTimer:
    """The timer of a device's PNM units."""
    assert spec.pnm is not None
    return PnmTimer(engine.clock_ps, spec.pnm, spec.system.sharing)
