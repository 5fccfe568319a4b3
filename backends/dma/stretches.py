"""The stretches of rows that the channels of a memory read for a transfer, each channel one after the other.

A transfer walks its loop nest in the order of its strides, outermost the largest, and begins at the start of a row of
bank 0 of channel 0. Blocks of a paged cache, and rows that indices choose, are as good as thrown at random: where they
begin is taken from a fixed shuffle, so that time does not depend on addresses or tables. Of a long transfer the
beginning stands for all: loops are cut off from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import pairwise
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.traffic import Memory, row_stretches
from pimc.ir.layout import Digit
from pimc.record import record

Ints = NDArray[np.int64]


@record
class Stretches:
    """All channels that have any, one after the other. Channels that read alike are there once."""

    rows: Ints
    """the row of each stretch, within its channel: neighbours lie in neighbouring banks"""
    bursts: Ints
    """of each stretch"""
    counts: Ints
    """stretches of each channel"""
    once: float = 1.0
    """bursts, as a part of those where what two runs need one after the other counts twice"""

    @cached_property
    def ends(self) -> Ints:
        """Bursts up to the end of each stretch, over all channels."""
        return np.cumsum(self.bursts)

    @cached_property
    def lanes(self) -> Ints:
        """Stretches up to the end of each channel."""
        return np.cumsum(self.counts)

    @cached_property
    def totals(self) -> Ints:
        """Bursts of each channel."""
        totals = self.ends.take(self.lanes - 1)
        totals[1:] -= totals[:-1]
        return totals

    def of_channels(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sums of each channel's stretches' values."""
        return np.add.reduceat(values, self.lanes - self.counts)

    def split(self, parts: NDArray[np.int8], channels: int) -> Stretches:
        """Of the first channels, as if each part of one were a channel of its own."""
        counts = self.counts[:channels]
        end = int(counts.sum())
        lanes = np.repeat(np.arange(len(counts), dtype=np.int16) * (int(parts.max()) + 1), counts) + parts[:end]
        order, counts = np.argsort(lanes, kind="stable"), np.bincount(lanes)
        return Stretches(self.rows.take(order), self.bursts.take(order), counts[counts > 0])

    def of(self, channels: Sequence[int]) -> Stretches:
        """Some channels only."""
        begins, counts = self.lanes - self.counts, self.counts[channels]
        at = np.concatenate([np.arange(begins[c], self.lanes[c]) for c in channels])
        return Stretches(self.rows.take(at), self.bursts.take(at), counts, self.once)

    @property
    def unlike(self) -> list[int]:
        """One of those channels that read alike, of each kind."""
        parts = np.stack([self.rows, self.bursts], axis=1)
        ends = self.lanes.tolist()
        kinds = {parts[begin:end].tobytes(): c for c, (begin, end) in enumerate(pairwise([0, *ends]))}
        return list(kinds.values())


@record
class Nest:
    """Runs of bytes at the turns of loops, which are sorted by their strides."""

    run: int
    rest: tuple[Digit, ...]
    blocks: int = 1
    """in which all loops go by, one after the other; they lie anywhere"""
    block: int = 0
    """bytes of one"""
    among: int = 0
    """places of which any may be taken, again and again; 0: each once, of twice as many as there are blocks"""
    deal: int = 0
    """of several shuffles"""

    @property
    def strides(self) -> list[int]:
        """Distances of runs."""
        return [stride for _, stride in self.rest] + ([self.block] if self.blocks > 1 else [])


@lru_cache(maxsize=256)
def dealt(count: int, among: int = 0, deal: int = 0) -> tuple[int, ...]:
    """Where so many blocks lie."""
    random = np.random.Generator(np.random.PCG64([count, deal] if deal else count))
    places = random.integers(among, size=count) if among else random.permutation(2 * count)[:count]
    return tuple(int(n) for n in places)


def cut(whole: Nest, memory: Memory, most: int) -> Nest:
    """The part of a loop nest that stands for it: about `most` stretches; of one run the rows of all banks."""
    row = memory.row_bytes
    if whole.blocks > 1:
        one = replace(whole, blocks=1)
        if cut(one, memory, most) != one:
            return cut(one, memory, most)
        return replace(whole, blocks=min(whole.blocks, max(2, most // rows_of_block(whole, memory))))
    longest = row * (most if whole.rest else min(most, memory.channels * memory.banks))
    if whole.run > longest:
        return Nest(longest, ())
    kept: list[Digit] = []
    alike = _alike(whole, memory)
    for count, stride in whole.rest:
        more = row_stretches(whole.run, (*kept, (count, stride)), row) // alike
        if more > most:
            return Nest(whole.run, (*kept, (max(1, most // max(1, more // count)), stride)))
        kept.append((count, stride))
    return whole


def rows_of_block(nest: Nest, memory: Memory) -> int:
    """Stretches that are looked at of each block."""
    return -(-row_stretches(nest.run, nest.rest, memory.row_bytes) // _alike(nest, memory))


def stretches(nest: Nest, memory: Memory) -> Stretches:
    """All stretches of a loop nest."""
    starts = np.zeros(1, np.int64)
    for count, stride in nest.rest:
        starts = np.add.outer(np.arange(count, dtype=np.int64) * stride, starts).ravel()
    if nest.blocks > 1:
        places = np.asarray(dealt(nest.blocks, nest.among, nest.deal), np.int64)
        starts = np.add.outer(places * nest.block, starts).ravel()
    rows, bursts, asked = _in_rows(starts, nest, memory)
    places = rows // memory.channels
    channels = rows - places * memory.channels
    once = float(bursts.sum() / asked)
    if (channels == channels[0]).all():
        counts = np.asarray([len(rows)])
    else:
        order = np.argsort(channels.astype(np.uint8 if memory.channels <= 256 else np.uint16), kind="stable")
        counts = np.bincount(channels)
        counts = counts[counts > 0]
        places, bursts = places.take(order), bursts.take(order)
    if len(counts) > 1 and (counts == counts[0]).all():
        by_place, by_bursts = places.reshape(len(counts), -1), bursts.reshape(len(counts), -1)
        if (by_place == by_place[0]).all() and (by_bursts == by_bursts[0]).all():
            places, bursts, counts = by_place[0], by_bursts[0], counts[:1]
    return Stretches(places, bursts, counts, once)


def _alike(nest: Nest, memory: Memory) -> int:
    """Neighbouring channels that get the same rows of each run, if runs are whole rows."""
    row = memory.row_bytes
    if nest.run % row or any(stride % row for stride in nest.strides):
        return 1
    return gcd(nest.run // row, memory.channels, *(stride // row for stride in nest.strides))


def _in_rows(starts: Ints, nest: Nest, memory: Memory) -> tuple[Ints, Ints, int]:
    """The rows of runs, cut where rows end, the bursts of each piece, and of all runs; of channels alike one."""
    row, access, run = memory.row_bytes, memory.access_bytes, nest.run
    first = starts // row
    if all(stride % row == 0 for stride in nest.strides):
        pieces = np.arange(0, -(-run // row), _alike(nest, memory))
        bursts = np.full(len(pieces), row // access)
        bursts[-1] = -(-min(row, run - int(pieces[-1]) * row) // access)
        rows, bursts = np.add.outer(first, pieces).ravel(), np.tile(bursts, len(starts))
        return rows, bursts, int(bursts.sum())
    ends = starts + run
    counts = (ends - 1) // row - first + 1
    rows = first
    if counts.max() > 1:
        begun = np.cumsum(counts) - counts
        rows = np.repeat(first - begun, counts) + np.arange(counts.sum())
        starts, ends = (np.repeat(at, counts) for at in (starts, ends))
        starts, ends = np.maximum(starts, rows * row), np.minimum(ends, (rows + 1) * row)
    low, high = starts // access, (ends - 1) // access
    bursts = high - low + 1
    asked = int(bursts.sum())
    again = rows[1:] == rows[:-1]
    if not again.any():
        return rows, bursts, asked
    bursts[1:] -= again & (low[1:] == high[:-1])  # an access that the run before has brought
    begins = np.flatnonzero(np.concatenate([[True], ~again]))
    return rows[begins], np.add.reduceat(bursts, begins), asked
