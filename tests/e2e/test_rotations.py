"""Rotations of heads on the tiles of projections: values stay right however a product is cut, and heads stay whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pimc.backends.dma.copy import transferred
from pimc.backends.races import check_races
from pimc.driver import Result
from pimc.ir.facts import Epilogue, Tile
from tests.e2e import chains
from tests.e2e.chains import SETTINGS

HEADS = """model heads(rows = 200)
let half = {half}
let h = 6
let g = 2
let k = 260
input x: f16[{batch}, rows, k]
input c: f16[{tables}, rows, half]
input s: f16[{tables}, rows, half]
weight q: f16[k, 2 * h * half]
weight b: f16[2 * h * half]
weight p: f16[k, 2 * g * half]
let a = transpose(reshape(x @ q + b, [{batch}, rows, h, 2 * half]), perm = [0, 2, 1, 3])
let e = transpose(reshape(x @ p, [{batch}, rows, g, 2 * half]), perm = [0, 2, 1, 3])
output y = rotary(a, c, s)
output z = rotary(e, c, s, interleaved = true) * 2.0
"""
run = partial(chains.run, "fuse-epilogues")


def heads(half: int = 32, batch: int = 1, tables: int = 1) -> str:
    return HEADS.format(half=half, batch=batch, tables=tables)


def on_tiles(result: Result) -> list[str]:
    return [node.op.name for node in result.graph.scheduled() if node.fact(Epilogue) is not None]


BOTH = ["add", "reshape", "transpose", "rotary", "reshape", "transpose", "rotary"]


@pytest.mark.parametrize("shape", [(32, 1, 1), (24, 3, 1), (64, 2, 2)], ids=["plain", "odd", "tables"])
@pytest.mark.parametrize("overrides", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("target", ["npu", "npu-server", "tpuv3"])
def test_values_are_right(tmp_path: Path, target: str, overrides: list[str], shape: tuple[int, int, int]) -> None:
    found = run(tmp_path, heads(*shape), target, "on", overrides, 200, "wide")
    assert on_tiles(found) == BOTH
    check_races(found.program)
    chains.check_values(found)


@pytest.mark.parametrize("target", ["npu", "tpuv3"])
def test_values_are_right_in_the_formats_of_the_device(tmp_path: Path, target: str) -> None:
    found = run(tmp_path, heads(), target, "on", form="device")
    chains.check_values(found)


@pytest.mark.parametrize("setting", SETTINGS)
def test_tiles_have_whole_heads(tmp_path: Path, setting: str) -> None:
    found = run(tmp_path, heads(half=24), "npu-server", "on", SETTINGS[setting])
    tiles = [node.fact(Tile) for node in found.graph.scheduled() if node.op.name == "matmul"]
    assert [tile is not None and tile.n % 48 for tile in tiles] == [0, 0]


@pytest.mark.parametrize("target", ["npu", "tpuv3"])
def test_a_rotation_beside_the_arrays_takes_less_time_and_spares_memory(tmp_path: Path, target: str) -> None:
    text = heads(half=64).replace("k = 260", "k = 4096").replace("h = 6", "h = 32")
    apart, beside = (run(tmp_path, text, target, use, rows=512) for use in ("off", "auto"))
    assert on_tiles(apart) == []
    assert "rotary" in on_tiles(beside)
    assert beside.report is not None
    assert apart.report is not None
    assert beside.report.seconds < apart.report.seconds
    assert moved(beside) <= moved(apart)


@pytest.mark.parametrize("rows", [1, 128])
def test_rows_that_are_there_at_once_are_turned_behind_the_product(tmp_path: Path, rows: int) -> None:
    assert "rotary" not in on_tiles(run(tmp_path, heads(), "npu", "on", rows=rows))


def test_what_others_read_before_it_turns_is_computed_by_itself(tmp_path: Path) -> None:
    text = heads() + "output w = a\noutput v = e + 1.0\n"
    assert on_tiles(run(tmp_path, text, "npu", "on")) == ["add"]


def test_heads_that_turn_in_part_are_computed_behind_the_product(tmp_path: Path) -> None:
    text = heads().replace("rows, half]", "rows, half / 2]")
    found = run(tmp_path, text, "npu", "on", form="wide")
    assert on_tiles(found) == ["add"]
    chains.check_values(found)


def moved(result: Result) -> int:
    """Bytes that the streams copy from and to memory."""
    return sum(transferred(stream.items) for stream in result.program.streams)
