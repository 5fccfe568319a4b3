"""Two products of the same left operand whose results meet, as those of a gate, in one loop over tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pimc.backends.races import check_races
from pimc.driver import Result
from pimc.execution import time_program
from pimc.ir.chains import keeps
from pimc.ir.facts import Epilogue, Prologue
from tests.e2e.chains import BOTH, SETTINGS, check_values, compiled

GATE = """model gate(rows = 128)
input x: f16[rows, 512]
weight g: f16[512, 1024]
weight u: f16[512, 1024]
output y = silu(x @ g) * (x @ u)
"""
ON = ["fuse-epilogues.use=on"]


def both_ways(
    path: Path, text: str, target: str, overrides: Sequence[str] = (), rows: int | None = None
) -> tuple[Result, Result]:
    """Compiled with two products side by side where that is chosen, and one after the other."""
    may, may_not = (
        compiled(path, text, target, [f"fuse-epilogues.pairs={use}"], overrides, rows) for use in ("true", "false")
    )
    return may, may_not


def seconds_and_bytes(found: Result) -> tuple[float, int, int]:
    assert found.report is not None
    moved = found.report.bytes_moved
    return found.report.seconds, moved["bytes read"], moved["bytes written"]


def chain(found: Result) -> list[str]:
    """Ops on the tiles of the first product."""
    facts = ((node.op.name, node.fact(Epilogue)) for node in found.graph.scheduled())
    return sorted(name for name, fact in facts if fact is not None)


SHAPES = {
    "matmul silu mul": """
input x: f16[rows, 256]
weight g: f16[256, 136]
weight u: f16[256, 136]
let up = x @ u
output y = silu(x @ g) * up
""",
    "silu matmul mul": """
input x: f16[rows, 256]
weight g: f16[256, 136]
weight u: f16[256, 136]
let gated = silu(x @ g)
output y = gated * (x @ u)
""",
    "add matmul add gelu mul rms_norm": """
input x: f16[3, rows, 96]
weight g: f16[96, 80]
weight u: f16[96, 80]
weight b: f16[80]
weight c: f16[80]
weight s: f16[80]
let up = x @ u + c
output y = rms_norm(gelu(x @ g + b) * up, s, epsilon = 0.001)
""",
    "matmul div add": """
input x: f16[3, rows, 40]
input p: f16[3, 40, 56]
input q: f16[3, 40, 56]
input r: f16[1, rows, 56]
let numerator = x @ p
output y = numerator / (x @ q) + r
""",
}


@pytest.mark.parametrize("overrides", [[], ["buffer.bytes=512KiB"], ["npu.cores=4", "npu.array.dataflow=is"]])
@pytest.mark.parametrize("ops", SHAPES)
def test_values_are_right(tmp_path: Path, ops: str, overrides: list[str]) -> None:
    found = compiled(tmp_path, f"model pair(rows = 140){SHAPES[ops]}", "npu", ON, overrides, form="wide")
    assert chain(found) == sorted(ops.split())
    check_values(found)
    check_races(found.program)
    assert time_program(found.program).time == time_program(found.program, "plain").time


@pytest.mark.parametrize("settings", SETTINGS)
def test_values_are_right_in_the_formats_of_the_device(tmp_path: Path, settings: str) -> None:
    found = compiled(tmp_path, GATE, "npu", ON, SETTINGS[settings], form="device")
    assert chain(found) == ["matmul", "mul", "silu"]
    check_values(found)


@pytest.mark.parametrize(("target", "part"), [("npu", 0.98), ("npu-server", 1.0)])
def test_neither_result_goes_to_memory_and_the_operand_comes_once(tmp_path: Path, target: str, part: float) -> None:
    """2 MiB each in a buffer of 8, of which a result may take one; what comes is the operands."""
    side_by_side, apart = both_ways(tmp_path, GATE, target, ["buffer.bytes=8MiB"], 1024)
    assert chain(side_by_side) == ["matmul", "mul", "silu"]
    operand, weight, result = (2 * elements for elements in (1024 * 512, 512 * 1024, 1024 * 1024))
    (seconds, read, written), (longer, apart_read, apart_written) = map(seconds_and_bytes, (side_by_side, apart))
    assert (read, written) == (operand + 2 * weight, result)
    assert apart_read >= 2 * operand + 2 * weight + result
    assert apart_written == 2 * result
    assert seconds <= part * longer


def test_the_gate_is_computed_while_arrays_multiply(tmp_path: Path) -> None:
    """On a vector unit that takes long, of products that memory bounds."""
    model = GATE.replace("512", "2048").replace("1024", "4096")
    side_by_side, apart = both_ways(tmp_path, model, "tpuv3")
    assert chain(side_by_side) == ["matmul", "mul", "silu"]
    assert seconds_and_bytes(side_by_side)[0] < 0.95 * seconds_and_bytes(apart)[0]


@pytest.mark.parametrize(("target", "rows"), [("npu", 1), ("npu", 17), ("npu", 512), ("npu-server", 1), ("tpuv3", 512)])
def test_what_would_take_longer_is_not_chosen(tmp_path: Path, target: str, rows: int) -> None:
    model = GATE.replace("512", "2048").replace("1024", "4096")
    auto, apart = both_ways(tmp_path, model, target, rows=rows)
    assert seconds_and_bytes(auto)[0] <= 1.01 * seconds_and_bytes(apart)[0]


def test_what_others_read_is_computed_by_itself(tmp_path: Path) -> None:
    also = "let gate = x @ g\noutput z = transpose(gate)\noutput y"
    model = GATE.replace("output y", also).replace("(x @ g)", "(gate)")
    found = compiled(tmp_path, model, "npu", ON, form="wide")
    assert "matmul" not in chain(found)
    check_values(found)


def test_weights_that_lie_differently_are_multiplied_one_after_the_other(tmp_path: Path) -> None:
    model = GATE.replace("u: f16[512, 1024]", "t: f16[1024, 512]").replace("@ u", "@ transpose(t)")
    found = compiled(tmp_path, model, "npu", ON, form="wide")
    check_values(found)
    check_races(found.program)
    auto, apart = both_ways(tmp_path, model, "npu")
    assert seconds_and_bytes(auto) == seconds_and_bytes(apart)


@pytest.mark.parametrize("settings", ["plain", "cores", "inputs"])
def test_a_norm_leads_to_both_and_goes_nowhere_else(tmp_path: Path, settings: str) -> None:
    norm = "weight s: f16[512]\nlet n = rms_norm(x, s, epsilon = 0.001)\noutput y"
    model = GATE.replace("output y", norm).replace("x @", "n @")
    found = compiled(tmp_path, model, "npu", BOTH, SETTINGS[settings], 300, "wide")
    (norm_node,) = (node for node in found.graph.scheduled() if node.fact(Prologue) is not None)
    assert not keeps(norm_node)
    assert chain(found) == ["matmul", "mul", "silu"]
    check_values(found)
    check_races(found.program)
    assert found.report is not None
    rows = {op.name: op for op in found.report.ops}
    products = [rows[node.name] for node in found.graph.scheduled() if node.op.name == "matmul"]
    assert all(row.seconds > 0 for row in products)
