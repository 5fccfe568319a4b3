"""Results side by side: which op went where, what it took and what bounds it, and where the difference lies.

Ops are paired by name and phase; where identical layers follow each other, the same op of all of them is one row. A
result that has an op of another name or none at all has a gap there: passes may split an op for one machine and leave
it whole for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

from pimc.ir.diagnostics import Kind, fail
from pimc.record import record
from pimc.sim.op_groups import OpGroup, group_ops
from pimc.sim.report import Report


@record
class Side:
    """One of the results."""

    name: str
    """short, different from the others'"""
    report: Report


@record
class Cell:
    """What became of an op in one result. Times in seconds, over all `count` ops of identical layers."""

    engine: str
    nature: str
    count: int
    seconds: float
    bound_seconds: float
    flops: int
    bytes: int
    reason: str


@record
class Row:
    """An op, in every result that has it."""

    name: str
    op: str
    phase: str
    cells: tuple[Cell | None, ...]

    @property
    def spread(self) -> float:
        """How far the results are apart."""
        times = [cell.seconds if cell is not None else 0.0 for cell in self.cells]
        return max(times) - min(times)

    @property
    def moved(self) -> bool:
        """Whether it runs on different engines."""
        return len({cell.engine for cell in self.cells if cell is not None}) > 1


@record
class Comparison:
    sides: tuple[Side, ...]
    rows: tuple[Row, ...]
    """those that differ most first"""

    def to_json(self) -> dict[str, Any]:
        """The table: a headline of each result, and the rows with a cell or null for each."""
        return {
            "results": [{"name": side.name, **headline(side.report)} for side in self.sides],
            "ops": [asdict(row) for row in self.rows],
        }


SETTINGS = ("model", "target", "target_hash", "phase", "devices")


def headline(report: Report) -> dict[str, Any]:
    """What a result is of, and its sums."""
    return {
        **{name: getattr(report, name) for name in SETTINGS},
        "dims": dict(report.dims),
        "cycles": report.cycles,
        "seconds": report.seconds,
        "bound_seconds": report.bound_seconds,
        "bound_share": report.bound_share,
        "flops": sum(op.flops for op in report.ops),
        "bytes_moved": dict(report.bytes_moved),
    }


def compare(named: Sequence[tuple[str, Report]]) -> Comparison:
    """The comparison of two results or more. Raises CompileError (UNAVAILABLE) for fewer."""
    if len(named) < 2:
        raise fail(Kind.UNAVAILABLE, "there is one result alone: nothing to compare it with")
    sides = [Side(name, report) for name, report in zip(_short_names(named), (r for _, r in named), strict=True)]
    found: dict[tuple[str, str], list[OpGroup | None]] = {}
    for number, side in enumerate(sides):
        for group in group_ops(side.report.ops):
            phase = group.ops[0].phase
            names = (f"{group.name} ({again})" if again else group.name for again in count())
            groups = next(g for name in names if (g := found.setdefault((name, phase), _gaps(sides)))[number] is None)
            groups[number] = group
    rows = [_row(groups) for groups in found.values()]
    return Comparison(tuple(sides), tuple(sorted(rows, key=lambda row: (-row.spread, row.name))))


def _gaps(sides: Sequence[Side]) -> list[OpGroup | None]:
    return [None] * len(sides)


def _row(groups: Sequence[OpGroup | None]) -> Row:
    first = next(group for group in groups if group is not None)
    cells = [None if group is None else _cell(group) for group in groups]
    return Row(first.name, first.ops[0].op, first.ops[0].phase, tuple(cells))


def _cell(group: OpGroup) -> Cell:
    first = group.ops[0]
    return Cell(
        engine=first.engine,
        nature=first.nature,
        count=len(group.ops),
        seconds=group.seconds,
        bound_seconds=group.bound,
        flops=sum(op.flops for op in group.ops),
        bytes=sum(op.bytes for op in group.ops),
        reason=first.reason,
    )


def _short_names(named: Sequence[tuple[str, Report]]) -> list[str]:
    """The shortest of: target, model and target, file; with a number where even that is not enough."""
    for spelling in (
        [report.target for _, report in named],
        [f"{report.model} {report.target}" for _, report in named],
        [f"{report.target} {_dims(report)}" for _, report in named],
        [name for name, _ in named],
    ):
        if len(set(spelling)) == len(spelling):
            return spelling
    return [f"{number}: {name}" for number, (name, _) in enumerate(named, 1)]


def _dims(report: Report) -> str:
    return " ".join(f"{name}={size}" for name, size in report.dims.items())
