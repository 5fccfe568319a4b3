"""The command line that gives a run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def compile_command(
    models: Sequence[str | Path],
    target: str | Path,
    *,
    dims: Mapping[str, int],
    requests: bool,
    phase: str | None,
    parallel: Mapping[str, int],
    objective: str,
    overrides: Sequence[str],
    pass_options: Sequence[str],
    disabled: Sequence[str],
    plugins: Sequence[str | Path],
    shapes_only: bool,
) -> str:
    """`pimc compile ...` as a shell takes it. Files are named as they were given, or where that was no path from the
    folder of the user, by their names alone."""
    words = ["pimc", "compile", *(place(model) for model in models), "-t", place(target)]
    words += _each("--set", overrides)
    if parallel:
        words += ["--parallel", ",".join(f"{kind}={degree}" for kind, degree in parallel.items())]
    elif objective != "latency":
        words += ["--parallel", objective]
    if phase is not None:
        words += ["--phase", phase]
    words += _each("--dim", (f"{name}={size}" for name, size in dims.items()))
    words += ["--requests", "requests.csv"] if requests else []
    words += ["--shapes-only"] if shapes_only else []
    words += _each("--load", (place(file) for file in plugins))
    words += _each("--pass-config", pass_options)
    words += _each("--disable-pass", disabled)
    return shlex.join(words)


def _each(option: str, values: Sequence[str] | Iterator[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)


def place(path: str | Path) -> str:
    """A path below the folder of the user as it is; of others the last part."""
    given = Path(path)
    if given.is_absolute() or ".." in given.parts:
        return given.name
    return str(path)
