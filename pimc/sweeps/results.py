"""All points of a sweep with what became of them: tables that depend on the sweep alone, not on who computed it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from pimc.record import record
from pimc.sweeps.identity import revision
from pimc.sweeps.job import Answer
from pimc.sweeps.numbers import QUANTITIES, Number
from pimc.sweeps.pareto import front
from pimc.sweeps.plan import Objective, Plan, Point


@record
class Row:
    """A point and its answer."""

    point: Point
    answer: Answer

    def score(self, objective: Objective) -> Number | None:
        """The number of an objective; None where the point has none."""
        if not self.answer.is_done:
            return None
        found = self.answer.numbers.get(objective.name, self.point.named().get(objective.name))
        return found if isinstance(found, int | float) else None


@record
class SweepResult:
    """Every point of a sweep, in its order, each once."""

    plan: Plan
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.answer.is_done)

    @cached_property
    def front(self) -> tuple[int, ...]:
        """Numbers of the points that no other dominates in the objectives, the best in the first one first.

        Points that lack an objective take no part.
        """
        scores: dict[int, tuple[float, ...]] = {}
        for number, row in enumerate(self.rows):
            found = [row.score(o) for o in self.plan.objectives]
            if all(score is not None for score in found):
                signed = zip(found, self.plan.objectives, strict=True)
                scores[number] = tuple((s or 0) * (1 if o.better == "min" else -1) for s, o in signed)
        return tuple(front(scores))

    @property
    def lacking(self) -> tuple[str, ...]:
        """Objectives that no finished point has."""
        done = [row for row in self.rows if row.answer.is_done]
        return tuple(o.name for o in self.plan.objectives if done and all(row.score(o) is None for row in done))

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers that points have, in the order of their declaration."""
        present = {name for row in self.rows for name in row.answer.numbers}
        return tuple(name for name in QUANTITIES if name in present)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        pareto = set(self.front)
        return {
            "name": self.plan.spec.name,
            "pimc": revision(),
            "search": self.plan.spec.search.model_dump(),
            "objectives": {o.name: o.better for o in self.plan.objectives},
            "axes": {axis.name: list(axis.values) for axis in self.plan.axes},
            "units": {name: QUANTITIES[name].unit for name in self.columns},
            "failed": len(self.failed),
            "points": [self._plain(number, row, number in pareto) for number, row in enumerate(self.rows)],
        }

    def _plain(self, number: int, row: Row, pareto: bool) -> dict[str, Any]:
        answer = row.answer
        found: dict[str, Any] = {
            "number": number,
            "hash": answer.key,
            "settings": row.point.named(),
            "status": "done" if answer.is_done else "failed",
        }
        if not answer.is_done:
            return found | {"failures": [_without_empty(asdict(f)) for f in answer.failures]}
        numbers = {name: answer.numbers[name] for name in self.columns if name in answer.numbers}
        return found | {"dims": dict(answer.dims), **numbers, "engines": dict(answer.engines), "pareto": pareto}

    def json_text(self) -> str:
        return json.dumps(self.to_json(), indent=2) + "\n"

    def csv_text(self) -> str:
        """One row a point: number, settings, status, numbers, whether it is on the front, failure, hash."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        names = [axis.name for axis in self.plan.axes]
        writer.writerow(["point", *names, "status", *self.columns, "pareto", "failure", "hash"])
        pareto = set(self.front)
        for number, row in enumerate(self.rows):
            answer = row.answer
            settings = row.point.named()
            writer.writerow(
                [
                    number,
                    *(_cell(settings[name]) for name in names),
                    "done" if answer.is_done else "failed",
                    *(_cell(answer.numbers.get(name)) for name in self.columns),
                    _cell(number in pareto) if answer.is_done else "",
                    "; ".join(f.message for f in answer.failures),
                    answer.key,
                ]
            )
        return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _without_empty(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if value}


def rows_of(points: Sequence[Point], keys: Sequence[str], answers: Mapping[str, Answer]) -> tuple[Row, ...]:
    return tuple(Row(point, answers[key]) for point, key in zip(points, keys, strict=True))
