"""Pages of reports for tests, and what is wrong with their HTML."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pimc
from pimc.ir.requests import Request
from pimc.report.page import page_of
from pimc.results import Result, read_results
from pimc.sim.report import Report

MODELS = Path(__file__).parents[2] / "models"
TARGETS = ("npu", "neupims", "newton", "cent")
VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x1b[31m\u202e"


@cache
def report_of(target: str) -> Report:
    found = pimc.compile(MODELS / "tiny-llama.pimc", target, dims={"batch": 4, "past": 40}).report
    assert found is not None
    return found


def stored(report: Report, name: str = "run.json") -> Result:
    """A report as it comes back from its JSON."""
    (found,) = read_results(json.dumps(report.to_json()).encode(), name, Path())
    return found


def with_names(report: Report, name: str) -> Report:
    """The report with `name` wherever users give names, and where files can hold any text."""
    assert report.timeline is not None
    return replace(
        report,
        model=name,
        target=name,
        target_hash=name,
        dims={name: 1},
        phase=name,
        command=name,
        pimc=name,
        engines=[replace(e, name=name, stalled={name: 1e-9}, counters={name: 1}) for e in report.engines],
        ops=[
            replace(
                o,
                name=name,
                op=name,
                source=name,
                phase=name,
                nature=name,
                engine=name,
                reason=name,
                busy={name: 1e-9},
                costs={name: name},
            )
            for o in report.ops
        ],
        phases=[replace(p, phase=name) for p in report.phases],
        resources=[replace(r, name=name) for r in report.resources],
        passes=[replace(p, name=name) for p in report.passes],
        roofs=[replace(r, name=name, engine=name, memory=name) for r in report.roofs],
        memory=[
            replace(m, space=name, roles={name: 1}, largest=[replace(t, name=name, role=name) for t in m.largest])
            for m in report.memory
        ],
        moves=[replace(m, source=name, destination=name, engine=name) for m in report.moves],
        timeline=replace(
            report.timeline,
            kinds=[name] * len(report.timeline.kinds),
            lanes=[replace(lane, engine=name, devices=name) for lane in report.timeline.lanes],
        ),
        sources={name: name},
        bytes_moved={name: 1},
    )


def faults(page: str) -> list[str]:
    """Elements that are not closed as they should be, ids that come twice, and links to none."""
    return _Checker().run(page)


class _Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def run(self, page: str) -> list[str]:
        self.feed(page)
        self.close()
        self.wrong += [f"<{name}> is not closed" for name in self.open]
        self.wrong += [f"id {i} comes twice" for i in set(self.ids) if self.ids.count(i) > 1]
        self.wrong += [f"no {link}" for link in self.links if link.removeprefix("#") not in self.ids]
        return self.wrong

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if len(given) < len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        if any(name.startswith("on") for name in given):
            self.wrong.append(f"<{tag}> has a handler")
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given.get("href")))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1:] or 'nothing'}")
        else:
            self.open.pop()


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)">', page)


def old_json(report: Report) -> dict[str, Any]:
    """What `--json` printed before it told what a page draws."""
    new = ("pimc", "command", "passes", "roofs", "memory", "banks", "channels", "moves", "timeline", "sources")
    plain = {key: value for key, value in asdict(report).items() if key not in new}
    for op in plain["ops"]:
        del op["costs"]
    return json.loads(json.dumps(plain))


def page(target: str, other: str | None = None) -> str:
    return page_of(stored(report_of(target)), stored(report_of(other), "other.json") if other else None)


@cache
def request_of(*options: str) -> tuple[Result, ...]:
    """The parts of a request on two machines, as they come back from its JSON."""
    from pimc.disaggregated import serve
    from pimc.driver import Options

    given = Options(dims={"batch": 2, "seq": 12}, overrides=options)
    found = serve([MODELS / "tiny-llama.pimc"], ("npu", "neupims"), given, 3, by_layer=bool(options))
    return read_results(json.dumps(found.to_json()).encode(), "two.json", Path())


@cache
def beats_of() -> Report:
    """A batch in two halves, beat by beat."""
    requests = [Request(str(i), 20 + 9 * i, 1, None) for i in range(8)]
    options = ["sub-batches.use=on", "schedule.order=beats"]
    found = pimc.compile(MODELS / "tiny-llama.pimc", "neupims", requests=requests, pass_options=options).report
    assert found is not None
    return found


@cache
def pipeline_of() -> Report:
    found = pimc.compile(
        MODELS / "tiny-llama.pimc",
        "cent",
        dims={"past": 40},
        overrides=["system.devices=4"],
        parallel={"pp": 2, "tp": 2},
    ).report
    assert found is not None
    return found
