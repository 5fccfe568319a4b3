"""What kind of number each number of the page is, and where the target's numbers come from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pimc.report.html import NONE, Cell, Column, Html, Table, cell, section, tag, text
from pimc.report.view import View
from pimc.served import Served

SIMULATED, DERIVED, ESTIMATE, MEAN, COUNTED = "simulated", "derived", "estimate", "mean", "counted"
_ASSUMED = re.compile(r"assum|taken to|guess|estimat", re.IGNORECASE)
"""What a source says of numbers that nobody published."""


def trust_section(view: View, served: Served | None = None) -> Html:
    rows = [
        [cell(what), Cell(tag("span", text(kind), class_=f"tag t-{kind}")), cell(why)]
        for what, kind, why in (*_rows(view), *_rows_of_request(served))
    ]
    columns = [Column("number"), Column("is"), Column("what that means")]
    made = Table("numbers", columns, rows, kind="small").html()
    note = (
        "None of these numbers was measured on hardware. docs/accuracy.md says how far each machine's cycles agree "
        "with published simulators."
    )
    return section("Which numbers are estimates", "numbers", made, _sources(view), note=note)


def _rows(view: View) -> Iterator[tuple[str, str, str]]:
    report = view.report
    yield "time, cycles, busy and stalled", SIMULATED, "every command of the streams is timed on the target's rules"
    yield "bound, share of bound", DERIVED, "what the run would take if its busiest engine or resource never idled"
    if any(o.layer >= 0 for o in report.ops):
        yield (
            "time of an op in identical layers",
            MEAN,
            "the layers run as one loop; each op has its share of the loop's op",
        )
    if any(e.instances > 1 for e in report.engines):
        yield "busy, stalled and idle of an engine with channels", MEAN, "over its channels"
    yield "FLOP and bytes of an op", DERIVED, "from its definition and shapes, not from what the machine moves for it"
    if any(o.costs for o in report.ops):
        yield (
            "alone, on each engine",
            ESTIMATE,
            "the op's own commands, simulated on an idle machine; placement went by it",
        )
    if report.moves:
        yield "bytes moved", COUNTED, "by the engines, command by command"
    if report.roofs:
        yield "roofs", DERIVED, "peak rates from the target's numbers: no refresh, no activation of rows"
    if report.memory:
        yield "memory map", DERIVED, "the places that the program's commands use"
    if view.energy is not None:
        yield "energy", ESTIMATE, "commands counted, times the target's energy for each, and power over time"
    if view.tokens:
        yield "tokens a second", DERIVED, "new tokens of this run over its time: one step, not a service under load"


def _rows_of_request(served: Served | None) -> Iterator[tuple[str, str, str]]:
    if served is None:
        return
    yield "transfer of the caches", DERIVED, "both ends are simulated apart and joined: exact for pieces that are alike"
    if served.transfer.when == "by-layer":
        why = "what the transfer and the prefill want of the same memory at once is left out"
        yield "transfer beside the prefill", ESTIMATE, why


def _sources(view: View) -> Html:
    sources = view.report.sources
    if not sources:
        return NONE
    rows = []
    for group, said in sources.items():
        mark = tag("span", text("assumed in part"), class_="tag t-estimate") if _ASSUMED.search(said) else NONE
        rows.append([cell(group), Cell(tag("span", text(said), Html(" "), mark))])
    table = Table("sources", [Column("numbers of the target"), Column("come from")], rows, kind="small sources")
    return Html(f"{tag('h3', text(f'Where the numbers of {view.report.target} come from'))}{table.html()}")
