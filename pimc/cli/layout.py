"""Columns, bars and numbers for people."""

from __future__ import annotations

from collections.abc import Sequence

from pimc.amounts import count_text as count_text
from pimc.amounts import grouped as grouped
from pimc.amounts import memory_text as memory_text
from pimc.amounts import percent as percent
from pimc.amounts import significant as significant
from pimc.amounts import size_text as size_text
from pimc.amounts import time_text as time_text
from pimc.cli.screen import Line, Span
from pimc.record import record

Cell = str | Line
TIMES = "\N{MULTIPLICATION SIGN}"


@record
class Column:
    """A column's title, alignment (`<` or `>`), style, and the width at which texts are cut (0: never)."""

    title: str
    align: str = "<"
    style: str = ""
    widest: int = 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], indent: str = "  ") -> list[Line]:
    """Aligned columns under their titles. Titles are left out where all are empty."""
    cells = [[_cell(cell, column) for cell, column in zip(row, columns, strict=True)] for row in rows]
    widths = [
        max([len(column.title), *(_width(row[i]) for row in cells)], default=0) for i, column in enumerate(columns)
    ]
    page: list[Line] = []
    if any(column.title for column in columns):
        titles: list[Line] = [[(column.title, "dim")] for column in columns]
        page.append(_row(titles, columns, widths, indent))
    page += [_row(row, columns, widths, indent) for row in cells]
    return page


def _cell(cell: Cell, column: Column) -> Line:
    if isinstance(cell, str):
        return [(shortened(cell, column.widest) if column.widest else cell, column.style)]
    return cell


def _width(cell: Line) -> int:
    return sum(len(text) for text, _ in cell)


def _row(cells: Sequence[Line], columns: Sequence[Column], widths: Sequence[int], indent: str) -> Line:
    spans: list[Span] = [(indent, "")]
    for number, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        gap = " " * (width - _width(cell))
        last = number == len(cells) - 1
        spans += [(gap, ""), *cell] if column.align == ">" else [*cell, ("" if last else gap, "")]
        if not last:
            spans.append(("  ", ""))
    return spans


def shortened(text: str, width: int) -> str:
    """The text with its middle left out where it is longer than `width`; ends of names say most."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return text[:head] + "…" + text[len(text) - (width - 1 - head) :]


def bar(shares: Sequence[tuple[float, str, str]], width: int) -> Line:
    """A bar of `width` characters out of (share, character, style); what is missing to 1 is blank."""
    spans: Line = []
    at, total = 0, 0.0
    for share, character, style in shares:
        total += share
        end = min(width, round(total * width))
        spans.append((character * max(0, end - at), style))
        at = max(at, end)
    spans.append((" " * (width - at), ""))
    return spans
