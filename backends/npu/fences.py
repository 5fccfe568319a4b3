"""Finds fences that nothing needs.

Arrays and vector unit do not look at each other, so a product with operands on chip begins with a FENCE: the vector
unit may still write them. But it may as well be at work on something else, as on the keys when values are projected
from rows for which the product of the queries has waited. A fence must lie between

    what the vector unit writes                and arrays that read it
    what arrays read                           and the vector unit that writes there
    what DRAINs of the last tile before read   and products that go to the same accumulators (`timing.py`)

Fences in loops all stay, and so does the first one: what came before is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pimc.backends.hazards import within
from pimc.backends.npu.isa import Drain, Fence, Matmul, MatmulOs, Preload
from pimc.backends.program import Item, Loop, Step
from pimc.record import record

_KINDS = STREAMED, GATHERED, COMPUTED, DRAINED = range(4)
"""What arrays read and write, and what the vector unit writes and reads in the accumulators."""
_AFTER = {STREAMED: COMPUTED, COMPUTED: STREAMED, GATHERED: DRAINED}
"""What each must not overlap, while that goes on."""


@record
class _Touched:
    """Bytes [low, high) of the buffer or of the accumulators, by the number of what touches them."""

    number: int
    low: int
    high: int


@record
class _Fence:
    """item: its number among all; before: how many touched something before it."""

    item: int
    before: int
    whole: bool
    """whether arrays are waited for, too"""


@dataclass
class _Unfinished:
    """What may still go on, and the fences that nothing has needed yet."""

    touched: list[list[_Touched]] = field(default_factory=lambda: [[] for _ in _KINDS])
    """by kind, in order; by DRAINs of the last tile before"""
    waited: list[int] = field(default_factory=lambda: [0 for _ in _KINDS])
    """by kind: what has smaller numbers is over; 0: not even what came before the first item is known to be"""
    leaving: list[_Touched] = field(default_factory=list)
    """by DRAINs of this tile"""
    fences: list[_Fence] = field(default_factory=list)
    needed: set[int] = field(default_factory=set)
    """items"""
    count: int = 0

    def see(self, kind: int, low: int, high: int) -> None:
        if kind == GATHERED and self.leaving:
            self.touched[DRAINED], self.leaving = self.leaving, []
        fences = [fence for fence in self.fences if fence.whole or kind != COMPUTED]
        if fences and kind in _AFTER:
            last = self._last_met(_AFTER[kind], low, high, fences[-1].before)
            if last >= 0:
                self._keep(next(fence for fence in fences if fence.before >= last))
        self.count += 1
        (self.leaving if kind == DRAINED else self.touched[kind]).append(_Touched(self.count, low, high))

    def _last_met(self, kind: int, low: int, high: int, until: int) -> int:
        """The number, `until` at most, of the last one that must be over before; -1: there is none."""
        for other in reversed(self.touched[kind]):
            if other.number < self.waited[kind]:
                return -1
            if other.number <= until and other.low < high and low < other.high:
                return other.number
        return -1 if self.waited[kind] else 0

    def _keep(self, fence: _Fence) -> None:
        self.needed.add(fence.item)
        for kind in _KINDS if fence.whole else (COMPUTED, DRAINED):
            self.waited[kind] = fence.before + 1
        self.fences = [f for f in self.fences if f.item > fence.item]


def spare_fences(items: Sequence[Item]) -> frozenset[int]:
    """The numbers of those among the items of all engines."""
    fences = {n for n, item in enumerate(items) if isinstance(item, Step) and isinstance(item.command, Fence)}
    if len(fences) < 2:
        return frozenset()
    unfinished = _Unfinished()
    for number, item in enumerate(items):
        if number in fences:
            assert isinstance(item, Step)
            assert isinstance(item.command, Fence)
            unfinished.fences.append(_Fence(number, unfinished.count, item.command.of == "all"))
        else:
            for kind, low, high in _touched(item, {}):
                unfinished.see(kind, low, high)
    return frozenset(fences - unfinished.needed)


def _touched(item: Item, ranges: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Kind, first byte and the byte after the last of all that a command or a loop touches; products before DRAINs."""
    if isinstance(item, Loop):
        yield from sorted(t for each in item.body for t in _touched(each, {**ranges, item.variable: item.count}))
        return
    if item.engine != "npu":
        return
    command = item.command
    arrays = isinstance(command, Preload | Matmul | MatmulOs)
    for region in command.regions():
        if arrays:
            yield GATHERED if region.write else STREAMED, *within(region, ranges)
        elif region.write:
            yield COMPUTED, *within(region, ranges)
        elif isinstance(command, Drain):
            yield DRAINED, *within(region, ranges)
