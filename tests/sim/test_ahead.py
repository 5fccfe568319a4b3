"""What the report says of prefetch, against what the same program takes without."""

from __future__ import annotations

from pathlib import Path

import pytest

import pimc
from pimc.sim.report import Report

CHAIN = """model chain(rows = 128)
input x: f16[rows, 1024]
weight a: f16[1024, 1024]
weight b: f16[1024, 1024]
weight c: f16[1024, 1024]
output y = ((x @ a) @ b) @ c
"""


def report(tmp_path: Path, *, prefetch: bool, target: str = "npu", rows: int = 128) -> Report:
    model = tmp_path / "chain.pimc"
    model.write_text(CHAIN)
    options = [f"schedule.prefetch={str(prefetch).lower()}"]
    found = pimc.compile(model, target=target, dims={"rows": rows}, pass_options=options).report
    assert found is not None
    return found


@pytest.mark.parametrize(("target", "rows"), [("npu", 128), ("npu-server", 1), ("tpuv3", 128)])
def test_ops_wait_for_their_weights_where_these_may_not_come_ahead(tmp_path: Path, target: str, rows: int) -> None:
    """More rows fill the one array of `npu-server`, which takes weights part by part as fast as they come."""
    ahead, after = (report(tmp_path, prefetch=p, target=target, rows=rows) for p in (True, False))
    assert after.ahead == 0
    assert ahead.ahead > 0
    assert ahead.seconds < after.seconds
    assert ahead.bytes_moved == after.bytes_moved


def test_memory_bound_ops_gain_what_came_ahead(tmp_path: Path) -> None:
    ahead, after = (report(tmp_path, prefetch=p, rows=1) for p in (True, False))
    gained = after.seconds - ahead.seconds
    assert ahead.ahead < gained < 1.4 * ahead.ahead  # what begins earlier also waits less for latencies


def test_the_first_op_has_nothing_ahead(tmp_path: Path) -> None:
    found = report(tmp_path, prefetch=True)
    assert found.ops[0].ahead == 0
    assert all(o.ahead > 0 for o in found.ops[1:])
    assert found.ahead == sum(o.ahead for o in found.ops)
    assert found.to_json()["ops"][1]["ahead"] == found.ops[1].ahead


@pytest.mark.parametrize("target", ["npu-onnxim", "npu-scalesim"])
def test_simulators_of_one_op_at_a_time_have_none(tmp_path: Path, target: str) -> None:
    model = tmp_path / "chain.pimc"
    model.write_text(CHAIN)
    found = pimc.compile(model, target=target, dims={"rows": 128}).report
    assert found is not None
    assert found.ahead == 0


def test_each_op_says_what_bounds_it(tmp_path: Path) -> None:
    thin, thick = (report(tmp_path, prefetch=True, rows=rows) for rows in (1, 4096))
    assert {o.bound_by for o in thin.ops} == {"load"}
    assert {o.bound_by for o in thick.ops} == {"npu"}
