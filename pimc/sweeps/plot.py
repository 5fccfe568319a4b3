"""The points of a sweep over two objectives as a picture: one SVG file that needs nothing else.

One objective is drawn over the numbers of the points. Points on the front are full and joined, others hollow; colours
are those of the first axis of words. It follows the reader's light or dark mode, and prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from pimc.record import record
from pimc.sweeps.numbers import QUANTITIES
from pimc.sweeps.plan import Axis
from pimc.sweeps.results import Row, SweepResult

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 44, 56
LEGEND = 18
"""Height of a line of the legend."""
LOG_FROM = 30.0
"""Values that differ by more than this factor are drawn on a logarithmic scale."""
COLOURS = ("#4269d0", "#c98a00", "#d9403c", "#3ca06e", "#8a5fd0", "#c24b9b", "#7c6a5a", "#2f8fb3")

STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; color: #1a1a1a }
text { fill: currentColor } .dim { opacity: .65 } .title { font-weight: 600; font-size: 14px }
.grid { stroke: currentColor; opacity: .12 } .axis { stroke: currentColor; opacity: .5 }
.front { fill: none; stroke: currentColor; opacity: .45; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { svg { background: #16181c; color: #e8e8e8 } }
@media print { svg { background: #fff; color: #000 } }
"""


@record
class _Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool

    @staticmethod
    def of(values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        is_log = low > 0 and high / low > LOG_FROM
        if not is_log:
            spare = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            return _Scale(low - spare, high + spare, start, end, False)
        return _Scale(low / 1.3, high * 1.3, start, end, True)

    def at(self, value: float) -> float:
        if self.is_log:
            share = math.log10(value / self.low) / math.log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values between both ends."""
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1,) if len(decades) > 4 else (1, 2, 5)
            return [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(f * unit for f in (1, 2, 5, 10) if f * unit >= rough)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


@record
class _Dot:
    x: float
    y: float
    colour: int
    is_best: bool
    title: str


def svg(result: SweepResult) -> str:
    """The picture; also where nothing could be drawn."""
    plan = result.plan
    names = [o.name for o in plan.objectives if o.name not in result.lacking][:2]
    dots_of = [
        (n, row) for n, row in enumerate(result.rows) if names and all(_value(row, x) is not None for x in names)
    ]
    colours = _colour_axis(result)
    words = [str(v) for v in colours.values] if colours is not None else []
    height = HEIGHT + LEGEND * math.ceil(len(words) / 3)
    body: list[str] = [_text(LEFT, 22, plan.spec.name or "sweep", "title")]
    if not dots_of:
        body.append(_text(LEFT, 60, "no point has all objectives", "dim"))
        return _page(body, height)
    xs, ys = _axes_of(names, dots_of)
    across, up = _Scale.of(xs, LEFT, WIDTH - RIGHT), _Scale.of(ys, HEIGHT - BOTTOM, TOP)
    best = set(result.front)
    dots = [
        _Dot(across.at(x), up.at(y), _place(colours, row), number in best, _title(number, row, names))
        for (number, row), x, y in zip(dots_of, xs, ys, strict=True)
    ]
    titles = (names[0], names[1]) if len(names) == 2 else ("point", names[0])
    body += [*_frame(across, up, titles), *_front(dots, len(names)), *(_circle(dot) for dot in dots), *_legend(words)]
    return _page(body, height)


def _value(row: Row, name: str) -> float | None:
    """The number of an objective, or of an axis."""
    found = row.answer.numbers.get(name, row.point.named().get(name)) if row.answer.is_done else None
    return float(found) if isinstance(found, int | float) else None


def _axes_of(names: Sequence[str], rows: Sequence[tuple[int, Row]]) -> tuple[list[float], list[float]]:
    values = [[_value(row, name) or 0.0 for _, row in rows] for name in names]
    return (values[0], values[1]) if len(names) == 2 else ([float(number) for number, _ in rows], values[0])


def _colour_axis(result: SweepResult) -> Axis | None:
    """The first axis with several words; without one, points have one colour."""
    several = (a for a in result.plan.axes if 1 < len(a.values) <= len(COLOURS) and not a.is_ordered)
    return next(several, None)


def _place(colours: Axis | None, row: Row) -> int:
    return 0 if colours is None else row.point.places[row.point.axes.index(colours)]


def _title(number: int, row: Row, names: Sequence[str]) -> str:
    settings = (f"{a.name}={v}" for a, v in zip(row.point.axes, row.point.values, strict=True) if len(a.values) > 1)
    scores = (f"{name} {_value(row, name):.4g}" for name in names)
    return "\n".join([f"point {number}", *settings, *scores])


# -- drawing ----------------------------------------------------------------------------------------------------------


def _page(body: Sequence[str], height: int) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start", turn: str = "") -> str:
    turned = f' transform="rotate({turn})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _frame(across: _Scale, up: _Scale, names: tuple[str, str]) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in across.ticks():
        x = across.at(tick)
        yield _line(x, TOP, x, bottom, "grid")
        yield _text(x, bottom + 18, f"{tick:.4g}", "dim", "middle")
    for tick in up.ticks():
        y = up.at(tick)
        yield _line(LEFT, y, right, y, "grid")
        yield _text(LEFT - 8, y + 4, f"{tick:.4g}", "dim", "end")
    yield _line(LEFT, bottom, right, bottom, "axis")
    yield _line(LEFT, TOP, LEFT, bottom, "axis")
    yield _text((LEFT + right) / 2, bottom + 40, _labelled(names[0], across), "", "middle")
    middle = (TOP + bottom) / 2
    yield _text(20, middle, _labelled(names[1], up), "", "middle", f"-90 20 {middle:.0f}")


def _labelled(name: str, scale: _Scale) -> str:
    unit = QUANTITIES[name].unit if name in QUANTITIES else ""
    return name + (f" [{unit}]" if unit else "") + (", logarithmic" if scale.is_log else "")


def _front(dots: Sequence[_Dot], objectives: int) -> Iterator[str]:
    best = sorted((d.x, d.y) for d in dots if d.is_best)
    if objectives == 2 and len(best) > 1:
        yield f'<polyline class="front" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in best)}"/>'


def _circle(dot: _Dot) -> str:
    colour = COLOURS[dot.colour % len(COLOURS)]
    drawn = f'fill="{colour}"' if dot.is_best else f'fill="none" stroke="{colour}"'
    radius = 5 if dot.is_best else 3.5
    title = f"<title>{escape(dot.title)}</title>"
    return f'<circle cx="{dot.x:.1f}" cy="{dot.y:.1f}" r="{radius}" {drawn}>{title}</circle>'


def _legend(words: Sequence[str]) -> Iterator[str]:
    """Three words a line, cut to what fits."""
    column = (WIDTH - LEFT - RIGHT) / 3
    for number, word in enumerate(words):
        x, y = LEFT + (number % 3) * column, HEIGHT + (number // 3) * LEGEND
        yield f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="4" fill="{COLOURS[number % len(COLOURS)]}"/>'
        shown = word if len(word) <= 28 else "…" + word[-27:]
        yield _text(x + 9, y, shown)
