"""Ops on the tiles of a product's left operand: the values stay right however it is cut, and arrays do not wait."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pimc.backends.races import check_races
from pimc.driver import Result
from pimc.execution import time_program
from pimc.ir.chains import keeps
from pimc.ir.facts import Prologue
from tests.e2e import chains
from tests.e2e.chains import SETTINGS

MODEL = """model led(rows = 300)
input x: f16[1, rows, 256]
input u: f16[1, rows, 256]
weight s: f16[256]
weight b: f16[256]
weight p: f16[256, 272]
weight q: f16[256, 264]
weight d: f16[256, 136]
weight c: f16[136]
let n = layer_norm(x, s, b, epsilon = 0.00001)
output first = relu(n @ p)
output second = n @ q
let g = silu(x) * u
output third = rms_norm(g @ d + c, c, epsilon = 0.001)
"""
NORM = """model norm(rows = 512)
input x: f16[rows, 1024]
input y: f16[rows, 1024]
weight s: f16[1024]
weight w: f16[1024, 4096]
output z = rms_norm(x + y, s, epsilon = 0.001) @ w
"""


run = partial(chains.run, "fuse-prologues")


def leaders(result: Result) -> dict[str, int]:
    """By op: its place before its product."""
    facts = ((node.op.name, node.fact(Prologue)) for node in result.graph.scheduled())
    return {name: fact.stage for name, fact in facts if fact is not None}


CASES = [("npu", settings) for settings in SETTINGS] + [("npu-server", "cores"), ("tpuv3", "plain")]


@pytest.mark.parametrize(("target", "settings"), CASES)
def test_values_are_right(tmp_path: Path, target: str, settings: str) -> None:
    found = run(tmp_path, MODEL, target, "on", SETTINGS[settings], form="wide")
    assert leaders(found) == {"layer_norm": 1, "mul": 1, "silu": 2}
    assert {n.op.name for n in found.graph.scheduled() if n.fact(Prologue) is not None and keeps(n)} == {"layer_norm"}
    chains.check_values(found)
    assert time_program(found.program).time == time_program(found.program, "plain").time


SHAPES = {
    "cast mul": """
input x: i8[rows, 256]
weight w: f16[256, 136]
output y = (cast(x, to = "f16") * 0.01) @ w
""",
    "mul add silu": """
input x: f16[3, rows, 256]
input r: f16[1, rows, 256]
input t: f16[3, 1, 256]
weight w: f16[256, 136]
output y = silu(x * r + t) @ w
""",
    "exp": """
input x: f16[3, rows, 256]
input w: f16[3, 256, 136]
output y = exp(x) @ w
""",
    "neg": """
input x: f16[256, rows]
input w: f16[256, 136]
output y = -transpose(x) @ w
""",
    "silu rms_norm mul": """
input x: f16[rows, 256]
weight s: f16[256]
weight w: f16[256, 256]
let n = rms_norm(silu(x), s, epsilon = 0.001) * 2.0
output y = rms_norm(n @ w + n, s, epsilon = 0.001)
""",
}


@pytest.mark.parametrize("overrides", [[], ["buffer.bytes=512KiB"]])
@pytest.mark.parametrize("ops", SHAPES)
def test_operands_of_all_kinds_lead_to_products(tmp_path: Path, ops: str, overrides: list[str]) -> None:
    found = run(tmp_path, f"model shape(rows = 140){SHAPES[ops]}", "npu", "on", overrides, form="wide")
    assert list(leaders(found)) == ops.split()
    chains.check_values(found)
    check_races(found.program)


@pytest.mark.parametrize("target", ["npu", "tpuv3"])
def test_values_are_right_in_the_formats_of_the_device(tmp_path: Path, target: str) -> None:
    found = run(tmp_path, MODEL, target, "on", form="device")
    chains.check_values(found)


@pytest.mark.parametrize("overrides", [[], ["npu.cores=4", "npu.array.dataflow=is"]])
def test_nothing_reads_what_is_not_made_yet(tmp_path: Path, overrides: list[str]) -> None:
    check_races(run(tmp_path, MODEL, "npu", "on", overrides).program)


def test_operands_beyond_the_chip_are_made_from_memory_and_not_stored(tmp_path: Path) -> None:
    """4 MiB each in a buffer of 16, of which results may take 2: the sum and its norm exist in tiles alone."""
    model = NORM.replace("4096", "128")
    on, off = (run(tmp_path, model, "npu", use, ["buffer.bytes=16MiB"], 2048, "wide") for use in ("auto", "off"))
    assert on.report is not None
    assert off.report is not None
    assert leaders(on) == {"add": 2, "rms_norm": 1}
    assert on.comparison is not None
    assert on.comparison.ok, on.comparison.max_rel_err
    one = 2048 * 1024 * 2
    assert on.report.bytes_moved["bytes written"] <= off.report.bytes_moved["bytes written"] - one
    assert on.report.bytes_moved["bytes read"] <= off.report.bytes_moved["bytes read"] - one
    assert on.report.seconds < 0.8 * off.report.seconds


def test_arrays_begin_when_the_first_rows_are_there(tmp_path: Path) -> None:
    """The feed-forward part of an encoder: the norm is read by the first product and the residual."""
    model = """model encoder(rows = 512)
input x: f16[rows, 768]
input r: f16[rows, 768]
weight s: f16[768]
weight b: f16[768]
weight u: f16[768, 3072]
weight d: f16[3072, 768]
let n = layer_norm(x + r, s, b, epsilon = 0.00001)
output y = gelu(n @ u) @ d + n
"""
    on, off = (run(tmp_path, model, "npu", use) for use in ("auto", "off"))
    assert on.report is not None
    assert off.report is not None
    assert leaders(on) == {"add": 2, "layer_norm": 1}
    assert on.report.seconds < 0.96 * off.report.seconds
    rows = {op.name: op for op in on.report.ops}
    names = [node.name for node in on.graph.scheduled() if node.fact(Prologue) is not None]
    assert all(rows[name].seconds > 0 for name in names)


@pytest.mark.parametrize("rows", [256, 128])
def test_what_would_take_longer_is_not_taken(tmp_path: Path, rows: int) -> None:
    """Of a product that memory bounds the weight would wait for the norm's operands; 128 rows come at once anyway."""
    auto, off = (run(tmp_path, NORM, "npu", use, rows=rows) for use in ("auto", "off"))
    assert not leaders(auto)
    assert auto.report is not None
    assert off.report is not None
    assert auto.report.seconds == off.report.seconds
