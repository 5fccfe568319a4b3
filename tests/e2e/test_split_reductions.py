"""Partial sums that devices exchange piece by piece."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pimc.driver import Options, Result, compile_model
from pimc.ir.diagnostics import CompileError
from pimc.ir.requests import Request
from pimc.sim.check import check, part_of
from pimc.sim.issue_trace import IssueLog
from pimc.sim.time import simulate
from tests.e2e.harness import MODELS

BLOCK = MODELS / "blocks/gpt3_layers.pimc"


def layers(folder: Path, hidden: int, heads: int, count: int = 1) -> Path:
    model = folder / "layers.pimc"
    sizes = f"let layers = {count}\nlet hidden = {hidden}\nlet heads = {heads}\n"
    model.write_text(f'model layers(batch = 1, seq = 1, past = 0)\n{sizes}include "{BLOCK}"\n')
    return model


def compiled(
    model: Path, *passes: str, target: str = "neupims", size: int = 6, tp: int = 2, values: bool = True
) -> Result:
    draw = random.Random(7)
    batch = [Request(f"r{i}", draw.randint(0, 70), 1, None, i) for i in range(size)]
    options = Options(
        requests=batch, pass_options=passes, parallel={"tp": tp}, overrides=(f"system.devices={tp}",)
    )
    return compile_model(model, target, options, values="random" if values else None)


def reductions(result: Result) -> int:
    return sum(node.op.name == "all_reduce" for node in result.graph.order())


@pytest.mark.parametrize("use", ["on", "off"])
@pytest.mark.parametrize("target", ["neupims", "newton", "npu"])
def test_pieces_add_up_to_what_the_whole_is(tmp_path: Path, target: str, use: str) -> None:
    passes = (f"sub-batches.use={use}", "place.only=npu") if target == "npu" else (f"sub-batches.use={use}",)
    result = compiled(layers(tmp_path, 1024, 8), *passes, target=target)
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison


def test_sums_of_one_piece_travel_while_the_next_is_multiplied(tmp_path: Path) -> None:
    model = layers(tmp_path, 8192, 64)
    passes = ("sub-batches.use=off", "place.only=npu")
    whole = compiled(model, *passes, "split-reductions.pieces=1", size=128, tp=8, values=False)
    cut = compiled(model, *passes, size=128, tp=8, values=False)
    assert reductions(whole) == 2
    assert reductions(cut) > 2
    assert whole.timing is not None and cut.timing is not None
    assert cut.timing.time < 0.97 * whole.timing.time


def test_narrow_products_and_one_piece_stay_whole(tmp_path: Path) -> None:
    assert reductions(compiled(layers(tmp_path, 256, 4), values=False)) == 2
    assert reductions(compiled(layers(tmp_path, 1024, 8), "split-reductions.pieces=1", values=False)) == 2


def test_the_number_of_pieces_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="at least 1"):
        compiled(layers(tmp_path, 256, 4), "split-reductions.pieces=0", values=False)


def test_the_memory_keeps_its_rules(tmp_path: Path) -> None:
    result = compiled(layers(tmp_path, 1024, 8, 2), "sub-batches.use=on", size=12, values=False)
    log = IssueLog()
    simulate(result.program, issues=log)
    assert not check(log.issued(), part_of(result.spec)).violations
