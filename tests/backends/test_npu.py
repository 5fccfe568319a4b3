"""The NPU: products on the array in any layout, the tile search, and the published cycle formulas."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pimc.backends.dma.banks import RowTimes
from pimc.backends.dma.moving import Dram
from pimc.backends.dma.timing import CopyTime
from pimc.backends.dma.traffic import Memory
from pimc.backends.npu.array import ArrayTime
from pimc.backends.npu.candidates import Room, Search
from pimc.backends.npu.extents import Extents, Side
from pimc.backends.npu.isa import Drain, Fence, Matmul, Preload, Vec
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.tile_search import _run, best_tiles
from pimc.backends.npu.timing import NpuTimer, make_timer, tree_levels
from pimc.backends.program import steps
from pimc.backends.target_registry import load_target
from pimc.backends.vector import plain
from pimc.ir.types import DType
from tests.backends.kernel_cases import PLACES, PRODUCTS, Case
from tests.backends.kernel_harness import Machine as Machines
from tests.backends.kernel_harness import check, floats, machine, run

CLOCK = 1000


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_products(case: Case) -> None:
    for operands, result, scratch in (*PLACES, ("dram", "dram", 1 << 20)):
        check(run(machine("npu", scratch), case.op, case.arrays, case.attributes, operands, result, case.known))


@pytest.mark.parametrize(
    ("scratch", "rows", "depth", "columns"), [(1 << 20, 200, 300, 260), (1 << 16, 200, 300, 260), (1 << 13, 70, 90, 80)]
)
def test_blocks_and_rests(scratch: int, rows: int, depth: int, columns: int) -> None:
    outcome = run(machine("npu", scratch), "matmul", [floats(rows, depth), floats(depth, columns)])
    check(outcome)
    assert outcome.commands <= 60


@pytest.mark.parametrize("scratch", [46080, 48128])
def test_results_share_places_where_there_is_no_room_for_more(scratch: int) -> None:
    """The last columns are cut otherwise than those of the other tiles."""
    small = Machines(load_target("npu-scalesim", ["array.dataflow=os"]), "npu", scratch)
    check(run(small, "matmul", [floats(7, 15), floats(15, 736)]))


@pytest.mark.parametrize("dataflow", ["ws", "is", "os"])
def test_what_stays_is_what_the_dataflow_says(dataflow: str) -> None:
    """Of a [4, 256] times [256, 512], blocks of the weight are wide, and those of the activation have 4 columns."""
    at = Machines(load_target("npu", [f"array.dataflow={dataflow}"]), "npu", 1 << 20)
    outcome = run(at, "matmul", [floats(4, 256), floats(256, 512)])
    check(outcome)
    blocks = {type(s.command).__name__: s.command for s in steps(outcome.items)}
    assert ("MatmulOs" in blocks) == (dataflow == "os")
    if dataflow != "os":
        matmul = blocks["Matmul"]
        assert isinstance(matmul, Matmul)
        assert (plain(matmul.rows) <= 4) == (dataflow == "ws")


def test_grouped_heads_share_a_block() -> None:
    """8 query heads on 2 kv heads, one query each: two products of 4 rows."""
    arrays = [floats(1, 8, 1, 32), floats(1, 2, 40, 32)]
    outcome = run(machine("npu", 1 << 20), "attention_scores", arrays, {"scale": 1.0})
    check(outcome)
    assert all(4 in (s.command.rows, s.command.columns) for s in steps(outcome.items) if isinstance(s.command, Matmul))


ARRAYS = ArrayTime(128, 128, 8, 4, 0, False, 128, 255, 128, 254, 0)
HBM = Dram(Memory(32, 1024, 64, banks=32), RowTimes(32, 2, 14, 14, 34, 6, 4, 30), clock_ps=1000)
MACHINE = Machine(ARRAYS, False, "search", 10**9, 1 << 26, 1024, CopyTime(HBM, HBM, 1 / 4096e9, 28e-9))


@pytest.mark.parametrize(("t", "s", "k"), [(4096, 64, 4096), (2048, 4096, 4096), (16384, 64, 4096), (50000, 3, 7)])
def test_tiles_fit_and_reach_the_array_or_the_memory(t: int, s: int, k: int) -> None:
    """A row-major weight [k, t] streamed past an activation [s, k], as in decoding; 1024 bytes a ns."""
    weight = Side(((t, 2),), ((k, 2 * t),))
    product = Extents(t, s, k, 2, weight, Side(((s, 2 * k),), ((k, 2),)), Side(((t, 2),), ((s, 2 * t),)))
    tiles = best_tiles(MACHINE, product, 1 << 25)
    assert tiles is not None
    visits = -(-s // 128) * -(-k // 128) * max(128, -(-t // 8)) / 1e9
    moved = 2 * (t * k + s * k + t * s) / 1024e9
    assert tiles.seconds <= 1.3 * max(visits, moved) + 1e-6


def test_tiles_avoid_busy_channels() -> None:
    """Narrow tiles of a weight whose rows are a multiple of all channels' rows would lie on few channels."""
    weight = Side(((16384, 2),), ((4096, 2 * 16384),))
    tiles = best_tiles(MACHINE, Extents(16384, 64, 4096, 2, weight, None, None), 1 << 25)
    assert tiles is not None
    assert tiles.t == 16384


def _random_product(rng: random.Random) -> Extents:
    t, s, k = (rng.choice([1, 4, 64, 100, 128, 300, 1024, 4096]) for _ in range(3))
    streamed, stationary, out = (
        rng.choice([None, Side(((rows, 2 * columns),), ((columns, 2),)), Side(((rows, 2),), ((columns, 2 * rows),))])
        for rows, columns in ((t, k), (s, k), (t, s))
    )
    epilogue = rng.choice([(0, 0, 0.0, 1, 1), (4, 8, 1e-12, 1, 4), (0, 21, 5e-12, 1, s)])
    led, led_bytes, before = rng.choice([("", 0, 0.0), ("", 0, 0.0), ("t", 4, 3e-12)])
    return Extents(
        t, s, k, 2, streamed, stationary, out, rng.choice([1, 1, 3]), *epilogue,
        stays=rng.choice(["", "", "t", "ts"]), cuts_k=rng.choice([0, k]), led=led, led_bytes=led_bytes, before=before,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_what_the_search_leaves_out_is_not_better(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither candidates that are seen to be beaten, nor rooms in which no other ones fit, change what is found."""
    rng = random.Random(seed)
    product, most = _random_product(rng), rng.choice([None, (64, 128, 4096)])
    arrays = replace(MACHINE, sums_stay=rng.random() < 0.2, clock=rng.choice([10**9, 10**7]))
    rooms = [size + more for size in (1 << 16, 1 << 19, 1 << 21, 1 << 24) for more in (0, 512)]
    rng.shuffle(rooms)
    found = [best_tiles(arrays, product, room, most) for room in rooms]
    for room, tiles in zip(rooms, found, strict=True):
        search = Search(arrays, product, Room(room))
        with monkeypatch.context() as patch:
            patch.setattr(Search, "beaten", lambda *_, **__: False)
            _run(search, most or (product.t, product.s, product.k))
        assert search.best == tiles


@pytest.mark.parametrize("seed", range(40))
def test_where_the_search_ends_early_little_is_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of skinny products that loads limit."""
    rng = random.Random(seed)
    rows, (s, k) = rng.choice([1, 2, 4, 16, 64]), rng.choices([256, 1024, 1536, 4096, 5120, 11008, 14336], k=2)
    weight = rng.choice([Side(((s, 2 * k),), ((k, 2),)), Side(((s, 2),), ((k, 2 * s),))])
    activation, out = Side(((rows, 2 * k),), ((k, 2),)), Side(((rows, 2 * s),), ((s, 2),))
    searches = [Search(MACHINE, Extents(rows, s, k, 2, activation, weight, out), Room(1 << 26)) for _ in range(2)]
    _run(searches[0], (rows, s, k))
    monkeypatch.setattr(Search, "stream", 0.0)
    _run(searches[1], (rows, s, k))
    assert searches[1].least <= searches[0].least <= 1.02 * searches[1].least


def test_an_operand_that_stays_where_it_is_leaves_its_room_to_the_other() -> None:
    """An activation of 4 MiB on chip, and 4 MiB for tiles: the weight comes once, as where memory is plenty."""
    weight = Side(((4096, 2 * 4096),), ((4096, 2),))
    product = Extents(512, 4096, 4096, 2, None, weight, None)
    copied, stays, plenty = (
        best_tiles(MACHINE, e, room)
        for e, room in ((product, 1 << 22), (replace(product, stays="t"), 1 << 22), (product, 1 << 27))
    )
    assert copied is not None
    assert stays is not None
    assert plenty is not None
    assert copied.seconds > 2 * plenty.seconds
    assert stays.seconds < 1.01 * plenty.seconds


# -- time ------------------------------------------------------------------------------------------------------------


def one_array(arrays: int = 1) -> NpuTimer:
    spec = load_target("npu", [f"npu.array.count={arrays}"])
    engine = next(e for e in spec.engines() if e.kind == "npu")
    return make_timer(spec, engine, {})


def product(rows: int, blocks: int) -> Iterator[Preload | Matmul]:
    for _ in range(blocks):
        yield Preload(src=0, dtype=DType.F16, k=128, columns=128, k_stride=256, column_stride=2)
        yield Matmul(
            src=0, dtype=DType.F16, rows=rows, k=128, row_stride=256, k_stride=2, acc=0, columns=128, acc_row=512
        )


def finish(timer: NpuTimer, rows: int, blocks: int) -> int:
    done, ready = 0, 0
    for item in product(rows, blocks):
        issued = timer.issue(item, ready)
        ready, done = issued.free, max(done, issued.done)
    return done // CLOCK


@pytest.mark.parametrize(("rows", "blocks"), [(128, 1), (128, 4), (1, 5), (100, 7), (300, 3)])
def test_array_time_is_the_closed_form(rows: int, blocks: int) -> None:
    """ONNXim: (2H - 1) + all but the last of max(n, 4, H) + (H + W - 2 + max(n, 4))."""
    assert finish(one_array(), rows, blocks) == 255 + (blocks - 1) * max(rows, 128) + 254 + max(rows, 4)


def test_arrays_share_the_rows_of_a_stream() -> None:
    """NeuPIMs: 128 rows take 16 clocks on 8 arrays; complete 270 clocks after they began."""
    timer = one_array(8)
    preload, matmul = product(128, 1)
    loaded = timer.issue(preload, 0)
    first = timer.issue(matmul, loaded.free)
    second = timer.issue(matmul, first.free)
    assert (first.done - first.start) // CLOCK == 270
    assert (second.start - first.start) // CLOCK == 16


def test_drain_waits_for_the_products_and_fence_for_all() -> None:
    timer = one_array()
    matmul = list(product(128, 1))
    ready = timer.issue(matmul[0], 0).free
    products = timer.issue(matmul[1], ready)
    drain = Drain(acc=0, rows=128, columns=128, acc_row=512, dst=0, dst_type=DType.F16, dst_row=256, dst_column=2)
    drained = timer.issue(drain, products.free)
    assert drained.start == products.done
    assert (drained.done - drained.start) // CLOCK == 128 // 8
    assert timer.issue(Fence(), drained.free).done == drained.done


def vec(function: str, rows: int, columns: int) -> Vec:
    return Vec(
        function=function, form="a", rows=rows, columns=columns, dst=0, dst_type=DType.F16, dst_row=0, dst_column=2
    )


def test_vector_passes_scale_with_rows_and_columns() -> None:
    """8 units of 128 lanes."""
    timer = one_array()
    for rows, columns, cycles in ((1, 128, 1), (1, 129, 1), (8, 128, 1), (9, 128, 2), (1, 4096, 4), (64, 4096, 256)):
        issued = timer.issue(vec("exp", rows, columns), timer.vector_done)
        assert issued.busy == cycles * CLOCK


def test_tree_levels() -> None:
    assert [tree_levels(n, 128) for n in (1, 128, 129, 4096, 128 * 129)] == [1, 1, 3, 33, 129 + 2 + 1]


def test_state_can_be_shifted() -> None:
    early, late = one_array(), one_array()
    late.shift(10**6, 0)
    assert finish(late, 64, 3) >= finish(early, 64, 3)
    assert early.relative(5 * 10**5) == early.relative(5 * 10**5)
