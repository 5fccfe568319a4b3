"""What PIM engines cannot do beyond having a rule for an op: sizes that do not fit rows or commands."""

from __future__ import annotations

from pimc.backends.pim.cells import CELL_BYTES, LANES
from pimc.backends.pim.lower_cent import why_no_softmax
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.target import TargetSpec
from pimc.ir.graph import Node


def why_not(node: Node, spec: TargetSpec) -> str:
    """Why the PIM engine of a target cannot execute a product; empty if it can."""
    assert spec.pim is not None
    mapping = mapping_of(spec)
    if node.op.name == "attention_softmax":
        return why_no_softmax(node, spec) if mapping.softmax_in_banks else f"{spec.pim.style} has no softmax in banks"
    if spec.pim.macs_per_bank != LANES:
        return f"its commands work on columns of {LANES} elements, this part's on {spec.pim.macs_per_bank}"
    if spec.pim.style == "aim" and spec.dram.banks != LANES:
        return (
            f"its commands bring {LANES} values of a channel, one for each bank; this part has {spec.dram.banks} banks"
        )
    if node.op.name == "attention_scores":
        if node.attribute("scale") != 1.0 and spec.npu is None and spec.pnm is None:
            return "its queries are scaled by vector commands, which no unit has here (scale = 1.0 needs none)"
        depth = next(node.inputs()).type.shape[-1]
        room = min(spec.dram.row_bytes, spec.pim.global_buffer_bytes) // CELL_BYTES
        if isinstance(depth, int) and depth > room:
            return f"a key of {depth} elements does not fit a row of {room}"
    return ""
