"""`--phase both`: prefill and decode step of one model, each right, timed and tagged, on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pimc.driver import Options
from pimc.ir.diagnostics import CompileError
from pimc.phases import Phases, compile_phases
from tests.cli.harness import CommandLine
from tests.e2e.harness import DATA, MODELS

MERGED = (MODELS / "tiny-llama.pimc", DATA / "llamagqa-merged-genai.onnx", DATA / "llamagqa-merged-genai-int4.onnx")


def _both(model: Path, target: str, **dims: int) -> Phases:
    return compile_phases([model], target, Options(dims=dims), values="random")


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize("model", MERGED, ids=lambda m: m.stem)
def test_both_phases_of_a_merged_model(model: Path, target: str) -> None:
    found = _both(model, target)
    assert found.ok
    for name, result in found.items():
        assert result.program.phase == name
        assert result.comparison is not None
    weights = [
        {e.name: (e.layout.moved(-e.layout.offset), e.dtype) for e in r.program.memory if e.role == "weight"}
        for _, r in found.items()
    ]
    assert weights[0] == weights[1]


def test_dimensions_are_bound_for_each_phase() -> None:
    found = _both(MODELS / "tiny-llama.pimc", "npu", batch=2, seq=5, past=11)
    assert dict(found.prefill.program.dims) == {"batch": 2, "seq": 5, "past": 0}
    assert dict(found.decode.program.dims) == {"batch": 2, "seq": 1, "past": 11}
    found = _both(DATA / "llamagqa-merged-genai.onnx", "npu", sequence_length=6)
    assert found.decode.program.dims["past_sequence_length"] == 6
    assert found.decode.program.dims["total_sequence_length"] == 7


def test_the_json_has_both_reports_and_their_sums() -> None:
    plain = _both(MODELS / "tiny-llama.pimc", "neupims").to_json("wide")
    phases = plain["phases"]
    assert list(phases) == ["prefill", "decode"]
    for key in ("cycles", "seconds", "bound_seconds"):
        assert plain[key] == pytest.approx(sum(p[key] for p in phases.values()))
    assert plain["phase"] == "mixed"
    assert plain["dims"] == {"batch": 1}
    assert plain["values"]["ok"]
    assert len(plain["ops"]) == sum(len(p["ops"]) for p in phases.values())
    engines = {e["name"]: e for e in plain["engines"]}
    assert engines["npu"]["busy"] == pytest.approx(
        sum(e["busy"] for p in phases.values() for e in p["engines"] if e["name"] == "npu")
    )


def test_a_prefill_and_a_decode_model() -> None:
    prefill, decode = DATA / "gpt2-prefill-hf-ortcpu.onnx", DATA / "gpt2-decode-dynamo.onnx"
    found = compile_phases([prefill, decode], "npu", Options(), values="random")
    assert found.ok
    assert (found.prefill.program.phase, found.decode.program.phase) == ("prefill", "decode")


def test_a_model_without_caches_cannot_decode() -> None:
    with pytest.raises(CompileError, match=r"takes no caches|symbolic"):
        compile_phases([DATA / "gpt2-prefill-hf-ortcpu.onnx"], "npu", Options())


def test_the_command_prints_both_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CommandLine(tmp_path, capsys, monkeypatch)
    model = str(MODELS / "tiny-llama.pimc")
    page = run.done("compile", model, "-t", "npu", "--phase", "both", "--values", "random")
    assert "· prefill" in page
    assert "· decode" in page
    assert page.count("values     ok") == 2
    assert set(json.loads(run.done("compile", model, "-t", "npu", "--phase", "both", "--json"))["phases"]) == {
        "prefill",
        "decode",
    }
