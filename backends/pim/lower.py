"""Lowering rules of PIM engines, in the commands of the target's style."""

from __future__ import annotations

from pimc.backends.lowering import Lowering, Rule, lowers
from pimc.backends.pim import activation_aim, attention_aim, lower_aim, lower_cent, lower_newton
from pimc.backends.pim.heads_apart import by_channel
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.pim.newton_transfer import mark_vectors
from pimc.backends.ragged import groups
from pimc.backends.target import TargetSpec
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node

RULES_BY_MAPPING: dict[str, dict[str, Rule]] = {
    "aim": {
        "matmul": lower_aim.lower_matmul,
        "attention_scores": lower_aim.lower_scores,
        "attention_context": lower_aim.lower_context,
        "expert_matmul": lower_aim.lower_experts,
        "attention": attention_aim.lower_attention,
    },
    "cent": {
        "matmul": lower_cent.lower_matmul,
        "attention_scores": lower_cent.lower_scores,
        "attention_softmax": lower_cent.lower_softmax,
        "attention_context": lower_cent.lower_context,
        "expert_matmul": lower_aim.lower_experts,
    },
    "newton": {
        "matmul": lower_newton.lower_matmul,
        "attention_scores": lower_newton.lower_scores,
        "attention_context": lower_newton.lower_context,
        "expert_matmul": lower_newton.lower_experts,
    },
}


def rules_of(spec: TargetSpec) -> dict[str, Rule]:
    """The rules of a target's mapping."""
    assert spec.pim is not None
    return RULES_BY_MAPPING[mapping_of(spec).rules or spec.pim.style]


lowers("pim", *activation_aim.TABLES)(activation_aim.lower_activation)


@lowers("pim", "matmul", "attention_scores", "attention_context", "expert_matmul", "attention", "attention_softmax")
def lower_product(node: Node, at: Lowering) -> None:
    """A product whose right operand (weight, keys, values) lies in the banks."""
    assert at.spec.pim is not None
    rule, is_newton = rules_of(at.spec)[node.op.name], at.spec.pim.style == "newton"
    ragged = node.fact(Ragged)
    if ragged is not None and is_newton:
        at = mark_vectors(node, at)
    if ragged is None and is_newton and node.op.name in ("attention_scores", "attention_context"):
        rule(*by_channel(node, at))
    elif ragged is None:
        rule(node, at)
    elif ragged.channels:
        lower_newton.lower_requests(node, at, ragged)
    else:
        for part, there in groups(node, at):
            rule(part, there)
