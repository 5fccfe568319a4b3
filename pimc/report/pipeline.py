"""A pipeline with a query in every stage: how full its devices are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import percent, significant, time_text
from pimc.report import palette
from pimc.report.html import NONE, Column, Html, Table, cell, section, tag, text
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, line, rect, svg
from pimc.report.view import View
from pimc.sim.report import EngineReport, PipelineReport

MOST_ROWS = 64


def pipeline_section(view: View) -> Html:
    found = view.report.pipeline
    if found is None:
        return NONE
    columns = [Column("the pipeline"), Column("", True), Column("what that means")]
    rows = [[cell(name), cell(number), cell(why)] for name, number, why in _numbers(found)]
    busiest = _busiest(view.report.engines)
    drawn = NONE
    if len(busiest) > 1:
        title = f"Busiest engine of each of {len(busiest)} groups of devices, against the time of the slowest stage"
        drawn = Html(f"{tag('h3', text(title))}{both(partial(_devices, busiest[:MOST_ROWS], found.slowest_seconds))}")
    note = "The run is the pass of one query; the other stages hold others meanwhile, which take as long."
    return section("Pipeline", "pipeline", Table("pipeline", columns, rows, kind="small").html(), drawn, note=note)


def _numbers(found: PipelineReport) -> Iterator[tuple[str, str, str]]:
    yield "stages", str(found.stages), "as many queries are in flight"
    if found.turns > 1:
        yield "turns", str(found.turns), "stages that take turns on the same devices"
    if found.parts > 1:
        yield "parts", str(found.parts), "stages that work side by side on the same devices"
    yield "tokens", str(found.tokens), "of a query, which its pass is for"
    yield "latency", time_text(found.latency_seconds), "of the pass of one query"
    yield "tokens a second", significant(found.tokens_per_s), "of all queries: those in flight by the latency"
    yield "slowest stage", time_text(found.slowest_seconds), "tokens can come no faster than one in that time"
    yield "balance", percent(found.balance), "the mean of all stages against the slowest"


def _busiest(engines: Sequence[EngineReport]) -> list[EngineReport]:
    """Of each group of devices the engine that works longest, in the order of devices."""
    found: dict[str, EngineReport] = {}
    for e in engines:
        if e.devices not in found or e.busy > found[e.devices].busy:
            found[e.devices] = e
    return list(found.values())


def _devices(busiest: Sequence[EngineReport], seconds: float, width: int) -> Html:
    row = 22 if len(busiest) <= 16 else 10
    names = [f"{e.name.partition('@')[0]} @{e.devices}" for e in busiest]
    left = min(0.35 * width, max(len(n) for n in names) * CHARACTER + 24)
    axis = Linear(max([seconds, *(e.busy for e in busiest)]) or 1.0, left, width - 60)
    every = 1 if row > 12 else 2
    parts: list[Html] = []
    for i, (name, e) in enumerate(zip(names, busiest, strict=True)):
        y = i * row
        if i % every == 0:
            parts.append(label(left - 8, y + row / 2 + 4, fitting(name, left - 8), "name", "end"))
            parts.append(label(axis.at(e.busy) + 6, y + row / 2 + 4, percent(e.busy / (seconds or 1.0)), "tick"))
        tip = f"{name}: {time_text(e.busy)}"
        parts.append(rect(left, y + 2, max(0.6, axis.at(e.busy) - left), row - 4, palette.engine(e.name), tip))
        parts.append(line(left, y + row, axis.end, y + row, "grid"))
    return svg(width, row * len(busiest) + 10, parts, "busiest engines of the stages")
