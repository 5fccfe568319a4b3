"""The processes of one machine. One that dies is replaced, and the point that it had is begun again.

`concurrent.futures` gives up all points of a pool when one of its processes dies, and does not say which point that
one had; hence a pipe a process.
"""

from __future__ import annotations

import signal
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from pimc.ir.diagnostics import Kind, fail
from pimc.sweeps.job import Answer, Job, lost
from pimc.sweeps.workers import DIED, DIED_HELP, TRIES

READY = "ready"


def serve(pipe: Connection) -> None:
    """The life of a worker: answer jobs until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to everybody; the driver decides
    warnings.simplefilter("ignore")
    from pimc.sweeps.evaluate import answer

    try:
        pipe.send(READY)
        while True:
            pipe.send(answer(pipe.recv()))
    except (EOFError, OSError):
        return


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    is_ready: bool = False
    job: Job | None = None


class Pool:
    """So many processes at most, started as they are needed."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._workers: list[_Worker] = []
        self._stillborn = 0
        """workers in a row that died before they were ready"""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers.clear()

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        waiting = deque(jobs)
        tries: Counter[str] = Counter()
        while waiting or any(w.job for w in self._workers):
            self._hand_out(waiting)
            for pipe in wait([w.pipe for w in self._workers]):
                worker = next(w for w in self._workers if w.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    job = self._bury(worker)
                    if job is None:
                        continue
                    tries[job.key] += 1
                    if tries[job.key] < TRIES:
                        waiting.appendleft(job)
                    else:
                        yield lost(job, DIED, DIED_HELP)
                    continue
                if message == READY:
                    worker.is_ready, self._stillborn = True, 0
                else:
                    worker.job = None
                    yield message

    def _hand_out(self, waiting: deque[Job]) -> None:
        """Start what processes are missing, and give a job to each that is ready and has none."""
        idle = [w for w in self._workers if w.job is None]
        for _ in range(min(self._size - len(self._workers), len(waiting) - len(idle))):
            self._workers.append(_started())
        for worker in idle:
            if waiting and worker.is_ready:
                worker.job = waiting.popleft()
                try:
                    worker.pipe.send(worker.job)
                except OSError:
                    continue  # it has died; its pipe says so

    def _bury(self, worker: _Worker) -> Job | None:
        """Forget a worker that has died; the job that it had."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        status = worker.process.exitcode
        worker.process.close()
        if not worker.is_ready:
            self._stillborn += 1
            if self._stillborn >= TRIES:
                raise fail(
                    Kind.UNAVAILABLE,
                    f"processes for the points end before they begin (status {status})",
                    help="a script that calls pimc.sweep does so under `if __name__ == '__main__':`",
                )
        return worker.job


def _started() -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)
