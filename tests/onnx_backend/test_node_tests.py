"""ONNX's own node tests, executed by compiling and simulating, and by the interpreter.

The suite of `onnx.backend.test` counts a test as passed whose backend refuses it. So there are lists of the tests that
must be executed (`golden/simulated.txt`, `golden/interpreted.txt`; `--update-golden` writes them), and each test checks
that it has executed something.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test import BackendTest

from tests.onnx_backend.backends import Run, Work, backend_of, interpreted, simulated
from tests.onnx_backend.cases import by_name, element_types, included, page, wanted

DOCS = Path(__file__).parents[2] / "docs"
VERSION = "1.23"
"""Whose node tests the lists are of."""
FEWEST = {"simulated": 1330, "interpreted": 1330}
"""A list that gets shorter is a step back, however it was made."""
DECODER_OPS = ("Attention", "RotaryEmbedding", "RMSNormalization", "MatMul", "Gemm", "Softmax", "LayerNormalization")
TYPES = {"float", "float16", "bfloat16", "int32", "int64", "bool"}
SAMPLE = 12
"""On the other machines, one test in so many is executed by default."""

pytestmark = pytest.mark.skipif(
    not onnx.__version__.startswith(VERSION), reason=f"the lists are of the node tests of onnx {VERSION}"
)


@cache
def runner(run: Run) -> tuple[type[unittest.TestCase], Work]:
    """All node tests with a backend, as ONNX's own runner makes them."""
    by_name()  # made with numpy's warnings silenced
    backend, work = backend_of(run)
    return BackendTest(backend, __name__).test_cases["OnnxBackendNodeModelTest"], work


def execute(run: Run, name: str) -> None:
    """Run one test, and see that it executed the model on each of its data sets."""
    tests, work = runner(run)
    work.take()
    getattr(tests(), f"{name}_cpu")()
    runs, steps = work.take()
    data_sets = by_name()[name].data_sets
    assert runs == len(data_sets), f"executed {runs} times"
    empty = all(_array(output).size == 0 for _, outputs in data_sets for output in outputs)
    assert steps > 0 or empty, "no command was executed"


def _array(tensor: Any) -> Any:
    return numpy_helper.to_array(tensor) if isinstance(tensor, TensorProto) else tensor


@pytest.mark.parametrize("name", included("simulated"))
def test_simulated(name: str) -> None:
    execute(simulated("npu"), name)


@pytest.mark.parametrize("name", included("interpreted"))
def test_interpreted(name: str) -> None:
    execute(interpreted, name)


@pytest.mark.parametrize("target", ["neupims", "cent"])
@pytest.mark.parametrize("name", included("simulated")[::SAMPLE])
def test_sample_on_other_machines(name: str, target: str) -> None:
    execute(simulated(target), name)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["neupims", "cent"])
@pytest.mark.parametrize("name", included("simulated"))
def test_all_on_other_machines(name: str, target: str) -> None:
    execute(simulated(target), name)


@pytest.mark.parametrize("suite", ["simulated", "interpreted"])
def test_everything_that_can_be_imported_is_executed(suite: str, golden: Callable[[str, str], None]) -> None:
    listed = wanted(suite)
    assert len(listed) >= FEWEST[suite]
    golden(f"{suite}.txt", "\n".join(listed) + "\n")


@pytest.mark.parametrize("op", DECODER_OPS)
def test_all_tests_of_the_ops_of_decoders_are_executed(op: str) -> None:
    """Of the element types that models have; the bodies that ONNX gives for these ops among them."""
    of_op = {c.name for c in by_name().values() if c.op == op and element_types(c) <= TYPES}
    assert of_op
    assert of_op <= set(included("simulated"))


def test_page_of_the_documentation(request: pytest.FixtureRequest) -> None:
    file = DOCS / "onnx-coverage.md"
    if request.config.getoption("--update-golden"):
        file.write_text(page(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == page()
