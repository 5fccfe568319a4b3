"""Which pimc this is: the version of the distribution, and the git revision it was made from.

`revision.txt` holds the revision in wheels and source distributions (`setup.py` writes it) and in archives (git
replaces its placeholder). In a checkout it is read from the files of git, which need not be installed.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
REVISION_FILE = "revision.txt"
_HASH = re.compile(r"[0-9a-f]{40,64}")
SHOWN = 12
"""Digits of a revision that are printed."""


@cache
def version() -> str:
    """The version of the installed distribution, or of the checkout."""
    from importlib import metadata

    try:
        return metadata.version("pimc")
    except metadata.PackageNotFoundError:
        import tomllib

        project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])


@cache
def revision() -> str:
    """The git revision of this code, all digits of it; empty where nothing tells."""
    return _hash(HERE / REVISION_FILE) or revision_of(HERE.parent)


def described() -> str:
    """`0.1.0 (1a2b3c4d5e6f)`."""
    found = revision()
    return f"{version()} ({found[:SHOWN]})" if found else version()


def revision_of(checkout: Path) -> str:
    """The revision that is checked out in a folder; empty if it is no checkout."""
    git = checkout / ".git"
    if git.is_file():  # a worktree, or a submodule
        git = checkout / _text(git).removeprefix("gitdir:").strip()
    head = _text(git / "HEAD")
    if not head.startswith("ref:"):
        return head if _HASH.fullmatch(head) else ""
    name = head.removeprefix("ref:").strip()
    common = git / (_text(git / "commondir") or ".")
    packed = (line.split(" ", 1) for line in _text(common / "packed-refs").splitlines() if " " in line)
    return _hash(git / name) or _hash(common / name) or next((h for h, ref in packed if ref == name), "")


def _hash(file: Path) -> str:
    text = _text(file)
    return text if _HASH.fullmatch(text) else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
