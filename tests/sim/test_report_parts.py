"""The parts of a report that a page draws agree with what the engines counted and with the memory map."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pimc
from pimc.backends.roofs import roofs_of
from pimc.backends.state import DramGeometry
from pimc.driver import Result
from pimc.ir.layout import Layout
from pimc.sim.report import Report
from pimc.sim.residence import _cells
from pimc.sim.timeline import LEVELS, NOTHING, WINDOW

MODELS = Path(__file__).parents[2] / "models"
TARGETS = ("npu", "neupims", "newton", "cent")


@cache
def result(target: str, past: int = 40) -> Result:
    return pimc.compile(MODELS / "tiny-llama.pimc", target, dims={"batch": 4, "past": past})


def report(target: str) -> Report:
    found = result(target).report
    assert found is not None
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_the_time_line_has_all_the_work(target: str) -> None:
    found = report(target)
    assert found.timeline is not None
    busy = {e.name: e.busy for e in found.engines}
    for lane in found.timeline.lanes:
        assert len(lane.level) == len(lane.kind)
        levels = [LEVELS.index(c) / (len(LEVELS) - 1) for c in lane.level]
        assert sum(levels) / len(levels) * found.seconds == pytest.approx(busy[lane.engine], rel=0.06, abs=2e-9)
        letters = {c for c in lane.kind if c != NOTHING}
        assert all(ord(c) - ord("a") < len(found.timeline.kinds) for c in letters)
    assert {lane.engine for lane in found.timeline.lanes} == {e.name for e in found.engines if e.busy}


@pytest.mark.parametrize("target", TARGETS)
def test_the_detail_is_one_of_the_layers(target: str) -> None:
    found = report(target)
    assert found.timeline is not None
    detail = found.timeline.detail
    assert detail is not None
    assert detail.layers == 2
    assert found.seconds / 4 < detail.seconds < found.seconds / 1.5
    shown = {found.ops[op].op for lane in detail.lanes for op, _, _ in lane.slices}
    assert {"matmul", "cache_append", "rms_norm"} <= shown
    assert any(name.startswith("attention") for name in shown)
    for lane in detail.lanes:
        assert all(0 <= start <= end <= WINDOW for _, start, end in lane.slices)


@pytest.mark.parametrize("target", TARGETS)
def test_banks_hold_what_the_memory_map_says(target: str) -> None:
    found = report(target)
    dram = next(m for m in found.memory if m.space == "dram")
    assert found.banks is not None
    assert sum(sum(row) for row in found.banks.resident) == sum(dram.roles.values())
    assert (len(found.banks.resident), len(found.banks.resident[0])) == (found.banks.banks, found.banks.channels)
    assert dram.capacity is not None
    assert all(0 <= s.start < s.end <= dram.peak <= dram.capacity for s in dram.stretches)
    assert sum(t.bytes for t in dram.largest) <= sum(dram.roles.values())
    assert any(t.name == "layer.*.mlp.w_up" and t.count == 2 for t in dram.largest)


def test_channels_have_the_columns_that_are_multiplied() -> None:
    """Every MAC of an AiM device is for all banks of a channel: the streams name as many as the simulator counts."""
    found = report("cent")
    assert found.channels is not None
    (pim,) = (e for e in found.engines if e.kind == "pim")
    assert sum(found.channels.columns) == pim.counters["MAC16"]
    assert found.channels.busy == ()


def test_channels_of_a_stream_each_have_their_commands_and_time() -> None:
    found = report("newton")
    assert found.channels is not None
    (pim,) = (e for e in found.engines if e.kind == "pim")
    synchronisation = pim.commands - sum(found.channels.commands)
    assert 0 < sum(found.channels.columns) >= pim.counters["COMP"]
    assert synchronisation >= 0
    assert sum(found.channels.busy) / pim.instances == pytest.approx(pim.busy)
    assert report("npu").channels is None


@pytest.mark.parametrize("target", TARGETS)
def test_moves_are_the_bytes_that_are_counted(target: str) -> None:
    found = report(target)
    by_way = Counter[tuple[str, str]]()
    for move in found.moves:
        by_way[move.source, move.destination] += move.bytes
    assert by_way["DRAM", "on-chip buffer"] == found.bytes_moved["bytes read"]
    assert by_way["on-chip buffer", "DRAM"] == found.bytes_moved["bytes written"]


def test_multipliers_read_each_weight_of_a_product_once() -> None:
    """A matrix-vector product in the banks of `cent`: what goes to the multipliers is the matrix, in whole columns."""
    found = pimc.compile(MODELS / "bench/gemv.pimc", "cent", dims={"K": 4096, "N": 4096}).report
    assert found is not None
    (to_multipliers,) = (m for m in found.moves if m.destination == "multipliers")
    assert to_multipliers.bytes == 4096 * 4096 * 2


def test_roofs_are_peaks_of_the_machines() -> None:
    """NeuPIMs: 8 arrays of 128x128 at 1 GHz, HBM of 32 channels with 64 B every 2 ns. CENT: 16 TFLOP/s a device."""
    roofs = {(r.engine, r.name): r for r in roofs_of(pimc.load_target("neupims"))}
    arrays = roofs["npu", "arrays"]
    assert (arrays.flops, arrays.bandwidth) == (2 * 8 * 128 * 128 * 1e9, 32 * 64 / 2 * 1e9)
    cent = {r.engine: r for r in roofs_of(pimc.load_target("cent"))}
    assert cent["pim"].flops == 2 * 16 * 16 * 32 * 1e9
    assert cent["pim"].bandwidth == cent["pim"].flops


@pytest.mark.parametrize("target", TARGETS)
def test_no_op_is_above_the_peak_of_its_engine(target: str) -> None:
    found = report(target)
    peaks = {e: max(r.flops for r in found.roofs if r.engine == e) for e in {r.engine for r in found.roofs}}
    for op in found.ops:
        if op.seconds and op.flops:
            assert op.flops / op.seconds <= peaks[op.engine]


@pytest.mark.parametrize("target", TARGETS)
def test_ops_say_what_they_cost_elsewhere_and_passes_what_they_left(target: str) -> None:
    made = result(target)
    found = report(target)
    for op in found.ops:
        able = {engine: cost for engine, cost in op.costs.items() if not isinstance(cost, str)}
        if op.costs:
            assert able[op.engine] == min(able.values())
        for engine, cost in op.costs.items():
            assert isinstance(cost, float) or engine != op.engine
    assert target == "npu" or any(len(op.costs) > 1 for op in found.ops)
    assert [p.name for p in found.passes][-1] == "emit"
    assert found.passes[-1].ops == len(made.program.ops) == len(found.ops)
    assert found.passes[0].name == "bind"


def test_the_command_gives_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a report says to type has the same result."""
    import shlex

    from pimc.cli import main

    monkeypatch.chdir(MODELS)
    options = {"dims": {"batch": 2}, "overrides": ("system.devices=2",), "parallel": {"tp": 2}}
    first = pimc.compile("tiny-llama.pimc", "neupims", pass_options=("place.only=npu",), **options)  # type: ignore[arg-type]
    program, *words = shlex.split(first.program.command)
    assert program == "pimc"
    path = tmp_path / "again.pimprog"
    with pytest.raises(SystemExit) as ended:
        main([*words, "-o", str(path), "-q"])
    assert ended.value.code == 0
    pimc.save_program(first.program, tmp_path / "first.pimprog")
    assert path.read_bytes() == (tmp_path / "first.pimprog").read_bytes()


def test_commands_name_no_folders_of_the_user() -> None:
    assert result("npu").program.command.startswith("pimc compile tiny-llama.pimc -t npu ")


# -- where bytes lie --------------------------------------------------------------------------------------------------

DIGITS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 700)), min_size=1, max_size=3)


@given(st.integers(0, 3000), st.lists(DIGITS, min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 4))
def test_cells_count_every_byte_of_every_element(
    offset: int, dims: list[list[tuple[int, int]]], channels: int, banks: int
) -> None:
    """Against addresses one by one. Broadcast digits (stride 0) count once."""
    geometry = DramGeometry(channels, banks, 1024, 64)
    layout = Layout(offset, (*(tuple(d) for d in dims), ((2, 1),)))
    expected = np.zeros(channels * banks, np.int64)
    digits = [(c, s) for d in layout.dims for c, s in d if s]
    for index in product(*(range(c) for c, _ in digits)):
        address = offset + sum(i * s for i, (_, s) in zip(index, digits, strict=True))
        expected[address // 64 % (channels * banks)] += 1
    assert _cells(layout, geometry).tolist() == expected.tolist()
