"""Lowering rules of PIM engines, in the commands of the target's style."""

from __future__ import annotations

from pimc.backends.lowering import Lowering, Rule, lowers
from pimc.backends.pim import lower_aim, lower_newton
from pimc.backends.pim.newton_transfer import mark_vectors
from pimc.backends.ragged import groups
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node

RULES_BY_STYLE: dict[str, dict[str, Rule]] = {
    "aim": {
        "matmul": lower_aim.lower_matmul,
        "attention_scores": lower_aim.lower_scores,
        "attention_context": lower_aim.lower_context,
        "expert_matmul": lower_aim.lower_experts,
    },
    "newton": {
        "matmul": lower_newton.lower_matmul,
        "attention_scores": lower_newton.lower_scores,
        "attention_context": lower_newton.lower_context,
        "expert_matmul": lower_newton.lower_experts,
    },
}


@lowers("pim", "matmul", "attention_scores", "attention_context", "expert_matmul")
def lower_product(node: Node, at: Lowering) -> None:
    """A product whose right operand (weight, keys, values) lies in the banks."""
    assert at.spec.pim is not None
    rule = RULES_BY_STYLE[at.spec.pim.style][node.op.name]
    ragged = node.fact(Ragged)
    if ragged is not None and at.spec.pim.style == "newton":
        at = mark_vectors(node, at)
    if ragged is None:
        rule(node, at)
    elif ragged.channels:
        lower_newton.lower_requests(node, at, ragged)
    else:
        for part, there in groups(node, at):
            rule(part, there)
