"""How far compiled models are from ONNX Runtime, in both value formats: the bounds of docs/accuracy.md."""

from pathlib import Path

import pytest

from pimc.backends.target_registry import load_target
from pimc.sim.compare import WIDE_TOLERANCE
from tests.e2e.harness import SAMPLES, Sample, build_sample

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
ROUNDING = {"f16": 2.0**-11, "bf16": 2.0**-8}
"""The largest relative error of rounding to a storage type."""
ROUNDINGS = 10
"""How many of them two layers are allowed to be off by."""


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.is_oracle], ids=str)
def test_models_are_off_by_what_the_types_explain(sample: Sample, target: str) -> None:
    built = build_sample(sample, target)
    wide = built.compare(built.run())
    assert wide.ok, wide.outputs
    assert wide.max_rel_err <= WIDE_TOLERANCE / 20
    device = built.compare(built.run(wide=False), wide=False)
    assert device.ok, device.outputs
    assert device.max_rel_err <= ROUNDINGS * ROUNDING[built.spec.storage]


def test_the_bounds_are_the_documented_ones() -> None:
    wide, *device = (line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| `--format"))
    assert float(wide[-1]) == WIDE_TOLERANCE
    for what, _, bound in device:
        for target in what.split(" on ")[1].split(","):
            assert float(bound) == load_target(target.strip(" `")).value_tolerance
