"""Runs ranges of seeds in workers, one after the other, and goes on behind a seed at which a worker dies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GRACE = 60
"""Seconds without a word after which a worker hangs: its own time limit has not helped."""


@dataclass(frozen=True)
class Ended:
    """How one seed ended: a kind of verdict (`failed` among them), and why."""

    seed: int
    verdict: str
    why: str


def campaign(kind: str, first: int, count: int) -> list[Ended]:
    """All seeds from `first` on, each with its verdict."""
    found: list[Ended] = []
    while len(found) < count:
        found += _worker(kind, first + len(found), count - len(found))
    return found


def _worker(kind: str, first: int, count: int) -> Iterator[Ended]:
    """The seeds that one worker comes to; if it dies, the last one is that at which it did."""
    command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(first), str(count)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=GRACE + count * 2)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    ended = [Ended(line["seed"], line["verdict"], line["why"]) for line in lines if "verdict" in line]
    yield from ended
    if len(ended) == count:
        return
    seed = first + len(ended)
    begun = [line["at"] for line in lines if line.get("seed") == seed and "at" in line]
    if not begun:
        raise RuntimeError(f"the worker cannot start: {err[-2000:]}")
    why = f"the worker ended with status {process.returncode} in {begun[-1]}"
    yield Ended(seed, "unjudged" if begun[-1] == "oracle" else "failed", why)
