"""Weights that stay on chip from one sub-batch to the other."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.planning import make_plan, nodes_by_stage
from pimc.backends.races import check_races
from pimc.backends.storage import to_bytes
from pimc.driver import Options, Result, compile_model
from pimc.ir.diagnostics import CompileError
from pimc.ir.facts import Position, SubBatch
from pimc.ir.graph import Node, Rewriter
from pimc.ir.requests import Request
from pimc.sim.check import check, part_of
from pimc.sim.issue_trace import IssueLog
from pimc.sim.time import simulate
from tests.e2e.harness import MODELS

BLOCK = MODELS / "blocks/gpt3_layers.pimc"
LLAMA, ONNX, GPT = MODELS / "tiny-llama.pimc", MODELS / "tiny-llama.onnx", MODELS / "tiny-gpt2.pimc"


def layers(folder: Path, hidden: int = 512, heads: int = 4, count: int = 3) -> Path:
    model = folder / "layers.pimc"
    sizes = f"let layers = {count}\nlet hidden = {hidden}\nlet heads = {heads}\n"
    model.write_text(f'model layers(batch = 1, seq = 1, past = 0)\n{sizes}include "{BLOCK}"\n')
    return model


def compiled(
    model: Path, *passes: str, target: str = "neupims", size: int = 8, most: int = 70, values: bool = True,
    buffer: str = "", tp: int = 1, seed: int = 3,
) -> Result:  # fmt: skip
    draw = random.Random(seed)
    batch = [Request(f"r{i}", draw.randint(0, most), 1, None, i) for i in range(size)]
    overrides = [f"system.devices={tp}", *([f"buffer.bytes={buffer}"] if buffer else [])]
    overrides += ["dram.channels=4"] if values else []
    options = Options(
        requests=batch, pass_options=("sub-batches.use=on", *passes), overrides=tuple(overrides), parallel={"tp": tp},
        seed=seed,
    )  # fmt: skip
    return compile_model(model, target, options, values="random" if values else None)


def held(result: Result) -> list[Node]:
    return [node for node in result.graph.order() if node.op.name == "hold"]


def weight_bytes(result: Result) -> int:
    """All that comes from memory for the NPU."""
    assert result.timing is not None
    return sum(e.counters.get("bytes read", 0) for e in result.timing.engines if e.name in ("load", "load-held"))


@pytest.mark.parametrize("target", ["neupims", "newton"])
@pytest.mark.parametrize("model", [LLAMA, ONNX, GPT], ids=lambda m: m.name)
def test_values(model: Path, target: str) -> None:
    percent = 90 if target == "newton" else 20
    result = compiled(model, f"sub-batches.hold={percent}", target=target, buffer="1MiB", size=7)
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison
    assert held(result)
    check_races(result.program)


@pytest.mark.parametrize(("count", "tp"), [(1, 1), (2, 2), (5, 1)])
def test_every_weight_comes_once(tmp_path: Path, count: int, tp: int) -> None:
    """Of few layers, and of so many that they become a loop; on one device, and with sums that devices exchange."""
    model = layers(tmp_path, 256, count=count)
    once, twice = (compiled(model, f"sub-batches.hold={n}", tp=tp) for n in (75, 0))
    for result in (once, twice):
        assert result.comparison is not None
        assert result.comparison.ok, result.comparison
    matrices = sum(2 * node.result.type.elements for node in held(once))  # PIM has some
    assert matrices >= 8 * 256 * 256 * 2 * count // tp
    assert weight_bytes(twice) - weight_bytes(once) == pytest.approx(matrices, rel=0.01)
    assert not held(twice)
    stored = to_bytes(once.program)
    assert to_bytes(assemble(disassemble(once.program))) == stored
    assert simulate(once.program) == simulate(once.program, engine="plain")


@pytest.mark.parametrize("order", ["beats", "source"])
def test_other_orders(tmp_path: Path, order: str) -> None:
    passes = (f"schedule.order={order}", "sub-batches.hold=60", "place.only=npu")
    result = compiled(layers(tmp_path, 256), *passes, buffer="1MiB", size=4)
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison
    assert held(result)
    check_races(result.program)


def test_what_does_not_fit_is_read_from_memory(tmp_path: Path) -> None:
    """In an order in which one sub-batch waits until the other is through all layers."""
    result = compiled(layers(tmp_path, 256), buffer="1MiB", size=4, values=False)
    graph = result.graph
    rewriter = Rewriter(graph)
    halves = {n: half.index if (half := n.fact(SubBatch)) is not None else 0 for n in graph.order()}
    for index, node in enumerate(sorted(graph.order(), key=lambda n: halves[n])):
        rewriter.set_fact(node, Position(index))
    homes = make_plan(graph, result.spec, nodes_by_stage(graph)[0]).homes
    places = [homes[n.result] for n in held(result)]
    assert {home.space for home in places} == {"buffer", "dram"}
    ends = sorted(home.layout.span(2) for home in places if home.on_chip)
    assert all(low >= high for (_, high), (low, _) in pairwise(ends))
    assert ends[-1][1] <= 0.9 * 2**20


def test_only_so_many_stay(tmp_path: Path) -> None:
    """What is held between two attentions takes no more than its part of the buffer; the largest go first."""
    result = compiled(layers(tmp_path), "sub-batches.hold=50", buffer="3MiB", values=False)
    sizes: dict[object, list[int]] = {}
    for node in held(result):
        home = result.graph.homes[node.result]
        assert home.on_chip
        layer = str(node.result.name).split(".")[1]
        sizes.setdefault(layer, []).append(home.bytes)
    assert sizes
    ends = [result.graph.homes[n.result].layout.span(2)[1] for n in held(result)]
    assert max(ends) <= 3 * 2**20 // 2
    fc = 4 * 512 * 512 * 2
    assert not any(size == fc for found in sizes.values() for size in found)  # no room for one of these


def test_the_next_layer_comes_while_this_one_is_at_work(tmp_path: Path) -> None:
    """Large batches of short requests, which read their weights twice otherwise."""
    model = layers(tmp_path, 2048, 16, 4)
    once, twice = (compiled(model, f"sub-batches.hold={n}", size=128, most=100, values=False) for n in (75, 0))
    assert once.timing is not None and twice.timing is not None
    assert once.timing.time < 0.9 * twice.timing.time


def test_the_memory_keeps_its_rules(tmp_path: Path) -> None:
    result = compiled(layers(tmp_path), size=12, values=False)
    log = IssueLog()
    simulate(result.program, issues=log)
    assert not check(log.issued(), part_of(result.spec)).violations


def test_published_machines_hold_nothing(tmp_path: Path) -> None:
    assert not held(compiled(layers(tmp_path), target="neupims-faithful", values=False))


def test_the_part_of_the_buffer_has_bounds(tmp_path: Path) -> None:
    for percent in (-1, 91):
        with pytest.raises(CompileError, match="between 0 and 90"):
            compiled(layers(tmp_path), f"sub-batches.hold={percent}", values=False)
