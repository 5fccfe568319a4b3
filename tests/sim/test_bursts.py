"""The copy engines' time against a plain DRAM engine that steps each burst: at most 2 % on long streams.

Without refresh the two differ by what a transfer's first row takes (14 clocks), which belongs to its latency, and by
how evenly rows fall on banks. Refresh of all banks at once comes to the same share of the time. Where ranks are
refreshed in turn, channels are followed from refresh to refresh, or all of their rows are walked through.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import mean

import pytest

from pimc.backends.dma.isa import Gather, Load, LoadBlocks, Store, StoreBlocks
from pimc.backends.dma.moving import dram_of, moving_ps
from pimc.backends.dma.steady import cycle_of, endless, lost
from pimc.backends.dma.stretches import Nest, stretches
from pimc.backends.dma.timing import DATA_BUS, DmaCosts, DmaTimer, copy_time, costs_of, memory_of
from pimc.backends.dma.traffic import traffic
from pimc.backends.dma.walk import walk, walked
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.backends.timing import Resource
from pimc.ir.types import DType
from tests.sim.bursts import Channel, clocks, requests

Digits = tuple[tuple[int, int], ...]
KIB, MIB = 1 << 10, 1 << 20

STREAMS: dict[str, tuple[Digits, int]] = {
    "contiguous": ((), 4 * MIB),
    "rows of a weight": (((512, 22016),), 8 * KIB),
    "narrow rows of a weight": (((4096, 8448),), 512),
    "narrow rows, a power of two apart": (((4096, 8 * KIB),), 256),
    "columns of a head in a cache": (((4, 56623104), (2048, 27648)), 256),
    "heads with gaps": (((32, 256 * KIB),), 128 * KIB),
    "rows of one channel": (((1024, 32 * KIB),), KIB),
    "rows of one bank": (((512, MIB),), 64),
    "every other access": (((32768, 128),), 64),
    "runs across rows": (((8192, 4160),), 192),
    "an odd width": (((2048, 27656),), 3072),
    "three loops": (((8, 6 * MIB), (64, 32000), (4, 8000)), 2 * KIB),
}

LONG = {
    "contiguous": 4,
    "rows of a weight": 4,
    "narrow rows of a weight": 8,
    "narrow rows, a power of two apart": 2,
    "columns of a head in a cache": 8,
    "heads with gaps": 4,
    "rows of one channel": 1,
    "rows of one bank": 1,
    "every other access": 8,
    "runs across rows": 8,
    "an odd width": 3,
    "three loops": 4,
}
"""So many times as long they take 4 tREFI and more."""


def times_longer(name: str, times: int) -> tuple[Digits, int]:
    digits, run = STREAMS[name]
    return (((times * digits[0][0], digits[0][1]), *digits[1:]), run) if digits else (digits, times * run)


def modelled(spec: TargetSpec, digits: Digits, run: int, kind: type[Load | Store] = Load) -> float:
    """Clocks from when the first row is opened."""
    assert spec.dma is not None
    counts, strides = zip(*digits, (run // 2, 2), strict=True)
    time, _ = DmaCosts(spec, spec.dma).of(kind(0, 0, DType.F16, counts, strides, strides))
    return time.duration / spec.dram.clock_ps + spec.dram.cycles["nRCDRD" if kind is Load else "nRCDWR"]


@pytest.mark.parametrize("name", STREAMS)
def test_streams_without_refresh(name: str) -> None:
    digits, run = STREAMS[name]
    spec = load_target("npu", ["dram.refresh=false"])
    assert modelled(spec, digits, run) == pytest.approx(clocks(spec.dram, digits, run), rel=0.02)


@pytest.mark.parametrize("name", ["rows of one channel", "narrow rows, a power of two apart", "rows of one bank"])
def test_refresh_takes_its_share(name: str) -> None:
    """Of streams of several tREFI; twice as long, so that how many refreshes they meet matters little."""
    digits, run = times_longer(name, 2)
    spec = load_target("npu", ["dram.refresh_order=all-banks"])
    assert modelled(spec, digits, run) == pytest.approx(clocks(spec.dram, digits, run), rel=0.02)


@pytest.mark.parametrize("name", STREAMS)
def test_refresh_of_ranks_in_turn(name: str) -> None:
    """To a controller that goes on with bursts of the other rank it knows of."""
    digits, run = times_longer(name, LONG[name])
    spec = load_target("npu")
    exact, found = clocks(spec.dram, digits, run), modelled(spec, digits, run)
    assert 0.98 * exact <= found <= 1.02 * exact


CONFLICTS: dict[str, tuple[Digits, int]] = {
    "two rows of each turn of the banks": (((128, MIB), (2, 29128)), 2170),
    "every fourth row of a bank": (((128, 26368), (3, 2816)), 256),
    "rows of two banks in turn": (((64, 512 * KIB),), 32 * KIB),
    "one bank, another row each time": (((64, MIB),), 32 * KIB),
}


@pytest.mark.parametrize("kind", [Load, Store])
@pytest.mark.parametrize("name", CONFLICTS)
def test_rows_of_one_bank_close_after_each_other(name: str, kind: type[Load | Store]) -> None:
    """Sums over banks do not tell: they have rows alike, but one after the other. Writes hold rows open for longer."""
    digits, run = CONFLICTS[name]
    spec = load_target("npu", ["dram.refresh=false"])
    exact = clocks(spec.dram, digits, run, writes=kind is Store)
    assert modelled(spec, digits, run, kind) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("kind", [Load, Store])
def test_rows_that_soon_come_around_to_their_banks(kind: type[Load | Store]) -> None:
    """All channels read the same rows, each from another place on: a few stand for the others."""
    spec, digits, run = load_target("npu"), ((6000, 89 * KIB),), 1280
    phases = [spec.dram.cycles["nREFI"] * part // 8 for part in (1, 5)]
    exact = clocks(spec.dram, digits, run, phases, writes=kind is Store)
    assert modelled(spec, digits, run, kind) == pytest.approx(exact, rel=0.02)
    told, _ = copy_time(spec).of((*digits, (run // 2, 2)), 2, 6000 * run // 2, writes=kind is Store)
    assert told * 1e12 / spec.dram.clock_ps == pytest.approx(exact, rel=0.1)


def random_stream(spec: TargetSpec, random: Random) -> tuple[Digits, int]:
    """Up to three loops around runs of 64 bytes to 64 KiB, with strides of whole rows or not; of 4 to 8 tREFI."""
    assert spec.dma is not None
    costs = DmaCosts(spec, spec.dma)
    while True:
        run = random.choice([2 ** random.randint(6, 16), 2 * int(2 ** random.uniform(5, 15))])
        digits: list[tuple[int, int]] = []
        span = run
        for _ in range(random.choice([1, 1, 1, 2, 2, 3])):
            stride = random.choice(
                [
                    span * random.randint(1, 8) + random.choice([0, 64, 256, KIB, 2 * KIB]),
                    2 ** (span - 1).bit_length() * 2 ** random.randint(0, 5),
                    64 * (span + random.randrange(1, 20 * span)) // 64,
                ]
            )
            digits.insert(0, (random.choice([3, 4, 12, 32, 100, 128, 300, 512, 1000, 2048]), stride // 64 * 64 + 64))
            span = digits[0][0] * digits[0][1]
        counts, strides = zip(*digits, (run // 2, 2), strict=True)
        asked = traffic(costs.memory, tuple(zip(counts, strides, strict=True)), 2)
        long = 4 * spec.dram.cycles["nREFI"] // spec.dram.burst_cycles
        if long <= asked.busiest <= 2 * long and asked.accesses < 150_000:
            return tuple(digits), run


@pytest.mark.parametrize("kind", [Load, Store])
@pytest.mark.parametrize("changes", [("refresh=false",), (), ("ranks=4", "channels=16")], ids=",".join)
def test_walks_are_those_of_the_plain_engine(changes: tuple[str, ...], kind: type[Load | Store]) -> None:
    """To the clock, whatever holds bursts up: short runs in few banks, some of them in turn, and refresh meanwhile."""
    spec, random, late = load_target("npu", [f"dram.{change}" for change in changes]), Random(3), 0
    dram = dram_of(spec.dram, memory_of(spec), writes=kind is Store)
    refresh = dram.in_turn
    for _ in range(16):
        run, row, turn = 64 * random.randint(1, 40), KIB * random.randint(1, 6), MIB >> random.randint(0, 3)
        digits = ((random.randint(20, 60), turn + random.choice([0, 64, KIB])), (random.randint(2, 4), row * 40 + 64))
        found = stretches(Nest(run, digits[::-1]), dram.memory)
        phase = random.randrange(refresh.interval) if refresh else None
        clocks = walk(found, dram.rows, refresh, refresh.apart - phase) if refresh and phase is not None else None
        asked = requests(spec.dram, digits, run)
        exact = {
            Channel(spec.dram, phase, writes=kind is Store).serve(each) - dram.rows.opening for each in asked if each
        }
        assert set(walk(found, dram.rows) if clocks is None else clocks) == exact
        late += max(exact) > 1.01 * found.totals.max() * dram.rows.burst
    assert late >= 8


@pytest.mark.parametrize("kind", [Load, Store])
@pytest.mark.parametrize("target", ["cent", "npu"])
@pytest.mark.parametrize("refresh", ["true", "false"])
def test_one_row_of_each_channel_takes_its_bursts(refresh: str, target: str, kind: type[Load | Store]) -> None:
    """That is told without a look at rows, and comes to what the look would tell, refresh of ranks in turn apart."""
    spec, random = load_target(target, [f"dram.refresh={refresh}"]), Random(4)
    dram = dram_of(spec.dram, memory_of(spec), writes=kind is Store)
    memory = dram.memory
    for _ in range(50):
        run = random.randint(memory.access_bytes + 1, random.choice([1, memory.channels]) * memory.row_bytes)
        clocks = walked(stretches(Nest(run, ()), memory), dram.rows, None, 1)
        assert moving_ps(dram, ((run, 1),), 1) == dram.ps(dram.refreshed(clocks))


@pytest.mark.parametrize("kind", [Load, Store])
@pytest.mark.parametrize("changes", [(), ("ranks=4", "channels=16"), ("refresh_order=all-banks",)], ids=",".join)
@pytest.mark.parametrize("piece", [32 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB])
def test_pieces_of_a_stream_take_what_it_takes(piece: int, changes: tuple[str, ...], kind: type[Load | Store]) -> None:
    """One after the other through a queue. A long stream is in step with refreshes: it loses more than 6.7% to them, or
    less, and so do its pieces."""
    spec = load_target("npu", [f"dram.{change}" for change in changes])
    costs, total, phases = costs_of(spec), 32 * MIB, [spec.dram.cycles["nREFI"] * part // 8 for part in (1, 3, 5, 7)]
    queue = DmaTimer(spec.dram.clock_ps, costs, Resource(DATA_BUS), 0)
    command = kind(0, 0, DType.F16, (piece // 2,), (2,), (2,))
    ended = [queue.issue(command, 0).done for _ in range(total // piece)][-1]
    latency = costs.read_latency if kind is Load else costs.write_latency
    exact = clocks(spec.dram, (), total, phases, writes=kind is Store)
    assert (ended - latency) / spec.dram.clock_ps == pytest.approx(exact, rel=0.005)


IN_STEP = {
    "contiguous": (MIB, ()),
    "2 KiB of 28": (2 * KIB, (28 * KIB,)),
    "8 KiB of 28": (8 * KIB, (28 * KIB,)),
    "a third of 1.5 KiB": (512, (1536,)),
    "rows of a panel": (512, (8 * KIB,)),
    "heads of tokens": (256, (KIB, 8 * KIB)),
}
"""Runs, and strides around them."""


@pytest.mark.parametrize("changes", [(), ("ranks=4",)], ids=",".join)
@pytest.mark.parametrize("name", IN_STEP)
def test_streams_fall_into_step_with_refreshes(name: str, changes: tuple[str, ...]) -> None:
    """What they lose of 60 tREFI is what one channel loses that is walked through: between 3 % and 13 %."""
    spec = load_target("npu", [f"dram.{change}" for change in changes])
    dram, (run, strides) = dram_of(spec.dram, memory_of(spec)), IN_STEP[name]
    assert dram.in_turn
    stream = endless(Nest(run, tuple((4, stride) for stride in strides)), dram.memory)
    assert stream
    found = stretches(stream, dram.memory)
    ranks = dram.in_turn.ranks_of(found.rows)
    *inner, (turns, stride) = stream.rest or ((1, stream.run),)
    turns *= -(-60 * dram.interval // (int(found.totals.max()) * dram.rows.burst))
    long = stretches(Nest(stream.run, (*inner, (turns, stride))), dram.memory)
    one = long.of([int(long.totals.argmax())])
    walked_through = walk(one, dram.rows, dram.in_turn, dram.in_turn.apart).max()
    loss = 1 - int(one.totals.max()) * dram.rows.burst / walked_through
    assert lost(cycle_of(found, ranks, dram.rows.burst), dram.rows, dram.in_turn) == pytest.approx(loss, abs=0.004)


@pytest.mark.parametrize("refresh_order", ["staggered-ranks", "all-banks"])
def test_no_copy_takes_less_than_its_bytes(refresh_order: str) -> None:
    """Contiguous ones take what they take as a part of a stream; only their ends are on channels of their own."""
    spec, random = load_target("npu", [f"dram.refresh_order={refresh_order}"]), Random(10)
    copies = copy_time(spec)
    ends = spec.dram.row_bytes // spec.dram.access_bytes * spec.dram.cycles["nBL"] * spec.dram.clock_ps * 1e-12
    for _ in range(100):
        run, count, gap = 2 * random.randint(32, 20_000), random.randint(2, 500), random.randrange(1, 200) * 64
        digits, moved = ((count, run + gap), (run // 2, 2)), count * run
        assert copies.least(moved) <= copies.of(digits, 2, moved // 2)[0]
        contiguous = copies.of(((moved // 2, 2),), 2, moved // 2)[0]
        assert contiguous - 1.1 * ends <= copies.stream(moved) <= contiguous


BLOCKS: dict[str, tuple[int, int, Digits, int]] = {
    "32 tokens of 8 heads": (243, 64 * KIB, (), 64 * KIB),
    "one head of 32 tokens of 8": (800, 64 * KIB, ((32, 2 * KIB),), 256),
    "one head of 16 tokens of 32": (500, 128 * KIB, ((16, 8 * KIB),), 256),
    "8 tokens of a head": (3000, 2 * KIB, (), 2 * KIB),
    "256 tokens of 8 heads": (30, 512 * KIB, (), 512 * KIB),
}


def of_blocks(spec: TargetSpec, count: int, block: int, digits: Digits, run: int, kind: type[Load | Store]) -> float:
    """Clocks from when the first row is opened."""
    assert spec.dma is not None
    counts, strides = zip((count, block), *digits, (run // 2, 2), strict=True)
    command = (LoadBlocks if kind is Load else StoreBlocks)(0, 0, DType.F16, counts, strides, strides, block)
    opening = spec.dram.cycles["nRCDRD" if kind is Load else "nRCDWR"]
    return DmaCosts(spec, spec.dma).of(command)[0].duration / spec.dram.clock_ps + opening


def of_rows(spec: TargetSpec, count: int, row: int, table: int) -> float:
    """Clocks from when the first row is opened."""
    assert spec.dma is not None
    command = Gather("dram", 0, DType.F16, (table,), (row,), (row // 2,), (2,), 0, DType.I64, 8, count, 0, row, table)
    return DmaCosts(spec, spec.dma).of(command)[0].duration / spec.dram.clock_ps + spec.dram.cycles["nRCDRD"]


def expected(
    spec: TargetSpec, tables: Sequence[Sequence[int]], digits: Digits, run: int, kind: type[Load | Store] = Load
) -> float:
    """The mean of the plain engine over tables of places, each with another begin in the refresh interval."""
    interval, count = spec.dram.cycles["nREFI"], len(tables)
    phases = [interval * (2 * part + 1) // (2 * count) for part in range(count)]
    return mean(
        clocks(spec.dram, digits, run, [phase], writes=kind is Store, places=table)
        for phase, table in zip(phases, tables, strict=True)
    )


def shuffled(random: Random, count: int, block: int, tables: int) -> list[list[int]]:
    """Where blocks lie in a pool of twice as many."""
    return [[place * block for place in random.sample(range(2 * count), count)] for _ in range(tables)]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_lie_anywhere(name: str) -> None:
    """On average over tables and begins, which differ by 2 % and more among each other: eight leave an error of 1 %."""
    count, block, digits, run = BLOCKS[name]
    spec, tables = load_target("npu"), shuffled(Random(5), count, block, 8)
    exact = expected(spec, tables, digits, run)
    assert of_blocks(spec, count, block, digits, run, Load) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize(("row", "count"), [(1536, 1000), (8192, 500), (10240, 256)])
def test_rows_that_indices_choose(row: int, count: int) -> None:
    """Of a table of 50,000; some channels have more of them than others. Twenty tables leave an error of 1 %."""
    spec, random = load_target("npu"), Random(6)
    tables = [[random.randrange(50000) * row for _ in range(count)] for _ in range(20)]
    assert of_rows(spec, count, row, 50000) == pytest.approx(expected(spec, tables, (), row), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Load, Store])
def test_random_blocks(kind: type[Load | Store]) -> None:
    """All of a block of 8 to 256 tokens, or one head of it, from 1 tREFI on."""
    spec, random = load_target("npu"), Random(8)
    for _ in range(5):
        tokens, heads, size = (
            random.choice([8, 16, 32, 64, 256]),
            random.choice([2, 4, 8, 32]),
            random.choice([64, 128]),
        )
        block, one = tokens * heads * size * 2, random.random() < 0.5
        digits, run = (((tokens, heads * size * 2),), 2 * size) if one else ((), block)
        count = -(-random.randint(130_000, 200_000) * 32 // (block // heads if one else block))
        exact = expected(spec, shuffled(random, count, block, 40), digits, run, kind)
        assert of_blocks(spec, count, block, digits, run, kind) == pytest.approx(exact, rel=0.025)


@pytest.mark.slow
def test_random_rows_that_indices_choose() -> None:
    """From 2,000 clocks on."""
    spec, random = load_target("npu"), Random(9)
    for _ in range(4):
        row, table = (
            random.choice([1536, 4096, 8192, 14336, 64 * random.randint(24, 224)]),
            random.choice([1000, 128256]),
        )
        count = random.randint(2_200_000, 6_000_000) // row
        tables = [[random.randrange(table) * row for _ in range(count)] for _ in range(50)]
        assert of_rows(spec, count, row, table) == pytest.approx(expected(spec, tables, (), row), rel=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Load, Store])
@pytest.mark.parametrize(
    "changes",
    [(), ("channels=8",), ("ranks=4", "channels=16"), ("ranks=1", "channels=1")],
    ids=lambda changes: ",".join(changes) or "npu",
)
def test_random_streams(changes: tuple[str, ...], kind: type[Load | Store]) -> None:
    """Of at most 150,000 bursts, on average over when they begin; what many more show is in docs/accuracy.md."""
    spec = load_target("npu", [f"dram.{change}" for change in changes])
    random, phases = Random(7), [spec.dram.cycles["nREFI"] * part // 8 for part in (1, 5)]
    for _ in range(8):
        digits, run = random_stream(spec, random)
        exact = clocks(spec.dram, digits, run, phases, writes=kind is Store)
        assert modelled(spec, digits, run, kind) == pytest.approx(exact, rel=0.02)
