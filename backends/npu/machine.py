"""What the search for tiles knows of a machine."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from pimc.backends.dma.timing import CopyTime, copy_time
from pimc.backends.lowering import Lowering
from pimc.backends.npu.array import ArrayTime, array_time
from pimc.backends.target import TargetSpec
from pimc.by_identity import by_identity
from pimc.record import record

_FIRST_PARTS = 32
"""Into how many parts the very first and the very last pieces may be cut."""
_NO_WAIT = 1.05
"""Arrays and vector unit that would wait for each other for less than that go on in step."""


@record
class Machine:
    """What the search knows of the machine."""

    array: ArrayTime
    sums_stay: bool
    tiling: str
    """whole: all of a product at once where that fits; passes: all of t past one array's width of s after the other;
    panels: slabs only where no panel fits; search: the fastest"""
    clock: int
    accumulator_bytes: int
    drained: int
    """accumulators that the vector unit brings away in a clock; 0: they have a port of their own"""
    copies: CopyTime
    lanes: int = 128
    """accumulators of a row that leave in one pass"""
    waiting: int = 8
    """vector commands that are there at a time; nothing is multiplied for those behind them"""

    def queued(self, count: int, commands: int, multiplied: float, worked: float) -> float:
        """Seconds in which so many tiles of the result pass the queue of the vector unit, if so many commands follow
        each drain, and a tile is multiplied and worked on for so long.

        The arrays go on when all commands of a tile have a place in the queue. Where they wait for that they have been
        idle, so that the next load of a block is seen.
        """
        commands += self.drained > 0
        if not commands:
            return 0.0
        tiles = self.waiting / commands
        ahead = ceil(tiles)
        each = (multiplied + self.drain + (ahead - tiles) * worked) / ahead
        if each > _NO_WAIT * max(multiplied, worked):
            each += (self.turnaround - self.drain) / ahead
        return count * multiplied + max(0, count - ahead) * max(0.0, each - multiplied)

    @property
    def overlaps(self) -> bool:
        """Whether operands come while ops before are at work: of published machines one op is done after the other."""
        return self.tiling == "search"

    @property
    def strips(self) -> bool:
        """Whether the last slab may come in strips."""
        return self.overlaps and not self.sums_stay and not self.array.serial

    @property
    def turnaround(self) -> float:
        """Seconds from the last row that enters the array until its products are out and more operands can come."""
        return (self.array.first_load + self.array.skew) / self.clock + self.copies.latency

    @property
    def drain(self) -> float:
        """The same while the arrays are at work, when loads of blocks are hidden."""
        return self.array.skew / self.clock + self.copies.latency

    def unseen(self, multiplied: float, came: float) -> float:
        """Seconds of the turnaround that are not seen after the last operands came, which are multiplied in so many:
        all of the first load where the arrays are still at work then, else what computing counts as the load."""
        idle = multiplied + self.array.skew / self.clock < came
        return (self.array.load if idle else self.array.first_load) / self.clock

    def block(self, down: int, across: int) -> tuple[int, int]:
        """Rows and columns of a block on a grid of arrays."""
        return self.array.rows * down, self.array.columns * across

    def piece(self, down: int, across: int) -> int:
        """Rows of the streamed operand that hide the loading of the next block; 0: all of them, where nothing does."""
        array = self.array
        if array.serial:
            return 0
        sharing = array.arrays // (down * across)
        return min(array.load, array.longest or array.load) * sharing

    def parts(self, k: int, down: int) -> int:
        """Into how many parts of k the very first and the very last pieces are cut."""
        if self.tiling not in ("search", "passes") or self.sums_stay or self.array.serial:
            return 1
        return min(_FIRST_PARTS, -(-k // (self.array.rows * down)))

    def part(self, k: int, down: int) -> int:
        """So many k are a part: whole blocks."""
        high = self.array.rows * down
        return -(-k // (self.parts(k, down) * high)) * high

    def depth(self, k: int, down: int) -> int:
        """So many k an operand of a panel takes on chip: whole blocks, one after the other, where it comes in parts."""
        high = self.array.rows * down
        return -(-k // high) * high if self.parts(k, down) > 1 else k

    def compute(self, t: int, s: int, k: int, down: int, across: int) -> int:
        """Clocks of the arrays for a product."""
        high, wide = self.block(down, across)
        if self.sums_stay:
            return -(-t // high) * -(-s // wide) * self.array.round(k, min(t, high), min(s, wide))
        return sum(
            [
                count * times * self._streams(t, depth, width)
                for depth, count in _blocks(k, high)
                for width, times in _blocks(s, wide)
            ]
        )

    def _streams(self, t: int, high: int, wide: int) -> int:
        """A stream past a block, cut where it is too long for one command."""
        array = self.array
        most = array.most(high, wide) or t
        if t <= most:
            return array.visit(t, high, wide)
        whole, rest = divmod(t, most)
        streams = whole * array.stream(most, high, wide) + (array.stream(rest, high, wide) if rest else 0)
        return array.load + streams if array.alternating else max(array.load, streams)


@lru_cache(maxsize=4096)
def _blocks(extent: int, size: int) -> tuple[tuple[int, int], ...]:
    """Sizes of blocks, and how many of each: what is left over leaves arrays that share its streams."""
    whole, rest = divmod(extent, size)
    return tuple(each for each in ((size, whole), (rest, 1)) if all(each))


def machine_of(at: Lowering) -> Machine:
    """What the tile search knows of a target."""
    return _machine(at.spec)


@by_identity
def _machine(spec: TargetSpec) -> Machine:
    npu = spec.npu
    assert npu is not None
    vector = npu.vector
    drained = vector.width * npu.cores // vector.cycles("copy") if npu.drain == "vector" else 0
    return Machine(
        array_time(npu.array, npu.arrays), npu.array.dataflow == "os", npu.tiling, npu.clock,
        npu.device_accumulator_bytes, drained, copy_time(spec), vector.lanes, vector.waiting,
    )  # fmt: skip
