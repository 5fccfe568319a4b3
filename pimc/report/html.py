"""HTML as text: escaped, and tables that a script sorts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from html import escape
from typing import NewType

from pimc.record import record

Html = NewType("Html", str)
"""Text that is HTML already; everything else is escaped."""

NONE = Html("")


def text(plain: str) -> Html:
    """A text with nothing in it that a browser would obey; what cannot be seen is written as an escape."""
    seen = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)
    return Html(escape(seen.encode("utf-8", "backslashreplace").decode()))


def join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def tag(name: str, *content: Html, **attributes: str) -> Html:
    """An element. Attributes: `class_` for class, `data_x` for data-x."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{''.join(content)}</{name}>")


def section(title: str, anchor: str, *content: Html, note: str = "") -> Html:
    """A part of the page with its heading and a line that says what is seen."""
    said = tag("p", text(note), class_="note") if note else NONE
    return Html(f'<section id="{anchor}"><h2>{text(title)}</h2>{said}{"".join(content)}</section>\n')


@record
class Cell:
    """What a cell shows, and the number by which it is sorted (None: by its text)."""

    content: Html
    number: float | None = None
    style: str = ""


@record
class Column:
    title: str
    right: bool = False
    about: str = ""


@record
class Table:
    """A table under a name, which its CSV file has."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    kind: str = field(default="")

    def html(self) -> Html:
        head = join(self._title(c) for c in self.columns)
        body = join(tag("tr", join(map(self._cell, row, self.columns))) for row in self.rows)
        kind = " ".join(["sortable"] * self.sortable + [self.kind] * bool(self.kind))
        made = tag("table", tag("thead", tag("tr", head)), tag("tbody", body), class_=kind, data_name=self.name)
        return tag("div", made, class_="scroll")

    def _title(self, column: Column) -> Html:
        given = {"class_": "r"} if column.right else {}
        given |= {"title": column.about} if column.about else {}
        return tag("th", text(column.title), scope="col", **given)

    def _cell(self, cell: Cell, column: Column) -> Html:
        given = {"class_": "r"} if column.right else {}
        given |= {"data_v": f"{cell.number:.6g}"} if cell.number is not None and self.sortable else {}
        given |= {"style": cell.style} if cell.style else {}
        return tag("td", cell.content, **given)


def cell(plain: str, number: float | None = None, style: str = "") -> Cell:
    """A cell of plain text."""
    return Cell(text(plain), number, style)
