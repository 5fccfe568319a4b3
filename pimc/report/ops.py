"""The table of ops: identical ops of identical layers in one row, with why they are where they are."""

from __future__ import annotations

from collections.abc import Iterator

from pimc.amounts import count_text, percent, significant, size_text, time_text
from pimc.report import palette
from pimc.report.headline import joule_text
from pimc.report.html import NONE, Cell, Column, Html, Table, cell, section, tag, text
from pimc.report.view import View, place_of
from pimc.sim.op_groups import OpGroup

MOST = 400
TIMES = "\N{MULTIPLICATION SIGN}"


def ops_section(view: View) -> Html:
    groups = view.groups[:MOST]
    has_energy = any(getattr(o, "energy", None) is not None for o in view.report.ops)
    columns = [
        Column("#", True),
        Column("op"),
        *([Column("phase")] if _has_phases(view) else []),
        Column("nature"),
        Column("engine"),
        Column("time", True, "for which at least one engine works for it, over all layers"),
        Column("share", True, "of the time of all ops"),
        Column("of bound", True, "how long its busiest engine or resource works for it, of its time"),
        Column("bound by", about="the engine or resource that works longest for it"),
        Column("ahead", True, "transfers that went on while other ops were at work (prefetch)"),
        Column("FLOP", True),
        Column("bytes", True, "of operands and results"),
        Column("FLOP/B", True),
        *([Column("energy", True)] if has_energy else []),
        Column("alone, on each engine", about="its own commands on an idle machine, operands brought included"),
    ]
    rows = [_row(view, rank, g, has_energy=has_energy) for rank, g in enumerate(groups, 1)]
    left = view.groups[MOST:]
    more = f" {sum(len(g.ops) for g in left)} more ops take {time_text(sum(g.seconds for g in left))}." if left else ""
    note = (
        f"{len(view.report.ops)} ops, those of identical layers together, the longest first; a click on a title sorts. "
        f"Under each name is why it is on its engine.{more}"
    )
    return section("Ops", "ops", Table("ops", columns, rows, sortable=True, kind="ops").html(), note=note)


def _has_phases(view: View) -> bool:
    return len({o.phase for o in view.report.ops}) > 1


def _row(view: View, rank: int, g: OpGroup, *, has_energy: bool) -> list[Cell]:
    first = g.ops[0]
    flops, moved = sum(o.flops for o in g.ops), sum(o.bytes for o in g.ops)
    share = g.seconds / view.total
    reached = g.bound / g.seconds if g.seconds else None
    ahead = sum(getattr(o, "ahead", 0.0) for o in g.ops)
    intensity = flops / moved if moved else None
    return [
        cell(str(rank), rank),
        Cell(_name(g)),
        *([cell(first.phase)] if _has_phases(view) else []),
        cell(first.nature or "–"),  # noqa: RUF001  a dash for nothing
        Cell(tag("span", text(first.engine), class_=f"tag {palette.engine(first.engine)}")),
        cell(time_text(g.seconds), g.seconds),
        cell(percent(share), share, f"--share:{share:.3f}"),
        cell(percent(reached) if reached is not None else "", reached),
        cell(g.bound_by),
        cell(time_text(ahead) if ahead else "", ahead),
        cell(count_text(flops, "") if flops else "", flops),
        cell(size_text(moved) if moved else "", moved),
        cell(significant(intensity) if intensity else "", intensity),
        *([_energy(g)] if has_energy else []),
        Cell(_costs(g)),
    ]


def _name(g: OpGroup) -> Html:
    first = g.ops[0]
    times = tag("em", text(f" {TIMES}{len(g.ops)}")) if len(g.ops) > 1 else NONE
    kind = tag("span", text(f" {first.op}"), class_="op")
    why = tag("small", text(first.reason)) if first.reason else NONE
    return tag("span", tag("b", text(g.name)), times, kind, why, title=place_of(first.source))


def _energy(g: OpGroup) -> Cell:
    joules = sum(getattr(o, "energy", None) or 0.0 for o in g.ops)
    return cell(joule_text(joules) if joules else "", joules)


def _costs(g: OpGroup) -> Html:
    return Html("".join(_cost_lines(g)))


def _cost_lines(g: OpGroup) -> Iterator[Html]:
    costs = g.ops[0].costs
    here = costs.get(g.ops[0].engine)
    for engine, cost in costs.items():
        if isinstance(cost, str):
            yield tag("span", text(f"{engine} –"), class_="cost no", title=cost)  # noqa: RUF001
            continue
        ratio = (
            f" ({significant(cost / here)}{TIMES})"
            if isinstance(here, float) and here and engine != g.ops[0].engine
            else ""
        )
        yield tag("span", text(f"{engine} {time_text(cost)}{ratio}"), class_="cost")
