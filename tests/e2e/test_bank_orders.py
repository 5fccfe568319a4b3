"""A value lies in the banks in one order: of two products that need it in different ones, one runs elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.driver import Options, compile_model
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.facts import Placement

BOTH_WAYS = """
model both_ways(batch = 2)
input x: f32[batch, 64]
input y: f32[batch, 96]
weight w: f32[64, 96] = random(0.1)
{first}
output a = x @ w
let turned = transpose(w, perm = [1, 0])
{second}
output b = y @ turned
"""
LATENT = """
model latent(batch = 2, seq = 1, past = 20)
input x: f32[batch, 4, seq, 32]
input new: f32[batch, 1, seq, 32]
cache kept: f32[batch, 1, past, 32]
let all = cache_append(kept, new)
output y = attention(x, all, all, scale = 0.25, causal = true)
"""
"""Keys that are values, too, as those of multi-head latent attention."""
MODELS = {"both ways": BOTH_WAYS.format(first="", second=""), "latent": LATENT}


def _file(text: str, folder: Path) -> Path:
    file = folder / "model.pimc"
    file.write_text(text)
    return file


@pytest.mark.parametrize("passes", [(), ("place.only=pim",)], ids=["by time", "pim"])
@pytest.mark.parametrize("target", ["neupims", "newton", "cent"])
@pytest.mark.parametrize("name", MODELS)
def test_values_are_right(name: str, target: str, passes: tuple[str, ...], tmp_path: Path) -> None:
    options = Options(pass_options=passes, simulate=False)
    result = compile_model(_file(MODELS[name], tmp_path), target, options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.outputs
    products = [n for n in result.graph.order() if n.op.name in ("matmul", "attention_scores", "attention_context")]
    engines = {placement.engine: placement for n in products if (placement := n.fact(Placement)) is not None}
    if passes:
        assert set(engines) == {"pim", "pnm" if target == "cent" else "npu"}
        (reason,) = [a.illegal for p in engines.values() for a in p.alternatives if a.engine == "pim"]
        assert "in another order" in reason


def test_asking_for_both_is_refused(tmp_path: Path) -> None:
    text = BOTH_WAYS.format(first='@engine("pim")', second='@engine("pim")')
    with pytest.raises(CompileError) as caught:
        compile_model(_file(text, tmp_path), "neupims")
    assert {d.kind for d in caught.value.diagnostics} == {Kind.ILLEGAL}
    assert "in another order" in str(caught.value)
