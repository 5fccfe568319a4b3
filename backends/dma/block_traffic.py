"""How a transfer of blocks that lie anywhere falls on the channels and banks of a memory.

Blocks of a paged cache are as good as thrown at random: neighbours in the order of tokens are none in the memory. What
lies in a block is a loop nest like any other; the busiest channel and bank are those of blocks that are dealt out as
`stretches.py` does. Runs end with their block: no row stays open from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.stretches import Nest, dealt
from pimc.backends.dma.traffic import (
    Memory,
    Traffic,
    accesses_of,
    histogram,
    in_rows,
    row_stretches,
    split_run,
    traffic,
)
from pimc.ir.layout import Digit

MOST_DEALT = 1 << 12
"""Blocks that are dealt out one by one; of more, as many times as many."""


@lru_cache(maxsize=65536)
def nest_in_blocks(memory: Memory, digits: tuple[Digit, ...], element_bytes: int, block: int) -> Nest:
    """The runs of a loop nest of elements in a window whose blocks have `block` bytes."""
    count = blocks_of(digits, element_bytes, block)
    inside = _split(digits, block)[0] if count > 1 else digits
    run, rest = split_run(inside, element_bytes, memory.access_bytes)
    return Nest(run, tuple(rest), count, block)


@lru_cache(maxsize=65536)
def traffic_in_blocks(memory: Memory, digits: tuple[Digit, ...], element_bytes: int, block: int) -> Traffic:
    """The accesses of a loop nest of elements in a window whose blocks have `block` bytes."""
    inside, _ = _split(digits, block)
    count = blocks_of(digits, element_bytes, block)
    if count == 1:
        return traffic(memory, digits, element_bytes)
    starts = dealt(min(count, MOST_DEALT))
    run, rest = split_run(inside, element_bytes, memory.access_bytes)
    whole = int(histogram(memory, run, rest).sum()) * count
    busiest = -(-whole // memory.channels)
    if not memory.hashed:
        busiest = busiest_of(memory, Nest(run, tuple(rest), count, block))
    rows = count * row_stretches(run, rest, memory.row_bytes)
    banks = in_rows(run, rest, memory)
    one_bank = 0
    if banks is not None and block % memory.row_bytes == 0:
        one_bank = -(-int(_rolled(banks, starts, block // memory.row_bytes).max()) * count // len(starts))
    return Traffic(whole, busiest, -(-rows * busiest // max(1, whole)), one_bank)


def busiest_of(memory: Memory, nest: Nest) -> int:
    """Accesses of the busiest channel."""
    accesses = histogram(memory, nest.run, nest.rest)
    if nest.blocks == 1:
        return int(accesses.reshape(memory.channels, -1).sum(axis=1).max())
    starts = dealt(min(nest.blocks, MOST_DEALT), nest.among, nest.deal)
    rolled = _rolled(accesses, starts, nest.block // memory.access_bytes)
    return -(-int(rolled.reshape(memory.channels, -1).sum(axis=1).max()) * nest.blocks // len(starts))


@lru_cache(maxsize=65536)
def accesses_in_blocks(memory: Memory, digits: tuple[Digit, ...], element_bytes: int, block: int) -> int:
    """The accesses alone."""
    count = blocks_of(digits, element_bytes, block)
    return count * accesses_of(memory, _split(digits, block)[0] if count > 1 else digits, element_bytes)


@lru_cache(maxsize=65536)
def blocks_of(digits: tuple[Digit, ...], element_bytes: int, block: int) -> int:
    """How many blocks a loop nest comes to; those that it comes to again count again."""
    _, outside = _split(digits, block)
    return prod(count for count, _ in outside)


def _split(digits: Sequence[Digit], block: int) -> tuple[tuple[Digit, ...], tuple[Digit, ...]]:
    """The loops within a block, and those from block to block; stretches across several are cut there.

    Transfers begin with a block, or stay in one.
    """
    inside: list[Digit] = []
    outside: list[Digit] = []
    for count, stride in digits:
        step = abs(stride)
        if step == 0 or count == 1:
            inside.append((count, step))
        elif step >= block:
            outside.append((count, step))
        elif count * step <= block:
            inside.append((count, step))
        else:
            each = block // step
            inside.append((each, step))
            outside.append((-(-count // each), block))
    return tuple(inside), tuple(outside)


def _rolled(one: NDArray[np.int64], starts: Sequence[int], step: int) -> NDArray[np.int64]:
    """The sum of a periodic histogram for blocks at multiples of `step`."""
    period = len(one)
    classes = period // gcd(step, period) if step else 1
    counts = np.bincount(np.asarray(starts) % classes, minlength=classes)
    total = np.zeros_like(one)
    for position in np.flatnonzero(counts):
        total += counts[position] * np.roll(one, int(position) * step % period)
    return total
