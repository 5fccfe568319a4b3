"""The run from left to right: how busy each engine is, and with which kind of op; then one layer in detail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import time_text
from pimc.report import palette
from pimc.report.html import NONE, Html, section, tag, text
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, legend, line, number, path, rect, svg
from pimc.report.view import View
from pimc.sim.report import OpReport
from pimc.sim.timeline import LEVELS, NOTHING, WINDOW, Detail, Lane, Timeline

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def timeline_section(view: View) -> Html:
    timeline = view.report.timeline
    if timeline is None or not timeline.lanes:
        return NONE
    bins = len(timeline.lanes[0].level)
    note = (
        f"The run in {bins} parts: the height is how much of a part the engine is at work, the colour the kind of op "
        "that takes most of it. Channels of an engine are drawn together."
    )
    shown = legend((palette.kind(i) if name != "other" else "k-other", name) for i, name in enumerate(timeline.kinds))
    overview = both(partial(_overview, timeline, view.report.seconds))
    return section("Time line", "timeline", shown, overview, _detail(view, timeline), note=note)


def _names(lanes: Sequence[Lane]) -> list[str]:
    several = len({lane.devices for lane in lanes}) > 1
    return [f"{lane.engine} @{lane.devices}" if several else lane.engine for lane in lanes]


def _overview(timeline: Timeline, seconds: float, width: int) -> Html:
    lanes = sorted(timeline.lanes, key=lambda lane: [e.engine for e in timeline.lanes].index(lane.engine))
    names = _names(lanes)
    row = 34 if len(lanes) <= 8 else 20 if len(lanes) <= 24 else 9
    left = min(0.3 * width, max(len(n) for n in names) * CHARACTER + 12)
    axis = Linear(seconds, left, width - 10)
    bottom = row * len(lanes) + 2
    parts = [*_axis(axis, bottom, 6 if width > 500 else 2)]
    for i, lane in enumerate(lanes):
        base = (i + 1) * row
        if row > 12:
            parts.append(label(left - 8, base - row / 2 + 4, fitting(names[i], left - 8), "name", "end"))
        elif i == 0 or lanes[i - 1].engine != lane.engine:  # devices from top to bottom
            parts.append(label(left - 8, base + 3, fitting(lane.engine, left - 8), "name", "end"))
        parts += _lane(lane, axis, base, row - (4 if row > 12 else 1))
        parts.append(line(left, base, axis.end, base, "base"))
    return svg(width, bottom + 20, parts, "time line of all engines")


def _lane(lane: Lane, axis: Linear, base: float, height: float) -> Iterator[Html]:
    """One path for each kind: columns next to each other of equal height are one rectangle."""
    bins = len(lane.level)
    step = (axis.end - axis.start) / bins
    data: dict[str, list[str]] = defaultdict(list)
    at = 0
    while at < bins:
        end = at + 1
        while end < bins and (lane.level[end], lane.kind[end]) == (lane.level[at], lane.kind[at]):
            end += 1
        if lane.kind[at] != NOTHING:
            tall = max(1.0, height * LEVELS.index(lane.level[at]) / (len(LEVELS) - 1))
            x = number(axis.start + at * step)
            data[lane.kind[at]].append(
                f"M{x} {number(base)}v-{number(tall)}h{number((end - at) * step)}v{number(tall)}z"
            )
        at = end
    for letter, parts in sorted(data.items()):
        yield path("".join(parts), f"f {_kind(LETTERS.index(letter))}")


def _kind(place: int) -> str:
    return palette.kind(place)


def _axis(axis: Linear, bottom: float, most: int) -> Iterator[Html]:
    for tick in axis.ticks(most):
        x = axis.at(tick)
        yield line(x, 0, x, bottom, "grid")
        anchor = "end" if x > axis.end - 30 else "start" if x < axis.start + 10 else "middle"
        yield label(x, bottom + 15, time_text(tick) if tick else "0", "tick", anchor)


# -- detail -----------------------------------------------------------------------------------------------------------


def _detail(view: View, timeline: Timeline) -> Html:
    detail = timeline.detail
    if detail is None or not detail.lanes or (not detail.layers and len(view.report.ops) > 200):
        return NONE
    ops = view.report.ops
    if detail.layers:
        several = f" on devices {detail.devices}" if len({lane.devices for lane in timeline.lanes}) > 1 else ""
        said = f"One of {detail.layers} identical layers{several}: "
        said += f"{time_text(detail.seconds)} from {time_text(detail.start)} on"
    else:
        said = "The whole run, op by op"
    drawn = both(partial(_slices, detail, ops, timeline.kinds))
    return Html(f"{tag('h3', text(said))}{drawn}")


def _slices(detail: Detail, ops: Sequence[OpReport], kinds: Sequence[str], width: int) -> Html:
    row = 30
    left = min(0.3 * width, max(len(lane.engine) for lane in detail.lanes) * CHARACTER + 12)
    axis = Linear(WINDOW, left, width - 10)
    bottom = row * len(detail.lanes) + 2
    seconds = Linear(detail.seconds, axis.start, axis.end)
    parts = [*_axis(seconds, bottom, 6 if width > 500 else 2)]
    for i, lane in enumerate(detail.lanes):
        y = i * row + 4
        parts.append(label(left - 8, y + 16, fitting(lane.engine, left - 8), "name", "end"))
        parts.append(line(left, y + row - 6, axis.end, y + row - 6, "base"))
        taken = axis.start
        for op, start, end in lane.slices:
            if not 0 <= op < len(ops):
                continue
            found = ops[op]
            low, high = max(axis.at(start), taken), axis.at(end)
            if high - low < 0.3:
                continue
            taken = high
            place = kinds.index(found.op) if found.op in kinds else palette.MOST
            tip = f"{found.name} ({found.op}), {time_text((end - start) / WINDOW * detail.seconds)}"
            parts.append(rect(low, y, high - low, row - 6, f"slice {palette.kind(place)}", tip))
            if high - low > len(found.op) * CHARACTER + 6:
                parts.append(label((low + high) / 2, y + 16, found.op, "inside", "middle"))
    return svg(width, bottom + 20, parts, "one layer in detail")
