"""The content hash of a point: equal ones have equal results, whoever computes them and wherever their files lie.

It covers what is in the files (model, target, passes), not their names, every option, and the sources of pimc.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pimc.ir.graph import Graph
from pimc.ir.text import show

DIGITS = 32
"""Hexadecimal digits that are kept of a hash."""
PLUGINS = ("pimc.engines", "pimc.passes", "pimc.targets")
_SUFFIXES = (".py", ".yaml", ".lark", ".csv")


def digest(plain: Any) -> str:
    """The hash of plain data."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def file_digest(path: str | Path) -> str:
    """The hash of a file's bytes. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def model_digest(path: str | Path, graph: Graph) -> str:
    """The hash of a model: its file, and its graph, which holds what included files say.

    Reasons in the graph may name places in the files; where the files lie does not count.
    """
    text = show(graph).replace(str(path), "").replace(f"{Path(path).parent}{os.sep}", "")
    return digest([file_digest(path), hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()])


@cache
def revision() -> str:
    """The version of pimc with the hash of its sources (the command line aside), and what else is plugged in."""
    found = hashlib.sha256()
    for name, path in _sources():
        found.update(f"{name}\0".encode())
        found.update(path.read_bytes())
    plugged = sorted(
        {
            f"{e.dist.name}-{e.dist.version}"
            for group in PLUGINS
            for e in metadata.entry_points(group=group)
            if e.dist is not None and e.dist.name != "pimc"
        }
    )
    return "+".join([_version(), found.hexdigest()[:12], *plugged])


def _version() -> str:
    """That of the installed distribution; the hash of the sources says which checkout it is."""
    try:
        return metadata.version("pimc")
    except metadata.PackageNotFoundError:
        return "checkout"


def _sources() -> Iterator[tuple[str, Path]]:
    """Every source file below the import root, by its name there; links to the layers are followed."""
    root = Path(__file__).parents[1]
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if f not in ("__pycache__", "cli"))
        for name in sorted(files):
            if name.endswith(_SUFFIXES):
                path = Path(folder) / name
                yield path.relative_to(root).as_posix(), path


def point_key(parts: Mapping[str, Any]) -> str:
    """The content hash of a point out of the hashes of its files and its options."""
    return digest({"pimc": revision(), **parts})
