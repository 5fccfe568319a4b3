"""Compiled models against ONNX Runtime's outputs, in both value formats (docs/accuracy.md has the bounds)."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import pimc
from pimc.backends.target_registry import load_target
from pimc.sim.compare import WIDE_TOLERANCE, Comparison

DATA = Path(__file__).parent / "data" / "onnx"
MODELS = Path(__file__).parent.parent / "models"
SAMPLES = [
    *((DATA / f"{path.stem}.onnx", path) for path in sorted(DATA.glob("*.npz")) if "genai" not in path.name),
    *((DATA / "llamagqa-merged-genai.onnx", DATA / f"llamagqa-merged-genai.{p}.npz") for p in ("prefill", "decode")),
    *((MODELS / "tiny-llama.onnx", MODELS / f"tiny-llama.{p}.npz") for p in ("prefill", "decode")),
]
ROUNDING = {"f16": 2.0**-11, "bf16": 2.0**-8}
"""The largest relative error of rounding to a storage type."""


def compared(model: Path, sample: Path, target: str, form: Literal["wide", "device"]) -> Comparison:
    with np.load(sample) as arrays:
        values = dict(arrays)
    result = pimc.compile(model, target, values=values, form=form, simulate=False)
    assert result.comparison is not None
    assert {o.name for o in result.comparison.outputs} == {n[4:] for n in values if n.startswith("out:")}
    return result.comparison


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize(("model", "sample"), SAMPLES, ids=[sample.stem for _, sample in SAMPLES])
def test_streams_compute_what_onnx_runtime_does(model: Path, sample: Path, target: str) -> None:
    comparison = compared(model, sample, target, "wide")
    assert comparison.ok, [o for o in comparison.outputs if o.problem]
    assert comparison.max_rel_err <= WIDE_TOLERANCE / 20


@pytest.mark.parametrize("target", ["npu", "neupims", "newton", "cent"])
@pytest.mark.parametrize(("model", "sample"), SAMPLES[::2], ids=[sample.stem for _, sample in SAMPLES[::2]])
def test_device_format_is_off_by_what_its_types_explain(model: Path, sample: Path, target: str) -> None:
    comparison = compared(model, sample, target, "device")
    spec = load_target(target)
    assert comparison.ok, [o for o in comparison.outputs if o.problem]
    assert ROUNDING[spec.storage] / 4 < comparison.max_rel_err < 8 * ROUNDING[spec.storage]
    assert comparison.max_rel_err < spec.value_tolerance


def test_the_bounds_are_the_documented_ones() -> None:
    page = (Path(__file__).parent.parent / "docs" / "accuracy.md").read_text()
    wide = next(line for line in page.splitlines() if line.startswith("| `--format wide`"))
    assert float(wide.split("|")[-2]) == WIDE_TOLERANCE
    for line in (line for line in page.splitlines() if line.startswith("| `--format device`")):
        for target in line.split("|")[1].split(" on ")[1].split(","):
            assert float(line.split("|")[-2]) == load_target(target.strip().strip("`")).value_tolerance
