"""How the last slab of a product comes: in strips, each of which is multiplied as it arrives.

When the last bytes are there, the arrays have the blocks of one strip to load rather than those of a whole slab. A
strip of a matrix whose rows are a power of two would use few channels; where that is so it is made of several runs,
equally far apart, and all slabs have their columns in the order of strips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import gcd

from pimc.backends.dma.traffic import Memory
from pimc.backends.kernels.nest import Axis
from pimc.ir.layout import Digit
from pimc.record import record

MOST_STRIPS = 16
"""into which a slab is cut"""
DRAINS = 4
"""Parts of the last strip, if its rows are streamed, that leave the accumulators one by one."""


@record
class Strips:
    """Of operand t or s: so many strips of so many runs of `length` columns; of one run the last strip may be short."""

    operand: str
    count: int
    runs: int
    length: int

    @property
    def columns(self) -> int:
        return self.runs * self.length

    def digits(self, whole: tuple[Digit, ...]) -> tuple[Digit, ...]:
        """The columns in the order of strips, where all of them are one digit."""
        if self.runs == 1:
            return whole
        ((_, stride),) = whole
        step = self.length * stride
        return (self.count, step), (self.runs, self.count * step), (self.length, stride)

    def axes(self, whole: Sequence[Axis]) -> tuple[Axis, ...]:
        """The same of a loop over several operands."""
        if self.runs == 1:
            return tuple(whole)
        (axis,) = whole
        steps = (self.length, self.count * self.length, 1)
        return tuple(
            replace(axis, count=count, strides=tuple(step * stride for stride in axis.strides))
            for count, step in zip((self.count, self.runs, self.length), steps, strict=True)
        )


def strips_of(operand: str, extent: int, block: int, runs: int) -> Iterator[Strips]:
    """Ways to cut so many columns into strips of whole blocks, the narrowest first. runs: of each, if they divide."""
    size = -(-extent // (MOST_STRIPS * block)) * block
    while size < extent:
        count, rest = divmod(extent, size)
        parts = 1 if rest or size % runs else runs
        yield Strips(operand, count + (rest > 0), parts, size // parts)
        size *= 2


def runs_for(memory: Memory, pitch: int) -> int:
    """How many runs, equally far apart in a row of `pitch` bytes, fall on all channels in the course of many rows."""
    row = memory.row_bytes
    if memory.hashed or pitch % row:
        return 1
    return gcd(pitch, memory.channels * row) // row
