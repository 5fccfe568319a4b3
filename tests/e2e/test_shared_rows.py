"""Weights of several outputs in a row of the banks: what is opened meets several vectors, in values and in time."""

from __future__ import annotations

from pathlib import Path

import pytest

import pimc
from pimc.driver import Result
from pimc.execution import SimEngine, time_program
from pimc.ir.diagnostics import CompileError
from pimc.ir.facts import Tile
from pimc.sim.check import check, part_of
from pimc.sim.issue_trace import IssueLog
from pimc.sim.report import Report

PRODUCT = """model product(m = 1)
input x: f16[m, {k}]
weight w: f16[{k}, {n}]
output y = x @ w
"""
HEADS = """model heads(m = 1)
input x: f16[3, m, {d}]
weight w: f16[{k}, 140]
output y = reshape(transpose(x, perm = [1, 0, 2]), [m, {k}]) @ w
"""
ON_CHIP = """model chip(m = 4)
input x: f16[m, 1024]
weight w: f16[1024, 256]
output y = (x + x) @ w
"""
"""Nothing but the product wants the banks while it runs."""
SMALL = ["dram.channels=2", "dram.rows=256"]


def run(
    path: Path, text: str, m: int, use: str, *, target: str = "cent", values: bool = True, engine: SimEngine = "fast"
) -> Result:
    model = path / "model.pimc"
    model.write_text(text)
    return pimc.compile(
        model, target=target, dims={"m": m}, overrides=SMALL, pass_options=[f"share-rows.use={use}"],
        values="random" if values else None, sim_engine=engine,
    )  # fmt: skip


def tile_of(result: Result) -> Tile:
    (tile,) = (t for t in (node.fact(Tile) for node in result.graph.order() if node.op.name == "matmul") if t)
    return tile


def report_of(result: Result) -> Report:
    assert result.report is not None
    return result.report


def cycles(result: Result) -> int:
    return report_of(result).cycles


@pytest.mark.parametrize(
    ("m", "k", "n"), [(4, 256, 300), (5, 1100, 200), (3, 37, 190), (2, 1024, 64), (9, 530, 1000)]
)
def test_values_are_right(tmp_path: Path, m: int, k: int, n: int) -> None:
    found = run(tmp_path, PRODUCT.format(k=k, n=n), m, "always")
    assert tile_of(found).m > 1
    assert found.comparison is not None
    assert found.comparison.ok


@pytest.mark.parametrize(("d", "use"), [(100, "always"), (350, "never")])
def test_vectors_whose_elements_lie_apart(tmp_path: Path, d: int, use: str) -> None:
    """Their last part ends inside a column, behind which zeros come from an accumulator that no sum is in."""
    found = run(tmp_path, HEADS.format(d=d, k=3 * d), 5, use)
    assert (tile_of(found).m > 1) == (use == "always")
    assert found.comparison is not None
    assert found.comparison.ok


def test_a_row_is_opened_once_for_several_vectors(tmp_path: Path) -> None:
    """Four vectors times 256 outputs of 1,024: a row of each bank holds four quarters of outputs."""
    alone, together = (run(tmp_path, ON_CHIP, 4, use) for use in ("never", "always"))
    assert tile_of(alone) == Tile(1, 32, 1024, 32)
    assert tile_of(together) == Tile(4, 128, 256, 8)
    opened = [sum(e.counters.get("ACT16", 0) for e in report_of(each).engines) for each in (alone, together)]
    assert opened == [2 * (4 * 8 + 1), 2 * (8 + 1)], "8 rows on 2 channels, for each vector or for all; a refresh"
    assert cycles(together) < cycles(alone)


def test_nothing_breaks_the_rules_of_the_memory(tmp_path: Path) -> None:
    found, log = run(tmp_path, PRODUCT.format(k=300, n=100), 5, "always", values=False), IssueLog()
    time_program(found.program, issues=log, engine="fast")
    rules = part_of(found.spec)
    verdict = check(log.issued(), rules)
    assert verdict.ok, verdict


def test_both_simulators_agree(tmp_path: Path) -> None:
    text = PRODUCT.format(k=300, n=100)
    fast, plain = (run(tmp_path, text, 3, "always", values=False, engine=engine) for engine in ("fast", "plain"))
    assert cycles(fast) == cycles(plain)


def test_the_faster_way_is_taken(tmp_path: Path) -> None:
    many, few = PRODUCT.format(k=1024, n=256), PRODUCT.format(k=1024, n=32)
    for text, shares in ((many, True), (few, False)):
        alone, chosen, forced = (run(tmp_path, text, 4, use, values=False) for use in ("never", "auto", "always"))
        assert (tile_of(chosen).m > 1) == shares
        assert cycles(chosen) == min(cycles(alone), cycles(forced))


@pytest.mark.parametrize(("m", "target"), [(1, "cent"), (4, "neupims")])
def test_nothing_is_shared_where_it_cannot_be(tmp_path: Path, m: int, target: str) -> None:
    found = run(tmp_path, PRODUCT.format(k=256, n=300), m, "always", target=target, values=False)
    tiles = [node.fact(Tile) for node in found.graph.order() if node.op.name == "matmul"]
    assert [t.k for t in tiles if t is not None and t.m > 1 and t.k < 256] == []


def test_the_mapping_of_cent_keeps_its_rows(tmp_path: Path) -> None:
    model = tmp_path / "model.pimc"
    model.write_text(PRODUCT.format(k=256, n=300))
    found = pimc.compile(
        model, target="cent", dims={"m": 4}, overrides=[*SMALL, "mapping=cent-mapping"],
        pass_options=["share-rows.use=always"],
    )  # fmt: skip
    assert tile_of(found).m == 1


def test_an_unknown_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"share-rows\.use is 'auto', 'always' or 'never', not 'alway'"):
        run(tmp_path, PRODUCT.format(k=64, n=64), 2, "alway")
