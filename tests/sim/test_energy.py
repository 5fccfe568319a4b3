"""Energy is a sum over what engines count, and power over time: additive, op by op, the same in both engines."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from pimc.backends.program import Program
from pimc.driver import Options, Result, compile_model
from pimc.sim.energy import Energy, Prices, energy_of
from pimc.sim.time import simulate

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny-llama.onnx"
SMALL = ROOT / "tests" / "data" / "small-llama.pimc"
TARGETS = ("npu", "npu-server", "tpuv3", "neupims", "newton", "cent")

FREE = {
    "pim": {"PRE", "PREA", "TMOD", "PRECHARGE", "PIM_PRECHARGE", "HEADER", "clocks with open rows", "MAPROWS"},
    "dma": {"RD", "WR", "bytes read", "bytes written"},
    "pnm": {"CORE", "EXP", "RED", "VADD", "CORERED", "CORESCAN", "VMUL"},
    "analytic": {"attoseconds of work"},
}
"""Counters that may have no price: what is in that of another (precharges in activations, accesses in bytes), and
commands of near-memory units, whose sizes they do not tell."""


def compiled(target: str, past: int = 15) -> Result:
    return compile_model(TINY, target, Options(dims={"batch": 1, "seq": 1, "past": past}))


def energy(program: Program, **how: str) -> Energy:
    timing = simulate(program, engine="plain" if how.get("engine") == "plain" else "fast")
    found = energy_of(program, timing)
    assert found is not None
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_parts_make_up_the_whole(target: str) -> None:
    result = compiled(target)
    found = energy(result.program)
    counted = sum(found.ops.values(), Fraction(0))
    assert counted > 0
    assert found.static > 0
    assert counted + found.static == found.total
    assert sum(found.engines.values(), Fraction(0)) == counted
    report = result.report
    assert report is not None
    assert report.energy is not None
    assert report.energy.total_j == pytest.approx(float(found.total), rel=1e-12)
    assert report.energy.power_w == pytest.approx(report.energy.total_j / report.seconds, rel=1e-12)
    shown = sum(op.energy or 0.0 for op in report.ops)
    between = float(found.ops.get(-1, Fraction(0)))
    assert shown + between + report.energy.static_j == pytest.approx(report.energy.total_j, rel=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_the_sum_over_counters(target: str) -> None:
    """From the numbers that the report gives of each engine, and nothing else."""
    result = compiled(target)
    assert result.timing is not None
    prices = Prices.of(result.spec)
    total = Fraction(0)
    for engine in result.timing.engines:
        counts = {**engine.counters, **engine.tallies}
        total += sum((j for _, j in prices.spent(engine.kind, counts)), Fraction(0)) * len(engine.instances)
    found = energy(result.program)
    assert total == found.total - found.static


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_is_counted_has_its_price(target: str) -> None:
    result = compiled(target)
    assert result.timing is not None
    priced = Prices.of(result.spec).each
    for engine in result.timing.engines:
        names = {*engine.counters, *engine.tallies} - set(priced.get(engine.kind, {}))
        assert names <= FREE.get(engine.kind, set()), engine.name


@pytest.mark.parametrize("target", ["npu", "newton", "cent"])
def test_both_engines_spend_the_same(target: str) -> None:
    program = compiled(target).program
    fast, plain = energy(program), energy(program, engine="plain")
    assert (fast.groups, fast.engines, fast.ops) == (plain.groups, plain.engines, plain.ops)


def test_loops_are_counted_as_often_as_they_turn() -> None:
    """Identical layers are one loop, of which turns are skipped: each of them costs the same."""
    options = Options(dims={"past": 64}, overrides=("system.devices=2", "analytic.host=1us"), parallel={"tp": 2})
    report = compile_model(SMALL, "cent-published", options).report
    assert report is not None
    by_layer: dict[int, float] = {}
    for op in report.ops:
        by_layer[op.layer] = by_layer.get(op.layer, 0.0) + (op.energy or 0.0)
    assert by_layer[0] == pytest.approx(by_layer[1], rel=1e-12)
    assert by_layer[0] > 0


def test_a_price_changes_what_it_is_of_alone() -> None:
    before, options = (
        energy(compiled("cent").program),
        Options(dims={"batch": 1, "seq": 1, "past": 15}, overrides=("energy.events.activation.each.ACT16=94.4112nJ",)),
    )
    after = energy(compile_model(TINY, "cent", options).program)
    assert after.groups.pop("activation") > before.groups.pop("activation") > 0
    assert after.groups == before.groups
