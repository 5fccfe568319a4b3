"""Columns, bars and numbers for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pimc.cli.screen import Line, Span

Cell = str | Line
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
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


def time_text(seconds: float) -> str:
    """Three significant digits and the unit that fits."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor * 0.9995:
            return f"{significant(seconds / factor)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"


def size_text(size: float) -> str:
    """Bytes with a decimal prefix, as bandwidths and traffic have them."""
    return _prefixed(size, "B")


def memory_text(size: float) -> str:
    """Bytes with a binary prefix, as memories have them."""
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if size < 1023.5 or prefix == "Ti":
            whole = size == int(size) and size < 1024
            return f"{int(size) if whole else significant(size)} {prefix}B"
        size /= 1024
    raise AssertionError


def count_text(count: float, unit: str = "") -> str:
    """A large number with a decimal prefix; small whole numbers as they are."""
    if not unit and count < 10_000 and count == int(count):
        return str(int(count))
    return _prefixed(count, unit)


def _prefixed(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 999.5 or prefix == "P":
            text = str(int(number)) if not prefix and number == int(number) else significant(number)
            return f"{text} {prefix}{unit}".rstrip()
        number /= 1000
    raise AssertionError


def significant(number: float) -> str:
    """Three significant digits; large numbers in full."""
    if not number:
        return "0"
    return f"{number:#.3g}".rstrip(".") if abs(number) < 999.5 else f"{number:.0f}"


def percent(share: float) -> str:
    """A share of the whole; what is there but rounds to nothing is `<0.1 %`."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{share * 100:.1f} %" if share < 0.0995 else f"{share * 100:.0f} %"


def grouped(number: int) -> str:
    """12 345 678, in groups of three."""
    return f"{number:,}".replace(",", " ")


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
