"""Where ops run, and what is said of it: the statements about machines that the project makes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from pimc import driver, execution
from pimc.backends.program import Program
from pimc.driver import Options, compile_model, lower_model
from pimc.ir.facts import Nature, Phase, Placement, Work
from pimc.ir.graph import Graph, Node
from pimc.sim.timing import Timing
from tests.e2e.harness import DECODE, MODELS, TINY, all_steps, key, tiny, with_layers

PRODUCTS = ("matmul", "attention_scores", "attention_context")
ATTENTION = PRODUCTS[1:]
TIMES = re.compile(r"[\d.]+ (ns|us|ms|s) on (\w+), [\d.]+ (ns|us|ms|s) on (\w+) \([\d.e+]+x\)")
"""What a reason says of the engines that were compared."""


def placed(name: str, folder: Path, target: str, **dims: int) -> Graph:
    """Two layers of a model of models/, placed."""
    return lower_model(with_layers(name, 2, folder), target, Options(dims=dims, until="place")).graph


def products(graph: Graph, *names: str) -> list[Node]:
    found = [node for node in graph.order() if node.op.name in names]
    assert len(found) >= 2
    return found


def placement(node: Node) -> Placement:
    found = node.fact(Placement)
    assert found is not None
    return found


def work(node: Node) -> Work:
    found = node.fact(Work)
    assert found is not None
    return found


def reasons(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """The engine that was chosen and the one that it was compared with, as the reasons say."""
    for node in nodes:
        said = TIMES.search(placement(node).reason)
        assert said is not None, placement(node).reason
        assert said[2] == placement(node).engine
        yield said[2], said[4]


def test_decode_of_a_batch_on_neupims(tmp_path: Path) -> None:
    """Requests share weights, which makes GEMM, and not caches, which stay GEMV."""
    graph = placed("gpt3-7b", tmp_path, "neupims", batch=64, past=127)
    weights, attention = products(graph, "matmul"), products(graph, *ATTENTION)
    assert {node.fact(Phase) for node in weights} == {Phase.DECODE}
    assert {work(node).nature for node in weights} == {Nature.GEMM}
    assert {work(node).nature for node in attention} == {Nature.GEMV}
    assert set(reasons(weights)) == {("npu", "pim")}
    assert set(reasons(attention)) == {("pim", "npu")}


def test_decode_of_one_request(tmp_path: Path) -> None:
    graph = placed("gpt3-7b", tmp_path, "neupims", batch=1, past=127)
    assert {work(node).nature for node in products(graph, *PRODUCTS)} == {Nature.GEMV}
    assert set(reasons(products(graph, "matmul"))) == {("pim", "npu")}


@pytest.mark.parametrize("heads", [1, 8])
def test_query_heads_that_share_a_cache_make_a_gemm(heads: int, tmp_path: Path) -> None:
    copy = with_layers("llama2-70b", 2, tmp_path)
    copy.write_text(re.sub(r"let kv_heads = \d+", f"let kv_heads = {64 // heads}", copy.read_text()))
    graph = lower_model(copy, "npu", Options(dims={"past": 127}, until="tag-nature")).graph
    attention = products(graph, "attention")
    assert {work(node).nature for node in attention} == {Nature.GEMV if heads == 1 else Nature.SKINNY_GEMM}
    assert {work(node).m for node in attention} == {heads}


def test_prefill_on_neupims(tmp_path: Path) -> None:
    graph = placed("llama2-7b", tmp_path, "neupims", seq=512)
    attention = products(graph, *PRODUCTS)
    assert {node.fact(Phase) for node in attention} == {Phase.PREFILL}
    assert {work(node).nature for node in attention} == {Nature.GEMM}
    assert set(reasons(attention)) == {("npu", "pim")}


@pytest.mark.parametrize("target", ["neupims", "newton"])
def test_what_banks_need_on_chip_has_to_be_there(target: str, tmp_path: Path) -> None:
    """The NPU takes what it can do in pieces of a small buffer, and the reason says why the banks do not."""
    model = with_layers("gpt3-7b", 2, tmp_path)
    small = Options(dims={"batch": 8, "past": 2047}, overrides=["buffer.bytes=128KiB"], until="place")
    for node in products(lower_model(model, target, small).graph, *ATTENTION):
        (other,) = placement(node).alternatives
        assert placement(node).engine == "npu"
        assert other.engine == "pim"
        assert other.illegal.startswith("a kernel needs")


def test_cent_has_only_pim_and_pnm(tmp_path: Path) -> None:
    """Products are on PIM, all else on PNM; copies and the link bring what they need."""
    model = with_layers("gpt3-7b", 2, tmp_path)
    result = compile_model(model, "cent", Options(dims={"batch": 2, "past": 127}))
    assert {placement(node).engine for node in result.graph.order()} == {"pim", "pnm"}
    assert set(reasons(products(result.graph, *PRODUCTS))) == {("pim", "pnm")}
    assert {s.engine for s in result.program.streams} == {"load", "store", "pim", "pnm"}
    assert {row.engine for row in result.program.ops} == {"pim", "pnm"}
    assert result.report is not None
    assert {e.name: e.commands > 0 and e.busy > 0 for e in result.report.engines} == dict.fromkeys(
        ("load", "store", "pim", "pnm"), True
    )


@pytest.mark.parametrize("passes", [(), ("place.only=pim",), ("place.only=npu",)], ids=["by time", "pim", "npu"])
@pytest.mark.parametrize("target", ["neupims", "newton"])
@pytest.mark.parametrize("name", TINY)
def test_the_commands_are_those_of_the_engine(name: str, target: str, passes: tuple[str, ...]) -> None:
    """A product that is placed on PIM has commands there and none on the array, and the other way round: on the NPU it
    is the array's, or the vector unit's."""
    program = tiny(name, target, key(DECODE), passes).program
    commands: dict[int, set[str]] = defaultdict(set)
    for step in all_steps(program):
        commands[step.op].add(step.command.mnemonic)
    rows = {i: row for i, row in enumerate(program.ops) if row.op in PRODUCTS}
    if passes:
        assert {row.engine for row in rows.values()} == {passes[0].removeprefix("place.only=")}
    for i, row in rows.items():
        used = commands[i if row.shares < 0 else row.shares]
        assert used & {"MATMUL", "VRED", "VEC"} or row.engine == "pim"
        assert ("GWRITE" in used) == (row.engine == "pim")
        assert "MATMUL" not in used or row.engine == "npu"


def test_what_nodes_cost_is_found_out_once_for_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another compilation for the same machine times its program alone, one for other numbers asks anew."""
    timed: list[str] = []
    time_program = execution.time_program

    def counting(program: Program, *given: object, **more: object) -> Timing:
        timed.append(program.graph)
        return time_program(program, *given, **more)  # type: ignore[arg-type]

    for module in (driver, execution):
        monkeypatch.setattr(module, "time_program", counting)

    def count(*overrides: str) -> int:
        timed.clear()
        compile_model(MODELS / "tiny-gpt2.pimc", "neupims", Options(overrides=overrides))
        return len(timed)

    count()
    assert count() == 1
    assert count("dram.timing.tRP=19ns") > 1
