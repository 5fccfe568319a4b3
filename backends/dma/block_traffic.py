"""How a transfer of blocks that lie anywhere falls on the channels and banks of a memory.

Blocks of a paged cache are as good as thrown at random: neighbours in the order of tokens are none in the memory. What
lies in a block is a loop nest like any other; how busy the busiest channel is, is an expectation. Runs end with their
block: no row stays open from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod

import numpy as np

from pimc.backends.dma.regular import regular_of
from pimc.backends.dma.stretches import Nest
from pimc.backends.dma.traffic import (
    Memory,
    Traffic,
    accesses_of,
    busiest_of_run,
    histogram,
    row_stretches,
    split_run,
    traffic,
)
from pimc.ir.layout import Digit

DRAWS, FEWEST = 1 << 15, 64
"""Places that are drawn to tell how unevenly blocks fall on channels, and the fewest draws."""


@lru_cache(maxsize=65536)
def nest_in_blocks(memory: Memory, digits: tuple[Digit, ...], element_bytes: int, block: int) -> Nest:
    """The runs of a loop nest of elements in a window whose blocks have `block` bytes."""
    count = blocks_of(digits, element_bytes, block)
    inside = _split(digits, block)[0] if count > 1 else digits
    run, rest = split_run(inside, element_bytes, memory.access_bytes)
    return Nest(run, tuple(rest), count, block)


@lru_cache(maxsize=65536)
def traffic_in_blocks(memory: Memory, digits: tuple[Digit, ...], element_bytes: int, block: int) -> Traffic:
    """What is known of a loop nest in such a window where a hash spreads its accesses over the channels."""
    nest = nest_in_blocks(memory, digits, element_bytes, block)
    if nest.blocks == 1:
        return traffic(memory, digits, element_bytes)
    whole = nest.blocks * int(histogram(memory, nest.run, nest.rest).sum())
    busiest = -(-whole // memory.channels)
    rows = nest.blocks * row_stretches(nest.run, nest.rest, memory.row_bytes)
    return Traffic(whole, busiest, -(-rows * busiest // max(1, whole)))


def busiest_of(memory: Memory, nest: Nest) -> float:
    """Accesses of the busiest channel; where blocks lie anywhere, on average over where they do."""
    if nest.blocks == 1 and not nest.rest:
        return busiest_of_run(memory, nest.run)
    if regular := regular_of(nest, memory):
        return regular.busiest(nest.rest[0][0])
    accesses = histogram(memory, nest.run, nest.rest)
    if nest.blocks == 1:
        return int(accesses.reshape(memory.channels, -1).sum(axis=1).max())
    step = nest.block // memory.access_bytes
    classes = len(accesses) // gcd(step, len(accesses))  # of places, whose blocks fall on channels alike
    before = np.arange(len(accesses)) - np.arange(classes)[:, None] * step
    by_class = accesses.take(before, mode="wrap").reshape(classes, memory.channels, -1).sum(axis=2, dtype=np.float64)
    random, draws = np.random.Generator(np.random.PCG64(nest.blocks)), max(FEWEST, DRAWS // nest.blocks)
    if nest.among:
        drawn = random.integers(nest.among, size=(draws, nest.blocks))
    else:
        drawn = random.permuted(np.tile(np.arange(2 * nest.blocks), (draws, 1)), axis=1)[:, : nest.blocks]
    each = np.arange(draws)[:, None] * classes + drawn % classes
    of_class = np.bincount(each.ravel(), minlength=draws * classes).reshape(draws, classes)
    return float((of_class @ by_class).max(axis=1).mean())


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
