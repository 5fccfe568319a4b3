"""Drawings in SVG, by hand. Lengths are CSS pixels; texts are 12 pixels high, and 7 wide a character on average."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pimc.report.html import Html, join, text

WIDE, NARROW = 1120, 366
"""Widths of a drawing on a screen and on a telephone."""
CHARACTER = 7.0


def number(x: float) -> str:
    """At most one decimal."""
    return f"{x:.1f}".removesuffix(".0")


def both(draw: Callable[[int], Html]) -> Html:
    """A drawing for wide and for narrow screens, of which the style sheet shows one."""
    return Html(f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>')


def svg(width: float, height: float, parts: Iterable[Html], label: str) -> Html:
    size = f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}"'
    return Html(f'<svg {size} role="img" aria-label="{text(label)}">{join(parts)}</svg>')


def rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> Html:
    size = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    return _titled(f'rect {size} class="{kind}"', "rect", title)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return Html(f'<line {ends} class="{kind}"/>')


def circle(x: float, y: float, radius: float, kind: str, title: str = "") -> Html:
    return _titled(f'circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" class="{kind}"', "circle", title)


def path(data: str, kind: str, title: str = "") -> Html:
    return _titled(f'path d="{data}" class="{kind}"', "path", title)


def label(x: float, y: float, plain: str, kind: str = "", anchor: str = "start") -> Html:
    """A text whose base line begins (or has its middle, or ends) at a point."""
    words = " ".join(part for part in (f"a-{anchor}" if anchor != "start" else "", kind) if part)
    given = f' class="{words}"' if words else ""
    return Html(f'<text x="{number(x)}" y="{number(y)}"{given}>{text(plain)}</text>')


def fitting(plain: str, width: float) -> str:
    """The text, its middle left out where it is wider than `width`."""
    most = max(3, int(width / CHARACTER))
    if len(plain) <= most:
        return plain
    head = (most - 1) // 2
    return f"{plain[:head]}…{plain[len(plain) - (most - 1 - head) :]}"


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """Colours and what they stand for."""
    items = (f'<li><i class="{kind}"></i>{text(name)}</li>' for kind, name in entries)
    return Html(f'<ul class="legend">{"".join(items)}</ul>')


def _titled(opened: str, name: str, title: str) -> Html:
    return Html(f"<{opened}><title>{text(title)}</title></{name}>" if title else f"<{opened}/>")
