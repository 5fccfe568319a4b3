"""How each engine spends the run, and what it waits for; phases by engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import count_text, grouped, percent, time_text
from pimc.report import palette
from pimc.report.html import NONE, Cell, Column, Html, Table, cell, join, section, text
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, legend, line, rect, svg
from pimc.report.view import View
from pimc.sim.report import EngineReport

ROW, BAR = 26, 16


def engines_section(view: View) -> Html:
    shown = list(view.engines)
    causes = causes_of(view.engines)
    several = len({e.devices for e in view.report.engines})
    merged = f" Each is the mean of {several} groups of devices." if view.are_merged else ""
    note = (
        "Shares of the run: at work, waiting, and with nothing left to do. An engine at work counts as busy "
        f"whatever else goes on; of channels that differ this is the mean.{merged}"
    )
    names = [("b-busy", "busy"), *((palette.cause(c, causes), cause_text(c)) for c in causes), ("b-idle", "idle")]
    drawn = both(partial(_bars, view, shown, causes))
    tables = join([_table(view, causes).html(), _counted(view)])
    return section("Engines, and what they wait for", "engines", legend(names), drawn, tables, note=note)


def _counted(view: View) -> Html:
    """What engines issued on the level of the device."""
    rows = [
        [cell(name_of(e)), cell(", ".join(f"{name} {count_text(number)}" for name, number in e.counters.items()))]
        for e in view.engines
        if e.counters
    ]
    columns = [Column("engine"), Column("counted, over all channels of one device")]
    return Table("counters", columns, rows, kind="small").html() if rows else NONE


def causes_of(engines: Sequence[EngineReport]) -> list[str]:
    """All causes of stalls, waits for engines first."""
    found = dict.fromkeys(cause for e in engines for cause, seconds in e.stalled.items() if seconds)
    return sorted(found, key=lambda c: (not c.startswith("wait:"), c))


def cause_text(cause: str) -> str:
    before, _, after = cause.partition(":")
    return f"waits for {after}" if before == "wait" else cause


def _bars(view: View, shown: Sequence[EngineReport], causes: Sequence[str], width: int) -> Html:
    whole = view.report.seconds or 1.0
    names = [name_of(e) for e in shown]
    left = min(0.35 * width, max((len(n) for n in names), default=0) * CHARACTER + 24)
    axis = Linear(1.0, left, width - 8)
    height = ROW * len(shown) + 22
    parts = list(_axis(axis, height - 20, 4 if width > 500 else 2))
    for i, e in enumerate(shown):
        y = i * ROW + (ROW - BAR) / 2
        parts.append(label(left - 8, y + BAR - 4, fitting(names[i], left - 8), "name", "end"))
        at = 0.0
        for kind, said, seconds in _parts(e, causes):
            share = min(seconds / whole, 1 - at)
            if share > 0.0005:
                tip = f"{names[i]}: {said} {percent(seconds / whole)}, {time_text(seconds)}"
                parts.append(rect(axis.at(at), y, axis.at(at + share) - axis.at(at), BAR, kind, tip))
            at += share
    return svg(width, height, parts, "how engines spend the run")


def _axis(axis: Linear, bottom: float, number: int) -> Iterator[Html]:
    for tick in axis.ticks(number):
        x = axis.at(tick)
        yield line(x, 0, x, bottom, "grid")
        yield label(x, bottom + 14, percent(tick) if tick else "0", "tick", "end" if tick >= 1 else "middle")


def _parts(e: EngineReport, causes: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    yield "b-busy", "busy", e.busy
    for cause in causes:
        if e.stalled.get(cause):
            yield palette.cause(cause, causes), cause_text(cause), e.stalled[cause]
    yield "b-idle", "idle", e.idle


def name_of(e: EngineReport) -> str:
    return f"{e.name} ×{e.instances}" if e.instances > 1 else e.name  # noqa: RUF001  a multiplication sign


def _table(view: View, causes: Sequence[str]) -> Table:
    whole = view.report.seconds or 1.0
    columns = [Column("engine"), Column("busy", True), *(Column(cause_text(c), True) for c in causes)]
    columns += [Column("idle", True), Column("commands", True, "as executed, over all channels of one device")]
    columns += [Column("cycles", True, "of its own clock, to its last completion")]
    rows = []
    for e in view.engines:
        shares = [_share(e.busy / whole, "busy"), *(_share(e.stalled.get(c, 0.0) / whole, "stall") for c in causes)]
        numbers = [cell(grouped(e.commands), e.commands), cell(grouped(e.cycles), e.cycles)]
        rows.append([cell(name_of(e)), *shares, _share(e.idle / whole, ""), *numbers])
    return Table("engines", columns, rows, sortable=True, kind="small stalls")


def _share(share: float, kind: str) -> Cell:
    tint = f"--share:{share:.3f}" if kind and share else ""
    return Cell(text(percent(share) if share else "–"), share, tint)  # noqa: RUF001  a dash for nothing


# -- phases -----------------------------------------------------------------------------------------------------------


def phases_section(view: View) -> Html:
    busy = view.busy_of_phases
    engines = list(dict.fromkeys(e.name.partition("@")[0] for e in view.report.engines))
    worked = [name for name in engines if any(found.get(name) for found in busy.values())]
    if not view.report.phases or not worked:
        return NONE
    columns = [Column("phase"), Column("time", True, "in which at least one engine works for it"), Column("FLOP", True)]
    columns += [
        Column("bytes", True, "of operands and results, as the ops are defined"),
        *(Column(n, True) for n in worked),
    ]
    rows = []
    for phase in view.report.phases:
        found = busy.get(phase.phase, {})
        numbers = [cell(time_text(phase.seconds), phase.seconds), cell(count_text(phase.flops, "FLOP"), phase.flops)]
        numbers.append(cell(count_text(phase.bytes, "B"), phase.bytes))
        times = [_time(found.get(name, 0.0), phase.seconds) for name in worked]
        rows.append([cell(phase.phase or "none"), *numbers, *times])
    note = (
        "For how long each engine works for the ops of a phase. Engines work side by side: their times do not add up."
    )
    return section("Phases by engine", "phases", Table("phases", columns, rows, kind="small").html(), note=note)


def _time(seconds: float, whole: float) -> Cell:
    share = seconds / whole if whole else 0.0
    said = f"{time_text(seconds)} · {percent(share)}" if seconds else "–"  # noqa: RUF001
    return Cell(text(said), seconds, f"--share:{min(share, 1.0):.3f}" if seconds else "")
