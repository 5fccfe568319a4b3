"""The folder of a sweep: one small file a finished point, written whole or not at all, and the tables at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pimc.backends.storage import write_atomically
from pimc.ir.diagnostics import Kind, fail
from pimc.sweeps.job import Answer
from pimc.sweeps.spec import Setting


class Store:
    """Finished points by their content hash."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.points = self.folder / "points"

    def make(self) -> None:
        """Make the folder, if there is none. Raises CompileError (FILE_UNWRITABLE)."""
        try:
            self.points.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise fail(Kind.FILE_UNWRITABLE, f"cannot make the folder {self.points}: {error.strerror}") from None

    def read(self, key: str) -> Answer | None:
        """The answer of a point; None where there is none, or what is there cannot be read."""
        try:
            found = Answer.from_json(json.loads((self.points / f"{key}.json").read_bytes())["answer"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return found if found.key == key else None

    def write(self, answer: Answer, settings: Mapping[str, Setting]) -> None:
        """Keep an answer; `settings` are for people who open the file."""
        plain = {"settings": dict(settings), "answer": answer.to_json()}
        write_atomically(self.points / f"{answer.key}.json", (json.dumps(plain, indent=1) + "\n").encode())

    def write_table(self, name: str, text: str) -> Path:
        """Put a table beside the points."""
        path = self.folder / name
        write_atomically(path, text.encode("utf-8", "surrogatepass"))
        return path
