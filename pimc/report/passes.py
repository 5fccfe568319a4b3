"""The passes that made the program, and how many ops each left."""

from __future__ import annotations

from pimc.report.html import NONE, Column, Html, Table, cell, section
from pimc.report.view import View


def passes_section(view: View) -> Html:
    passes = view.report.passes
    if not passes:
        return NONE
    columns = [Column("", True), Column("pass"), Column("ops after it", True), Column("difference", True), Column("")]
    rows, before = [], None
    for number, p in enumerate(passes, 1):
        by = p.ops - before if before is not None else 0
        said = f"{by:+d}" if by else ""
        changed = "" if p.changed else "changed nothing"
        rows.append([cell(str(number), number), cell(p.name), cell(str(p.ops), p.ops)])
        rows[-1] += [cell(said.replace("-", "−"), by), cell(changed)]  # noqa: RUF001  a minus sign
        before = p.ops
    note = (
        "In their order; ops are the nodes of the graph. How long passes take is no part of a result: "
        "pimc compile --timing says it."
    )
    return section("Passes", "passes", Table("passes", columns, rows, kind="small").html(), note=note)
