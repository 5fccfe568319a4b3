"""The default mapping of `cent` against CENT's own, on the same machine with the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.backends.sharing import shared
from pimc.backends.target_registry import load_target
from pimc.driver import Options, checked_program, lower_model
from pimc.execution import time_program
from pimc.sim.report import build_report
from tests.e2e.harness import MODELS

CENTS = "mapping=cent-mapping"


def block(folder: Path, **sizes: int) -> Path:
    """One decoder layer of Llama by itself."""
    text = (MODELS / "bench" / "llama2-70b-block.pimc").read_text()
    text = text.replace('"../blocks', f'"{MODELS}/blocks')
    before = {"hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672}
    for name, size in sizes.items():
        assert f"let {name} = {before[name]}\n" in text
        text = text.replace(f"let {name} = {before[name]}\n", f"let {name} = {size}\n")
    path = folder / "block.pimc"
    path.write_text(text)
    return path


def seconds(model: Path, past: int, *overrides: str) -> float:
    lowered = lower_model(model, "cent", Options(dims={"past": past}, overrides=overrides))
    return time_program(checked_program(lowered)).time * 1e-12


@pytest.mark.parametrize(
    ("sizes", "stages", "gain"),
    [
        ({}, 3, 1.3),
        ({"hidden": 4096, "heads": 32, "kv_heads": 32, "ffn": 11008}, 4, 1.15),
        ({"hidden": 5120, "heads": 40, "kv_heads": 40, "ffn": 13824}, 2, 1.15),
    ],
    ids=["70b", "7b", "13b"],
)
def test_a_block_takes_less_time(sizes: dict[str, int], stages: int, gain: float, tmp_path: Path) -> None:
    """Blocks that share a device: in lock-step side by side as CENT has it, and one after the other."""
    model = block(tmp_path, **sizes)
    part = shared(load_target("cent", (CENTS, "system.devices=1")), stages, 1)
    overrides = (
        CENTS,
        f"system.sharing={part.system.sharing}",
        f"dram.channels={part.dram.channels}",
        f"buffer.bytes={part.buffer.bytes}B",
    )
    cents, ours = seconds(model, 4095, *overrides), stages * seconds(model, 4095)
    assert cents / ours >= gain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "devices", "stages", "gain"),
    [("llama2-7b", 8, 32, 1.15), ("llama2-13b", 20, 40, 1.15), ("llama2-70b", 32, 80, 1.3)],
)
def test_more_tokens_a_second(model: str, devices: int, stages: int, gain: float) -> None:
    """Whole models as pipelines with a stage for each layer, at 4,096 tokens."""

    def rate(*overrides: str) -> float:
        options = Options(
            dims={"past": 4095},
            parallel={"pp": stages, "tp": 1},
            overrides=(f"system.devices={devices}", *overrides),
        )
        program = checked_program(lower_model(MODELS / f"{model}.pimc", "cent", options))
        report = build_report(program, time_program(program)).pipeline
        assert report is not None
        assert report.stages == stages
        return report.tokens_per_s

    assert rate() / rate(CENTS) >= gain


def test_prefill_opens_rows_of_keys_for_several_tokens(tmp_path: Path) -> None:
    """Eight positions of many-headed attention: fewer activations than eight times those of one, and less time."""
    model = block(tmp_path, hidden=1024, heads=8, kv_heads=8, ffn=512)

    def products(seq: int) -> tuple[float, int]:
        options = Options(
            dims={"seq": seq, "past": 1936 - seq},
            overrides=("dram.channels=8",),
            pass_options=("split-attention.whole=never",),
        )
        program = checked_program(lower_model(model, "cent", options))
        report = build_report(program, time_program(program))
        opened = sum(engine.counters.get("ACT16", 0) for engine in report.engines)
        return sum(op.seconds for op in report.ops if op.op in ("attention_scores", "attention_context")), opened

    (eight, opened), (one, by_one) = products(8), products(1)
    assert eight < 7 * one
    assert opened < 5.5 * by_one
