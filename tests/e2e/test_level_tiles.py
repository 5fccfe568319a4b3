"""Quantization and dequantization on the tiles of products: levels and floats between them need no memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pimc.backends.races import check_races
from pimc.driver import Result
from pimc.execution import time_program
from pimc.ir.facts import Epilogue, Prologue
from pimc.sim.report import Report
from tests.e2e.chains import BOTH, SETTINGS, check_values, compiled

# Products of small integers are exact, so that levels are equal however they are added up.
REQUANTIZED = """model requantized(rows = 140)
input x: i8[rows, 96]
input w: i8[96, 80]
input s: f32[80]
input z: i8[80]
input b: f16[80]
let q = quantize_linear(relu(cast(x, to = "f16") @ cast(w, to = "f16") + b), s, z)
output levels = q
output values = dequantize_linear(q, s, z)
"""
PER_TENSOR = """model uniform(rows = 140)
input x: i8[3, rows, 96]
input w: i8[96, 80]
let q = quantize_linear(cast(x, to = "f16") @ cast(w, to = "f16"), f32(1000.0), u8(3))
let d = dequantize_linear(q, f32(0.5), u8(3), output_dtype = "f16")
output y = tanh(d * 0.01)
"""
DEQUANTIZED = """model dequantized(rows = 300)
input x: i8[rows, 256]
input s: f32[256]
input z: i8[256]
weight w: f32[256, 136]
weight b: f32[136]
output y = gelu(dequantize_linear(x, s, z) @ w + b)
"""
WEIGHTS = {
    "by column": ("i8", "[1056]", ""),
    "in blocks": ("i4", "[48, 1056]", ", axis = 0, block_size = 16"),
}
WEIGHT = """model quantized(rows = 140)
input x: f16[rows, 768]
weight w: {kind}[768, 1056]
weight s: f16{scale}
weight b: f16[1056]
input r: f16[rows, 1056]
output y = gelu(x @ dequantize_linear(w, s{options}) + b) + r
"""


def reports(
    path: Path, text: str, target: str, overrides: Sequence[str], rows: int | None = None
) -> tuple[Report, Report]:
    """With epilogues where they are chosen, and without."""
    on, off = (
        compiled(path, text, target, [f"fuse-epilogues.use={use}"], overrides, rows).report for use in ("auto", "off")
    )
    assert on is not None
    assert off is not None
    return on, off


def on_tiles(found: Result, kind: type[Epilogue | Prologue]) -> list[str]:
    return [node.op.name for node in found.graph.scheduled() if node.fact(kind) is not None]


@pytest.mark.parametrize(("target", "rows"), [("npu", 140), ("npu-server", 1)])
@pytest.mark.parametrize("settings", SETTINGS)
def test_levels_and_what_they_stand_for_are_right(tmp_path: Path, target: str, settings: str, rows: int) -> None:
    found = compiled(tmp_path, REQUANTIZED, target, BOTH, SETTINGS[settings], rows, "wide")
    assert on_tiles(found, Epilogue) == ["add", "relu", "quantize_linear", "dequantize_linear"]
    check_values(found)
    check_races(found.program)
    assert time_program(found.program).time == time_program(found.program, "plain").time


@pytest.mark.parametrize("target", ["npu", "tpuv3"])
@pytest.mark.parametrize("overrides", [[], ["buffer.bytes=512KiB"], ["npu.cores=4"]])
def test_scale_and_zero_point_of_a_tensor(tmp_path: Path, target: str, overrides: list[str]) -> None:
    found = compiled(tmp_path, PER_TENSOR, target, BOTH, overrides, form="wide")
    assert on_tiles(found, Epilogue) == ["quantize_linear", "dequantize_linear", "mul", "tanh"]
    check_values(found)
    check_races(found.program)


@pytest.mark.parametrize("settings", SETTINGS)
def test_activations_are_dequantized_on_the_tiles_of_the_left_operand(tmp_path: Path, settings: str) -> None:
    found = compiled(tmp_path, DEQUANTIZED, "npu", BOTH, SETTINGS[settings], form="wide")
    assert on_tiles(found, Prologue) == ["dequantize_linear"]
    assert on_tiles(found, Epilogue) == ["add", "gelu"]
    check_values(found)
    check_races(found.program)


def test_only_levels_go_to_memory(tmp_path: Path) -> None:
    """2 MiB of levels, in place of 4 MiB of floats that go and come back."""
    model = """model large(rows = 2048)
input x: f16[rows, 512]
input w: f16[512, 1024]
input s: f32[1024]
input z: i8[1024]
output levels = quantize_linear(relu(x @ w), s, z)
"""
    on, off = reports(tmp_path, model, "npu", ["buffer.bytes=8MiB"])
    elements = 2048 * 1024
    assert on.bytes_moved["bytes written"] == elements
    assert off.bytes_moved["bytes written"] >= 3 * elements
    assert on.bytes_moved["bytes read"] <= off.bytes_moved["bytes read"] - 2 * elements
    assert on.seconds < 0.8 * off.seconds


@pytest.mark.parametrize("overrides", [[], ["npu.array.dataflow=os"], ["npu.array.dataflow=is"], ["npu.cores=4"]])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_chunks_of_a_quantized_weight_have_epilogues(tmp_path: Path, weight: str, overrides: list[str]) -> None:
    """Three chunks of columns, or one, each with its part of bias and residual; nothing but the result is stored."""
    kind, scale, options = WEIGHTS[weight]
    model = WEIGHT.format(kind=kind, scale=scale, options=options)
    found = compiled(tmp_path, model, "npu", BOTH, ["buffer.bytes=8MiB", *overrides], form="wide")
    assert on_tiles(found, Epilogue) == ["add", "gelu", "add"]
    check_values(found)
    assert found.report is not None
    assert found.report.bytes_moved["bytes written"] < 1.1 * 140 * 1056 * 2
    check_races(found.program)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_chunks_that_leave_no_room_for_tiles_have_none(tmp_path: Path, weight: str) -> None:
    kind, scale, options = WEIGHTS[weight]
    model = WEIGHT.format(kind=kind, scale=scale, options=options).replace("768", "96").replace("[48", "[6")
    found = compiled(tmp_path, model, "npu", BOTH, ["buffer.bytes=256KiB"], form="wide")
    assert on_tiles(found, Epilogue) == ["add", "gelu", "add"]
    check_values(found)
    assert found.report is not None
    assert found.report.bytes_moved["bytes written"] > 2 * 140 * 1056 * 2
    check_races(found.program)


def test_a_norm_behind_a_quantized_weight_is_computed_by_itself(tmp_path: Path) -> None:
    model = WEIGHT.format(kind="i8", scale="[1056]", options="").replace("output y = gelu(", "let h = (")
    model += "output y = rms_norm(h, b, epsilon = 0.001) * 0.5\n"
    found = compiled(tmp_path, model, "npu", BOTH, ["buffer.bytes=8MiB"], form="wide")
    assert on_tiles(found, Epilogue) == ["add", "add", "rms_norm", "mul"]
    check_values(found)
    check_races(found.program)


def test_integers_times_levels_are_levels_again(tmp_path: Path) -> None:
    model = """model requantized(rows = 140)
input x: i8[rows, 96]
weight w: i8[96, 80]
input s: f32[80]
input z: i8[80]
output levels = quantize_linear(cast(x, to = "f16") @ dequantize_linear(w, f32(0.5), output_dtype = "f16"), s, z)
"""
    found = compiled(tmp_path, model, "npu", BOTH, form="wide")
    assert on_tiles(found, Epilogue) == ["quantize_linear"]
    assert {n.op.name for n in found.graph.scheduled()} >= {"quantized_matmul"}
    check_values(found)
    check_races(found.program)


@pytest.mark.parametrize("target", ["npu", "npu-server", "tpuv3"])
def test_epilogues_of_quantized_weights_spare_time_and_transfers(tmp_path: Path, target: str) -> None:
    model = WEIGHT.format(kind="i8", scale="[1056]", options="")
    on, off = reports(tmp_path, model, target, ["buffer.bytes=16MiB"], 2048)
    result = 2048 * 1056 * 2
    assert on.bytes_moved["bytes written"] < 1.1 * result
    assert off.bytes_moved["bytes written"] > 2 * result
    assert on.seconds < 0.9 * off.seconds
