"""Two results side by side: the sums, and the ops that differ most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import count_text, grouped, percent, significant, size_text, time_text
from pimc.report import palette
from pimc.report.headline import joule_text
from pimc.report.html import NONE, Cell, Column, Html, Table, cell, section, tag, text
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, legend, rect, svg
from pimc.report.view import View
from pimc.side_by_side import Cell as SideCell
from pimc.side_by_side import Row, compare

DRAWN = 12
LISTED = 60
TIMES = "\N{MULTIPLICATION SIGN}"


def versus_section(view: View, other: View | None) -> Html:
    if other is None:
        return NONE
    found = compare([(view.name, view.report), (other.name, other.report)])
    names = [side.name for side in found.sides]
    rows = [row for row in found.rows if row.spread or row.moved]
    note = (
        f"A is {names[0]}, this page's result; B is {names[1]}. Ops are paired by name and phase; what one of them "
        "lacks, its passes have split or fused another way."
    )
    keys = legend([("v-a", f"A: {names[0]}"), ("v-b", f"B: {names[1]}")])
    drawn = both(partial(_bars, rows[:DRAWN])) if rows else NONE
    more = f"{len(rows)} of {len(found.rows)} ops differ"
    more += f"; the {LISTED} that differ most are listed" if len(rows) > LISTED else ""
    listed = _ops(rows[:LISTED]).html() if rows else NONE
    title = tag("h3", text(f"Where the difference lies: {more}"))
    return section("Comparison", "comparison", keys, _sums(view, other).html(), title, drawn, listed, note=note)


def _sums(a: View, b: View) -> Table:
    columns = [Column(""), Column("A", True), Column("B", True), Column("B against A", True)]
    rows = [[cell(name), cell(first), cell(second), cell(ratio)] for name, first, second, ratio in _lines(a, b)]
    return Table("comparison", columns, rows, kind="small")


def _lines(a: View, b: View) -> Iterator[tuple[str, str, str, str]]:
    x, y = a.report, b.report
    for name in ("model", "target", "phase", "dims", "devices"):
        first, second = _setting(a, name), _setting(b, name)
        yield name, first, second, "" if first == second else "differs"
    yield "time", time_text(x.seconds), time_text(y.seconds), _ratio(x.seconds, y.seconds)
    yield "cycles", grouped(x.cycles), grouped(y.cycles), "" if x.target != y.target else _ratio(x.cycles, y.cycles)
    yield "bound", time_text(x.bound_seconds), time_text(y.bound_seconds), _ratio(x.bound_seconds, y.bound_seconds)
    yield "share of bound", percent(x.bound_share), percent(y.bound_share), ""
    if a.tokens and b.tokens and x.seconds and y.seconds:
        rates = a.tokens / x.seconds, b.tokens / y.seconds
        yield "tokens/s", count_text(rates[0], ""), count_text(rates[1], ""), _ratio(*rates)
    flops = [sum(o.flops for o in r.ops) for r in (x, y)]
    yield "FLOP", count_text(flops[0], ""), count_text(flops[1], ""), _ratio(*flops)
    for key in sorted({*x.bytes_moved, *y.bytes_moved}):
        sizes = x.bytes_moved.get(key, 0), y.bytes_moved.get(key, 0)
        yield key, size_text(sizes[0]), size_text(sizes[1]), _ratio(*sizes)
    joules = [(v.energy or {}).get("total_j") for v in (a, b)]
    if all(isinstance(j, int | float) for j in joules):
        yield (
            "energy",
            joule_text(joules[0] or 0.0),
            joule_text(joules[1] or 0.0),
            _ratio(joules[0] or 0, joules[1] or 0),
        )


def _setting(view: View, name: str) -> str:
    if name == "model":
        return view.model
    if name == "dims":
        return " ".join(f"{dim}={size}" for dim, size in view.report.dims.items())
    return str(getattr(view.report, name))


def _ratio(first: float, second: float) -> str:
    return f"{significant(second / first)}{TIMES}" if first and second else ""


def _bars(rows: Sequence[Row], width: int) -> Html:
    most = max((c.seconds for row in rows for c in row.cells if c is not None), default=0.0)
    names = [f"{row.name} ({row.op})" for row in rows]
    left = min(0.42 * width, max(len(n) for n in names) * CHARACTER + 12)
    axis = Linear(most, left, width - 70)
    parts: list[Html] = []
    for i, row in enumerate(rows):
        y = i * 34
        parts.append(label(left - 8, y + 19, fitting(names[i], left - 8), "name", "end"))
        for j, found in enumerate(row.cells):
            seconds = found.seconds if found is not None else 0.0
            top = y + 3 + 13 * j
            parts.append(
                rect(left, top, max(0.5, axis.at(seconds) - left), 12, "v-a" if j == 0 else "v-b", _tip(row, found))
            )
            parts.append(label(axis.at(seconds) + 5, top + 10, time_text(seconds) if found else "–", "tick"))  # noqa: RUF001
    return svg(width, 34 * len(rows) + 4, parts, "ops of both results")


def _tip(row: Row, found: SideCell | None) -> str:
    return (
        f"{row.name}: {time_text(found.seconds)} on {found.engine}, {found.reason}" if found is not None else row.name
    )


def _ops(rows: Sequence[Row]) -> Table:
    columns = [Column("op"), Column("phase"), Column("A on"), Column("A", True), Column("B on"), Column("B", True)]
    columns += [Column("B less A", True), Column("why A"), Column("why B")]
    return Table("comparison-ops", columns, [_op(row) for row in rows], sortable=True, kind="small")


def _op(row: Row) -> list[Cell]:
    first, second = row.cells
    times = [c.seconds if c is not None else 0.0 for c in row.cells]
    less = times[1] - times[0]
    sign = "+" if less > 0 else "−"  # noqa: RUF001  a minus sign
    name = Html(f"{tag('b', text(row.name))} {tag('span', text(row.op), class_='op')}")
    cells = [Cell(name), cell(row.phase)]
    for found in (first, second):
        there = NONE if found is None else tag("span", text(found.engine), class_=f"tag {palette.engine(found.engine)}")
        cells += [Cell(there), cell(time_text(found.seconds) if found else "–", found.seconds if found else -1)]  # noqa: RUF001
    cells.append(cell(f"{sign}{time_text(abs(less))}" if less else "0", less))
    return [*cells, *(Cell(tag("small", text(c.reason if c is not None else ""))) for c in row.cells)]
