"""Many small products at a time on the NPU: values in any layout and for every dataflow, and what they cost."""

from __future__ import annotations

from math import prod

import pytest

from pimc.backends.npu.isa import Drain, Matmul, MatmulOs
from pimc.backends.npu.packs import best_pack
from pimc.backends.program import steps
from pimc.backends.target_registry import load_target
from pimc.ir.op import Array
from tests.backends.kernel_harness import Machine, check, floats, run
from tests.backends.test_npu import MACHINE

SHAPES = [
    ((2, 5, 1, 24), (2, 5, 24, 40)),
    ((7, 3, 24), (7, 24, 9)),
    ((3, 4, 2, 16), (3, 1, 16, 30)),
    ((2, 2, 6, 1, 20), (1, 2, 6, 20, 11)),
    ((64, 1, 8), (64, 8, 4)),
]
PLACES = [("dram", "dram"), ("buffer", "buffer"), ("dram:turned", "dram:padded"), ("dram:digits", "buffer:padded")]


def arrays(shapes: tuple[tuple[int, ...], ...]) -> list[Array]:
    return [floats(*shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("dataflow", ["ws", "is", "os", "either"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_values(shapes: tuple[tuple[int, ...], ...], dataflow: str) -> None:
    for scratch in (1 << 19, 1 << 14):
        for operands, result in PLACES:
            spec = load_target("npu", [f"array.dataflow={dataflow}", "npu.products=array"])
            check(run(Machine(spec, "npu", scratch), "matmul", arrays(shapes), {}, operands, result))


def test_a_group_comes_at_once_and_leaves_by_one_drain() -> None:
    """40 heads with a query each: far fewer commands than heads, and the results of a group are drained together."""
    spec = load_target("npu", ["npu.products=array"])
    outcome = run(Machine(spec, "npu", 1 << 20), "attention_scores", [floats(1, 40, 1, 32), floats(1, 40, 64, 32)],
                  {"scale": 0.5})  # fmt: skip
    check(outcome)
    assert outcome.executed < 40
    drains = [s.command for s in steps(outcome.items) if isinstance(s.command, Drain)]
    assert max(int(d.rows) for d in drains) > 1  # type: ignore[arg-type]


def test_products_that_go_as_one_take_blocks_that_would_be_empty() -> None:
    """8 arrays of 128 x 128: keys of two heads of 512 fill what those of one leave half empty."""
    pack = best_pack(MACHINE, 1, 512, 128, 64)
    assert pack.count == 2
    assert pack.clocks(MACHINE, 64) == 32 * 128


@pytest.mark.parametrize(("t", "s", "k"), [(1, 64, 32), (3, 40, 128), (1, 512, 128), (4, 5, 300)])
def test_wanted_sums_of_a_pack_lie_apart(t: int, s: int, k: int) -> None:
    """Rows of all products of a group, as they are drained, share no accumulator."""
    pack = best_pack(MACHINE, t, s, k, 12)
    cells = [i * pack.block + r * pack.row + 4 * c for i in range(12) for r in range(t) for c in range(s)]
    assert len(set(cells)) == prod((12, t, s))


def test_sums_that_stay_are_packed_too() -> None:
    spec = load_target("npu", ["array.dataflow=os", "npu.products=array"])
    outcome = run(Machine(spec, "npu", 1 << 20), "matmul", arrays(((64, 1, 8), (64, 8, 4))))
    check(outcome)
    commands = [s.command for s in steps(outcome.items) if isinstance(s.command, Matmul | MatmulOs)]
    assert all(isinstance(c, MatmulOs) and int(c.rows) > 1 for c in commands)  # type: ignore[arg-type]
