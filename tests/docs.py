"""Markdown pages as tests see them: their files, sessions and links."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w-]+\.\w+)\n")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `start` and `end` bound its text there."""

    language: str
    text: str
    start: int
    end: int

    @property
    def file_name(self) -> str | None:
        """The name in a first line like `# my_pass.py`."""
        named = _NAMED.match(self.text)
        return named[1] if named else None


@dataclass(frozen=True)
class Exchange:
    """A command of a session, and what it is said to print."""

    command: str
    output: str


def blocks(page: str) -> list[Block]:
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in _FENCE.finditer(page)]


def exchanges(session: str) -> Iterator[Exchange]:
    """The commands of a `console` block: what stands behind `$ `, with lines that end in a backslash continued."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        length = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
        yield Exchange("\n".join(lines[:length]), "\n".join(lines[length:]))


def with_sessions(page: str, run: Callable[[str], str]) -> str:
    """The page with its sessions as `run` gives them now, in order."""
    parts, at = [], 0
    for block in blocks(page):
        if block.language == "console":
            parts += [page[at : block.start], *(f"$ {e.command}\n{run(e.command)}" for e in exchanges(block.text))]
            at = block.end
    return "".join([*parts, page[at:]])


def links(page: str) -> list[str]:
    """Targets of relative links."""
    return [target for target in _LINK.findall(page) if "://" not in target]


def write_files(page: str, folder: Path) -> None:
    """Put the named blocks of a page into files."""
    for block in blocks(page):
        if block.file_name:
            (folder / block.file_name).write_text(block.text)
