"""Which nodes an engine can take, beyond having a lowering rule for their op."""

from __future__ import annotations

from pimc.backends.kernels.experts import why_not as why_not_choose
from pimc.backends.kernels.quantized import why_not as why_not_expand
from pimc.backends.npu.attention import why_not as why_not_whole
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.planning import BufferSplit
from pimc.backends.target import TargetSpec
from pimc.ir.facts import Placement
from pimc.ir.graph import Node, Role, Value
from pimc.ir.op import OpClass
from pimc.ir.quantized import PACKED
from pimc.ir.target import Engine


def why_not(node: Node, engine: Engine, spec: TargetSpec) -> str:
    """Why the engine cannot execute the node; empty if it can."""
    collective = node.op.cls is OpClass.COLLECTIVE
    if collective != (engine.kind == "link"):
        return "only the link joins devices" if collective else f"{engine.name} only moves values between devices"
    if engine.kind == "pim":
        return _why_not_in_memory(node, engine, spec)
    if channels := _why_not_channels(node, engine, spec):
        return channels
    if engine.kind == "pnm" and mapping_of(spec).rules and not _why_not_here(node, spec):
        return f"the mapping '{spec.mapping}' has the banks do it"
    budget = BufferSplit.of(spec).scratch // 2
    if node.op.name == "attention":
        return why_not_whole(node, spec, budget) if engine.kind == "npu" else "its parts run here one by one"
    if node.op.name == "quantized_matmul":
        return why_not_expand(node, budget, spec.element_bytes)
    if node.op.name == "expert_matmul":
        return why_not_choose(node, engine.kind, budget, spec.element_bytes)
    if node.op.name in ("cast", "quantize_linear", "dequantize_linear"):
        return _why_not_levels(node)
    return ""


def _why_not_in_memory(node: Node, engine: Engine, spec: TargetSpec) -> str:
    """The same for PIM, whose modules only machines that have it import."""
    from pimc.backends.pim import activation_aim, attention_aim
    from pimc.backends.pim.legality import why_not as why_not_in_pim

    if node.op.name == "attention":
        return attention_aim.why_not(node, spec)
    if node.op.name in activation_aim.TABLES:
        return activation_aim.why_not(node, spec)
    channels = _why_not_channels(node, engine, spec)
    if node.op.name == "attention_softmax":
        return channels or _why_not_here(node, spec)
    return channels or _why_not_pim(node) or why_not_in_pim(node, spec)


_IN_BANKS = ("matmul", "attention_scores", "attention_softmax", "attention_context")
"""What a mapping with rules of its own has the banks do wherever they can."""


def _why_not_here(node: Node, spec: TargetSpec) -> str:
    """Why the banks do not do a part of a block as their mapping has it; empty if they do."""
    from pimc.backends.pim.legality import why_not as why_not_in_pim

    if node.op.name not in _IN_BANKS:
        return f"{node.op.name} is not for them"
    scores = node.operands[0]
    if node.op.name == "attention_softmax" and scores is not None and scores.owner is not None:
        return why_not_in_pim(node, spec) or _why_not_here(scores.owner, spec)
    return _why_not_pim(node) or why_not_in_pim(node, spec)


def _why_not_channels(node: Node, engine: Engine, spec: TargetSpec) -> str:
    """The model may ask for channels, where its operand shall lie."""
    placement = node.fact(Placement)
    if placement is None or not placement.channels or placement.engine != engine.name:
        return ""
    if engine.kind != "pim":
        return f"{engine.name} does not work channel by channel"
    if placement.channels[-1] >= spec.dram.channels:
        return f"there is no channel {placement.channels[-1]}: its memory has {spec.dram.channels}"
    return ""


def _why_not_levels(node: Node) -> str:
    """Vector commands read and write whole bytes; weights of 4 bits are expanded by the products that read them."""
    packed = [v.type for v in (*node.inputs(), *node.results) if v.type.dtype in PACKED]
    return f"vector commands have no elements of 4 bits, as {packed[0]} has" if packed else ""


def _why_not_pim(node: Node) -> str:
    for value in node.operands[:2]:
        if value is not None and not value.type.dtype.is_float:
            return f"multiplies floats, not {value.type.dtype.text}"
        if value is not None and not value.type.elements:
            return f"{value.type} has nothing to multiply"
    rank = {"matmul": 2, "expert_matmul": 3}.get(node.op.name)
    if rank is None:
        return ""
    weight = _through_transposes(node.operands[1])
    if weight is None or weight.role not in (Role.WEIGHT, Role.CONSTANT, Role.INPUT):
        return "its right operand is neither a weight nor an input, which could lie in the banks"
    if weight.type.rank != rank:
        return f"the banks hold matrices, and {weight.type} is none"
    return ""


def _through_transposes(value: Value | None) -> Value | None:
    while value is not None and value.owner is not None and value.owner.op.name == "transpose":
        value = value.owner.operands[0]
    return value
