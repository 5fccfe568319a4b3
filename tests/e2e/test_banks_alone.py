"""GDDR6-AiM with nothing beside it: what comes out of the banks lies where their commands can put it."""

from __future__ import annotations

from pathlib import Path

import pytest

import pimc
from pimc.ir.diagnostics import CompileError, Kind

PRODUCTS = {
    "matmul": "input x: f16[3, 48]\nweight w: f16[48, 77]\noutput y = x @ w",
    "several vectors with a row": "input x: f16[2, 30, 64]\nweight w: f16[64, 509]\noutput y = x @ w",
    "scores": "input q: f16[2, 6, 3, 16]\ninput k: f16[2, 3, 45, 16]\noutput y = attention_scores(q, k, scale = 1.0)",
    "context": "input p: f16[3, 4, 5, 40]\ninput v: f16[3, 2, 40, 65]\noutput y = attention_context(p, v)",
    "one after the other": "input x: f16[5, 33]\nweight a: f16[33, 50]\nweight b: f16[50, 19]\noutput y = x @ a @ b",
}


def compiled(folder: Path, text: str, *overrides: str) -> pimc.Result:
    model = folder / "model.pimc"
    model.write_text(f"model products(unused = 1)\n{text}\n")
    return pimc.compile(model, "aim-pinned", overrides=overrides, values="random")


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("text", PRODUCTS.values(), ids=PRODUCTS)
def test_columns_that_are_not_full_overwrite_nothing(text: str, channels: int, tmp_path: Path) -> None:
    comparison = compiled(tmp_path, text, f"dram.channels={channels}").comparison
    assert comparison is not None and comparison.ok


REFUSED = {
    "scaled": "input q: f16[1, 2, 1, 16]\ninput k: f16[1, 2, 9, 16]\noutput y = attention_scores(q, k, scale = 0.5)",
    "transpose": "input x: f16[16, 3]\nweight w: f16[16, 9]\noutput y = transpose(x, perm = [1, 0]) @ w",
    "pim has no commands for transpose": "input q: f16[1, 16, 2, 5]\ninput k: f16[1, 2, 9, 16]\n"
    "output y = attention_scores(transpose(q, perm = [0, 2, 3, 1]), k, scale = 1.0)",
}
"""By what is said of it."""


@pytest.mark.parametrize(("said", "text"), REFUSED.items())
def test_what_needs_another_unit_is_refused(said: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as failure:
        compiled(tmp_path, text)
    found = failure.value.diagnostics
    assert all(d.kind is Kind.ILLEGAL for d in found)
    assert said in " ".join(line for d in found for line in (d.message, *d.notes))
