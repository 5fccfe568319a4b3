"""Readers of models: ONNX, the DSL, and the text form of the IR. All give a `Graph`."""

from __future__ import annotations

from pimc.frontends.load import load_model

__all__ = ["load_model"]
