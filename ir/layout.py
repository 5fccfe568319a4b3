"""Layouts: where each element of a tensor lies in a flat address space.

A layout gives every dimension a list of *digits*, (count, stride) from the outermost to the innermost. An index is
written in the mixed radix of its dimension's counts, and the element's address is the offset plus the sum of digit
times stride. One digit a dimension is the usual strided array; two digits put token `t` into bank `t % banks`, row
`t // banks`. All addresses and strides are in **bytes of the device's storage**.

Views are layouts too: transposing permutes dimensions, reshaping regroups digits, broadcasting is a digit of stride 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from pimc.record import record

Digit = tuple[int, int]


@record
class Layout:
    """The place of every element: `offset` and, per dimension, digits (count, stride) outermost first."""

    offset: int
    dims: tuple[tuple[Digit, ...], ...]

    @staticmethod
    def dense(shape: Sequence[int], element_bytes: int, offset: int = 0, align: int = 1) -> Layout:
        """Row-major, without gaps but for those that let rows begin at multiples of `align` bytes."""
        dims: list[tuple[Digit, ...]] = []
        stride = element_bytes
        for extent in reversed(shape):
            dims.append(((extent, stride),))
            stride *= extent
            if len(dims) == 1:
                stride = -(-stride // align) * align
        return Layout(offset, tuple(reversed(dims)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple([prod([count for count, _ in digits]) for digits in self.dims])

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def span(self, element_bytes: int) -> tuple[int, int]:
        """The smallest byte interval [low, high) that holds every element."""
        low = high = self.offset
        for digits in self.dims:
            for count, stride in digits:
                if count == 0:
                    return self.offset, self.offset
                step = (count - 1) * stride
                low, high = (low + step, high) if step < 0 else (low, high + step)
        return low, high + element_bytes

    def moved(self, by: int) -> Layout:
        return replace(self, offset=self.offset + by)

    def permuted(self, order: Sequence[int]) -> Layout:
        """Dimension i of the result is dimension order[i] of this."""
        return replace(self, dims=tuple(self.dims[i] for i in order))

    def sliced(self, dim: int, start: int, stop: int, step: int = 1) -> Layout | None:
        """Indices start, start+step, ... below stop (step may be negative: stop is exclusive downwards).

        None where that is not a single layout: the range starts or ends inside a digit's period.
        """
        if start == 0 and step == 1 and stop > 1 and len(self.dims[dim]) == 1 and self.dims[dim][0][0] == stop:
            return self  # all of it
        count = max(0, -(-(stop - start) // step)) if step > 0 else max(0, -(-(start - stop) // -step))
        digits = _merged(self.dims[dim])
        offset = self.offset + _address(digits, start) if count else self.offset
        if count <= 1:
            kept: tuple[Digit, ...] | None = ((count, 0),)
        elif len(digits) == 1:
            kept = ((count, digits[0][1] * step),)
        else:
            kept = _slice_digits(digits, start, count, step)
        if kept is None:
            return None
        return Layout(offset, (*self.dims[:dim], kept, *self.dims[dim + 1 :]))

    def reshaped(self, shape: Sequence[int]) -> Layout | None:
        """The same elements in the same (row-major) order under another shape; None where digits do not split."""
        if prod(shape) != self.elements:
            raise ValueError(f"cannot reshape {self.shape} to {tuple(shape)}")
        if self.elements == 0:
            return Layout(self.offset, tuple(((extent, 0),) for extent in shape))
        rest = list(self.flat_digits())
        dims: list[tuple[Digit, ...]] = []
        for extent in reversed(shape):
            taken: list[Digit] = []
            need = extent
            while need > 1:
                count, stride = rest.pop()
                if need % count == 0:
                    taken.append((count, stride))
                    need //= count
                elif count % need == 0:
                    taken.append((need, stride))
                    rest.append((count // need, stride * need))
                    need = 1
                else:
                    return None
            dims.append(_merged(tuple(reversed(taken))) or ((1, 0),))
        return Layout(self.offset, tuple(reversed(dims)))

    def broadcast(self, shape: Sequence[int]) -> Layout:
        """Numpy broadcasting to `shape`: new and unit dimensions repeat with stride 0."""
        lead = len(shape) - len(self.dims)
        dims: list[tuple[Digit, ...]] = []
        for i, extent in enumerate(shape):
            digits = self.dims[i - lead] if i >= lead else ((1, 0),)
            have = prod(count for count, _ in digits)
            if have == extent:
                dims.append(digits)
            elif have == 1:
                dims.append(((extent, 0),))
            else:
                raise ValueError(f"cannot broadcast {self.shape} to {tuple(shape)}")
        return Layout(self.offset, tuple(dims))

    def is_dense(self, element_bytes: int) -> bool:
        """Whether this is row-major without gaps (whatever the offset)."""
        return self.flat_digits() in ((), ((self.elements, element_bytes),)) or self.elements == 1

    def flat_digits(self) -> tuple[Digit, ...]:
        """All digits in row-major order, neighbours merged: the loop nest that visits the elements in order."""
        return _merged(tuple(d for digits in self.dims for d in digits if d[0] != 1))

    def addresses(self) -> NDArray[np.int64]:
        """The address of every element, in the tensor's shape."""
        total = np.full((), self.offset, np.int64)
        for digits in self.dims:
            dim = np.zeros((1,), np.int64)
            for count, stride in digits:
                dim = (dim[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
            total = total[..., None] + dim
        return total

    def __str__(self) -> str:
        dims = " ".join("*".join(f"{count}:{stride}" for count, stride in digits) for digits in self.dims)
        return f"@{self.offset}({dims})"


def pieces(layout: Layout, dim: int, start: int, stop: int) -> Iterator[tuple[int, Layout]]:
    """Cut the range [start, stop) of one dimension into single layouts, as few as the digits allow.

    Yields the first index of each piece with its layout.
    """
    inner = prod(count for count, _ in _merged(layout.dims[dim])[1:])
    while start < stop:
        whole = layout.sliced(dim, start, stop)
        end = stop
        if whole is None:
            period_end = (start // inner + 1) * inner
            end = min(stop, stop // inner * inner if start % inner == 0 and stop - start >= inner else period_end)
            whole = layout.sliced(dim, start, end)
        while whole is None:  # inside a deeper digit: shrink to the next boundary
            end = start + max(1, (end - start) // 2)
            whole = layout.sliced(dim, start, end)
        yield start, whole
        start = end


def _address(digits: Sequence[Digit], index: int) -> int:
    total = 0
    for position, (count, stride) in reversed(list(enumerate(digits))):
        total += (index if position == 0 else index % count) * stride
        index //= count
    return total


def _merged(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Join neighbours where the outer stride is the inner digit's whole extent; drop digits of count 1."""
    out: list[Digit] = []
    for count, stride in digits:
        if count == 1:
            continue
        if out and out[-1][1] == stride * count:
            out[-1] = (out[-1][0] * count, stride)
        else:
            out.append((count, stride))
    return tuple(out)


def _slice_digits(digits: Sequence[Digit], start: int, count: int, step: int) -> tuple[Digit, ...] | None:
    """Digits of `count` indices from `start` by `step`, when they are a regular pattern of these digits."""
    if step != 1:
        return None
    kept: list[Digit] = []
    inner = prod(c for c, _ in digits)
    for digit_count, stride in digits:
        inner //= digit_count
        if count <= inner - start % inner:  # stays inside one step of this digit
            continue
        if start % inner or count % inner:
            return None
        turns, first = count // inner, start // inner % digit_count
        if first + turns > digit_count:
            return None
        kept.append((turns, stride))
        count = inner
        start = 0
    return tuple(kept) or ((1, 0),)
