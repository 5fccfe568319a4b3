"""What commands that execute programs share: values, files of tables, and the exit status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pimc.backends.program import Program
from pimc.cli.arrays import read_values
from pimc.cli.files import write_text_file
from pimc.cli.guard import DONE
from pimc.cli.screen import Line
from pimc.execution import Values
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.sim.compare import Comparison
from pimc.sim.report import Report


def values_of(given: Mapping[str, Any]) -> Values | None:
    """The arrays of `--values`."""
    named = given.get("values")
    if named is None:
        return None
    return "random" if named == "random" else read_values(named)


def write_tables(report: Report, program: Program, given: Mapping[str, Any]) -> None:
    """The table of ops to the file of `--csv`, every table to the folder of `--tables`."""
    from pimc.cli.files import write_tables as write_folder
    from pimc.sim.report_csv import ops_csv, tables_of

    if given["csv"]:
        write_text_file(given["csv"], ops_csv(report))
    if given["tables"]:
        write_folder(given["tables"], tables_of(report, program))


def written_line(*paths: str | None) -> list[Line]:
    """Which files were written."""
    written = [name for name in paths if name and name != "-"]
    return [[("  written    ", "dim"), (", ".join(written), "")]] if written else []


def outcome(*comparisons: Comparison | None) -> int:
    """The exit status of what has been printed. Raises CompileError (VALUES) where outputs differ."""
    wrong = [_difference(c) for c in comparisons if c is not None and not c.ok]
    if wrong:
        raise CompileError(wrong)
    return DONE


def _difference(comparison: Comparison) -> Diagnostic:
    wrong = [x for x in comparison.outputs if x.problem]
    first = f"the streams do not compute what they should: {len(wrong)} of {len(comparison.outputs)} outputs differ"
    return Diagnostic(Kind.VALUES, first, notes=tuple(f"'{x.name}': {x.problem}" for x in wrong[:12]))
