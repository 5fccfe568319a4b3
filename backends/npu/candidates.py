"""What the candidates of a search for tiles have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf

from pimc.backends.npu.extents import Extents
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.tiles import Moved, Tiles, move_seconds


@dataclass(slots=True)
class Room:
    """Bytes of the buffer; and in what other rooms all that was asked so far has the same answer."""

    size: int
    least: int = 0
    """the most that did fit"""
    below: int = sys.maxsize
    """the least that did not"""

    def holds(self, wanted: int) -> bool:
        if wanted <= self.size:
            self.least = max(self.least, wanted)
            return True
        self.below = min(self.below, wanted)
        return False


_LIMITED = 2.0
"""Loads limit a product that take so many times as long as arrays, vector unit or stores."""
_ENOUGH, _ENOUGH_WITH, _SOON = 0.99, 1.0, 1.03
"""Its tiles are good enough at these parts of the score, without and with an epilogue, and of the time of a stream:
pieces may be a little faster, but an epilogue follows on the last one."""
_PATIENCE, _BETTER = 3, 0.999
"""Nor are further grids of arrays tried after so many that did not bring the best score down to this part."""

T, S, RESULT = range(3)
_NAMES = "t", "s", "result"


class Search:
    """The best tiles so far. What candidates share is found once: there are some hundred of them."""

    def __init__(self, machine: Machine, product: Extents, room: Room) -> None:
        self.machine = machine
        self.product = product
        self.room = room
        self.best: Tiles | None = None
        self.least = inf
        """the score of these"""
        self.turnaround, self.drain = machine.turnaround, machine.drain
        self.drained = product.vector + (product.products / machine.drained / machine.clock if machine.drained else 0.0)
        """seconds until an element of the result has left the accumulators"""
        self._sides = product.streamed, product.stationary, product.out
        self._moved: dict[tuple[int, int, int], Moved] = {}
        depth = product.t if machine.sums_stay else product.k
        grids = [
            (down, across)
            for down, across in machine.array.grids()
            # of which no row or column of arrays is left without work
            if depth > machine.array.rows * (down - 1) and product.s > machine.array.columns * (across - 1)
        ]
        self.grids = sorted(grids, key=lambda grid: machine.compute(product.t, product.s, product.k, *grid))

    @cached_property
    def stream(self) -> float:
        """Seconds of the transfers of a skinny product that loads limit, if all moves once; of others 0."""
        e, copies = self.product, self.machine.copies
        shapes = (e.t, e.k), (e.s, e.k), (e.t, e.s)
        t, s, out = (
            0 if side is None else e.times(name) * rows * columns * e.element_bytes
            for name, side, (rows, columns) in zip(_NAMES, self._sides, shapes, strict=True)
        )
        loads, stores = copies.stream(t + s), copies.stream(out, writes=True)
        others = self._computing, e.t * e.s * e.vector, stores
        skinny = self.machine.overlaps and min(e.t, e.s) < self.machine.array.columns
        return loads + stores if skinny and loads >= _LIMITED * max(others) else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the best tiles take about what a stream takes, so that there is no need to look further."""
        if self.best is None or not self.stream:
            return False
        alone = self.stream + self.turnaround
        soon = self.best.seconds <= _SOON * alone
        enough = _ENOUGH_WITH if self.product.vector else _ENOUGH
        return soon and self.least <= enough * self.score(alone, self.stream, self.stream, self._computing)

    @cached_property
    def _computing(self) -> float:
        """Seconds of the arrays alone."""
        return self.compute(self.product.t, self.product.s, self.product.k, self.grids[0])

    def moved(self, operand: int, rows: int, columns: int) -> Moved:
        """How long a tile [rows, columns] of T, S or the result takes from or to memory; tiles, where there are two."""
        key = operand, rows, columns
        if key not in self._moved:
            side, size = self._sides[operand], self.product.element_bytes
            one = move_seconds(self.machine.copies, side, rows, columns, size, writes=operand == RESULT)
            times = self.product.times(_NAMES[operand])
            self._moved[key] = one if times == 1 else (times * one[0], times * one[1])
        return self._moved[key]

    def kept(self, t: int, s: int, k: int) -> str:
        """The operand whose tiles take longer one by one than all of k at once, which takes less room than one of the
        other's tiles."""
        e = self.product
        if self.machine.tiling != "search" or e.stays or e.led:
            return ""
        name, operand, rows, other = ("t", T, t, e.held("s", s, k)) if t < s else ("s", S, s, e.held("t", t, k))
        if e.held(name, rows, e.k) > other:
            return ""
        return name if self.moved(operand, rows, e.k)[0] < -(-e.k // k) * self.moved(operand, rows, k)[0] else ""

    def compute(self, t: int, s: int, k: int, grid: tuple[int, int]) -> float:
        """Seconds of the arrays, for both products where there are two."""
        return self.product.products * self.machine.compute(t, s, k, *grid) / self.machine.clock

    def promising(self) -> Iterator[tuple[int, int]]:
        """Grids to try, until computing alone takes longer than the best tiles do, or the last ones brought little
        to a skinny product that loads limit."""
        product, idle = self.product, 0
        for grid in self.grids:
            computing = self.compute(product.t, product.s, product.k, grid)
            if idle == _PATIENCE or self.beaten(computing, computing, compute=computing):
                return
            before = self.least
            yield grid
            idle = idle + 1 if self.stream and self.least > _BETTER * before else 0

    def beaten(self, seconds: float, among: float, memory: float = 0.0, compute: float = 0.0) -> bool:
        """Whether what takes at least that long is not better than the best."""
        return self.score(seconds, among, memory, compute) >= self.least

    def offer(self, found: Tiles | None) -> bool:
        """Whether they are better than all before."""
        if found is None:
            return False
        score = self.score(found.seconds, found.among, found.memory, found.compute)
        if score >= self.least:
            return False
        self.best, self.least = found, score
        return True

    def score(self, seconds: float, among: float, memory: float, compute: float) -> float:
        """What is to be small: the time, and of tiles that take about the same time, what they move; where ops overlap,
        also what they leave of the arrays to others."""
        if not self.machine.overlaps:
            return seconds + memory / 8
        return (seconds + among) / 2 + (memory + compute) / 8


def until_stored(loading: float, moving: float, after: float, beside: float, out: float) -> float:
    """Seconds until all transfers are over, if nothing but them holds anything up.

    moving: all but that of the last piece of the result, which takes `out` and is over `after` seconds after the last
    load. Meanwhile those of pieces before it go on, which are a part `beside` of all.
    """
    return max(loading + after, moving + after - beside * max(0.0, after - out))


def cuts_rows(e: Extents, t: int, s: int) -> bool:
    """Whether tiles [t, s] of the result have a part of what they must have whole."""
    return bool(t % e.t_group or s % e.s_group)
