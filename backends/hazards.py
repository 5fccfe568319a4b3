"""When two touched regions of memory conflict: intervals that move with loop counters.

Enclosing loops appear as terms of a region's start; loops that lie inside have been spread out into its length.
"""

from __future__ import annotations

from collections.abc import Mapping

from pimc.backends.affine import Affine, Scalar
from pimc.backends.isa import Region

Ranges = Mapping[int, int]
"""How many values each enclosing loop's counter takes."""


def spread(region: Region, variable: int, count: int) -> Region:
    """All that is touched while a loop counter runs through its `count` values."""
    start, factor = region.start, coefficient(region.start, variable)
    if isinstance(start, int) or not factor:
        return region
    reach = factor * (count - 1)
    terms = tuple(t for t in start.terms if t[0] != variable)
    base = start.base + min(0, reach)
    return region._replace(start=Affine(base, terms) if terms else base, length=region.length + abs(reach))


def within(region: Region, ranges: Ranges) -> tuple[int, int]:
    """First byte and the byte after the last, over all turns."""
    if isinstance(region.start, int):
        return region.start, region.start + region.length
    low, high = bounds(region.start, ranges)
    return low, high + region.length


def conflict(first: Region, second: Region, ranges: Ranges) -> bool:
    """Whether the two may touch the same byte, one writing, in the same turn of all enclosing loops."""
    if not (first.write or second.write) or first.space != second.space:
        return False
    if first.channels is not None and second.channels is not None and not first.channels & second.channels:
        return False
    low, high = bounds(difference(second.start, first.start), ranges)
    return low < first.length and high > -second.length


def carried(first: Region, second: Region, variable: int, count: int, ranges: Ranges) -> bool:
    """Whether `first` in some turn of a loop and `second` in a later turn may touch the same byte."""
    if count < 2 or not (first.write or second.write) or first.space != second.space:
        return False
    if first.channels is not None and second.channels is not None and not first.channels & second.channels:
        return False
    mine = coefficient(first.start, variable)
    if mine != coefficient(second.start, variable):
        return conflict(spread(first, variable, count), spread(second, variable, count), ranges)
    low, high = bounds(difference(second.start, first.start), {**ranges, variable: 1})
    if mine == 0:
        return low < first.length and high > -second.length
    # second starts at low..high + mine * distance past first: is there a distance of 1..count-1 at which they meet?
    least, most = -second.length - high, first.length - low
    if mine < 0:
        least, most, mine = -most, -least, -mine
    nearest = least // mine + 1
    return max(1, nearest) <= min(count - 1, -(-most // mine) - 1)


def difference(left: Scalar, right: Scalar) -> Scalar:
    return left + right * -1 if isinstance(right, Affine) else left + -right


def coefficient(start: Scalar, variable: int) -> int:
    return next((c for v, c in start.terms if v == variable), 0) if isinstance(start, Affine) else 0


def bounds(start: Scalar, ranges: Ranges) -> tuple[int, int]:
    """The least and the greatest value over all turns."""
    if isinstance(start, int):
        return start, start
    low = high = start.base
    for variable, c in start.terms:
        reach = c * (ranges.get(variable, 1) - 1)
        low, high = low + min(0, reach), high + max(0, reach)
    return low, high
