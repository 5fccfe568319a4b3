"""A whole sweep: `pimc sweep`, and `pimc.sweep` in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pimc.ir.diagnostics import UsageError
from pimc.sweeps.job import Answer, Job
from pimc.sweeps.plan import Point
from pimc.sweeps.reading import Sweep, read_sweep
from pimc.sweeps.results import Row, SweepResult, rows_of
from pimc.sweeps.search import Scores, proposals_of
from pimc.sweeps.store import Store
from pimc.sweeps.workers import Here, Workers

Progress = Callable[[int, int, int], None]
"""Called with the number of points that are done, that of all, and how many of those that are done had been before."""


def sweep(
    given: str | Path | Mapping[str, Any],
    folder: str | Path,
    *,
    jobs: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Compile and simulate every point of a sweep; what `folder` holds already is not done again.

    given: a sweep file, or what one holds as plain data. jobs: points at a time (as many as there are processors); 0:
    in this process, one after another. cluster: the address of a Dask scheduler, or `local`. Points that cannot be
    compiled are rows with failures. The points of the folder are whole at any time: a sweep that was ended goes on.
    Raises CompileError for mistakes in the sweep itself.
    """
    return run_sweep(read_sweep(given), Store(folder), workers_of(jobs, cluster), progress)


def workers_of(jobs: int | None, cluster: str | None) -> Workers:
    """Those that the options ask for; nothing is started yet."""
    if jobs is not None and jobs < 0:
        raise UsageError(f"{jobs} points cannot run at a time")
    if cluster is not None:
        from pimc.sweeps.cluster import Cluster

        return Cluster(cluster, jobs or None)
    if jobs == 0:
        return Here()
    from pimc.sweeps.pool import Pool

    return Pool(jobs or os.cpu_count() or 1)


def run_sweep(sweep: Sweep, store: Store, workers: Workers, progress: Progress | None = None) -> SweepResult:
    """Answer every point, from the store or by the workers."""
    run = _Run(sweep, store, workers, progress)
    proposals = proposals_of(sweep.plan)
    store.make()
    with workers:
        for batch in proposals.batches():
            rows = run.answered(batch)
            proposals.tell([_scores(sweep, row) for row in rows])
    return SweepResult(sweep.plan, rows_of(run.points, run.keys, run.answers))


def _scores(sweep: Sweep, row: Row) -> Scores:
    found = [row.score(objective) for objective in sweep.plan.objectives]
    return None if any(score is None for score in found) else [float(score or 0) for score in found]


class _Run:
    """The points so far, each once, and the answers so far by their keys."""

    def __init__(self, sweep: Sweep, store: Store, workers: Workers, progress: Progress | None) -> None:
        self._sweep, self._store, self._workers, self._progress = sweep, store, workers, progress
        self.points: list[Point] = []
        self.keys: list[str] = []
        self.answers: dict[str, Answer] = {}
        self._asked: set[tuple[int, ...]] = set()
        self._before = 0
        self._asked_again = 0

    def answered(self, batch: Sequence[Point]) -> list[Row]:
        """The rows of a batch of points."""
        keys: list[str] = []
        todo: dict[str, tuple[Job, Point]] = {}
        for point in batch:
            job = self._sweep.job(point)
            keys.append(job.key)
            self._note(point, job.key)
            if job.key in self.answers:
                continue
            answer = job if isinstance(job, Answer) else self._store.read(job.key)
            if answer is not None:
                self.answers[job.key] = answer
                self._before += not isinstance(job, Answer)
            elif isinstance(job, Job):
                todo[job.key] = job, point
        self._work(todo)
        return list(rows_of(batch, keys, self.answers))

    def _note(self, point: Point, key: str) -> None:
        if point.places in self._asked:
            self._asked_again += 1
            return
        self._asked.add(point.places)
        self.points.append(point)
        self.keys.append(key)

    def _work(self, todo: Mapping[str, tuple[Job, Point]]) -> None:
        self._tell(len(todo))
        if not todo:
            return
        left = len(todo)
        for answer in self._workers.run([job for job, _ in todo.values()]):
            self.answers[answer.key] = answer
            if answer.lasting:
                self._store.write(answer, todo[answer.key][1].named())
            left -= 1
            self._tell(left)

    def _tell(self, left: int) -> None:
        if self._progress is not None:
            search = self._sweep.plan.spec.search
            all_points = search.points - self._asked_again if search.kind == "optuna" else len(self.points)
            self._progress(len(self.points) - left, all_points, self._before)
