"""A request on two machines, for people: times of serving, the transfer, and the parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pimc.cli.generation_page import step_table, values_line
from pimc.cli.layout import Column, count_text, memory_text, percent, size_text, table, time_text
from pimc.cli.screen import Line, line
from pimc.cli.tables import energy_text, report_page
from pimc.disaggregated import PS, Request
from pimc.handover import Handover
from pimc.sim.report import Report


def request_page(found: Request, *, steps: bool, verbose: int = 0) -> list[Line]:
    """What `pimc compile -t PREFILL:DECODE` prints. steps: each decode step, else the report of each phase."""
    page = [*_title(found), *_times(found), line(), *_parts(found), line(), *_transfer(found, verbose=verbose)]
    if steps:
        page += [line(), *step_table(found.generation)]
    page += [line(), values_line(found.generation, found.form)] if found.prefill.comparison is not None else []
    if not steps or verbose:
        programs = {name: program for name, program, _ in found.parts()}
        for name in ("prefill", "decode"):
            page += [line(), *report_page(found.reports[name], programs[name], verbose=verbose)]
    return page


def _title(found: Request) -> Iterator[Line]:
    first, second = (found.reports[name].target for name in ("prefill", "decode"))
    yield [
        (found.generation.model, "bold"),
        (" · ", "dim"),
        (f"{first} prefills, {second} decodes", "bold"),
        (f" · batch {found.generation.batch}", ""),
    ]


def _times(found: Request) -> Iterator[Line]:
    made, tokens = found.generation, len(found.generation.steps)
    when = "each cache when it is written" if found.by_layer else "when the prefill has ended"
    yield _number("first token", time_text(made.time_to_first_token), f", prompt of {found.prefill.new}")
    yield _number("transfer", time_text(found.transfer_seconds), f", {when}")
    yield _number("each further", time_text(made.time_per_token), f", mean of {tokens - 1}")
    yield _number("second token", time_text(found.time_to_second_token), " after the beginning")
    yield _number("whole request", time_text(found.seconds), f" for {tokens} tokens")
    rates = count_text(made.tokens_per_second)
    yield _number("tokens a second", rates, f" while decoding, {count_text(found.tokens_per_second)} over the request")
    if found.energy is not None:
        each = sum(found.energy.values()) / (made.batch * tokens)
        yield _number("energy", energy_text(sum(found.energy.values())), f", {energy_text(each)} a token")


def _number(label: str, number: str, rest: str = "") -> Line:
    return [(f"  {label:<17}", "dim"), (number, "bold green"), (rest, "")]


_SAID = {"prefill": "prefill", "send": "send caches", "receive": "store caches", "decode": "decode step"}


def _parts(found: Request) -> list[Line]:
    columns = [Column("part"), Column("on"), Column("devices", ">"), Column("time", ">"), Column("of bound", ">")]
    columns += [Column("moved", ">"), Column("energy", ">")]
    return table(columns, [_part(name, report) for name, report in found.reports.items()])


def _part(name: str, report: Report) -> list[str]:
    energy = "" if report.energy is None else energy_text(report.energy.total_j)
    moved = size_text(sum(report.bytes_moved.values()))
    times = [time_text(report.seconds), percent(report.bound_share)]
    return [_SAID[name], report.target, str(report.devices), *times, moved, energy]


def _transfer(found: Request, *, verbose: int) -> Iterator[Line]:
    moved = found.handover
    link, passages = moved.crossing, moved.passages
    rate = f"{memory_text(link.bandwidth)}/s and {link.link.latency / 1e3:g} ns"
    rate = "free" if link.link.transfers == "free" else rate
    yield [
        ("  transfer   ", "dim"),
        (memory_text(moved.bytes), "bold"),
        (f" of {len(passages)} caches over the link of {link.slower} ({rate} a device)", ""),
    ]
    apart = sum(not p.same_order for p in passages)
    order = f"{apart} of {len(passages)} caches lie in another order there" if apart else "they lie alike at both ends"
    yield line(
        f"             {time_text(moved.whole_ps * PS)} from the first read to the last store: reading "
        f"{time_text(moved.sender.timing.time * PS)}, link {time_text(moved.wire_ps * PS)}, storing "
        f"{time_text(moved.receiver.timing.time * PS)}, side by side",
        "dim",
    )
    yield line(f"             paced by {_PACE[moved.paced_by]}; {order}", "dim")
    if verbose:
        yield from _caches(moved, moved.schedule(by_layer=found.by_layer))


def _caches(moved: Handover, starts: Sequence[int]) -> list[Line]:
    """When each cache was written, and when its transfer begins."""
    columns = [Column("cache"), *(Column(title, ">") for title in ("layer", "size", "written", "sent"))]
    rows = []
    for passage, ready, start in zip(moved.passages, moved.ready_ps, starts, strict=True):
        layer = str(passage.layer) if passage.layer >= 0 else ""
        times = time_text(ready * PS), time_text(start * PS)
        rows.append([passage.source.name, layer, memory_text(passage.bytes), *times])
    return table(columns, rows)


_PACE = {"link": "the link", "reading": "reading at the sending end", "storing": "storing at the receiving end"}
