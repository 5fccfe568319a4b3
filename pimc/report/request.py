"""A request on two machines: its times from left to right, and how its caches got from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import count_text, memory_text, percent, size_text, time_text
from pimc.report.headline import joule_text
from pimc.report.html import NONE, Column, Html, Table, cell, join, section, tag, text
from pimc.report.scales import Linear
from pimc.report.svg import CHARACTER, both, fitting, label, legend, line, rect, svg
from pimc.report.view import View
from pimc.served import CacheMoved, Served, Transfer

ROW, BAR = 30, 20
MOST_CACHES = 40
PACES = {"link": "the link", "reading": "reading at the sending end", "storing": "storing at the receiving end"}


def tiles(served: Served) -> Iterator[tuple[str, str]]:
    """The numbers that serving is judged by."""
    tokens = served.generated_tokens + 1
    when = "each cache as it is written" if served.transfer.when == "by-layer" else "after the prefill"
    yield time_text(served.time_to_first_token), f"to the first token, prompt of {served.prompt_tokens}"
    yield time_text(served.transfer.exposed_seconds), f"transfer of the caches, {when}"
    yield time_text(served.time_per_token), f"per further token, mean of {served.generated_tokens}"
    yield time_text(served.seconds), f"whole request of {tokens} tokens"
    rate = f"{count_text(served.request_tokens_per_s)} over the request, {served.batch} at a time"
    yield f"{count_text(served.tokens_per_s)} tokens/s", f"while decoding; {rate}"
    if served.energy is not None:
        each = served.energy.total_j / (tokens * served.batch)
        yield joule_text(served.energy.total_j), f"{joule_text(each)} a token"


def request_section(served: Served, views: dict[str, View]) -> Html:
    """When each machine works for the request, and what the parts take."""
    keys = [("r-prefill", "prefill"), ("r-transfer", "transfer"), ("r-decode", "decode steps")]
    note = (
        f"{served.targets['prefill']} prefills, {served.targets['decode']} decodes on its caches. Decode steps are "
        "drawn equally long, as their mean."
    )
    drawn = both(partial(_course, served))
    return section("The request", "request", legend(keys), drawn, _parts(served, views).html(), note=note)


def _course(served: Served, width: int) -> Html:
    names = [served.targets["prefill"], "link", served.targets["decode"]]
    left = min(0.3 * width, max(len(n) for n in names) * CHARACTER + 12)
    axis = Linear(served.seconds, left, width - 10)
    bottom = ROW * len(names)
    parts: list[Html] = []
    for tick in axis.ticks(6 if width > 500 else 2):
        x = axis.at(tick)
        anchor = "end" if x > axis.end - 30 else "start" if x < axis.start + 10 else "middle"
        parts.append(line(x, 0, x, bottom, "grid"))
        parts.append(label(x, bottom + 15, time_text(tick) if tick else "0", "tick", anchor))
    for i, name in enumerate(names):
        parts.append(label(left - 8, i * ROW + 19, fitting(name, left - 8), "name", "end"))
    for row, kind, start, end, said in _bars(served):
        parts.append(
            rect(axis.at(start), row * ROW + 5, max(0.6, axis.at(end) - axis.at(start)), BAR, f"slice r-{kind}", said)
        )
    return svg(width, bottom + 20, parts, "course of the request")


def _bars(served: Served) -> Iterator[tuple[int, str, float, float, str]]:
    """Row, kind, start, end, and what it is."""
    first, moved = served.time_to_first_token, served.transfer
    begin = first + moved.exposed_seconds
    yield 0, "prefill", 0.0, first, f"prefill: {time_text(first)}"
    sent = moved.caches[0].start_seconds if moved.caches and moved.when == "by-layer" else first
    yield 1, "transfer", sent, begin, f"transfer: {time_text(begin - sent)}"
    for step in range(served.generated_tokens):
        start = begin + step * served.time_per_token
        yield 2, "decode", start, start + served.time_per_token, f"decode step {step + 1}"


SAID = {"prefill": "prefill", "send": "send caches", "receive": "store caches", "decode": "first decode step"}


def _parts(served: Served, views: dict[str, View]) -> Table:
    columns = [Column("part"), Column("on"), Column("devices", True), Column("time", True), Column("of bound", True)]
    columns += [Column("bytes moved", True), Column("energy", True)]
    rows = []
    for name, view in views.items():
        r = view.report
        moved = sum(r.bytes_moved.values())
        energy = r.energy.total_j if r.energy is not None else None
        row = [cell(SAID.get(name, name)), cell(r.target), cell(str(r.devices), r.devices)]
        row += [cell(time_text(r.seconds), r.seconds), cell(percent(r.bound_share), r.bound_share)]
        row.append(cell(size_text(moved), moved))
        rows.append([*row, cell(joule_text(energy) if energy is not None else "", energy)])
    return Table("parts", columns, rows, kind="small")


# -- the transfer -----------------------------------------------------------------------------------------------------


def transfer_section(served: Served) -> Html:
    """What the transfer consists of, and every cache."""
    moved = served.transfer
    if not moved.caches:
        return NONE
    other = sum(not c.same_layout for c in moved.caches)
    order = f"{other} of {len(moved.caches)} caches lie in another order there" if other else "they lie alike there"
    rate = "free" if moved.link.transfers == "free" else f"{memory_text(moved.link.bytes_per_s)}/s a device"
    pace = PACES.get(moved.paced_by, moved.paced_by)
    note = (
        f"{memory_text(moved.bytes)} over the link of {moved.link.of} ({rate}, "
        f"{time_text(moved.link.latency_seconds)} a hop), paced by {pace}; {order}. "
        "Reading, link and storing work side by side, piece by piece."
    )
    shown = moved.caches[:MOST_CACHES]
    left = len(moved.caches) - len(shown)
    more = tag("p", text(f"{left} more caches are in the JSON."), class_="said") if left else NONE
    drawn, listed = both(partial(_stages, moved)), _caches(shown).html()
    return section("Transfer of the caches", "transfer", drawn, listed, more, note=note)


def _stages(moved: Transfer, width: int) -> Html:
    stages = [
        ("reading", moved.reading_seconds),
        ("link", moved.wire_seconds),
        ("storing", moved.storing_seconds),
        ("whole", moved.seconds),
    ]
    left = 62
    axis = Linear(max(seconds for _, seconds in stages), left, width - 66)
    parts: list[Html] = []
    for i, (name, seconds) in enumerate(stages):
        y = i * 24
        kind = "r-transfer" if name in (moved.paced_by, "whole") else "b-idle"
        parts.append(label(left - 8, y + 15, name, "name", "end"))
        parts.append(rect(left, y + 3, max(0.6, axis.at(seconds) - left), 16, kind, f"{name}: {time_text(seconds)}"))
        parts.append(label(axis.at(seconds) + 6, y + 15, time_text(seconds), "tick"))
    return svg(width, 24 * len(stages) + 2, parts, "stages of the transfer")


def _caches(caches: Sequence[CacheMoved]) -> Table:
    numbers = [Column(title, True) for title in ("layer", "size", "written", "sent")]
    columns = [Column("cache"), *numbers, Column("order there")]
    rows = [
        [
            cell(c.name),
            cell(str(c.layer) if c.layer >= 0 else "", c.layer),
            cell(memory_text(c.bytes), c.bytes),
            cell(time_text(c.written_seconds), c.written_seconds),
            cell(time_text(c.start_seconds), c.start_seconds),
            cell("the same" if c.same_layout else "another"),
        ]
        for c in caches
    ]
    return Table("caches", columns, rows, sortable=True, kind="small")


def joined_header(served: Served, view: View) -> Html:
    """The top of the page of a request."""
    machines = f"{served.targets['prefill']} prefills, {served.targets['decode']} decodes"
    title = tag("h1", text(view.model), tag("span", text(machines)))
    dims = f"batch {served.batch}, prompt of {served.prompt_tokens}, {served.generated_tokens} decode step"
    dims += "s" * (served.generated_tokens > 1)
    shown = tag(
        "div", join(tag("div", tag("b", text(b)), tag("span", text(s))) for b, s in tiles(served)), class_="tiles"
    )
    again = Html(f"{tag('dt', text('run again'))}{tag('dd', tag('code', text(view.report.command)))}")
    settings = tag("dl", again) if view.report.command else NONE
    return tag("header", title, tag("p", text(dims)), shown, settings)
