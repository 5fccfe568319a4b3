"""The page: its parts in order, with style sheet and script inside, so that one file is all there is."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from pimc.report.beats import beats_section
from pimc.report.energy import energy_section
from pimc.report.engines import engines_section, phases_section
from pimc.report.headline import headline
from pimc.report.html import Html, join, tag, text
from pimc.report.memory import banks_section, memory_section, moves_section
from pimc.report.ops import ops_section
from pimc.report.passes import passes_section
from pimc.report.pipeline import pipeline_section
from pimc.report.request import joined_header, request_section, transfer_section
from pimc.report.roofline import roofline_section
from pimc.report.timeline import timeline_section
from pimc.report.trust import trust_section
from pimc.report.versus import versus_section
from pimc.report.view import View, file_name
from pimc.served import Served

if TYPE_CHECKING:
    from pimc.results import Result

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Nothing is fetched, whatever names of models look like."""


def page_of(result: Result, other: Result | None = None) -> str:
    """The page of a result, compared with another where there is one. The same results give the same text."""
    view = View(file_name(result.name), result.report)
    second = View(file_name(other.name), other.report) if other is not None else None
    parts = [versus_section(view, second), *_sections(view)]
    return _page(view.label, headline(view, second), _contents(parts), join(parts), _footer(view))


def page_of_request(runs: Sequence[Result]) -> str:
    """The page of a request on two machines: the request, its transfer, and all of its prefill and its decode step.

    runs: its parts, in their order.
    """
    views = {run.part: View(file_name(run.name), run.report) for run in runs}
    served = runs[0].served
    assert served is not None
    first = runs[0].part
    own = [request_section(served, views), transfer_section(served)]
    phases = {part: _sections(view, served) for part, view in views.items() if part in PARTS_IN_FULL}
    body = [join(own)]
    for part, sections in phases.items():
        title = f"{PARTS_IN_FULL[part]} on {views[part].report.target}"
        named = join(_under(part, s) for s in sections)
        body.append(Html(f'<div id="{part}" class="part">{headline(views[part], None, title)}{named}</div>'))
    links = [*own, *(Html(f'id="{part}"<h2>{PARTS_IN_FULL[part]}</h2>') for part in phases)]
    label = f"{views[first].model} on {served.targets['prefill']} and {served.targets['decode']}"
    return _page(label, joined_header(served, views[first]), _contents(links), join(body), _footer(views[first]))


PARTS_IN_FULL = {"prefill": "Prefill", "decode": "First decode step"}


def _under(part: str, section: Html) -> Html:
    """A section of one part: anchors are its own."""
    return Html(section.replace('<section id="', f'<section id="{part}-', 1))


def _sections(view: View, served: Served | None = None) -> list[Html]:
    """Everything that a page says of one run."""
    return [
        engines_section(view),
        pipeline_section(view),
        beats_section(view),
        phases_section(view),
        energy_section(view),
        roofline_section(view),
        timeline_section(view),
        ops_section(view),
        moves_section(view),
        memory_section(view),
        banks_section(view),
        passes_section(view),
        trust_section(view, served),
    ]


def _page(label: str, *content: Html) -> str:
    body, script = tag("main", *content), tag("script", _resource("page.js"))
    title = f"{label} · pimc"
    return f'<!DOCTYPE html>\n<html lang="en">{_head(title)}{tag("body", body, script)}</html>\n'


def _head(title: str) -> Html:
    return tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", text(title)),
        tag("style", _resource("page.css")),
    )


def _resource(name: str) -> Html:
    return Html(files("pimc.report").joinpath(name).read_text("utf-8"))


def _contents(parts: list[Html]) -> Html:
    """Links to the sections that there are."""
    found = []
    for part in parts:
        if part:
            anchor = part.partition('id="')[2].partition('"')[0]
            title = part.partition("<h2>")[2].partition("</h2>")[0]
            found.append(Html(f'<a href="#{anchor}">{title}</a>'))
    return tag("nav", join(found))


def _footer(view: View) -> Html:
    version = f" {view.report.pimc}" if view.report.pimc else ""
    return tag("footer", text(f"pimc{version} · simulated, not measured"))
