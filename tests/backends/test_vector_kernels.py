"""Every kernel that NPU and PNM share computes its op, wherever operands and result lie, however little fits."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.lowering import RULES
from pimc.ir.diagnostics import CompileError
from pimc.ir.op import REGISTRY, lookup
from tests.backends.kernel_cases import LONG, PLACES, SMALL, SPATIAL, Case, ints
from tests.backends.kernel_harness import check, floats, integers, machine, run

KINDS = ("npu", "pnm")
LEFT_OUT = {
    "attention", "onnx_attention", "ms_group_query_attention", "ms_multi_head_attention", "rotary_embedding",
    "ms_rotary_embedding", "ms_skip_layer_normalization", "ms_skip_simplified_layer_normalization",  # rewritten
    "all_reduce", "all_gather", "reduce_scatter", "send", "receive",  # the link's
    "shape", "size", "range", "non_zero",  # known to the compiler
    "ms_matmul_nbits", "dynamic_quantize_linear",  # written out in others
}  # fmt: skip
"""Ops that no vector unit is asked for."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_functions(kind: str, case: Case) -> None:
    check(run(machine(kind, 1 << 14), case.op, case.arrays, case.attributes, "dram", "buffer", case.known))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SPATIAL, ids=str)
def test_places(kind: str, case: Case) -> None:
    for operands, result, scratch in PLACES:
        check(run(machine(kind, scratch), case.op, case.arrays, case.attributes, operands, result, case.known))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", LONG, ids=str)
def test_rows_longer_than_the_buffer(kind: str, case: Case) -> None:
    outcome = run(machine(kind, 1 << 13), case.op, case.arrays, case.attributes, "dram", "dram", case.known)
    check(outcome)
    assert outcome.commands < 250


@pytest.mark.parametrize("kind", KINDS)
def test_device_format(kind: str) -> None:
    """16-bit cells: results are those of float32 arithmetic, rounded once more."""
    for case in SPATIAL:
        if case.op not in ("attention_softmax", "layer_norm", "softmax", "rotary", "add", "reduce_mean"):
            continue
        rounded = [a.astype(np.float16).astype(a.dtype) if a is not None and a.dtype == np.float32 else a
                   for a in case.arrays]  # fmt: skip
        check(run(machine(kind, wide=False), case.op, rounded, case.attributes, known=case.known), tolerance=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_op_has_a_rule(kind: str) -> None:
    lookup("add")
    whole = {"attention"} if kind == "npu" else set()
    assert {name for name in REGISTRY if (kind, name) not in RULES} == LEFT_OUT - whole


def test_appending_in_place_moves_only_what_is_new() -> None:
    past, new = floats(1, 2, 5, 4), floats(1, 2, 3, 4)
    outcome = run(machine("npu"), "cache_append", [past, new], {"axis": 2}, "dram", "dram:cache", same={0: 0})
    check(outcome)
    assert outcome.commands <= 6


def test_program_grows_with_structure_not_with_size() -> None:
    small = run(machine("npu", 4096), "add", [floats(100, 100), floats(100)])
    large = run(machine("npu", 4096), "add", [floats(1000, 100), floats(100)])
    check(large)
    assert large.executed > 5 * small.executed
    assert large.commands <= small.commands + 4


def test_index_out_of_range_is_refused() -> None:
    with pytest.raises(CompileError, match="index 30 is out of range for a dimension of 30"):
        run(machine("npu"), "gather", [floats(30, 4), ints(1, 30)])


def test_reading_a_view_in_place_takes_no_command() -> None:
    x = floats(4, 6)
    outcome = run(machine("npu"), "identity", [x], same={0: 0})
    assert outcome.commands == 0


def test_gather_of_integers_keeps_them_exact() -> None:
    table = integers(20, low=2**40, high=2**41)
    check(run(machine("npu"), "gather", [table, integers(7, high=20)]))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_masked_by_the_lowest_number_are_no_empty_rows(kind: str) -> None:
    """Exporters mask with the lowest float32, twice where two masks meet; a row of such has equal weights."""
    lowest = np.finfo(np.float32).min
    mask = np.zeros((1, 1, 3, 8), np.float32)
    mask[0, 0, 0, :] = lowest
    mask[0, 0, 0, 4:] = -np.inf
    mask[0, 0, 1, 5:] = lowest
    check(run(machine(kind), "attention_softmax", [floats(1, 2, 3, 8), mask]))
