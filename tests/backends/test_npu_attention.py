"""Attention as a whole on the NPU: values in any layout, blocks of queries, and what lies beyond a causal block."""

from __future__ import annotations

import pytest

from pimc.backends.npu.isa import Matmul
from pimc.backends.program import steps
from pimc.ir.op import Array
from tests.backends.kernel_harness import check, floats, machine, run


def heads(batch: int, query: int, kv: int, queries: int, keys: int, depth: int, width: int) -> list[Array]:
    shapes = ((batch, query, queries, depth), (batch, kv, keys, depth), (batch, kv, keys, width))
    return [floats(*shape, seed=i) for i, shape in enumerate(shapes)]


CASES = [
    heads(1, 1, 1, 16, 16, 8, 8),
    heads(2, 4, 2, 24, 40, 16, 8),
    heads(1, 3, 3, 33, 33, 20, 12),
    heads(2, 6, 1, 8, 70, 8, 24),
    heads(1, 2, 2, 1, 50, 16, 16),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("arrays", CASES, ids=lambda a: "x".join(map(str, (*a[0].shape, a[1].shape[2]))))
def test_values(arrays: list[Array], causal: bool) -> None:
    attributes = {"scale": 0.3, "causal": causal}
    for operands, result in (
        ("dram", "dram"),
        ("buffer", "buffer"),
        ("dram:turned", "dram:padded"),
        ("dram:digits", "dram"),
    ):
        check(run(machine("npu", 1 << 18), "attention", arrays, attributes, operands, result))


def test_blocks_of_queries_see_no_further_than_their_last() -> None:
    """128 queries in blocks: a block's products have as many columns as its last query sees keys."""
    outcome = run(
        machine("npu", 1 << 17), "attention", heads(1, 1, 1, 128, 128, 16, 16), {"scale": 0.3, "causal": True}
    )
    check(outcome)
    matmuls = [s.command for s in steps(outcome.items) if isinstance(s.command, Matmul)]
    macs = sum(int(m.rows) * int(m.k) * int(m.columns) for m in matmuls)  # type: ignore[arg-type]
    assert macs < 0.8 * 2 * 128 * 128 * 16
