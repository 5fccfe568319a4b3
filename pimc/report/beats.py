"""Beats of a schedule with barriers between them: what works side by side in each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pimc.amounts import grouped, percent, time_text
from pimc.report import palette
from pimc.report.html import NONE, Cell, Column, Html, Table, cell, section
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, legend, line, rect, svg
from pimc.report.view import View
from pimc.sim.report import BeatReport

MOST_DRAWN, MOST_LISTED = 24, 200
ROW = 12


def beats_section(view: View) -> Html:
    beats = view.report.beats
    if not beats:
        return NONE
    engines = _engines(beats)
    shown = beats[:MOST_DRAWN]
    more = f" The first {MOST_DRAWN} of {len(beats)} are drawn." if len(beats) > MOST_DRAWN else ""
    note = f"Between two beats every engine waits for all others. In each, how long every engine works.{more}"
    keys = legend((palette.engine(name), name) for name in engines)
    columns = [Column("beat"), Column("time", True), Column("cycles", True), *(Column(name, True) for name in engines)]
    rows = [_row(beat, engines) for beat in beats[:MOST_LISTED]]
    listed = Table("beats", columns, rows, sortable=True, kind="small").html()
    return section("Beats", "beats", keys, both(partial(_bars, shown, engines)), listed, note=note)


def _engines(beats: Sequence[BeatReport]) -> list[str]:
    found = dict.fromkeys(name for beat in beats for name in beat.busy)
    return sorted(found, key=lambda name: (name.partition("-")[0], name))


def _row(beat: BeatReport, engines: Sequence[str]) -> list[Cell]:
    cells = [cell(beat.name), cell(time_text(beat.seconds), beat.seconds), cell(grouped(beat.cycles), beat.cycles)]
    for name in engines:
        share = min(1.0, beat.busy.get(name, 0.0) / beat.seconds) if beat.seconds else 0.0
        cells.append(cell(percent(share) if share else "–", share, f"--share:{share:.3f}" if share else ""))  # noqa: RUF001
    return cells


def _bars(beats: Sequence[BeatReport], engines: Sequence[str], width: int) -> Html:
    """A group of bars for each beat, one under the other."""
    most = max(beat.seconds for beat in beats) or 1.0
    left = min(0.35 * width, max(len(b.name) for b in beats) * CHARACTER + 12)
    axis = Linear(most, left, width - 70)
    parts: list[Html] = []
    y = 0.0
    for beat in beats:
        worked = [name for name in engines if beat.busy.get(name)]
        height = ROW * max(2, len(worked))
        parts.append(label(left - 8, y + height / 2 + 4, fitting(beat.name, left - 8), "name", "end"))
        parts.append(rect(left, y, max(0.6, axis.at(beat.seconds) - left), height, "b-idle", beat.name))
        for i, name in enumerate(worked):
            seconds = min(beat.seconds, beat.busy[name])
            tip = f"{beat.name}, {name}: {time_text(seconds)}"
            length = max(0.6, axis.at(seconds) - left)
            parts.append(rect(left, y + i * ROW + 1, length, ROW - 2, palette.engine(name), tip))
        parts.append(label(axis.at(beat.seconds) + 6, y + height / 2 + 4, time_text(beat.seconds), "tick"))
        y += height + 6
        parts.append(line(left, y - 3, axis.end, y - 3, "grid"))
    return svg(width, y + 2, parts, "beats, and who works in them")
