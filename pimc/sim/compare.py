"""Compares outputs with expected ones, as design section 7 says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pimc.ir.op import Array
from pimc.record import record

WIDE_TOLERANCE = 1e-4
"""The largest relative error that is `ok` in the wide format."""


@record
class OutputError:
    """How one output differs. `problem` is empty where it does not, beyond rounding."""

    name: str
    max_abs_err: float
    max_rel_err: float
    problem: str = ""


@record
class Comparison:
    """All outputs together. Relative errors are max|a-b| / max|b| of an output, the largest over floating ones."""

    ok: bool
    max_abs_err: float
    max_rel_err: float
    outputs: tuple[OutputError, ...]

    def to_json(self, form: str) -> dict[str, Any]:
        """The object `values` of a report; what is not finite is null."""
        return {
            "ok": self.ok,
            "format": form,
            "max_abs_err": _finite(self.max_abs_err),
            "max_rel_err": _finite(self.max_rel_err),
            "outputs": [
                {"name": o.name, "max_abs_err": _finite(o.max_abs_err), "max_rel_err": _finite(o.max_rel_err)}
                | ({"problem": o.problem} if o.problem else {})
                for o in self.outputs
            ],
        }


def compare(
    outputs: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = WIDE_TOLERANCE
) -> Comparison:
    """Compare every expected output with the one of its name. Integers and booleans must be equal."""
    found = tuple(_compared(name, outputs.get(name), np.asarray(b), tolerance) for name, b in expected.items())
    return Comparison(
        ok=not any(o.problem for o in found),
        max_abs_err=max((o.max_abs_err for o in found), default=0.0),
        max_rel_err=max((o.max_rel_err for o in found), default=0.0),
        outputs=found,
    )


def _compared(name: str, given: Array | None, expected: Array, tolerance: float) -> OutputError:
    if given is None:
        return OutputError(name, math.inf, math.inf, "there is no such output")
    if given.shape != expected.shape:
        return OutputError(name, math.inf, math.inf, f"has shape {list(given.shape)}, not {list(expected.shape)}")
    if not expected.size:
        return OutputError(name, 0.0, 0.0)
    if expected.dtype.kind in "iub":
        return _exact(name, np.asarray(given), expected)
    return _floating(name, given.astype(np.float64), expected.astype(np.float64), tolerance)


def _exact(name: str, given: Array, expected: Array) -> OutputError:
    wrong = int(np.count_nonzero(given != expected))
    if not wrong:
        return OutputError(name, 0.0, 0.0)
    largest = float(np.max(np.abs(given.astype(np.float64) - expected.astype(np.float64))))
    return OutputError(name, largest, 0.0, f"{wrong} of {expected.size} elements differ")


def _floating(name: str, a: Array, b: Array, tolerance: float) -> OutputError:
    special = ~np.isfinite(b)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    if not np.all(same[special]) or not np.all(np.isfinite(a[~special])):
        return OutputError(name, math.inf, math.inf, "NaN or infinity where the other has none")
    if np.all(special):
        return OutputError(name, 0.0, 0.0)
    absolute = float(np.max(np.abs(a[~special] - b[~special])))
    scale = float(np.max(np.abs(b[~special])))
    relative = absolute / scale if scale else absolute
    problem = "" if relative <= tolerance else f"relative error {relative:.3g} is above {tolerance:.3g}"
    return OutputError(name, absolute, relative, problem)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
