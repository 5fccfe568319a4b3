"""Whether two layouts share a byte, exactly, from their digits: without listing addresses."""

from __future__ import annotations

from pimc.backends.program import MapEntry
from pimc.ir.layout import Digit
from pimc.record import record

MOST_STEPS = 20_000
"""Work beyond which two layouts are taken not to overlap (their digits have nothing in common)."""


def overlaps(first: MapEntry, second: MapEntry) -> bool:
    """Whether some byte belongs to both."""
    return _Search().meet(_nest(first), _nest(second))


@record
class _Nest:
    """Dense runs of bytes at `offset` plus multiples of positive strides, which fall from digit to digit."""

    offset: int
    digits: tuple[Digit, ...]
    run: int

    @property
    def end(self) -> int:
        return self.offset + sum((count - 1) * stride for count, stride in self.digits) + self.run

    def inner(self, turn: int) -> _Nest:
        """What one turn of the outermost digit covers."""
        return _Nest(self.offset + turn * self.digits[0][1], self.digits[1:], self.run)


def _nest(entry: MapEntry) -> _Nest:
    offset, run = entry.layout.offset, max(1, entry.dtype.bits // 8)
    digits: list[Digit] = []
    for count, stride in (d for dim in entry.layout.dims for d in dim if d[0] > 1 and d[1]):
        offset += min(0, (count - 1) * stride)
        digits.append((count, abs(stride)))
    digits.sort(key=lambda d: -d[1])
    while digits and digits[-1][1] <= run:
        count, stride = digits.pop()
        run += (count - 1) * stride
    return _Nest(offset, tuple(digits), run)


class _Search:
    def __init__(self) -> None:
        self._steps = 0

    def meet(self, a: _Nest, b: _Nest) -> bool:
        """Whether the two nests share a byte."""
        self._steps += 1
        if self._steps > MOST_STEPS or a.offset >= b.end or b.offset >= a.end:
            return False
        if not a.digits and not b.digits:
            return True
        if not a.digits or (b.digits and b.digits[0][1] > a.digits[0][1]):
            a, b = b, a
        count, stride = a.digits[0]
        if b.digits and b.digits[0][1] == stride:  # the same stride: only the distance of the turns matters
            others = b.digits[0][0]
            first = b.inner(0)
            distances = _turns(a.inner(1 - others), stride, count + others - 1, first)
            return any(self.meet(a.inner(1 - others + d), first) for d in distances)
        return any(self.meet(a.inner(turn), b) for turn in _turns(a.inner(0), stride, count, b))


def _turns(first: _Nest, stride: int, count: int, other: _Nest) -> range:
    """The turns in which `first`, moved on by the stride each turn, comes near `other`."""
    least = -(-(other.offset - first.end + 1) // stride)
    most = (other.end - 1 - first.offset) // stride
    return range(max(0, least), min(count - 1, most) + 1)
