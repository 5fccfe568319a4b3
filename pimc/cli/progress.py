"""What a long command is doing, on a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from pimc.cli.screen import visible
from pimc.ir.graph import Graph
from pimc.passes.manager import Observer


class Progress(Observer):
    """What is being done now, on a terminal only; `with Progress(...) as progress`."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self._what = visible(Path(what).name or what)
        self._wanted = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._status: Any = None

    def __enter__(self) -> Progress:
        if self._wanted:
            from rich.console import Console

            self._status = Console(stderr=True).status(self._what)
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, what: str) -> None:
        if self._status is not None:
            self._status.update(f"{self._what}: {what}")

    def before_pass(self, name: str, graph: Graph) -> None:
        self.say(name)

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        self.say("simulating")

    def commands(self, executed: int, total: int) -> None:
        self.say(f"executing commands, {executed * 100 // max(1, total)} % of {total}")

    def steps(self, done: int, total: int) -> None:
        self.say(f"step {done} of {total}")

    def points(self, done: int, total: int) -> None:
        self.say(f"point {done} of {total}")
