"""The top of the page: what was run, how long it takes, what bounds it, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator

from pimc.amounts import grouped, memory_text, percent, significant, size_text, time_text
from pimc.report.html import NONE, Html, join, tag, text
from pimc.report.view import View


def headline(view: View, other: View | None, title: str = "") -> Html:
    """The top of the page; with a title the top of a part of it."""
    report = view.report
    several = f" · {report.devices} devices" if report.devices > 1 else ""
    top = tag("h1", text(view.model), tag("span", text(f"on {report.target}")))
    top = tag("h1", text(title)) if title else top
    dims = "  ".join(f"{name}={size}" for name, size in report.dims.items())
    about = tag("p", text(" · ".join(part for part in ((report.phase or "no phase") + several, dims) if part)))
    tiles = tag(
        "div", join(tag("div", tag("b", text(b)), tag("span", text(s))) for b, s in _tiles(view)), class_="tiles"
    )
    versus = tag("p", text(f"Compared with {other.label} below."), class_="note") if other is not None else NONE
    return tag("header", top, about, tiles, versus, tag("dl", join(_settings(view))))


def _tiles(view: View) -> Iterator[tuple[str, str]]:
    report = view.report
    yield time_text(report.seconds), f"{grouped(report.cycles)} cycles"
    tokens = view.tokens
    if tokens and report.seconds:
        yield f"{_per_second(tokens / report.seconds)} tokens/s", f"{tokens} new token{'s' * (tokens > 1)} in this run"
    yield f"{percent(report.bound_share)} of its bound", f"{time_text(report.bound_seconds)}: {bounded_by(view)}"
    flops = sum(op.flops for op in report.ops)
    if flops and report.seconds:
        yield f"{_rate(flops / report.seconds)}FLOP/s", f"{_rate(flops)}FLOP, as the ops are defined"
    dram = next((m for m in report.memory if m.space == "dram"), None)
    if dram is not None:
        of = f"of {memory_text(dram.capacity)} " if dram.capacity else ""
        yield memory_text(dram.peak), f"{of}of DRAM in use at the peak"
    yield from _energy(view, tokens)


def _energy(view: View, tokens: int | None) -> Iterator[tuple[str, str]]:
    energy = view.energy
    if energy is None or not isinstance(joules := energy.get("total_j"), int | float):
        return
    power = energy.get("power_w")
    said = f"{significant(power)} W on average" if isinstance(power, int | float) else ""
    if tokens:
        said = f"{joule_text(joules / tokens)} a token" + (f", {said}" if said else "")
    yield joule_text(joules), said


def joule_text(joules: float) -> str:
    """Three significant digits and the unit that fits."""
    for unit, factor in (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9)):
        if joules >= factor * 0.9995:
            return f"{significant(joules / factor)} {unit}"
    return f"{significant(joules / 1e-12)} pJ"


def _per_second(rate: float) -> str:
    return significant(rate) if rate < 1000 else grouped(round(rate)) if rate < 1e6 else _rate(rate).rstrip()


def _rate(amount: float) -> str:
    """With its prefix, the unit to follow."""
    return size_text(amount).removesuffix("B")


def bounded_by(view: View) -> str:
    """The engine or shared resource that works longest."""
    report = view.report
    busy = {f"engine {e.name}": e.busy for e in report.engines}
    for resource in report.resources:
        busy[resource.name] = max(busy.get(resource.name, 0.0), resource.busy)
    name, seconds = max(busy.items(), key=lambda item: item[1], default=("nothing", 0.0))
    channels = [e.name for e in report.engines if e.instances > 1]
    if seconds < report.bound_seconds * 0.999 and channels:  # a report has means over channels
        return f"the busiest channel of {channels[0]}"
    return name


def _settings(view: View) -> Iterator[Html]:
    report = view.report
    command = report.command or f"pimc sim {view.name}"
    yield _term("run again", tag("code", text(command)))
    machine = f"{report.target}, numbers {report.target_hash[:12] or 'without a hash'}"
    yield _term("target", tag("span", text(machine), title=report.target_hash))
    if report.pimc:
        yield _term("made by", text(f"pimc {report.pimc}"))
    if report.values is not None:
        ok, worst = report.values.get("ok"), report.values.get("max_rel_err")
        said = "right" if ok else "wrong"
        error = f", largest relative error {worst:.2g}" if isinstance(worst, int | float) else ""
        yield _term("values", text(f"{said}, {report.values.get('format', '')} format{error}"))
    if report.batch is not None:
        batch = report.batch
        said = f"{batch.requests} of {grouped(batch.length_min)} to {grouped(batch.length_max)} keys"
        yield _term("requests", text(f"{said}, {batch.length_mean:.1f} on average"))
    if report.background is not None:
        reads = report.background
        said = f"{reads.reads_per_cycle} offered to each channel a cycle, {grouped(reads.reads_served)} served"
        yield _term("normal reads", text(said))


def _term(name: str, *content: Html) -> Html:
    return Html(f"{tag('dt', text(name))}{tag('dd', *content)}")
