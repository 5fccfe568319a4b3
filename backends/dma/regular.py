"""Loops of runs that come to all channels and banks alike.

Runs begin with rows, so many apart that neither channels nor banks have a factor in common with them. Then all channels
read the same sequence of rows, again and again, each from another place on. What they read is looked up in it, however
many runs there are; and what holds up no row of it holds up none of a transfer.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import accumulate, count
from math import gcd

import numpy as np

from pimc.backends.dma.banks import Refresh, RowTimes
from pimc.backends.dma.steady import Cycle
from pimc.backends.dma.stretches import Ints, Nest, Stretches
from pimc.backends.dma.traffic import Memory
from pimc.record import record

LONGEST = 256
"""Rows of sequences that are looked at."""


@record
class Regular:
    """Runs of rows, of which all but the last are whole ones."""

    channels: int
    apart: int
    """rows from the first one of a run to that of the next one, and of the sequence"""
    rows: int
    """of a run"""
    whole: int
    """bursts of a row"""
    last: int
    """and of the last one of a run"""

    @property
    def bursts(self) -> int:
        """Of a run, and of the sequence."""
        return (self.rows - 1) * self.whole + self.last

    @cached_property
    def sequence(self) -> list[int]:
        """Bursts of each row, in the order in which the first channel comes to them."""
        of_run = [self.whole] * (self.rows - 1) + [self.last] + [0] * (self.apart - self.rows)
        return [of_run[row * self.channels % self.apart] for row in range(self.apart)]

    @cached_property
    def _before(self) -> Ints:
        return np.asarray([0, *accumulate(self.sequence)])

    def before(self, row: Ints) -> Ints:
        """Bursts before such a row of the sequence, which goes on and on."""
        again = row // self.apart
        return again * self.bursts + self._before.take(row - again * self.apart)

    def _ends(self, runs: int) -> tuple[Ints, Ints]:
        """Where in the sequence channels begin, and how many of its rows they have in so many runs."""
        channels = np.arange(self.channels)
        begins = channels * pow(self.channels, -1, self.apart) % self.apart
        return begins, (runs * self.apart - channels + self.channels - 1) // self.channels

    def busiest(self, runs: int) -> int:
        """Bursts of the busiest channel in so many runs."""
        if runs % self.channels == 0:
            return runs // self.channels * self.bursts
        begins, rows = self._ends(runs)
        return int((self.before(begins + rows) - self.before(begins)).max())

    def cycle(self, runs: int, times: RowTimes, refresh: Refresh) -> Cycle:
        """What the first channel reads of so many runs, which come to its first row again."""
        read = [(row, bursts * times.burst) for row, bursts in enumerate(self.sequence) if bursts]
        begins = range(0, runs * self.apart // self.channels, self.apart)
        return [(refresh.rank_of(begin + row), clocks) for begin in begins for row, clocks in read]

    def stretches(self, runs: int, rows: int) -> Stretches:
        """What channels read of so many runs, each of them so many neighbouring rows. Of those that read alike, as each
        does that comes so many channels later as runs are apart, one is there."""
        begins, ends = self._ends(runs)
        if runs % self.channels == 0:
            begins, ends = begins[: self.apart], ends[: self.apart]
        parts = np.arange(0, ends.min() // rows * rows + rows, rows)
        bursts = np.asarray(2 * _sums(self.sequence, rows)).take(begins[:, None] + parts % self.apart)
        bursts[:, -1] = self.before(begins + ends) - self.before(begins + parts[-1])
        return Stretches(np.tile(parts, len(begins)), bursts.ravel(), np.full(len(begins), len(parts)))


def regular_of(nest: Nest, memory: Memory) -> Regular | None:
    """The one loop of a nest as such a loop; none: it is not."""
    if nest.blocks > 1 or len(nest.rest) != 1 or nest.rest[0][1] % memory.row_bytes:
        return None
    return _regular(memory, nest.run, nest.rest[0][1] // memory.row_bytes)


@lru_cache(maxsize=4096)
def _regular(memory: Memory, run: int, apart: int) -> Regular | None:
    if apart > LONGEST or gcd(apart, memory.channels * memory.banks) > 1:
        return None
    rows, whole = -(-run // memory.row_bytes), memory.row_bytes // memory.access_bytes
    last = -(-(run - (rows - 1) * memory.row_bytes) // memory.access_bytes)
    found = Regular(memory.channels, apart, rows, whole, last)
    return None if found.bursts == apart * whole > whole else found  # all rows: one run, as good as


@lru_cache(maxsize=4096)
def waits(regular: Regular, times: RowTimes, rank_banks: int) -> bool:
    """Whether bursts may wait for their rows, even while only one rank is read."""
    if regular.last * times.burst < times.between:
        return True
    around, apart = regular.channels * times.banks, regular.apart
    turns = next(n for n in count(1) if min(n * around % apart, -n * around % apart) < regular.rows)
    # so many turns of all banks after a row its bank may be read again: its rank has read all of its rows of those
    # between, or of half a turn at least
    if turns > 1:
        between = min(_sums(_sums(regular.sequence, rank_banks), turns - 1, times.banks))
    else:
        between = min(_sums(regular.sequence, rank_banks // 2))
    return bool(between * times.burst < times.again(regular.whole if regular.rows > 1 else regular.last))


def _sums(ring: list[int], taken: int, step: int = 1) -> list[int]:
    """Of so many values of a ring, each a step from the one before: from each value on, in the order of steps."""
    upto = [0, *accumulate(ring[n * step % len(ring)] for n in range(len(ring) + taken))]
    return [after - before for before, after in zip(upto, upto[taken:-1], strict=False)]
