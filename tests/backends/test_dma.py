"""Copies: what they move, how they fall on channels (against counting every access), and what they take."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.backends.dma.copy import issue_copy
from pimc.backends.dma.isa import Gather, Load, Store
from pimc.backends.dma.timing import DATA_BUS, DmaTimer, make_timer
from pimc.backends.dma.traffic import Memory, traffic
from pimc.backends.emitter import Emitter
from pimc.backends.program import steps
from pimc.backends.target_registry import load_target
from pimc.backends.timing import Resource
from pimc.ir.types import DType

MEMORY = Memory(channels=4, row_bytes=64, access_bytes=16)


def counted(digits: tuple[tuple[int, int], ...], run: int) -> tuple[int, int]:
    """All accesses, and those of the busiest channel, one contiguous run after the other."""
    channels = [0] * MEMORY.channels
    for indices in product(*(range(c) for c, _ in digits)):
        start = sum(i * s for i, (_, s) in zip(indices, digits, strict=True))
        for access in range(start // 16, (start + run - 1) // 16 + 1):
            channels[access * 16 // MEMORY.row_bytes % MEMORY.channels] += 1
    return sum(channels), max(channels)


@given(
    run=st.integers(1, 40),
    loops=st.lists(st.tuples(st.integers(2, 5), st.integers(20, 300).map(lambda s: 2 * s)), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_traffic_counts_accesses(run: int, loops: list[tuple[int, int]]) -> None:
    digits = tuple(sorted(loops, key=lambda d: -d[1]))
    if any(stride <= 2 * run for _, stride in digits):
        return
    found = traffic(MEMORY, (*digits, (run, 2)), 2)
    assert (found.accesses, found.busiest) == counted(digits, 2 * run)


def test_contiguous_transfer_spreads_over_channels() -> None:
    memory = Memory(channels=32, row_bytes=1024, access_bytes=64)
    found = traffic(memory, ((1 << 20, 2),), 2)
    assert (found.accesses, found.busiest) == ((2 << 20) // 64, (2 << 20) // 64 // 32)


def test_one_channel_is_a_thirty_second_as_fast() -> None:
    memory = Memory(channels=32, row_bytes=1024, access_bytes=64)
    found = traffic(memory, ((1024, 32 * 1024), (512, 2)), 2)
    assert found.busiest == found.accesses == 1024 * 16
    assert found.rows == 1024


def test_repeated_elements_are_read_once() -> None:
    assert traffic(MEMORY, ((1000, 0), (8, 2)), 2).accesses == 1


def test_more_digits_than_a_command_holds_become_loops() -> None:
    emit = Emitter()
    counts = [2] * 10
    strides = [3**i * 4 for i in range(10)]
    issue_copy(emit, ("dram", "buffer"), 0, 0, DType.F16, counts, strides, [2 * s for s in strides[::-1]])
    assert all(len(s.command.counts) <= 8 for s in steps(emit.take()) if isinstance(s.command, Load))


def timer(target: str = "npu", *changes: str) -> tuple[DmaTimer, Resource]:
    spec = load_target(target, changes)
    bus = Resource(DATA_BUS)
    return make_timer(spec, spec.engines()[0], {DATA_BUS: bus}), bus


def contiguous(elements: int) -> Load:
    return Load(0, 0, DType.F16, (elements,), (2,), (2,))


def test_large_load_runs_at_the_memorys_bandwidth() -> None:
    """32 channels of 64 bytes in 2 clocks at 1 GHz: 1024 bytes a ns; refresh of all banks takes tRFC / tREFI."""
    for changes, share in ((["dram.refresh=false"], 1.0), (["dram.refresh_order=all-banks"], 1 - 260 / 3900)):
        dma, _ = timer("npu", *changes)
        issued = dma.issue(contiguous(1 << 22), 0)
        latency = 14 + 14 + 2 + 1
        assert issued.done == pytest.approx(((8 << 20) / 1024 / share + latency) * 1000, rel=1e-3)


def test_more_bytes_take_longer() -> None:
    """Where ranks are refreshed in turn, too, more bytes take more time, and long ones as much for each byte."""
    dma, _ = timer("npu")
    times = [dma.costs.of(contiguous(1 << n))[0].duration for n in range(5, 27)]
    assert all(1.9 * short < long < 2.1 * short for short, long in pairwise(times[10:]))
    assert times[1:] == sorted(times[1:])
    assert times[-1] == pytest.approx(2 * times[-2], rel=1e-3)


def test_latency_of_one_access() -> None:
    dma, _ = timer("npu", "dram.refresh=false")
    issued = dma.issue(contiguous(32), 0)
    assert issued.done == (14 + 14 + 2 + 1) * 1000 + max(2000, 7500)  # the burst, or one row's share of tFAW


def test_latencies_overlap_but_transfers_do_not() -> None:
    dma, _ = timer("npu", "dram.refresh=false")
    first = dma.issue(contiguous(1 << 16), 0)
    second = dma.issue(contiguous(1 << 16), first.free)
    assert second.done - first.done == 128 * 1000


def test_queues_share_the_data_buses() -> None:
    spec = load_target("npu", ["dram.refresh=false"])
    bus = Resource(DATA_BUS)
    load, store = (make_timer(spec, e, {DATA_BUS: bus}) for e in spec.engines()[:2])
    done = load.issue(contiguous(1 << 20), 0).done
    stored = store.issue(Store(0, 0, DType.F16, (1 << 20,), (2,), (2,)), 0)
    assert stored.done > done
    assert stored.cause == "data bus"


def test_scattered_rows_are_bound_by_activations() -> None:
    dma, _ = timer("npu", "dram.refresh=false")
    rows = 1024
    near = dma.issue(contiguous(rows * 32), 0).busy
    far = dma.issue(Load(0, 0, DType.F16, (rows, 32), (1 << 15, 2), (64, 2)), 0).busy
    last = (rows // 4 - 1) * 30 + 3 * 4  # four in tFAW, tRRD apart
    assert far == (last + 2) * 1000
    assert near < far / 20


def test_gather_scales_with_its_indices() -> None:
    dma, _ = timer("npu", "dram.refresh=false")

    def gather(count: int) -> int:
        command = Gather("dram", 0, DType.F16, (50000,), (8192,), (4096,), (2,), 0, DType.I64, 8, count, 0, 8192, 50000)
        return dma.issue(command, dma.done_at).busy

    # few rows fall on some channels more often than on others
    assert 8 * 64 * 16 * 2 / 32 < gather(64) < 8 * gather(8)
    assert gather(4096) == pytest.approx(8 * gather(512), rel=0.1)
    assert gather(1) > 0


def test_loads_are_counted() -> None:
    dma, _ = timer()
    dma.issue(contiguous(1024), 0)
    assert dma.counters["bytes read"] == 2048
    assert dma.counters["RD"] == 32
    assert np.iinfo(np.int64).max > dma.done_at
