"""Points that depend on the objectives of earlier ones, as Optuna asks for them.

It asks for a batch, sees the results of the batch in the order in which it asked, and asks for the next. So the points
follow from the seed alone, however many workers there are; a sweep that goes on asks the same questions again, and
finds the answers in its folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pimc.ir.diagnostics import Kind, fail
from pimc.sweeps.plan import Plan, Point

Scores = Sequence[float] | None
"""The objectives of a point in their order; None: it failed, or lacks one."""


class Proposals(Protocol):
    """Points to run next, and what came of them."""

    def batches(self) -> Iterator[list[Point]]: ...

    def tell(self, scores: Sequence[Scores]) -> None:
        """The results of the last batch, in its order."""
        ...


class Known:
    """Points that are known beforehand, as one batch."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def batches(self) -> Iterator[list[Point]]:
        yield list(self._plan.points())

    def tell(self, scores: Sequence[Scores]) -> None:
        """Nothing depends on them."""


class Optuna:
    """A study of Optuna over the axes with more than one value."""

    def __init__(self, plan: Plan) -> None:
        """Raises CompileError (UNAVAILABLE) where Optuna is not installed."""
        search = plan.spec.search
        assert search.kind == "optuna"
        optuna = _optuna()
        samplers = optuna.samplers
        made = {"tpe": samplers.TPESampler, "nsga2": samplers.NSGAIISampler, "random": samplers.RandomSampler}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["minimize" if o.better == "min" else "maximize" for o in plan.objectives]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study = optuna.create_study(directions=directions, sampler=made[search.sampler](seed=search.seed))
        self._failed = optuna.trial.TrialState.FAIL
        self._plan, self._search = plan, search
        self._trials: list[Any] = []

    def batches(self) -> Iterator[list[Point]]:
        left = self._search.points
        while left > 0:
            number = min(left, self._search.batch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._trials = [self._study.ask() for _ in range(number)]
                points = [self._point(trial) for trial in self._trials]
            yield points
            left -= number

    def tell(self, scores: Sequence[Scores]) -> None:
        for trial, found in zip(self._trials, scores, strict=True):
            if found is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, list(found))

    def _point(self, trial: Any) -> Point:
        """Axes of numbers are asked for as numbers of steps, others as choices."""
        places = []
        for axis in self._plan.axes:
            last = len(axis.values) - 1
            if not last:
                places.append(0)
            elif axis.is_ordered:
                places.append(trial.suggest_int(axis.name, 0, last))
            else:
                places.append(trial.suggest_categorical(axis.name, list(range(last + 1))))
        return Point(self._plan.axes, tuple(places))


def proposals_of(plan: Plan) -> Proposals:
    return Optuna(plan) if plan.spec.search.kind == "optuna" else Known(plan)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise fail(
            Kind.UNAVAILABLE, "a search of the kind 'optuna' needs Optuna", help="pip install 'pimc[search]'"
        ) from None
    return optuna
