"""What `pimc sweep` does once its options are understood, and how it tells of the points."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from pimc.cli.files import check_writable, write_text_file
from pimc.cli.guard import DONE, FAILED
from pimc.cli.layout import Column, grouped, percent, significant, size_text, table, time_text
from pimc.cli.screen import Line, line, stderr_page, visible, write_error, write_page, write_text
from pimc.sweeps.job import Answer, Failure
from pimc.sweeps.numbers import QUANTITIES
from pimc.sweeps.plan import Axis, setting_text
from pimc.sweeps.plot import svg
from pimc.sweeps.reading import read_sweep
from pimc.sweeps.results import Row, SweepResult
from pimc.sweeps.run import run_sweep, workers_of
from pimc.sweeps.store import Store

MOST_ROWS = 24
MOST_ERRORS = 4
"""Of one failure: where no engine can run any op, each op says so."""
"""Points of the front, failures, and points of a failure, that are shown."""


def run_and_report(folder: Path, given: Mapping[str, Any]) -> int:
    """Run the sweep, keep its tables, print the front, list the failures."""
    for path in (given["csv_file"], given["plot"]):
        check_writable(path)
    sweep = read_sweep(given["spec"])
    workers = workers_of(given["jobs"], given["cluster"])
    store = Store(folder)
    with PointBar(Path(given["spec"]).name, quiet=given["quiet"]) as bar:
        try:
            result = run_sweep(sweep, store, workers, bar.points)
        except KeyboardInterrupt:
            write_error(f"interrupted: {bar.done} points are done; the same command goes on\n")
            raise
    written = [
        store.write_table("results.csv", result.csv_text()),
        store.write_table("results.json", result.json_text()),
        store.write_table("pareto.svg", svg(result)),
    ]
    if given["csv_file"]:
        write_text_file(given["csv_file"], result.csv_text())
    if given["plot"]:
        write_text_file(given["plot"], svg(result))
    if given["as_json"]:
        write_text(result.json_text())
    elif not given["quiet"] and given["csv_file"] != "-":
        write_page([*result_page(result, bar.before), [("  written  ", "dim"), (", ".join(map(str, written)), "")]])
    if result.failed and not given["as_json"]:
        stderr_page(failure_lines(result))
    return FAILED if result.failed else DONE


def list_points(folder: Path, given: Mapping[str, Any]) -> int:
    """Print the points of a sweep that knows them beforehand, and what the folder has of them."""
    from pimc.ir.diagnostics import UsageError

    sweep = read_sweep(given["spec"])
    if sweep.plan.spec.search.kind == "optuna":
        raise UsageError("a search of the kind 'optuna' finds its points as it goes: there is nothing to list")
    axes = several(sweep.plan.axes)
    store = Store(folder)
    rows = []
    for number, point in enumerate(sweep.plan.points()):
        job = sweep.job(point)
        known = job if isinstance(job, Answer) else store.read(job.key)
        settings = point.named()
        status = "" if known is None else "done" if known.is_done else "failed"
        rows.append((str(number), *(setting_text(settings[a.name]) for a in axes), status))
    columns = [Column("point", ">"), *(_column(axis) for axis in axes), Column("")]
    if given["as_json"]:
        names = ["point", *(a.name for a in axes), "status"]
        points = [dict(zip(names, row, strict=True)) for row in rows]
        write_text(json.dumps({"points": points}, indent=2) + "\n")
    elif not given["quiet"]:
        write_page(table(columns, rows, indent=""))
    return DONE


class PointBar:
    """A bar with the time that is left, on a terminal only; `with PointBar(...) as bar`."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what = visible(what)
        self._wanted = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Any = None
        self._task: Any = None
        self._handler: Any = None
        self._is_interrupted = False
        self.done = 0
        self.before = 0

    def __enter__(self) -> PointBar:
        self._handler = signal.signal(signal.SIGINT, self._interrupt)
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*shown, console=Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        signal.signal(signal.SIGINT, self._handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """What is raised in a finalizer is dropped; the next point raises it again."""
        self._is_interrupted = True
        raise KeyboardInterrupt

    def points(self, done: int, total: int, before: int) -> None:
        """Points that had been done before do not count for the estimate. Raises KeyboardInterrupt."""
        if self._is_interrupted:
            raise KeyboardInterrupt
        if self._bar is not None:
            if self._task is None or before != self.before:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(self._what, total=total, completed=done)
            self._bar.update(self._task, completed=done, total=total)
        self.done, self.before = done, before


# -- tables -----------------------------------------------------------------------------------------------------------


def several(axes: Sequence[Axis]) -> list[Axis]:
    """The axes that have more than one value."""
    return [axis for axis in axes if len(axis.values) > 1]


def _column(axis: Axis) -> Column:
    return Column(axis.name, ">" if axis.is_ordered else "<")


def result_page(result: SweepResult, before: int) -> Iterator[Line]:
    """How many points there are, and those that no other dominates."""
    plan = result.plan
    total, failed = len(result.rows), len(result.failed)
    name = plan.spec.name or "sweep"
    yield [(name, "bold"), (f" · {total} point{'s' * (total != 1)} of {grouped(plan.combinations)}", "")]
    known = f" ({before} before)" if before else ""
    missed = f", {failed} failed" if failed else ""
    yield [("  points   ", "dim"), (f"{total - failed} done", ""), (missed, "bold red"), (known, "")]
    wanted = ", ".join(f"{o.name} ({o.better})" for o in plan.objectives)
    yield [("  optimum  ", "dim"), (wanted, "")]
    for lacking in result.lacking:
        yield [("  note     ", "dim"), (f"no point has '{lacking}': there is no front", "yellow")]
    yield line()
    yield from front_table(result)
    yield line()


def front_table(result: SweepResult) -> list[Line]:
    """The points of the front with their settings and objectives."""
    axes, objectives = several(result.plan.axes), result.plan.objectives
    columns = [Column("point", ">"), *(_column(axis) for axis in axes)]
    columns += [Column(o.name, ">", "bold") for o in objectives]
    rows = []
    for number in result.front[:MOST_ROWS]:
        row = result.rows[number]
        settings = row.point.named()
        scores = (quantity_text(o.name, row.score(o)) for o in objectives)
        rows.append((str(number), *(setting_text(settings[axis.name]) for axis in axes), *scores))
    page = table(columns, rows)
    if len(result.front) > MOST_ROWS:
        page.append(line(f"  and {len(result.front) - MOST_ROWS} more", "dim"))
    return page


def quantity_text(name: str, value: float | None) -> str:
    """A number with its unit, for people."""
    if value is None:
        return ""
    unit = QUANTITIES[name].unit if name in QUANTITIES else None
    if unit == "s":
        return time_text(value)
    if unit == "B":
        return size_text(value)
    if name.endswith("_share"):
        return percent(value)
    text = grouped(value) if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e-2 else significant(value)
    return f"{text} {unit}" if unit and unit != "1/s" else text


# -- failures ---------------------------------------------------------------------------------------------------------


def failure_lines(result: SweepResult) -> Iterator[Line]:
    """Each failure once, with the points that it is of."""
    groups: dict[tuple[Failure, ...], list[tuple[int, Row]]] = defaultdict(list)
    for number, row in enumerate(result.rows):
        if not row.answer.is_done:
            groups[row.answer.failures].append((number, row))
    for failures, members in list(groups.items())[:MOST_ROWS]:
        for failure in failures[:MOST_ERRORS]:
            yield from _failure(failure)
        if len(failures) > MOST_ERRORS:
            yield line(f"and {len(failures) - MOST_ERRORS} more errors (results.json has all)", "bold red")
        yield [("  = ", "bold blue"), ("points", "bold"), (f": {_members(members)}", "")]
        yield line()
    if len(groups) > MOST_ROWS:
        yield line(f"and {len(groups) - MOST_ROWS} more kinds of failure (results.csv has all)", "bold red")
    yield line(f"{len(result.failed)} of {len(result.rows)} points failed", "bold red")


def _failure(failure: Failure) -> Iterator[Line]:
    code = f"error[{failure.code}]" if failure.code else "error"
    yield [(code, "bold red"), (f": {failure.message}", "bold")]
    if failure.place:
        yield [("  --> ", "bold blue"), (failure.place, "")]
    for note in failure.notes:
        yield [("  = ", "bold blue"), ("note", "bold"), (f": {note}", "")]
    if failure.help:
        yield [("  = ", "bold blue"), ("help", "bold green"), (f": {failure.help}", "")]


def _members(members: Sequence[tuple[int, Row]]) -> str:
    """Numbers of points, and the settings that they have in common."""
    numbers = ", ".join(str(number) for number, _ in members[:MOST_ROWS])
    more = f" and {len(members) - MOST_ROWS} more" if len(members) > MOST_ROWS else ""
    axes = several(members[0][1].point.axes)
    shared = []
    for axis in axes:
        found = {setting_text(row.point.named()[axis.name]) for _, row in members}
        shared += [f"{axis.name}={found.pop()}"] if len(found) == 1 else []
    return f"{numbers}{more}" + (f" ({' '.join(shared)})" if shared else "")
