"""Diagnostics as the user sees them: where, the source line with a caret or a window of the graph, notes, help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pimc.cli.screen import Line, line
from pimc.ir.diagnostics import Diagnostic
from pimc.ir.source import Derived, NodeSource, TextSpan, roots

_WIDEST = 110
"""Source lines are cut to so many columns around the caret."""
_LONGEST = 2000
"""Characters of a message that are shown."""
_MOST_PLACES = 3
_MOST_ERRORS = 20


def render(diagnostics: Sequence[Diagnostic]) -> list[Line]:
    """All diagnostics, and how many there are if there is more than one; equal ones are shown once."""
    page: list[Line] = []
    shown = list(dict.fromkeys(diagnostics))
    for diagnostic in shown[:_MOST_ERRORS]:
        page += _one(diagnostic)
        page.append([])
    if len(shown) > _MOST_ERRORS:
        page.append(line(f"{len(shown)} errors, of which the first {_MOST_ERRORS} are shown", "bold red"))
    elif len(shown) > 1:
        page.append(line(f"{len(shown)} errors", "bold red"))
    else:
        page.pop()
    return [[(_shortened(text), style) for text, style in each] for each in page]


def _shortened(text: str) -> str:
    """Names come from files, and may be of any length."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _one(d: Diagnostic) -> Iterator[Line]:
    first, *rest = d.message.splitlines() or [""]
    yield [(f"error[{d.kind.code}]", "bold red"), (f": {first}", "bold")]
    for each in rest:
        yield [(f"  {each}", "bold")]
    places = roots(d.source)
    gutter = _gutter(places, d.window)
    for number, place in enumerate(places[:_MOST_PLACES]):
        yield from _place(place, gutter, first=number == 0)
    if len(places) > _MOST_PLACES:
        yield [(f"{gutter}  ", ""), (f"and {len(places) - _MOST_PLACES} more places", "dim")]
    yield from _window(d.window, gutter)
    notes = list(d.notes)
    if isinstance(d.source, Derived) and d.source.pass_name:
        notes.append(f"the node was made by pass '{d.source.pass_name}'")
    for note in notes:
        yield from _remark("note", note, gutter, "bold")
    if d.help:
        yield from _remark("help", d.help, gutter, "bold green")


def _gutter(places: Sequence[TextSpan | NodeSource], window: str) -> str:
    """Blanks as wide as the largest line number."""
    lines = [p.line for p in places if isinstance(p, TextSpan) and p.text]
    if not lines and not window:
        return " "
    return " " * max(1, *(len(str(n)) for n in lines or [1]))


def _place(place: TextSpan | NodeSource, gutter: str, *, first: bool) -> Iterator[Line]:
    arrow = "-->" if first else ":::"
    yield [(f"{gutter}{arrow} ", "bold blue"), (str(place), "")]
    if not isinstance(place, TextSpan) or not place.text.strip():
        return
    text, caret = _cut(place)
    number = str(place.line)
    yield [(f"{gutter} |", "bold blue")]
    yield [(f"{number:>{len(gutter)}} | ", "bold blue"), (text, "")]
    yield [(f"{gutter} | ", "bold blue"), (caret, "bold red")]


def _cut(place: TextSpan) -> tuple[str, str]:
    """The source line and the line of carets under it, both cut to what fits."""
    text = place.text.rstrip().replace("\t", " ")
    at = min(max(0, place.column - 1), len(text))
    start = 0
    if len(text) > _WIDEST:
        start = max(0, min(at - _WIDEST // 2, len(text) - _WIDEST))
        text = text[start : start + _WIDEST]
        text = ("…" + text[1:]) if start else text
    carets = max(1, min(place.length, len(text) - (at - start)))
    return text, " " * (at - start) + "^" * carets


def _window(window: str, gutter: str) -> Iterator[Line]:
    if not window:
        return
    yield [(f"{gutter} |", "bold blue")]
    for each in window.splitlines():
        text = each if len(each) <= _WIDEST else each[: _WIDEST - 1] + "…"
        yield [(f"{gutter} | ", "bold blue"), (text, "bold" if each.startswith(">") else "")]


def _remark(label: str, text: str, gutter: str, style: str) -> Iterator[Line]:
    first, *rest = text.splitlines() or [""]
    yield [(f"{gutter} = ", "bold blue"), (label, style), (f": {first}", "")]
    for each in rest:
        yield [(f"{gutter}   {' ' * len(label)}  {each}", "")]
