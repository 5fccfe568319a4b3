"""Which nodes an engine can take, beyond having a lowering rule for their op."""

from __future__ import annotations

from pimc.backends.pim.legality import why_not as pim_why_not
from pimc.backends.target import TargetSpec
from pimc.ir.graph import Node, Role, Value
from pimc.ir.op import OpClass
from pimc.ir.target import Engine


def why_not(node: Node, engine: Engine, spec: TargetSpec) -> str:
    """Why the engine cannot execute the node; empty if it can."""
    collective = node.op.cls is OpClass.COLLECTIVE
    if collective != (engine.kind == "link"):
        return "only the link joins devices" if collective else f"{engine.name} only moves values between devices"
    if engine.kind == "pim":
        return _why_not_pim(node) or pim_why_not(node, spec)
    return ""


def _why_not_pim(node: Node) -> str:
    for value in node.operands[:2]:
        if value is not None and not value.type.dtype.is_float:
            return f"multiplies floats, not {value.type.dtype.text}"
    if node.op.name != "matmul":
        return ""
    weight = _through_transposes(node.operands[1])
    if weight is None or weight.role not in (Role.WEIGHT, Role.CONSTANT):
        return "its right operand is not a weight that could lie in the banks"
    if weight.type.rank != 2:
        return f"the banks hold matrices, and {weight.type} is none"
    return ""


def _through_transposes(value: Value | None) -> Value | None:
    while value is not None and value.owner is not None and value.owner.op.name == "transpose":
        value = value.owner.operands[0]
    return value
