"""Which pimc this is."""

from __future__ import annotations

from functools import cache


@cache
def version() -> str:
    """The version of the installed distribution, or of the checkout."""
    from importlib import metadata

    try:
        return metadata.version("pimc")
    except metadata.PackageNotFoundError:
        import tomllib
        from pathlib import Path

        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])
