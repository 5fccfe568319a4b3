"""Ops of ONNX Runtime's own domain compute what ONNX Runtime does: interpreted, and compiled for all machines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from pimc.ir.op import Array
from tests.onnx_backend.backends import interpreted, simulated
from tests.onnx_backend.contrib_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contrib(case: Case) -> None:
    outputs, _ = interpreted(case.file, case.inputs)
    expected = _by_runtime(case) if case.known_to_runtime else outputs
    _compare(case, outputs, expected)
    for target in ("npu", "neupims", "cent"):
        _compare(case, simulated(target)(case.file, case.inputs)[0], expected)


def _by_runtime(case: Case) -> dict[str, Array]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    model = case.file.proto.SerializeToString()
    names = [name for name in case.outputs if name]
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, case.inputs), strict=True))


def _compare(case: Case, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, want in expected.items():
        found = outputs[name]
        assert found.shape == want.shape
        scale = 1.0 if want.dtype.kind in "iu" else float(np.max(np.abs(want.astype(np.float64)), initial=0)) or 1.0
        difference = np.max(np.abs(found.astype(np.float64) - want.astype(np.float64)), initial=0)
        assert difference <= case.tolerance * scale, name
