"""Runs fuzz cases in a process of its own, with limits of memory and time.

    python -m tests.fuzz.worker KIND FIRST COUNT

Prints one JSON object for every step: `{"seed", "at"}` when a seed starts and when ONNX Runtime takes over (which may
crash on damaged models), `{"seed", "verdict", "why"}` at its end.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from types import FrameType

from tests.fuzz import stages
from tests.fuzz.cases import kinds

MEMORY = 6 << 30
"""Bytes of address space that a worker may have."""
SECONDS = 30
"""For one seed."""


class TooSlowError(Exception):
    """A case took longer than SECONDS."""


def _late(signum: int, frame: FrameType | None) -> None:
    raise TooSlowError(f"took more than {SECONDS} s")


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def run(kind: str, seed: int) -> None:
    """One seed, its verdict printed."""
    case = kinds()[kind]
    stages.listener = lambda stage: say(seed=seed, at=stage)
    stages.enter("pimc")
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            verdict = case(seed, Path(folder))
        say(seed=seed, verdict=verdict.kind, why=verdict.why)
    except BaseException as error:
        if stages.current == "oracle" and isinstance(error, TooSlowError | MemoryError):
            say(seed=seed, verdict="unjudged", why="ONNX Runtime takes too much time or memory")
            return
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.format_exception(error)[-1].strip()
        where = traceback.extract_tb(error.__traceback__)[-1]
        say(seed=seed, verdict="failed", why=f"{last} ({Path(where.filename).name}:{where.lineno})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(kind: str, first: str, count: str) -> None:
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _late)
    for seed in range(int(first), int(first) + int(count)):
        run(kind, seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
