"""The workers of a Dask cluster: of an address, or of this machine (`local`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.sweeps.evaluate import answer
from pimc.sweeps.job import Answer, Job, lost
from pimc.sweeps.workers import DIED, DIED_HELP, TRIES

LOCAL = "local"
AHEAD = 4
"""Jobs that the cluster has for each of its threads, so that none waits for this process."""
CONNECT_SECONDS = 30


class Cluster:
    """Workers that a scheduler knows. It begins a point again whose worker dies."""

    def __init__(self, address: str, size: int | None) -> None:
        """size: processes of a local cluster. Raises CompileError (UNAVAILABLE)."""
        self._distributed: Any = _distributed()
        self._address, self._size = address, size
        self._client: Any = None
        self._own: Any = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in (self._client, self._own):
            if each is not None:
                each.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[Answer]:
        client = self._connected()
        left = iter(jobs)
        given: dict[Any, Job] = {}

        def submitted() -> list[Any]:
            """As many more as keep the threads busy that there are now."""
            room = max(1, sum(client.nthreads().values())) * AHEAD - len(given)
            futures = {client.submit(answer, job, pure=False): job for job in islice(left, max(0, room))}
            given.update(futures)
            return list(futures)

        finished = self._distributed.as_completed(submitted())
        for future in finished:
            yield self._answer(future, given.pop(future))
            finished.update(submitted())

    def _answer(self, future: Any, job: Job) -> Answer:
        if future.status == "cancelled":
            raise self._gone()
        error = future.exception()
        if error is None:
            found: Answer = future.result()
            return found
        if isinstance(error, self._distributed.scheduler.KilledWorker):
            return lost(job, DIED, DIED_HELP)
        return lost(job, f"{type(error).__name__} on the cluster: {error}", "install the same pimc everywhere")

    def _connected(self) -> Any:
        if self._client is None:
            try:
                if self._address == LOCAL:
                    self._own = self._started()
                self._client = self._distributed.Client(self._own or self._address, timeout=CONNECT_SECONDS)
            except (OSError, ValueError, TimeoutError) as error:
                raise fail(
                    Kind.UNAVAILABLE,
                    f"no Dask scheduler answers at '{self._address}': {error}",
                    help="--cluster takes tcp://HOST:PORT of a scheduler, or local",
                ) from None
        return self._client

    def _started(self) -> Any:
        """A cluster of this machine that ends with this process."""
        from dask import config

        scheduler = {
            "allowed-failures": TRIES - 1,
            "worker-saturation": 1.0,  # no worker holds a second point, which would count as tried when it dies
        }
        config.set({f"distributed.scheduler.{name}": value for name, value in scheduler.items()})
        return self._distributed.LocalCluster(
            n_workers=self._size,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )

    def _gone(self) -> CompileError:
        return fail(
            Kind.UNAVAILABLE,
            f"the cluster at '{self._address}' went away",
            help="run the same command again: it goes on behind the points that are done",
        )


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise fail(Kind.UNAVAILABLE, "--cluster needs Dask.distributed", help="pip install 'pimc[cluster]'") from None
    return distributed
