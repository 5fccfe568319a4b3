"""How a strided transfer falls on the channels of a memory, in closed form from its loop nest.

A transfer is taken to begin at the start of a row of channel 0. Where it does begin turns the channels round, which
leaves the busiest channel's load as it is but for the edges of rows; so time does not depend on addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from pimc.ir.layout import Digit
from pimc.record import record


@record
class Memory:
    """What matters of a memory: neighbouring rows lie on neighbouring channels, and it moves whole accesses."""

    channels: int
    row_bytes: int
    access_bytes: int
    hashed: bool = False
    """a hash of their addresses spreads accesses evenly over the channels instead"""
    banks: int = 1
    """of a channel; rows a whole turn of the channels apart lie in neighbouring banks"""


@record
class Traffic:
    """accesses in all and on the busiest channel; rows opened there, if each is opened once for each stretch of it; and
    rows opened in the busiest bank."""

    accesses: int
    busiest: int
    rows: int
    one_bank: int = 0


@lru_cache(maxsize=65536)
def traffic(memory: Memory, digits: tuple[Digit, ...], element_bytes: int) -> Traffic:
    """The accesses of a loop nest of elements. A digit of stride 0 touches the same elements again, at no cost."""
    run, rest = split_run(digits, element_bytes, memory.access_bytes)
    accesses = histogram(memory, run, rest)
    per_channel = accesses.reshape(memory.channels, -1).sum(axis=1)
    total, busiest = int(per_channel.sum()), int(per_channel.max())
    if memory.hashed:
        busiest = -(-total // memory.channels)
    rows = row_stretches(run, rest, memory.row_bytes)
    banks = in_rows(run, rest, memory)
    return Traffic(total, busiest, -(-rows * busiest // max(1, total)), 0 if banks is None else int(banks.max()))


def busiest_of_run(memory: Memory, run: int) -> int:
    """The accesses of a run of bytes on its first channel, where none has more."""
    turns, left = divmod(run, memory.row_bytes * memory.channels)
    return (turns * memory.row_bytes + min(left, memory.row_bytes) + memory.access_bytes - 1) // memory.access_bytes


@lru_cache(maxsize=65536)
def accesses_of(memory: Memory, digits: tuple[Digit, ...], element_bytes: int) -> int:
    """The accesses alone, for which only where in an access runs begin matters."""
    access = memory.access_bytes
    run, rest = split_run(digits, element_bytes, access)
    if not rest:
        return -(-run // access)
    unit = gcd(access, *(stride for _, stride in rest))
    if unit == access:
        return prod(count for count, _ in rest) * -(-run // access)
    starts = np.zeros(access // unit, np.int64)
    starts[0] = 1
    for count, stride in rest:
        starts = _repeated(starts, count, stride // unit) if stride % access else starts * count
    return sum(int(count) * -(-(place * unit + run) // access) for place, count in enumerate(starts))


def histogram(memory: Memory, run: int, rest: Sequence[Digit]) -> NDArray[np.int64]:
    """How often each access of a turn round the channels is needed by runs at the loops' places."""
    period = memory.row_bytes * memory.channels
    unit = gcd(memory.access_bytes, *(stride for _, stride in rest))
    starts = np.zeros(period // unit, np.int64)
    starts[0] = 1
    for count, stride in rest:
        starts = _repeated(starts, count, stride // unit % len(starts))
    return _accesses(starts, run, unit, memory)


@lru_cache(maxsize=65536)
def slots(digits: tuple[Digit, ...], element_bytes: int, slot_bytes: int) -> int:
    """Slots of an on-chip buffer that a loop nest of elements takes, each stretch its own."""
    run, rest = split_run(digits, element_bytes, slot_bytes)
    return -(-run // slot_bytes) * prod(count for count, _ in rest)


def split_run(digits: Sequence[Digit], element_bytes: int, access_bytes: int) -> tuple[int, list[Digit]]:
    """The bytes of the innermost contiguous stretch (gaps smaller than an access belong to it), and the loops left, as
    few as there can be."""
    run = element_bytes
    rest: list[Digit] = []
    for count, stride in sorted(((c, abs(s)) for c, s in digits if c > 1 and s), key=lambda d: d[1]):
        if not rest and stride <= max(run, access_bytes - 1):
            run += (count - 1) * stride
        elif rest and stride == rest[-1][0] * rest[-1][1]:
            rest[-1] = rest[-1][0] * count, rest[-1][1]
        else:
            rest.append((count, stride))
    return run, rest


def _repeated(starts: NDArray[np.int64], count: int, step: int) -> NDArray[np.int64]:
    """The sum of `count` copies of a periodic histogram, each `step` further on."""
    apart = gcd(step, len(starts))
    around = len(starts) // apart
    rounds, left = divmod(count, around)
    total = np.tile(starts.reshape(around, apart).sum(axis=0) * rounds, around)
    done, block, size = 0, starts, 1
    while left:
        if left & 1:
            total += _turned(block, done * step)
            done += size
        left >>= 1
        if left:
            block = block + _turned(block, size * step)
            size *= 2
    return total


def _turned(ring: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    """The same, so many places further on."""
    by %= len(ring)
    return np.concatenate([ring[-by:], ring[:-by]]) if by else ring


def _accesses(starts: NDArray[np.int64], run: int, unit: int, memory: Memory) -> NDArray[np.int64]:
    """How often each access of a period is needed, when a run of bytes begins at each start."""
    access = memory.access_bytes
    per_access = access // unit
    slots = len(starts) // per_access
    found = np.zeros(slots, np.int64)
    by_phase = starts.reshape(slots, per_access)
    for phase in range(per_access):
        begun = by_phase[:, phase]
        if begun.any():
            length = -(-(phase * unit + run) // access)
            whole, part = divmod(length, slots)
            found += whole * int(begun.sum())
            if part:
                found += _window(begun, part)
    return found


def _window(begun: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """For each slot, how many of the last `length` starts (round the period) are there."""
    sums = np.cumsum(np.concatenate([begun[-length + 1 :] if length > 1 else begun[:0], begun]))
    padded = np.concatenate([[0], sums])
    return np.asarray(padded[length:] - padded[:-length], np.int64)


def row_stretches(run: int, rest: Sequence[Digit], row_bytes: int) -> int:
    """Stretches that lie in one row each; loops that stay within a row do not leave it."""
    span, stretches = run, 1
    for count, stride in rest:
        reach = (count - 1) * stride + span
        if stretches == 1 and reach <= row_bytes:
            span = reach
        elif stretches == 1 and span < stride < row_bytes:
            stretches, span = -(-reach // row_bytes), row_bytes
        elif stretches == 1 and stride % row_bytes:  # runs begin at all parts of a row alike: some lie across two
            stretches = -(-count * (span - gcd(row_bytes, stride) + row_bytes) // row_bytes)
            span = min(span, row_bytes)
        else:
            stretches *= count * -(-span // row_bytes)
            span = min(span, row_bytes)
    return stretches if stretches > 1 else -(-span // row_bytes)


def in_rows(run: int, rest: Sequence[Digit], memory: Memory) -> NDArray[np.int64] | None:
    """Stretches of rows in each bank of each channel; None where loops by parts of rows spread them over banks."""
    row, span, outer = memory.row_bytes, run, list(rest)
    while outer and (outer[0][1] < row or outer[0][1] <= span):
        count, stride = outer.pop(0)
        span += (count - 1) * stride
    if memory.hashed or any(stride % row for _, stride in outer):
        return None
    stretches = np.zeros(memory.channels * memory.banks, np.int64)
    whole, part = divmod(-(-span // row), len(stretches))
    stretches[:] = whole
    stretches[:part] += 1
    for count, stride in outer:
        stretches = _repeated(stretches, count, stride // row % len(stretches))
    return stretches
