"""Results side by side, for people and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from pimc.cli.layout import TIMES, Cell, Column, grouped, percent, size_text, table, time_text
from pimc.cli.screen import Line, line
from pimc.cli.tables import NAME_WIDTH, busiest
from pimc.side_by_side import Cell as OpCell
from pimc.side_by_side import Comparison, Row, Side
from pimc.sim.report import Report

MOST_ROWS = 20
MOST_REASONS = 5
LEAST_SHARE = 0.001
"""Of the time of the fastest result: rows that differ by less are left out."""
NONE = "-"


def comparison_page(found: Comparison, *, verbose: int = 0) -> list[Line]:
    """Headlines, ops (those that differ most first), and why the largest differences are there."""
    rows = found.rows if verbose else _telling(found)
    page = [*_title(found), line(), *_headlines(found), line()]
    if not rows:
        said = f"no op differs by more than {percent(LEAST_SHARE)} of the fastest run (-v shows all)"
        return [*page, line(f"  {said}" if found.rows else "  there are no ops to compare", "dim")]
    page += [*_op_table(found, rows, verbose=verbose)]
    left = len(found.rows) - len(rows)
    if left:
        page.append(line(f"  and {left} more rows that differ by less (-v shows them)", "dim"))
    reasons = list(_reasons(found, rows, len(rows) if verbose else MOST_REASONS))
    return page + ([line(), *reasons] if reasons else [])


def _title(found: Comparison) -> Iterator[Line]:
    """What all results have in common."""
    reports = [side.report for side in found.sides]
    models = dict.fromkeys(r.model for r in reports)
    phases = dict.fromkeys(r.phase or "no phase" for r in reports)
    yield [(" | ".join(models), "bold"), (" · ", "dim"), (" | ".join(phases), "")]
    common = [item for item in reports[0].dims.items() if all(item in r.dims.items() for r in reports)]
    if common:
        yield line("  " + "  ".join(f"{name}={size}" for name, size in common), "dim")


def _headlines(found: Comparison) -> list[Line]:
    first = found.sides[0].report
    columns = [Column("", "<", "bold"), Column("time", ">", "bold green"), Column("against first", ">")]
    columns += [Column("cycles", ">"), Column("of bound", ">"), Column("busiest"), Column("moved", ">")]
    columns += [Column("", "<", "dim")]
    return table(columns, [[*_headline(side, first), _own(side.report, found)] for side in found.sides])


def _headline(side: Side, first: Report) -> list[Cell]:
    r = side.report
    name, seconds = busiest(r)
    return [
        side.name,
        time_text(r.seconds),
        f"{TIMES}{r.seconds / first.seconds:.3g}" if first.seconds else NONE,
        grouped(r.cycles),
        percent(r.bound_share),
        f"{name} {time_text(seconds)}",
        size_text(sum(r.bytes_moved.values())),
    ]


def _own(report: Report, found: Comparison) -> str:
    """Dimensions and devices in which the results differ."""
    others = [side.report for side in found.sides]
    own = [f"{n}={s}" for n, s in report.dims.items() if any(r.dims.get(n) != s for r in others)]
    own += [f"{report.devices} devices"] if len({r.devices for r in others}) > 1 else []
    return " ".join(own)


def _telling(found: Comparison) -> Sequence[Row]:
    least = LEAST_SHARE * min(side.report.seconds for side in found.sides)
    return [row for row in found.rows if row.spread >= least][:MOST_ROWS]


def _op_table(found: Comparison, rows: Sequence[Row], *, verbose: int) -> list[Line]:
    columns = [Column("op", "<", "", 0 if verbose else NAME_WIDTH), Column("", ">"), Column("kind")]
    for side in found.sides:
        columns += [Column(side.name, "<", "bold"), Column("time", ">"), Column("of bound", ">")]
    return table(columns, [_op_row(row) for row in rows])


def _op_row(row: Row) -> list[Cell]:
    most = max(cell.count for cell in row.cells if cell is not None)
    cells: list[Cell] = [row.name, f"{TIMES}{most}" if most > 1 else "", row.op]
    times = [cell.seconds for cell in row.cells if cell is not None]
    for cell in row.cells:
        if cell is None:
            cells += [NONE, NONE, NONE]
            continue
        fastest = len(times) > 1 and cell.seconds == min(times) < max(times)
        time: Cell = [(time_text(cell.seconds), "green" if fastest else "")]
        cells += [cell.engine, time, percent(cell.bound_seconds / cell.seconds) if cell.seconds else NONE]
    return cells


def _reasons(found: Comparison, rows: Sequence[Row], most: int) -> Iterator[Line]:
    """For the rows that differ most: why each result has the op where it is."""
    for number, row in enumerate(rows[:most]):
        if not number:
            yield line("  why", "dim")
        yield [("  ", ""), (row.name, "bold"), (f"  {_difference(found, row)}", "")]
        width = max(len(side.name) for side in found.sides)
        for side, cell in zip(found.sides, row.cells, strict=True):
            said = "has no op of this name" if cell is None else f"{cell.engine}: {cell.reason or 'no reason given'}"
            yield [(f"    {side.name:<{width}}  ", "dim"), (said, "")]


def _difference(found: Comparison, row: Row) -> str:
    present = [(side.name, cell) for side, cell in zip(found.sides, row.cells, strict=True) if cell is not None]
    if len(present) == 1:
        return f"{time_text(present[0][1].seconds)}, on {present[0][0]} alone"
    slowest = max(present, key=lambda each: each[1].seconds)
    fastest = min(present, key=lambda each: each[1].seconds)
    said = f"{time_text(slowest[1].seconds - fastest[1].seconds)} more on {slowest[0]} than on {fastest[0]}"
    return said + _kind_of_difference(fastest[1], slowest[1])


def _kind_of_difference(fastest: OpCell, slowest: OpCell) -> str:
    """Whether the slower one has more to do, or is further from what it could do."""
    if slowest.bound_seconds >= 2 * fastest.bound_seconds:
        return "; its busiest engine has more to do there"
    if 2 * slowest.bound_seconds * fastest.seconds < fastest.bound_seconds * slowest.seconds:
        return "; it is further from its bound there"
    return ""


def comparison_csv(found: Comparison) -> str:
    """A row an op; for each result its engine, number of ops, seconds, bound, and reason (empty: it has none)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("engine", "count", "seconds", "bound_seconds", "flops", "bytes", "reason")
    writer.writerow(["op", "kind", "phase", *(f"{side.name} {field}" for side in found.sides for field in fields)])
    for row in found.rows:
        told = [getattr(cell, field) if cell is not None else "" for cell in row.cells for field in fields]
        writer.writerow([row.name, row.op, row.phase, *told])
    return text.getvalue()
