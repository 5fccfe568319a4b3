"""Attention as a whole on the NPU: values in any layout and on every dataflow, and what is never loaded."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.dma.isa import Load
from pimc.backends.emitter import Emitter
from pimc.backends.npu.isa import Fence, Matmul
from pimc.backends.npu.pipeline import Turn, pipelined
from pimc.backends.program import steps, unrolled
from pimc.backends.target_registry import load_target
from pimc.backends.vector import plain
from pimc.ir.op import Array, Attribute
from pimc.ir.types import DType
from tests.backends.kernel_harness import Machine, check, floats, machine, run

PLACES = (("dram", "dram"), ("buffer", "buffer"), ("dram:turned", "dram:padded"), ("dram:digits", "dram:cache"))


def heads(batch: int, query: int, kv: int, queries: int, keys: int, depth: int, width: int) -> list[Array]:
    shapes = ((batch, query, queries, depth), (batch, kv, keys, depth), (batch, kv, keys, width))
    return [floats(*shape, seed=i) for i, shape in enumerate(shapes)]


CASES = [
    heads(1, 1, 1, 16, 16, 8, 8),
    heads(2, 4, 2, 24, 40, 16, 8),
    heads(1, 3, 3, 33, 33, 20, 12),
    heads(2, 6, 1, 8, 70, 8, 24),
    heads(1, 2, 2, 1, 50, 16, 16),
    heads(3, 14, 7, 1, 50, 16, 16),
    heads(1, 2, 1, 20, 12, 8, 8),
]


def named(arrays: list[Array]) -> str:
    return "x".join(map(str, (*arrays[0].shape, *arrays[1].shape[1:3])))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("arrays", CASES, ids=named)
def test_values(arrays: list[Array], causal: bool) -> None:
    attributes = {"scale": 0.3, "causal": causal}
    for scratch in (1 << 18, 1 << 15):
        for operands, result in PLACES:
            check(run(machine("npu", scratch), "attention", arrays, attributes, operands, result))


@pytest.mark.parametrize("dataflow", ["ws", "is", "os", "either"])
@pytest.mark.parametrize("arrays", CASES[1:4], ids=named)
def test_every_dataflow(arrays: list[Array], dataflow: str) -> None:
    spec = load_target("npu", [f"array.dataflow={dataflow}", "npu.accumulator_bytes=64KiB"])
    for scratch in (1 << 18, 1 << 15):
        check(run(Machine(spec, "npu", scratch), "attention", arrays, {"scale": 0.3, "causal": True}))


def masks(batch: int, query: int, queries: int, keys: int) -> dict[str, Array | None]:
    rng = np.random.default_rng(0)
    seen = rng.random((batch, query, queries, keys)) < 0.7
    seen[0, 0, 0] = False  # a query that sees nothing
    return {
        "none": None,
        "bool": seen,
        "shared": seen[:1, :1],
        "row": rng.random((batch, 1, 1, keys)) < 0.7,
        "float": floats(1, query, queries, keys, seed=9),
        "lowest": np.where(seen, np.float32(0), np.finfo(np.float32).min).astype(np.float32)[:, :1],
        "column": floats(batch, 1, queries, 1, seed=7),
    }


@pytest.mark.parametrize("mask", masks(1, 1, 1, 1))
@pytest.mark.parametrize(
    "attributes",
    [{}, {"causal": True}, {"causal": True, "window": 7}, {"window": 30}, {"softcap": 2.0}],
    ids=str,
)
@pytest.mark.parametrize("sizes", [(2, 4, 2, 24, 40, 16, 8), (2, 6, 3, 1, 70, 8, 8)], ids=str)
def test_masks(sizes: tuple[int, ...], attributes: dict[str, Attribute], mask: str) -> None:
    arrays = heads(*sizes)
    (batch, query, queries, _), keys = arrays[0].shape, arrays[1].shape[2]
    given = masks(batch, query, queries, keys)[mask]
    for scratch, operands in ((1 << 18, "dram"), (1 << 15, "dram"), (1 << 15, "buffer"), (1 << 18, "dram:digits")):
        for lengths in (None, np.array([keys, keys - 9])):
            operand_list = [*arrays, given, lengths]
            known = {"scale": 0.4, **attributes}
            check(run(machine("npu", scratch), "attention", operand_list, known, operands))


def products(outcome_items: object) -> int:
    matmuls = [s.command for s in unrolled(outcome_items) if isinstance(s.command, Matmul)]  # type: ignore[arg-type]
    return sum(int(m.rows) * int(m.k) * int(m.columns) for m in matmuls)  # type: ignore[arg-type]


def test_keys_beyond_a_causal_block_are_neither_loaded_nor_multiplied() -> None:
    """128 queries in blocks, 128 keys in tiles: little more than half of all products, and of all keys."""
    arrays = heads(1, 1, 1, 128, 128, 16, 16)
    outcome = run(machine("npu", 1 << 16), "attention", arrays, {"scale": 0.3, "causal": True})
    whole = run(machine("npu", 1 << 16), "attention", arrays, {"scale": 0.3})
    check(outcome)
    assert products(outcome.items) < 0.8 * products(whole.items)
    loaded, all_loaded = (
        sum(s.command.elements for s in unrolled(o.items) if isinstance(s.command, Load)) for o in (outcome, whole)
    )
    assert loaded < 0.85 * all_loaded


def test_a_window_skips_the_keys_before_it() -> None:
    arrays = heads(1, 1, 1, 128, 1024, 16, 16)
    outcome = run(machine("npu", 1 << 16), "attention", arrays, {"scale": 0.3, "causal": True, "window": 64})
    check(outcome)
    assert products(outcome.items) <= 2 * 128 * 512 * 16


def test_scores_stay_on_chip_and_maxima_run() -> None:
    """More keys than fit a tile: several tiles a block, whose sums shrink by the exponential of what a maximum grew."""
    outcome = run(machine("npu", 1 << 15), "attention", heads(1, 1, 1, 8, 600, 16, 16), {"scale": 0.3})
    check(outcome)
    functions = {getattr(s.command, "function", "") for s in steps(outcome.items)}
    assert {"exp", "mul_add", "max"} <= functions
    stored = [s.command for s in steps(outcome.items) if s.engine == "store"]
    assert sum(c.elements for c in stored) == 8 * 16  # type: ignore[attr-defined]


@pytest.mark.parametrize("mask", ["row", "shared", "bool"])
def test_a_mask_that_is_repeated_comes_once(mask: str) -> None:
    """Before all tiles; one that is not, with the tiles that it masks."""
    sizes = (2, 8, 8, 64, 256, 16, 16)
    given = masks(2, 8, 64, 256)[mask]
    assert given is not None
    outcome = run(machine("npu", 1 << 18), "attention", [*heads(*sizes), given], {"scale": 0.3})
    check(outcome)
    loads = [s.command for s in unrolled(outcome.items) if isinstance(s.command, Load)]
    of_mask = [number for number, load in enumerate(loads) if load.dtype is DType.BOOL]
    assert sum(loads[number].elements for number in of_mask) == given.size
    assert (of_mask == [0]) == (mask != "bool")


@pytest.mark.parametrize("scratch", [4352, 4480, 5120, 5760, 7168])
def test_tiles_take_no_more_than_they_were_chosen_for(scratch: int) -> None:
    """Half of the scratch, which these fill to the last bytes."""
    check(run(machine("npu", scratch), "attention", heads(1, 3, 1, 5, 7, 16, 16), {"scale": 0.3, "causal": True}))


def test_the_array_waits_for_the_vector_unit_alone() -> None:
    outcome = run(machine("npu", 1 << 16), "attention", heads(1, 8, 8, 1, 64, 16, 16), {"scale": 0.3})
    fences = {s.command.of for s in steps(outcome.items) if isinstance(s.command, Fence)}
    assert fences == {"vector"}


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 9, 16])
@pytest.mark.parametrize("inner", [1, 2, 3])
def test_every_turn_passes_every_stage_once_and_in_order(groups: int, inner: int) -> None:
    """Unrolled, stage s of turn n comes in beat n + s, whatever of it lies in a loop."""
    emit, beats = Emitter(), list[tuple[Turn | None, ...]]()

    def beat(turns: object) -> None:
        beats.append(tuple(turns))  # type: ignore[arg-type]
        for stage, turn in enumerate(beats[-1]):
            if turn is not None:
                number = turn.group * 100 + turn.step * 10 + stage
                acc = turn.slot + 2 * turn.place
                command = Matmul(src=number, dtype=DType.F16, rows=1, k=1, row_stride=0, k_stride=0, acc=acc, columns=1,
                                 acc_row=0)  # fmt: skip
                emit.issue("npu", command)

    pipelined(emit, groups, inner, 4, beat)
    seen = [(plain(c.src), plain(c.acc)) for c in (s.command for s in unrolled(emit.take())) if isinstance(c, Matmul)]
    total = groups * inner
    expected = [
        (n // inner * 100 + n % inner * 10 + stage, n % 2 + 2 * (n // inner % 2))
        for beat_number in range(total + 3)
        for stage in range(4)
        if 0 <= (n := beat_number - stage) < total
    ]
    assert seen == expected
