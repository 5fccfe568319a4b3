"""The passes that made the program, and how many ops each left."""

from __future__ import annotations

from pimc.amounts import time_text
from pimc.report.html import NONE, Column, Html, Table, cell, section
from pimc.report.view import View


def passes_section(view: View) -> Html:
    passes = view.report.passes
    if not passes:
        return NONE
    is_timed = any(p.seconds is not None for p in passes)
    columns = [Column("", True), Column("pass"), Column("ops after it", True), Column("difference", True)]
    columns += [Column("time", True)] if is_timed else []
    rows, before = [], None
    for number, p in enumerate(passes, 1):
        by = p.ops - before if before is not None else 0
        said = f"{by:+d}" if by else ""
        changed = "" if p.changed else "changed nothing"
        row = [cell(str(number), number), cell(p.name), cell(str(p.ops), p.ops)]
        row += [cell(said.replace("-", "−"), by)]  # noqa: RUF001  a minus sign
        row += [cell(time_text(p.seconds or 0.0), p.seconds)] if is_timed else []
        rows.append([*row, cell(changed)])
        before = p.ops
    table = Table("passes", [*columns, Column("")], rows, kind="small")
    note = f"In their order; ops are the nodes of the graph. {_ABOUT[is_timed]}"
    return section("Passes", "passes", table.html(), note=note)


_ABOUT = {
    True: "Times are those of the computer that compiled.",
    False: "How long passes take is no part of a result: pimc compile --timing says it, and with --json keeps it.",
}
