"""Engines, targets and passes that other distributions bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from pimc import installed
from pimc.backends import engines, target_registry
from pimc.passes import registry

FOUND: dict[str, tuple[Any, Mapping[str, str]]] = {
    "pimc.engines": (engines.packages, engines.BUILT_IN),
    "pimc.targets": (target_registry._references, dict(target_registry.BUILTIN)),
    "pimc.passes": (registry.default_registry, dict(registry.BUILTIN)),
}
"""What is found for each group, by a function that keeps it, and what pimc brings itself."""


@pytest.mark.parametrize("group", FOUND)
@pytest.mark.parametrize("order", [1, -1])
def test_what_is_installed_besides_goes_before_in_whatever_order(
    group: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping, own = FOUND[group]
    name = next(iter(own))
    values = [own[name], "another:thing"][::order]
    points = [EntryPoint(name, value, group) for value in values]
    monkeypatch.setattr(installed, "_points", lambda: EntryPoints(points))
    afresh: Callable[[], Any] = keeping.__wrapped__
    found = afresh()
    assert getattr(found, "references", found) == {**own, name: "another:thing"}
