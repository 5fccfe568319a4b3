"""Reports and traces of a small run."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pimc.backends.program import Loop
from pimc.backends.synchronize import split_streams
from pimc.backends.target import describe
from pimc.backends.target_registry import load_target
from pimc.sim.compare import compare
from pimc.sim.report import Report, build_report
from pimc.sim.time import simulate
from pimc.sim.trace import trace, write_trace
from tests.fakes import platform, program, work

STREAMS = split_streams((Loop(0, 50, (work("a", 4, 0, 64), work("b", 9, 64, 128, op=1))),))
MADE = dataclasses.replace(program(STREAMS), target=describe(load_target("npu")))
TIMING = simulate(MADE, platform=platform({"a": ("bus",), "b": ("bus",)}))


def made() -> Report:
    return build_report(MADE, TIMING, comparison=compare({"y": np.ones(2)}, {"y": np.ones(2)}))


def test_busy_stalled_and_idle_add_up_to_the_run() -> None:
    for engine in made().engines:
        assert engine.busy + sum(engine.stalled.values()) + engine.idle == pytest.approx(TIMING.time * 1e-12)


def test_the_json_has_what_the_design_names() -> None:
    found = json.loads(json.dumps(made().to_json()))
    headline = "model target target_hash dims phase cycles seconds bound_seconds bound_share"
    assert set(headline.split()) <= set(found)
    engine_names = "name kind cycles commands busy stalled idle"
    assert set(engine_names.split()) <= set(found["engines"][0])
    wanted = "name op source phase nature engine reason seconds bound_seconds flops bytes"
    assert set(wanted.split()) <= set(found["ops"][0])
    assert found["values"]["ok"] is True
    assert 0 < found["bound_share"] <= 1
    for op in found["ops"]:
        assert 0 <= op["bound_seconds"] <= op["seconds"]


def test_an_op_of_a_folded_layer_has_its_share() -> None:
    rows = (*MADE.ops[:2], dataclasses.replace(MADE.ops[1], name="later", shares=1), *MADE.ops[2:])
    found = build_report(dataclasses.replace(MADE, ops=rows), TIMING)
    assert found.ops[1].seconds == found.ops[2].seconds == pytest.approx(TIMING.ops[1].active * 1e-12 / 2)


def test_a_trace_has_a_track_for_each_engine_and_slices_that_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    write_trace(path, MADE, TIMING)
    first = path.read_bytes()
    write_trace(path, MADE, TIMING)
    assert path.read_bytes() == first
    found = json.loads(gzip.decompress(first))
    tracks = {e["args"]["name"] for e in found["traceEvents"] if e["name"] == "thread_name"}
    assert tracks == {"a", "b"}
    for track in (0, 1):
        slices = [e for e in found["traceEvents"] if e["ph"] == "X" and e["tid"] == track]
        assert len(slices) == 50
        for left, right in itertools.pairwise(slices):
            assert left["ts"] + left["dur"] <= right["ts"] + 1e-9
    assert len([e for e in trace(MADE, TIMING, limit=10)["traceEvents"] if e["ph"] == "X"]) <= 10
