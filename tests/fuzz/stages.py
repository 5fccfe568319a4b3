"""Whose code a fuzz case is in: pimc's, or ONNX Runtime's, whose crashes on damaged models are not ours."""

from __future__ import annotations

from collections.abc import Callable

current = "pimc"
listener: Callable[[str], object] | None = None


def enter(stage: str) -> None:
    """Say that `pimc` or `oracle` goes on from here."""
    global current
    current = stage
    if listener is not None:
        listener(stage)
