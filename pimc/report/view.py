"""What the parts of a page have in common: a report, its ops by groups, and names without folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from pimc.record import record
from pimc.sim.engine_groups import merged_engines
from pimc.sim.op_groups import OpGroup, common_name, group_ops
from pimc.sim.report import EngineReport, OpReport, Report

MOST_ENGINES = 30
"""Beyond so many, engines of groups of devices are shown together."""
_NUMBER = re.compile(r"\d+")
_TEXT_PLACE = re.compile(r"[^ ]+:\d+:\d+")
_SOURCE = re.compile(r"(.*?)(:\d+:\d+|: node .*)", re.DOTALL)


@record
class View:
    """A report as the page shows it. `name`: of the file it comes from."""

    name: str
    report: Report

    @property
    def model(self) -> str:
        return model_name(self.report.model)

    @property
    def label(self) -> str:
        """What tells it from others."""
        return f"{self.model} on {self.report.target}"

    @cached_property
    def groups(self) -> Sequence[OpGroup]:
        """The longest first."""
        return sorted(alike(group_ops(self.report.ops)), key=lambda g: -g.seconds)

    @cached_property
    def total(self) -> float:
        """The time of all ops; those that overlap count their common time twice."""
        return sum(g.seconds for g in self.groups) or 1.0

    @cached_property
    def engines(self) -> Sequence[EngineReport]:
        """Those that executed something; with many groups of devices each is the mean over these."""
        worked = [e for e in self.report.engines if e.commands]
        return merged_engines(worked) if self.are_merged else worked

    @property
    def are_merged(self) -> bool:
        return len(self.report.engines) > MOST_ENGINES

    @cached_property
    def energy(self) -> Mapping[str, Any] | None:
        """Where the report has it."""
        found = self.report.to_json().get("energy")
        return found if isinstance(found, dict) else None

    @property
    def tokens(self) -> int | None:
        """New tokens of the run, where dimensions or requests say how many."""
        if self.report.requests:
            return sum(r.new for r in self.report.requests)
        dims = self.report.dims
        return dims["batch"] * dims["seq"] if {"batch", "seq"} <= dims.keys() else None

    @cached_property
    def busy_of_phases(self) -> Mapping[str, Mapping[str, float]]:
        """Seconds for which each engine (its mean over groups of devices) works for the ops of a phase."""
        found: dict[str, dict[str, float]] = {}
        for op in self.report.ops:
            busy = found.setdefault(op.phase, {})
            for name, seconds in op.busy.items():
                busy[name] = busy.get(name, 0.0) + seconds
        return found


def alike(groups: Sequence[OpGroup]) -> Iterator[OpGroup]:
    """Ops that belong to no layers, but differ in the numbers of their names alone, are one group too: the layers that
    begin the stages of a pipeline are not identical to the others."""
    found: dict[object, list[OpReport]] = {}
    for g in groups:
        first = g.ops[0]
        if len(g.ops) > 1 or first.layer >= 0:
            yield g
            continue
        spelling = [_NUMBER.sub("*", first.name), place_of(first.source)]
        spelling[1] = _NUMBER.sub("*", spelling[1]) if ": node " in spelling[1] else spelling[1]
        key = first.op, first.phase, first.nature, first.engine, first.flops, first.bytes, *spelling
        found.setdefault(key, []).append(first)
    for ops in found.values():
        single = group_ops(ops)
        named = single[0].name if len(single) == 1 else _label(ops)
        yield OpGroup(named, tuple(ops))


def _label(ops: Sequence[OpReport]) -> str:
    place = place_of(ops[0].source)
    name = common_name([o.name for o in ops])
    return f"{name} {place}" if _TEXT_PLACE.fullmatch(place) else name


def file_name(path: str) -> str:
    """The last part of a path, whichever way its folders are written."""
    return PureWindowsPath(PurePosixPath(path).name).name or path


def model_name(path: str) -> str:
    """Without folders, and without what kind of file it is: programs name the graph alone."""
    name = file_name(path)
    stem, _, kind = name.rpartition(".")
    return stem if stem and kind in ("onnx", "pimc", "pimir") else name


def place_of(source: str) -> str:
    """The first place of an op in the user's files, without folders."""
    first = source.partition("; ")[0]
    match = _SOURCE.fullmatch(first)
    return f"{file_name(match[1])}{match[2]}" if match else file_name(first) if first.startswith("/") else first
