"""From numbers to pixels, and which numbers an axis names."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pimc.record import record


@record
class Linear:
    """0 to `most` on `start` to `end`."""

    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value / self.most if self.most else 0.0)

    def ticks(self, number: int) -> Iterator[float]:
        """At most so many round numbers."""
        if not self.most:
            yield 0.0
            return
        raw = self.most / max(1, number)
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(f * unit for f in (1, 2, 5, 10) if f * unit >= raw * 0.999)
        for i in range(int(self.most / step * 1.0001) + 1):
            yield i * step


@record
class Log:
    """`least` to `most` (both above 0) on `start` to `end`."""

    least: float
    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = math.log10(self.most / self.least)
        return self.start + (self.end - self.start) * math.log10(max(value, self.least) / self.least) / span

    def ticks(self, number: int) -> Iterator[float]:
        """Powers of ten, not more than about `number`."""
        low, high = math.ceil(math.log10(self.least) - 1e-9), math.floor(math.log10(self.most) + 1e-9)
        every = max(1, -(-(high - low + 1) // max(1, number)))
        for power in range(low, high + 1, every):
            yield 10.0**power

    @staticmethod
    def around(low: float, high: float, start: float, end: float) -> Log:
        """Whole decades around two numbers."""
        least, most = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return Log(10.0**least, 10.0 ** max(most, least + 1), start, end)
