"""What a run spends: on what, in which engine, and for which ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pimc.amounts import percent
from pimc.report import palette
from pimc.report.headline import joule_text
from pimc.report.html import NONE, Cell, Column, Html, Table, cell, section, tag, text
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, rect, svg
from pimc.report.view import View
from pimc.sim.op_groups import OpGroup

MOST_OPS = 12
TIMES = "\N{MULTIPLICATION SIGN}"
STATIC = "static"


def energy_section(view: View) -> Html:
    energy = view.report.energy
    if energy is None or not energy.total_j:
        return NONE
    engines = {**energy.engines, STATIC: energy.static_j}
    note = (
        "Commands that engines have counted, times what the target's file says that each takes, and power over the "
        "time of the run (static), which belongs to no op. Over all devices."
    )
    parts = [tag("h3", text("By engine")), both(partial(_bars, _falling(engines)))]
    parts += [tag("h3", text("By what it is spent on")), _groups(energy.groups, energy.total_j).html()]
    ops = sorted(view.groups, key=lambda g: -_joules(g))[:MOST_OPS]
    if any(_joules(g) for g in ops):
        parts += [tag("h3", text("Ops that take most")), _ops(view, ops, energy.total_j).html()]
    return section("Energy", "energy", *parts, note=note)


def _falling(joules: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    return sorted(((name, j) for name, j in joules.items() if j), key=lambda item: -item[1])


def _bars(found: Sequence[tuple[str, float]], width: int) -> Html:
    left = min(0.35 * width, max(len(name) for name, _ in found) * CHARACTER + 12)
    axis, whole = Linear(found[0][1], left, width - 120), sum(j for _, j in found)
    parts: list[Html] = []
    for i, (name, joules) in enumerate(found):
        y, said = i * 24, f"{joule_text(joules)} · {percent(joules / whole)}"
        kind = "b-idle" if name == STATIC else palette.engine(name)
        parts.append(label(left - 8, y + 15, fitting(name, left - 8), "name", "end"))
        parts.append(rect(left, y + 3, max(0.6, axis.at(joules) - left), 16, kind, f"{name}: {said}"))
        parts.append(label(axis.at(joules) + 6, y + 15, said, "tick"))
    return svg(width, 24 * len(found) + 2, parts, "energy by engine")


def _groups(groups: Mapping[str, float], total: float) -> Table:
    rows = [
        [cell(name), cell(joule_text(j), j), cell(percent(j / total), j / total, f"--share:{j / total:.3f}")]
        for name, j in _falling(groups)
    ]
    columns = [Column("spent on"), Column("energy", True), Column("share", True)]
    return Table("energy", columns, rows, sortable=True, kind="small")


def _ops(view: View, ops: Sequence[OpGroup], total: float) -> Table:
    numbers = [Column(title, True) for title in ("energy", "share", "of the time")]
    columns = [Column("op"), Column("engine"), *numbers]
    return Table("energy-ops", columns, [_op(view, g, total) for g in ops if _joules(g)], sortable=True, kind="small")


def _op(view: View, g: OpGroup, total: float) -> list[Cell]:
    first, joules = g.ops[0], _joules(g)
    times = tag("em", text(f" {TIMES}{len(g.ops)}")) if len(g.ops) > 1 else NONE
    name = Html(f"{tag('b', text(g.name))}{times} {tag('span', text(first.op), class_='op')}")
    share, time = joules / total, g.seconds / view.total
    return [
        Cell(name),
        Cell(tag("span", text(first.engine), class_=f"tag {palette.engine(first.engine)}")),
        cell(joule_text(joules), joules),
        cell(percent(share), share, f"--share:{share:.3f}"),
        cell(percent(time), time),
    ]


def _joules(g: OpGroup) -> float:
    return sum(o.energy or 0.0 for o in g.ops)
