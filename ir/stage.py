"""The stages that a graph passes through on its way to command streams, and what must hold at each."""

from __future__ import annotations

from enum import IntEnum
from functools import cache

from pimc.ir.facts import Phase, Placement, Work
from pimc.ir.op import OpClass, OpDef
from pimc.record import record


class GraphStage(IntEnum):
    """How far a graph has come. Each stage keeps what the earlier ones established."""

    IMPORTED = 0
    BOUND = 1
    CANONICAL = 2
    PARTITIONED = 3
    TAGGED = 4
    PLACED = 5
    LAID_OUT = 6
    SCHEDULED = 7


@record
class StageRule:
    """What must hold from a stage on: in words, and for the verifier."""

    about: str
    static: bool = False
    """Every dimension is a number."""
    resolved: bool = False
    """No shape depends on contents that the compiler does not know."""
    facts: tuple[type, ...] = ()
    """Facts that every node bears."""
    gone: frozenset[str] = frozenset()
    """Ops that passes have replaced by canonical ones."""
    admits: frozenset[OpClass] = frozenset()
    """Classes of ops that no earlier stage may hold."""


FRONTEND_OPS = frozenset(
    {
        "onnx_attention",
        "rotary_embedding",
        "ms_fused_matmul",
        "ms_group_query_attention",
        "ms_matmul_nbits",
        "ms_multi_head_attention",
        "ms_rotary_embedding",
        "ms_simplified_layer_normalization",
        "ms_skip_layer_normalization",
        "ms_skip_simplified_layer_normalization",
    }
)
"""Forms of exporters that have a canonical equivalent."""

RULES: dict[GraphStage, StageRule] = {
    GraphStage.IMPORTED: StageRule("as a frontend made it: well formed and typed, dimensions may be symbolic"),
    GraphStage.BOUND: StageRule("every dimension is a number", static=True),
    GraphStage.CANONICAL: StageRule(
        "constants are folded and exporters' forms are canonical ops", resolved=True, gone=FRONTEND_OPS
    ),
    GraphStage.PARTITIONED: StageRule("the graph is what each device runs", admits=frozenset({OpClass.COLLECTIVE})),
    GraphStage.TAGGED: StageRule("every node knows its phase and the nature of its work", facts=(Phase, Work)),
    GraphStage.PLACED: StageRule("every node has an engine, and the reason", facts=(Placement,)),
    GraphStage.LAID_OUT: StageRule("every value has its place in a memory"),
    GraphStage.SCHEDULED: StageRule("commands are ordered in streams"),
}


@cache
def required_facts(stage: GraphStage) -> tuple[type, ...]:
    """The facts that every node must bear at a stage, its own and those of the stages before."""
    return tuple(fact for s in GraphStage if s <= stage for fact in RULES[s].facts)


def illegal(op: OpDef, stage: GraphStage) -> str | None:
    """Why an op may not be in a graph of that stage, or None."""
    return _illegal(op.name, op.cls, stage)


@cache
def _illegal(name: str, cls: OpClass, stage: GraphStage) -> str | None:
    for s in GraphStage:
        if s <= stage and name in RULES[s].gone:
            return f"{name} must have been made canonical"
        if s > stage and cls in RULES[s].admits:
            return f"{name} is only legal from stage {s.name} on"
    return None


def is_static(stage: GraphStage) -> bool:
    return any(RULES[s].static for s in GraphStage if s <= stage)


def is_resolved(stage: GraphStage) -> bool:
    return any(RULES[s].resolved for s in GraphStage if s <= stage)
