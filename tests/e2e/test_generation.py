"""Generation: prefill and decode steps on one simulated memory, compared at every step."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.driver import Options
from pimc.generation import Generation, generate
from tests.e2e.harness import DATA, MODELS, TARGETS

MERGED = {
    "tiny-llama": [MODELS / "tiny-llama.pimc"],
    "tiny-gpt2": [MODELS / "tiny-gpt2.pimc"],
    "twin": [MODELS / "tiny-llama.onnx"],
    "genai": [DATA / "llamagqa-merged-genai.onnx"],
    "genai int4": [DATA / "llamagqa-merged-genai-int4.onnx"],
}
PAIRS = {
    "gpt2": [DATA / "gpt2-prefill-hf-ortcpu.onnx", DATA / "gpt2-decode-dynamo.onnx"],
    "llama": [DATA / "llama-prefill-dynamo-fixed.onnx", DATA / "llama-decode-optimum.onnx"],
    "llamagqa": [DATA / "llamagqa-prefill-ts.onnx", DATA / "llamagqa-decode-hf-ortcpu.onnx"],
}
STEPS = 3


def _cases() -> list[object]:
    """Most models on one machine; the other combinations are slow."""
    return [
        pytest.param(models, target, id=f"{name}-{target}", marks=[] if i % 5 == j else pytest.mark.slow)
        for i, (name, models) in enumerate([*MERGED.items(), *PAIRS.items()])
        for j, target in enumerate(TARGETS)
    ]


@pytest.mark.parametrize(("models", "target"), _cases())
def test_every_step_computes_and_caches_stay_where_they_are(models: list[Path], target: str) -> None:
    run = generate(models, target, Options(), STEPS, values=True)
    _check(run)
    carried = [step.carried for step in run.steps]
    assert not carried[0]
    assert all(carried[2:] if len(models) == 2 else carried[1:])


def test_a_batch_on_two_devices() -> None:
    options = Options(dims={"batch": 3}, parallel={"tp": 2}, overrides=["system.devices=2"])
    run = generate([MODELS / "tiny-llama.pimc"], "cent", options, STEPS, values=True)
    _check(run, batch=3)
    assert all(step.carried for step in run.steps[1:])


def test_the_prompt_is_as_long_as_asked() -> None:
    run = generate([MODELS / "tiny-gpt2.pimc"], "npu", Options(dims={"seq": 3}), 1, values=True, wide=False)
    _check(run, prompt=3, steps=1)


@pytest.mark.parametrize("wide", [True, False])
def test_caches_of_16_bits_are_as_wide_as_everything_else(wide: bool, tmp_path: Path) -> None:
    model = tmp_path / "half.pimc"
    text = (MODELS / "tiny-gpt2.pimc").read_text().replace("f32", "f16").replace("let layers = 2", "let layers = 1")
    model.write_text(text)
    _check(generate([model], "npu", Options(dims={"seq": 3}), 2, values=True, wide=wide), prompt=3, steps=2)


def test_times_do_not_depend_on_values() -> None:
    with_values, without = (generate(MERGED["tiny-llama"], "neupims", Options(), 1, values=v) for v in (True, False))
    assert [s.timing for s in with_values.steps] == [s.timing for s in without.steps]
    assert without.tokens is None


def _check(run: Generation, *, batch: int = 1, prompt: int = 8, steps: int = STEPS) -> None:
    assert [(s.past, s.new) for s in run.steps] == [(0, prompt), *((prompt + i, 1) for i in range(steps))]
    for step in run.steps:
        assert step.comparison is not None
        assert step.comparison.ok, (step.past, step.comparison.outputs)
    assert run.ok
    assert run.tokens is not None
    assert run.tokens.shape == (batch, steps + 1)
    assert run.time_to_first_token > 0
    assert run.tokens_per_second == pytest.approx(batch / run.time_per_token)
