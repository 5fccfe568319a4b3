"""The roofline: what each op reaches against what the units of its engine could do at best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import percent, size_text, time_text
from pimc.backends.roofs import Roof
from pimc.record import record
from pimc.report import palette
from pimc.report.html import NONE, Html, section, tag, text
from pimc.report.scales import Log
from pimc.report.svg import CHARACTER, both, circle, label, legend, line, path, svg
from pimc.report.view import View

NAMED = 9
"""Ops that bear a number."""


@record
class Point:
    """An op, or the same op of identical layers: what one of them reaches."""

    rank: int
    name: str
    engine: str
    intensity: float
    rate: float
    share: float
    seconds: float


def roofline_section(view: View) -> Html:
    points = list(_points(view))
    roofs = list(view.report.roofs)
    if not points:
        return NONE
    without = sum(len(g.ops) for g in view.groups if not sum(o.flops for o in g.ops))
    note = (
        "Each op where it is in the run: operations a second over operations a byte (operands and results, as the op "
        "is defined). The area of a point is its share of the time. "
        + (
            "Lines are what the units of one device could do at best; above a slope lies what found operands on chip. "
            if roofs
            else ""
        )
        + (f"{without} ops move bytes only, and have no place here." if without else "")
    )
    engines = dict.fromkeys([*(r.engine for r in roofs), *(p.engine for p in points)])
    shown = legend((palette.engine(name), name) for name in engines)
    return section("Roofline", "roofline", shown, both(partial(_drawn, points, roofs)), _names(points), note=note)


def _points(view: View) -> Iterator[Point]:
    for rank, g in enumerate(view.groups, 1):
        flops, moved = sum(o.flops for o in g.ops), sum(o.bytes for o in g.ops)
        if flops and moved and g.seconds:
            rate, share = flops / g.seconds, g.seconds / view.total
            yield Point(rank, g.name, g.ops[0].engine, flops / moved, rate, share, g.seconds)


def _drawn(points: Sequence[Point], roofs: Sequence[Roof], width: int) -> Html:
    height = 460 if width > 500 else 380
    left, bottom = 62, height - 40
    ridges = [r.flops / r.bandwidth for r in roofs]
    low, high = min([*(p.intensity for p in points), *ridges]), max([*(p.intensity for p in points), *ridges])
    x = Log.around(low * 0.7, high * 1.5, left, width - 12)
    rates = [p.rate for p in points]
    y = Log.around(max(min(rates) * 0.7, max(rates) * 1e-9), max([*rates, *(r.flops for r in roofs)]) * 1.2, bottom, 12)
    names = list(_roof_names(roofs, y, width))
    parts = [*_axes(x, y, width), *_roofs(roofs, x, y)]
    parts += [label(x.end - 2, at, said, "halo", "end") for at, said in names]
    ordered = sorted(points, key=lambda p: -p.share)
    parts += [_dot(p, x, y) for p in ordered]
    taken = [(x.end - 2 - len(said) * CHARACTER, at) for at, said in names]
    parts += _ranks([p for p in ordered if p.rank <= NAMED], x, y, taken)
    return svg(width, height, parts, "roofline")


def _axes(x: Log, y: Log, width: int) -> Iterator[Html]:
    for tick in x.ticks(8 if width > 500 else 4):
        at = x.at(tick)
        yield line(at, y.start, at, y.end, "grid")
        said = _power(tick)
        within = at + len(said) * CHARACTER / 2 < width - 2
        yield label(at if within else width - 2, y.start + 16, said, "tick", "middle" if within else "end")
    for tick in y.ticks(8):
        at = y.at(tick)
        yield line(x.start, at, x.end, at, "grid")
        yield label(x.start - 6, at + 4, _round(tick), "tick", "end")
    yield label(x.end, y.start + 33, "FLOP a byte", "axis", "end")
    yield label(x.start + 4, y.end + 4, "FLOP/s", "axis")


def _power(value: float) -> str:
    return f"{value:g}"


def _round(value: float) -> str:
    """A power of ten with its prefix."""
    number, _, prefix = _rate(value).partition(" ")
    return f"{float(number):g} {prefix}".rstrip()


def _roofs(roofs: Sequence[Roof], x: Log, y: Log) -> Iterator[Html]:
    """The slope that bandwidth allows, up to the peak."""
    for roof in sorted(roofs, key=lambda r: -r.flops):
        ridge = min(max(roof.flops / roof.bandwidth, x.least), x.most)
        start = max(x.least, min(y.least / roof.bandwidth, ridge))
        ends = [(start, start * roof.bandwidth), (ridge, min(roof.flops, ridge * roof.bandwidth)), (x.most, roof.flops)]
        data = "M" + "L".join(f"{x.at(a):.1f} {y.at(b):.1f}" for a, b in ends)
        said = f"{roof.engine} {roof.name}: {_rate(roof.flops)}FLOP/s, {size_text(roof.bandwidth)}/s {roof.memory}"
        yield path(data, f"roof {palette.engine(roof.engine)}", said)


def _roof_names(roofs: Sequence[Roof], y: Log, width: int) -> Iterator[tuple[float, str]]:
    """What stands at the right end of each roof, and its base line: below each other."""
    taken: list[float] = []
    for roof in sorted(roofs, key=lambda r: -r.flops):
        name = f"{roof.engine} {roof.name}" if width > 500 else roof.name
        at = y.at(roof.flops) - 5
        while any(abs(at - other) < 14 for other in taken):
            at += 4
        taken.append(at)
        yield at, f"{name} {_rate(roof.flops)}FLOP/s"


def _rate(amount: float) -> str:
    return size_text(amount).removesuffix("B")


def _radius(share: float) -> float:
    return 3 + 19 * math.sqrt(share)


def _dot(p: Point, x: Log, y: Log) -> Html:
    said = (
        f"#{p.rank} {p.name} on {p.engine}: {_rate(p.rate)}FLOP/s at {p.intensity:.3g} FLOP/B, {time_text(p.seconds)}"
    )
    kind = f"dot {palette.engine(p.engine)}"
    return circle(x.at(p.intensity), y.at(p.rate), _radius(p.share), kind, f"{said}, {percent(p.share)}")


def _ranks(points: Sequence[Point], x: Log, y: Log, taken: Sequence[tuple[float, float]]) -> Iterator[Html]:
    """Numbers beside the points, where one has room. taken: left ends and base lines of texts at the right."""
    boxes: list[tuple[float, float]] = []
    for p in points:
        px, py, r = x.at(p.intensity), y.at(p.rate), _radius(p.share)
        for dx, dy in ((0, 4), (r + 9, 4), (-r - 9, 4), (0, -r - 4), (0, r + 13), (r + 18, -8), (-r - 18, -8)):
            at = (px + dx, py + dy)
            wide = CHARACTER * len(str(p.rank)) + 5
            free = all(abs(at[0] - bx) > wide or abs(at[1] - by) > 13 for bx, by in boxes)
            free = free and all(at[0] + wide / 2 < left or abs(at[1] - base) > 13 for left, base in taken)
            if free and x.start + 6 < at[0] < x.end - 6:
                boxes.append(at)
                yield label(*at, str(p.rank), "rank halo", "middle")
                break


def _names(points: Sequence[Point]) -> Html:
    items = [
        tag("li", tag("b", text(str(p.rank))), text(f" {p.name} · {p.engine} · {percent(p.share)}"))
        for p in points
        if p.rank <= NAMED
    ]
    return tag("ol", *items, class_="ranks")
