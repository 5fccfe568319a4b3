"""Few long requests in PIM of Newton's kind: their heads lie in spare channels where one channel is too small."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.backends.program import steps
from pimc.driver import Options, Result, compile_model
from pimc.ir.diagnostics import CompileError, Kind

MODEL = """model apart(batch = 2, seq = 1, past = 600)
let heads = 16
let kv_heads = 8
let head_dim = 64
input q "q": f32[batch, heads, seq, head_dim]
input k "k": f32[batch, kv_heads, seq, head_dim]
input v "v": f32[batch, kv_heads, seq, head_dim]
cache past_key "past.key" -> "present.key": f32[batch, kv_heads, past, head_dim]
cache past_value "past.value" -> "present.value": f32[batch, kv_heads, past, head_dim]
let keys = cache_append(past_key, k)
let values = cache_append(past_value, v)
@engine("pim")
let scores = attention_scores(q, keys, scale = 0.125)
let weights = softmax(scores)
@engine("pim")
let y = attention_context(weights, values)
output y
"""


def compiled(folder: Path, target: str, rows: int, **dims: int) -> Result:
    model = folder / "apart.pimc"
    model.write_text(MODEL)
    overrides = (f"dram.rows={rows}", "dram.channels=8")
    return compile_model(model, target, Options(dims=dims, overrides=overrides), values="random")


def channels(result: Result) -> int:
    """Those that multiply."""
    streams = (s for s in result.program.streams if s.engine == "pim")
    return sum(len(s.instances) for s in streams if any("COMP" in x.command.mnemonic for x in steps(s.items)))


@pytest.mark.parametrize("target", ["neupims", "newton"])
@pytest.mark.parametrize(("dims", "rows", "used"), [({}, 40, 8), ({"batch": 3}, 48, 6), ({"seq": 3}, 40, 8)])
def test_heads_are_spread_where_a_channel_is_too_small(
    target: str, dims: dict[str, int], rows: int, used: int, tmp_path: Path
) -> None:
    """Of 8 channels each request gets as many as are spare, and its products are those of all heads."""
    spread = compiled(tmp_path, target, rows, **dims)
    assert spread.comparison is not None and spread.comparison.ok
    assert channels(spread) == used


def test_a_request_has_a_channel_of_its_own_where_it_fits(tmp_path: Path) -> None:
    whole, spread = (compiled(tmp_path, "neupims", rows) for rows in (64, 40))
    assert (channels(whole), channels(spread)) == (2, 8)
    assert whole.timing is not None and spread.timing is not None
    assert spread.timing.cycles < whole.timing.cycles


def test_what_fits_in_no_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as refused:
        compiled(tmp_path, "neupims", 24)
    assert refused.value.diagnostics[0].kind is Kind.CAPACITY
