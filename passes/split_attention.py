"""Split attention into the parts that different engines may run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import ClassVar

from pimc.ir.diagnostics import CompileError, Kind, fail, nearest
from pimc.ir.facts import Work
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.ir.target import Engine, Target
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import opdef, operand
from pimc.passes.tag_nature import RowOrigins, TagNaturePass
from pimc.record import record

_CLEARLY = 0.95
"""What is told to take less than this part of the time of others does take less."""


@record
class SplitAttentionPass(Pass):
    """Attention becomes its two products and the softmax between them, so that each is placed on its own.

        %y = attention(%q, %k, %v, %mask) {scale=s, causal=true}
    ->  %a = attention_scores(%q, %k) {scale=s}
        %p = attention_softmax(%a, %mask) {causal=true}
        %y = attention_context(%p, %v)

    It stays whole where an engine takes less time for it than the parts would, each on its fastest engine: the scores
    then never leave the chip. The parts inherit the facts of the whole; the nature of their work is
    found anew.
    """

    name: ClassVar[str] = "split-attention"
    before: ClassVar[GraphStage] = GraphStage.CANONICAL

    whole: str = "auto"
    """Attention that stays in one piece: "auto" where that is faster, "always" where it can, or "never"."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if self.whole not in ("auto", "always", "never"):
            message = f"split-attention.whole is 'auto', 'always' or 'never', not '{self.whole}'"
            raise fail(Kind.PASS_OPTION, message, help=nearest(self.whole, ("auto", "always", "never")))
        for node in graph.order():
            if node.op.name == "attention":
                self._split(node, rewriter, None if self.whole == "never" else context.target)

    def _split(self, node: Node, rewriter: Rewriter, target: Target | None) -> None:
        q, k, v = node.operands[:3]
        name = node.name
        scores = rewriter.add(
            opdef("attention_scores"),
            (q, k),
            {"scale": node.attributes["scale"]},
            name=scores_name(node),
            origins=(node,),
        )
        softmax = rewriter.add(
            opdef("attention_softmax"),
            (scores.result, operand(node, 3), operand(node, 4)),
            {key: node.attribute(key) for key in ("causal", "softcap", "window")},
            name=f"{name}_softmax",
            origins=(node,),
        )
        if target is not None and self.stays_whole(node, scores, softmax, rewriter, target):
            rewriter.remove(softmax)
            rewriter.remove(scores)
            return
        context = rewriter.replace(node, opdef("attention_context"), (softmax.result, v))
        _share_facts(node, (scores, softmax, context), rewriter)

    def stays_whole(self, node: Node, scores: Node, softmax: Node, rewriter: Rewriter, target: Target) -> bool:
        """Whether attention stays in one piece, the first parts of which would be these."""
        engines = [e for e in target.engines() if not target.why_not(node, e)]
        if not engines or self.whole == "always":
            return bool(engines)
        values = operand(node, 2)
        context = rewriter.add(opdef("attention_context"), (softmax.result, values), name=f"{node.name}_context")
        parts = softmax, scores, context  # the one that is quickly told first: it may take longer than the whole
        told = _is_faster(node, parts, target, target.about, _CLEARLY)
        faster = told or _is_faster(node, parts, target, target.estimate)
        rewriter.remove(context)
        return faster


def scores_name(attention: Node) -> str:
    """What the first part of attention is called."""
    return f"{attention.name}_scores"


Seconds = Callable[[Node, Engine], float]


def _is_faster(whole: Node, parts: Sequence[Node], target: Target, seconds: Seconds, part: float = 1.0) -> bool:
    """Whether a node takes less than a part of the time of others, each on its fastest engine."""

    def fastest(node: Node) -> float:
        return min((_or_never(seconds, node, e) for e in target.engines() if not target.why_not(node, e)), default=inf)

    alone, together = fastest(whole), 0.0
    for each in parts:
        together += fastest(each)
        if alone < part * together:
            return True
    return False


def _or_never(seconds: Seconds, node: Node, engine: Engine) -> float:
    """Infinite where the machine is too small: all scores of a long prompt may not fit, those of a tile do."""
    try:
        return seconds(node, engine)
    except CompileError as error:
        if error.diagnostics[0].kind is not Kind.CAPACITY:
            raise
        return inf


def _share_facts(whole: Node, parts: tuple[Node, Node, Node], rewriter: Rewriter) -> None:
    tagger = TagNaturePass()
    for part in parts:
        for kind, fact in whole.facts.items():
            if kind is not Work:
                rewriter.set_fact(part, fact)
        if Work in whole.facts:
            rewriter.set_fact(part, tagger.work(part, RowOrigins()))
