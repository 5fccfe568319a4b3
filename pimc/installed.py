"""What installed distributions bring for a group of entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from functools import cache


def references(group: str, own: Mapping[str, str]) -> dict[str, str]:
    """What each name refers to: `own`, which are pimc's and there in a plain checkout too, and the points of `group`.

    What is installed besides pimc goes before, in whatever order it is found; of several that give one name, the last
    by its value.
    """
    points = sorted(_points().select(group=group), key=lambda point: (point.name, point.value))
    return {**own, **{p.name: p.value for p in points if own.get(p.name) != p.value}}


@cache
def _points() -> importlib.metadata.EntryPoints | importlib.metadata.SelectableGroups:
    """Of all groups: asking for one reads the files of all distributions, too."""
    return importlib.metadata.entry_points()
