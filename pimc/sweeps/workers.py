"""Who does the work of a sweep: what all engines have in common, and the engine that needs no other process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol

from pimc.sweeps.job import Answer, Job

TRIES = 3
"""How often a point is begun whose worker dies."""
DIED = f"its worker died {TRIES} times"
DIED_HELP = "the next run tries it again; a worker that runs out of memory is ended by the system (--jobs 1)"


class Workers(Protocol):
    """Answers jobs, each exactly once, as they are done. What it starts ends with the `with` block."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]: ...

    def __enter__(self) -> Workers: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Here:
    """This process, one job after another."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        from pimc.sweeps.evaluate import answer

        return (answer(job) for job in jobs)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing was started."""
