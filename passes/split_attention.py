"""Split attention into the parts that different engines may run."""

from __future__ import annotations

from math import inf
from typing import ClassVar

from pimc.ir.diagnostics import Kind, fail, nearest
from pimc.ir.facts import Work
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import opdef, operand
from pimc.passes.tag_nature import RowOrigins, TagNaturePass
from pimc.record import record


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
        whole = _fastest(node, target)
        if whole is None or self.whole == "always":
            return whole is not None
        values = operand(node, 2)
        context = rewriter.add(opdef("attention_context"), (softmax.result, values), name=f"{node.name}_context")
        together = 0.0
        for part in (softmax, scores, context):  # the one that is quickly told first: it may take longer than the whole
            seconds = _fastest(part, target)
            together += inf if seconds is None else seconds
            if whole < together:
                break
        rewriter.remove(context)
        return whole < together


def scores_name(attention: Node) -> str:
    """What the first part of attention is called."""
    return f"{attention.name}_scores"


def _fastest(node: Node, target: Target) -> float | None:
    """The least time that an engine takes for a node; None where none can run it."""
    return min((target.estimate(node, e) for e in target.engines() if not target.why_not(node, e)), default=None)


def _share_facts(whole: Node, parts: tuple[Node, Node, Node], rewriter: Rewriter) -> None:
    tagger = TagNaturePass()
    for part in parts:
        for kind, fact in whole.facts.items():
            if kind is not Work:
                rewriter.set_fact(part, fact)
        if Work in whole.facts:
            rewriter.set_fact(part, tagger.work(part, RowOrigins()))
