"""Kinds of engines that other distributions bring."""

from __future__ import annotations

import importlib.metadata

import pytest

from pimc.backends import engines


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_installed_besides_goes_before_in_whatever_order(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ["pimc.backends.pnm", "another_unit"][::order]
    points = [importlib.metadata.EntryPoint("pnm", value, "pimc.engines") for value in values]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert engines.packages.__wrapped__() == {**engines.BUILT_IN, "pnm": "another_unit"}
