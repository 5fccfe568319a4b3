"""PNM: products without an array, units by function, and CENT's latency model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pimc.backends.pnm.isa import Core, Exponent, TreeReduce, VectorAdd, VectorMultiply
from pimc.backends.pnm.timing import counts_of, cycles_of, make_timer
from pimc.backends.program import steps
from pimc.backends.sharing import shared
from pimc.backends.target import PnmSpec
from pimc.backends.target_registry import load_target
from pimc.driver import Options, compile_model
from pimc.ir.types import DType
from tests.backends.kernel_cases import PLACES, PRODUCTS, Case
from tests.backends.kernel_harness import check, floats, machine, run


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_products(case: Case) -> None:
    for operands, result, scratch in PLACES:
        check(run(machine("pnm", scratch), case.op, case.arrays, case.attributes, operands, result, case.known))


def test_each_function_goes_to_its_unit() -> None:
    outcome = run(machine("pnm"), "softmax", [floats(4, 50)])
    found = {(s.command.mnemonic, getattr(s.command, "function", "")) for s in steps(outcome.items)}
    assert {("RED", "max"), ("VADD", "sub"), ("EXP", "exp"), ("RED", "sum"), ("CORE", "reciprocal")} <= found


def pnm() -> PnmSpec:
    spec = load_target("cent").pnm
    assert spec is not None
    return spec


GRID: dict[str, Any] = {
    "dst": 0,
    "dst_type": DType.BF16,
    "dst_row": 0,
    "dst_column": 2,
    "a_column": 2,
    "b_column": 2,
}


def test_cents_units() -> None:
    """A slot on each of 32 units: EXP 32*1 + 11 + 1 = 44, VEC 32*2 + 1 + 1 = 66."""
    assert cycles_of(Exponent(function="exp", form="a", rows=1, columns=512, **GRID), pnm()) == 44
    assert cycles_of(VectorAdd(function="add", form="ab", rows=1, columns=512, **GRID), pnm()) == 66
    assert cycles_of(VectorAdd(function="add", form="ab", rows=1, columns=1024, **GRID), pnm()) == 132
    assert cycles_of(VectorMultiply(function="mul", form="ab", rows=1, columns=512, **GRID), pnm()) == 66


def test_reduction_has_levels() -> None:
    """512 elements: 32 slots, then 2, then 1."""
    command = TreeReduce(function="sum", rows=1, columns=512, dst=0, dst_type=DType.F32, dst_row=4, a=0,
                         a_type=DType.BF16, a_row=0, a_column=2)  # fmt: skip
    assert cycles_of(command, pnm()) == (32 + 2) + (2 + 2) + (1 + 2)


def test_cores_take_their_routine_for_each_element() -> None:
    command = Core(function="rsqrt", form="a", rows=1, columns=16, **GRID)
    assert cycles_of(command, pnm()) == 2 * 26


def test_what_a_row_repeats_is_read_once_a_row() -> None:
    """8 rows of 4 slots and one number for each row: 32 + 8 slots through the port, one round of 32 units."""
    repeated = {**GRID, "b_column": 0}
    assert cycles_of(VectorMultiply(function="mul", form="ab", rows=8, columns=64, **repeated), pnm()) == 40 + 2
    assert cycles_of(VectorMultiply(function="mul", form="ai", rows=8, columns=64, **GRID), pnm()) == 32 + 2


def test_units_serve_all_parts_of_a_device() -> None:
    """Three stages side by side: everything takes three times as long."""
    spec = load_target("cent", ("mapping=cent-mapping", "system.devices=1"))
    command = VectorAdd(function="add", form="ab", rows=1, columns=512, **GRID)
    times = {}
    for stages in (1, 3):
        part = shared(spec, stages, 1)
        engine = next(e for e in part.engines() if e.name == "pnm")
        times[stages] = make_timer(part, engine, {}).issue(command, 0).done
    assert times[3] == 3 * times[1] == 3 * 66 * 500


def counts(command: Any) -> dict[str, int]:
    return counts_of(command, pnm())


def test_what_units_spend_energy_on() -> None:
    """512 elements are 32 slots: each is read (twice for a sum of two), worked on, written, and an instruction."""
    common = {"buffer writes": 32, "instructions": 32}
    exponent = Exponent(function="exp", form="a", rows=1, columns=512, **GRID)
    assert counts(exponent) == {"exponents": 32, "buffer reads": 32, **common}
    added = VectorAdd(function="add", form="ab", rows=1, columns=512, **GRID)
    assert counts(added) == {"additions": 32, "buffer reads": 64, **common}
    repeated = VectorMultiply(function="mul", form="ab", rows=8, columns=64, **{**GRID, "b_column": 0})
    assert counts(repeated) == {"additions": 32, "buffer reads": 40, **common}
    tree = TreeReduce(function="sum", rows=1, columns=512, dst=0, dst_type=DType.F32, dst_row=4, a=0,
                      a_type=DType.BF16, a_row=0, a_column=2)  # fmt: skip
    levels = 32 + 2 + 1
    assert counts(tree) == dict.fromkeys(("reductions", "buffer reads", "buffer writes", "instructions"), levels)
    core = Core(function="rsqrt", form="a", rows=1, columns=16, **GRID)
    assert counts(core) == {"core clocks": 16 * 26, "instructions": 16, "buffer reads": 1, "buffer writes": 1}


def test_units_have_an_energy_in_every_report() -> None:
    """The sum of counts and prices of the target's file, the same from both engines, and put down to the ops."""
    model = Path(__file__).parents[2] / "models" / "tiny-llama.pimc"
    found = {}
    for engine in ("fast", "plain"):
        options = Options(dims={"past": 31}, sim_engine=engine)  # type: ignore[arg-type]
        report = compile_model(model, "cent", options).report
        assert report is not None and report.energy is not None
        found[engine] = report
    fast = found["fast"]
    (units,) = (e for e in fast.engines if e.kind == "pnm")
    prices = load_target("cent").energy.events["units"].each
    expected = sum(units.counters.get(name, 0) * price * 1e-18 for name, price in prices.items())
    assert fast.energy.groups["units"] == pytest.approx(expected, rel=1e-9) and expected > 0
    assert found["plain"].energy.groups["units"] == fast.energy.groups["units"]
    norms = [op.energy for op in fast.ops if op.op == "rms_norm"]
    assert norms and all(joules is not None and joules > 0 for joules in norms)
