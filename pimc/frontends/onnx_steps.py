"""Writing out one ONNX node as several of our ops."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pimc.frontends.onnx_ops import Given
from pimc.ir.graph import Value
from pimc.ir.op import Attribute


class Steps(ABC):
    """Adds ops that stand for a node. Operands may be arrays, which become constants."""

    @abstractmethod
    def calls(self, op: str, *operands: Given, **attributes: Attribute) -> tuple[Value, ...]:
        """The results of a new op."""

    def call(self, op: str, *operands: Given, **attributes: Attribute) -> Value:
        """Its first result."""
        return self.calls(op, *operands, **attributes)[0]
