"""Markdown pages as tests see them: their files, sessions and links."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w./-]+\.\w+)\n")
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


def scripts(page: str) -> list[Block]:
    """Python that is no file: what a reader types, block by block."""
    return [block for block in blocks(page) if block.language == "python" and block.file_name is None]


def with_outputs(page: str, outputs: Sequence[str]) -> str:
    """The page with what its scripts print, in the `text` block that follows a script at once."""
    parts, at = [], 0
    after = {found.start: found for found in blocks(page) if found.language == "text"}
    for script, output in zip(scripts(page), outputs, strict=True):
        said = after.get(script.end + len("```\n\n```text\n"))
        if said is not None:
            parts += [page[at : said.start], output]
            at = said.end
    return "".join([*parts, page[at:]])


def is_run(page: str) -> bool:
    """Whether a page has something to run."""
    return any(block.language == "console" for block in blocks(page)) or bool(scripts(page))


def links(page: str) -> list[str]:
    """Targets of relative links."""
    return [target for target in _LINK.findall(page) if "://" not in target]


def write_files(page: str, folder: Path) -> None:
    """Put the named blocks of a page into files."""
    for block in blocks(page):
        if block.file_name:
            file = folder / block.file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)


def install(folder: Path) -> list[Path]:
    """Places of the packages that a page has written: found by an interpreter, with their entry points, as `pip
    install -e` would have it."""
    found = [file.parent for file in sorted(folder.glob("*/pyproject.toml"))]
    for place in found:
        project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
        known = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        known.mkdir(exist_ok=True)
        named = f"Name: {project['name']}\nVersion: {project['version']}\n"
        (known / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}")
        groups = project["entry-points"].items()
        lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for group, points in groups]
        (known / "entry_points.txt").write_text("".join(lines))
    return found
