"""Products with chosen experts: on vector units and arrays for any routing, in the banks by mapped rows."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.dma.isa import Gather, Load, MapRows
from pimc.backends.program import steps
from pimc.driver import Options, Result, compile_model
from pimc.ir.diagnostics import CompileError
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.op import Array, lookup
from pimc.ir.types import DType, TensorType
from pimc.ir.weights import Inline
from pimc.sim.values import execute
from tests.backends.kernel_harness import check, floats, integers, machine, run

FEW, MANY = (2, 2), (5, 3)
"""Tokens and choices of each: fewer pairs than the six experts, and more."""


def _operands(tokens: int, choices: int, vectors: int, depth: int = 24, width: int = 20) -> list[Array]:
    ids = integers(tokens, choices, low=-6, high=6, seed=tokens)
    return [floats(tokens, vectors, depth), floats(6, width, depth, scale=0.2), ids]


@pytest.mark.parametrize("kind", ["npu", "pnm"])
@pytest.mark.parametrize("pairs", [FEW, MANY])
@pytest.mark.parametrize("vectors", ["one", "each"])
def test_any_routing(kind: str, pairs: tuple[int, int], vectors: str) -> None:
    arrays = _operands(*pairs, 1 if vectors == "one" else pairs[1])
    for place, scratch in (("dram", 1 << 16), ("buffer", 1 << 16), ("dram:turned", 1 << 14), ("dram:padded", 1 << 13)):
        places = [place, "dram" if place == "buffer" else place, place]
        check(run(machine(kind, scratch), "expert_matmul", arrays, None, places, "dram"))


@pytest.mark.parametrize("pairs", [FEW, MANY])
def test_operands_in_odd_places(pairs: tuple[int, int]) -> None:
    arrays = _operands(*pairs, 1)
    check(run(machine("npu"), "expert_matmul", arrays, None, ["dram:digits", "dram:turned", "dram:digits"], "buffer"))


def test_an_array_reads_each_expert_once_when_there_are_more_pairs_than_experts() -> None:
    few = run(machine("npu"), "expert_matmul", _operands(*FEW, 1))
    many = run(machine("npu"), "expert_matmul", _operands(*MANY, 1))
    assert any(isinstance(s.command, Gather) for s in steps(few.items))
    assert not any(isinstance(s.command, Gather) for s in steps(many.items))
    vector_unit = run(machine("pnm"), "expert_matmul", _operands(*MANY, 1))
    assert any(isinstance(s.command, Gather) for s in steps(vector_unit.items))


# -- in the banks -----------------------------------------------------------------------------------------------------


def _graph(tokens: int, choices: int, depth: int, width: int, experts: int = 6) -> tuple[Graph, Array]:
    graph = Graph("experts")
    rewriter = Rewriter(graph)
    x = rewriter.input("x", TensorType(DType.F32, (tokens, 1, depth)))
    ids = rewriter.input("ids", TensorType(DType.I64, (tokens, choices)))
    w = floats(experts, width, depth, scale=0.2)
    weight = rewriter.weight("w", TensorType(DType.F32, w.shape), Inline(w))
    rewriter.output("y", rewriter.add(lookup("expert_matmul"), (x, weight, ids)).result)
    return graph, w


def _in_banks(target: str, tokens: int = 2, choices: int = 2, depth: int = 96, width: int = 80) -> tuple[Result, Array]:
    graph, w = _graph(tokens, choices, depth, width)
    return compile_model(graph, target, Options(pass_options=("place.only=pim",))), w


@pytest.mark.parametrize("target", ["neupims", "newton", "cent"])
@pytest.mark.parametrize("sizes", [(96, 80), (2100, 48), (40, 1500)], ids=str)
def test_rows_of_chosen_experts(target: str, sizes: tuple[int, int]) -> None:
    """Each routing gives its own results from the same streams, in whatever order engines run."""
    result, w = _in_banks(target, 2, 2, *sizes)
    assert {row.engine for row in result.program.ops if row.op == "expert_matmul"} == {"pim"}
    x = floats(2, 1, sizes[0])
    for routing in ([[0, 5], [3, 3]], [[2, 1], [-1, 4]]):
        ids = np.asarray(routing, np.int64)
        want = np.einsum("tjnk,tk->tjn", w[ids], x[:, 0])
        for order in ("forward", "reverse", 1):
            outputs, _ = execute(result.program, {"x": x, "ids": ids}, wide=True, order=order)
            np.testing.assert_allclose(outputs["y"], want, atol=2e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("pairs", [FEW, MANY])
def test_an_array_reads_experts_that_lie_in_banks(pairs: tuple[int, int]) -> None:
    """As the prefill of a generation does, whose decode steps multiply in the banks."""
    graph, w = _graph(*pairs, 1100, 700)
    options = Options(pass_options=("place.only=npu",), banked=frozenset({"w"}))
    result = compile_model(graph, "neupims", options)
    x, ids = floats(pairs[0], 1, 1100), integers(*pairs, high=6)
    outputs, _ = execute(result.program, {"x": x, "ids": ids}, wide=True)
    want = np.einsum("tjnk,tk->tjn", w[ids], x[:, 0])
    np.testing.assert_allclose(outputs["y"], want, atol=2e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("target", ["neupims", "cent"])
def test_experts_stay_where_they_lie(target: str) -> None:
    """Streams map one window of rows for each pair, and never load a weight."""
    result, _ = _in_banks(target, 3, 2)
    entry = next(e for e in result.program.memory if e.name == "w")
    low, high = entry.layout.span(2)
    commands = [s.command for stream in result.program.streams for s in steps(stream.items)]
    assert any(isinstance(c, MapRows) for c in commands)
    loads = [c for c in commands if isinstance(c, Load)]
    assert all(not low <= (c.src if isinstance(c.src, int) else c.src.base) < high for c in loads)


def test_time_does_not_depend_on_how_many_experts_there_are() -> None:
    times = []
    for experts in (4, 32):
        graph, _ = _graph(1, 2, 256, 512, experts)
        result = compile_model(graph, "cent", Options(pass_options=("place.only=pim",)))
        assert result.timing is not None
        times.append(result.timing.time)
        (row,) = [r for r in result.program.ops if r.op == "expert_matmul"]
        assert row.flops == 2 * 2 * 256 * 512
        assert row.bytes < 3 * 2 * 256 * 512 * 2
        assert "any routing" in row.reason
    assert times[0] == times[1]


def test_an_expert_that_does_not_exist_is_refused() -> None:
    result, _ = _in_banks("cent")
    with pytest.raises(CompileError, match="index 6 is out of range"):
        execute(result.program, {"x": floats(2, 1, 96), "ids": np.full((2, 2), 6)}, wide=True)
