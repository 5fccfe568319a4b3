"""Loops that come to all channels alike: what is looked up of them is what looking at all of their rows finds."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from pimc.backends.dma.banks import Refresh, RowTimes, delays
from pimc.backends.dma.regular import regular_of, waits
from pimc.backends.dma.steady import cycle_of, endless
from pimc.backends.dma.stretches import Nest, stretches
from pimc.backends.dma.traffic import Memory

MEMORY = Memory(channels=4, row_bytes=256, access_bytes=64, banks=8)
REFRESH = Refresh(ranks=2, rank_banks=4, interval=3900, lasts=260)
TIMES = RowTimes(banks=8, burst=2, opening=4, closing=4, open=10, after_burst=2, apart=2, four=8)

NESTS = st.builds(
    lambda apart, run, runs: Nest(min(run, apart * 256), ((runs, apart * 256),)),
    st.sampled_from([1, 3, 5, 9, 21, 35]),
    st.integers(1, 6000),
    st.integers(1, 100),
)


@given(NESTS)
def test_channels_have_their_rows(nest: Nest) -> None:
    regular, found, ((runs, _),) = regular_of(nest, MEMORY), stretches(nest, MEMORY), nest.rest
    assume(regular and len(found.counts) == MEMORY.channels)
    assert regular
    assert regular.busiest(runs) == found.totals.max()
    parts = regular.stretches(runs, REFRESH.rank_banks)
    bursts = parts.bursts.reshape(len(parts.counts), -1)
    for channel, (end, count) in enumerate(zip(found.lanes, found.counts, strict=True)):
        own = slice(end - count, end)
        of_parts = np.bincount(found.rows[own] // REFRESH.rank_banks, found.bursts[own], bursts.shape[1])
        assert of_parts.tolist() == bursts[channel % len(bursts)].tolist()


@given(NESTS)
def test_channels_go_through_one_cycle(nest: Nest) -> None:
    stream = endless(nest, MEMORY)
    regular = regular_of(stream, MEMORY) if stream else None
    assume(regular)
    assert stream
    assert regular
    found = stretches(stream, MEMORY)
    cycle = cycle_of(found, REFRESH.ranks_of(found.rows), TIMES.burst)
    assert regular.cycle(stream.rest[0][0], TIMES, REFRESH) == cycle


@given(NESTS)
def test_where_nothing_waits_nothing_is_late(nest: Nest) -> None:
    regular = regular_of(nest, MEMORY)
    assume(regular and not waits(regular, TIMES, REFRESH.rank_banks))
    found = stretches(nest, MEMORY)
    assert delays(found, TIMES) is None
    assert delays(found.split(REFRESH.ranks_of(found.rows), MEMORY.channels), TIMES) is None
