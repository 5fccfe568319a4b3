"""ONNX's node tests: which of them pimc takes, and why it does not take the others."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx.backend.test.runner import _normalize_tensor

from pimc.frontends.onnx_import import import_file
from pimc.frontends.onnx_model import OnnxFile
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.op import Array
from tests.onnx_backend.contrib_cases import CASES, MICROSOFT

HERE = Path(__file__).parent

NOTHING = "nothing to execute: the output is a constant of the model"
ROUNDED = (
    "it rounds to float16 behind each op; two elements of 192 end one unit in the last place away from the expected, "
    "which is beyond the tolerance of the test"
)

KNOWN: dict[str, dict[str, str]] = {
    "simulated": {"test_constant": NOTHING, "test_if": NOTHING},
    "interpreted": {"test_constant": NOTHING, "test_if": NOTHING, "test_attention_4d_causal_fp16_expanded": ROUNDED},
}
"""Tests that can be imported and are left out all the same, by suite, with the reason."""


@dataclass(frozen=True)
class Case:
    """One node test: its name, model and arrays."""

    name: str
    model: Any
    data_sets: Any

    @property
    def ops(self) -> list[str]:
        return [n.op_type for n in self.model.graph.node]

    @property
    def op(self) -> str:
        """The op that is tested; for the tests of function bodies, that of the function."""
        if len(self.ops) == 1:
            return self.ops[0]
        plain = re.sub(r"_expanded(_ver\d+)?$", "", self.name)
        twin = by_name().get(plain)
        return twin.op if twin is not None and plain != self.name else "+".join(dict.fromkeys(self.ops))

    def inputs(self) -> dict[str, Array]:
        names = [i.name for i in self.model.graph.input]
        return {n: np.asarray(_normalize_tensor(a)) for n, a in zip(names, self.data_sets[0][0], strict=True)}


@cache
def by_name() -> dict[str, Case]:
    """All node tests; making them warns of what numpy meets on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    return {c.name: Case(c.name, c.model, c.data_sets) for c in found}


def element_types(case: Case) -> set[str]:
    """The element types of a test's inputs and outputs, as ONNX calls them."""
    from onnx import TensorProto

    infos = (*case.model.graph.input, *case.model.graph.output)
    return {TensorProto.DataType.Name(i.type.tensor_type.elem_type).lower() for i in infos}


def included(suite: str) -> list[str]:
    """The names of the tests that a suite executes, as listed beside this file."""
    return (HERE / "golden" / f"{suite}.txt").read_text(encoding="utf-8").split()


def wanted(suite: str) -> list[str]:
    """The names of the tests that a suite should execute: all that can be imported, but for the known ones."""
    return sorted(name for name in by_name() if not why_not(name, suite))


def why_not(name: str, suite: str) -> str:
    """Why a suite does not execute a test, in words that group such tests; empty if it does."""
    return _import_problem(name) or KNOWN[suite].get(name, "")


@cache
def _import_problem(name: str) -> str:
    case = by_name()[name]
    kinds = {t.type.WhichOneof("value") for t in (*case.model.graph.input, *case.model.graph.output)}
    if kinds != {"tensor_type"}:
        return "sequences and optional values"
    if element_types(case) & {"int4", "uint4"}:
        return "inputs and outputs of 4 bits (weights may be)"
    try:
        import_file(OnnxFile(case.name, Path(), case.model), case.inputs())
    except CompileError as error:
        return "; ".join(sorted({_reason(d.kind, d.message) for d in error.diagnostics}))
    return ""


def _reason(kind: Kind, message: str) -> str:
    if kind is Kind.DATA_DEPENDENT:
        return "shapes that depend on data"
    if match := re.search(r"(?:elements of type|cast to) (\w+)", message):
        return "elements of type " + re.sub(r"(float8|float4).*", r"\1", match[1])
    if "control flow" in message:
        return "control flow (If, Loop, Scan)"
    if "of training" in message or "preview.training" in message:
        return "training"
    if match := re.match(r"(\S+) is not supported: pimc (?:does not declare it|knows no op of domain (\S+))", message):
        return f"ops of the domain {match[2]}" if match[2] else f"op {match[1]}"
    return message


# -- the page of the documentation -----------------------------------------------------------------------------------

PAGE = """\
# ONNX coverage

`onnx.backend.test` has {total} node tests. pimc executes them in two ways, and all that are executed pass:

- {simulated} by compiling for the target `npu` and executing the command streams on its simulated memories, in the wide
  value format;
- {interpreted} by the interpreter of the IR, on the imported graph.

Shapes that a test takes from the contents of its inputs (the target of a reshape, the bounds of a slice) come from the
arrays of the test, as they do with `pimc compile --values`. Outputs are compared in the type that the model declares,
with the tolerances of each test. `pytest tests/onnx_backend --update-golden` writes this page.

## Ops

Tests executed by compiling and simulating, of those that there are. The body of an op that ONNX defines by other ops
counts as a test of the op.

{ops}

{contrib}

## What is left out

{reasons}

The interpreter leaves out the same but for what follows.

{differences}
"""


def page() -> str:
    """`docs/onnx-coverage.md`: what is executed, op by op, and what is left out and why."""
    counts = {suite: str(len(included(suite))) for suite in KNOWN}
    return PAGE.format(
        total=len(by_name()),
        **counts,
        ops="\n".join(_ops_table()),
        contrib=_contrib(),
        reasons="\n".join(_reasons_table("simulated")),
        differences="\n".join(_differences()),
    )


def _ops_table() -> list[str]:
    done, there = Counter[str](), Counter[str]()
    run = set(included("simulated"))
    for case in by_name().values():
        there[case.op] += 1
        done[case.op] += case.name in run
    full = sorted(op for op in there if done[op] == there[op])
    partly = sorted(op for op in there if 0 < done[op] < there[op])
    shown = textwrap.fill(f"All tests of: {', '.join(f'{op} {there[op]}' for op in full)}.", 120)
    rows = [f"| {op} | {done[op]} | {there[op]} |" for op in partly]
    return [shown, "", "| some tests of | executed | of |", "|---|---|---|", *rows]


def _contrib() -> str:
    ops = sorted({case.op for case in CASES if case.domain == MICROSOFT})
    return textwrap.fill(f"Ops of the domain `{MICROSOFT}` are compared with ONNX Runtime: {', '.join(ops)}.", 120)


def _reasons_table(suite: str) -> list[str]:
    groups: dict[str, list[str]] = {}
    ops = Counter[str]()
    for case in by_name().values():
        reason = why_not(case.name, suite)
        if reason.startswith("op ") and ";" not in reason:
            ops[reason[3:]] += 1
        elif reason:
            groups.setdefault(reason, []).append(case.op)
    rows = [
        f"| {reason} | {len(found)} | {', '.join(sorted(set(found)))} |"
        for reason, found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    declared = ", ".join(f"{op} {count}" for op, count in sorted(ops.items()))
    rows.insert(0, f"| ops that pimc does not declare | {ops.total()} | {declared} |")
    return ["| reason | tests | of |", "|---|---|---|", *rows]


def _differences() -> list[str]:
    rows = []
    for suite, other in (("simulated", "interpreted"), ("interpreted", "simulated")):
        for reason in sorted(set(KNOWN[other].values())):
            names = [n for n, why in sorted(KNOWN[other].items()) if why == reason and n in included(suite)]
            if names:
                rows.append(f"- only {suite}: {', '.join(f'`{n}`' for n in names)}: {reason}")
    return rows
