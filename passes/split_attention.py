"""Split attention into the parts that different engines may run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pimc.ir.facts import Work
from pimc.ir.graph import Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes.manager import PatternPass
from pimc.passes.match import opdef, operand
from pimc.passes.tag_nature import RowOrigins, TagNaturePass


@dataclass(frozen=True)
class SplitAttentionPass(PatternPass):
    """Attention becomes its two products and the softmax between them, so that each is placed on its own.

        %y = attention(%q, %k, %v, %mask) {scale=s, causal=true}
    ->  %a = attention_scores(%q, %k) {scale=s}
        %p = attention_softmax(%a, %mask) {causal=true}
        %y = attention_context(%p, %v)

    The parts inherit the facts of the whole; the nature of their work is found anew.
    """

    name: ClassVar[str] = "split-attention"
    before: ClassVar[GraphStage] = GraphStage.CANONICAL
    root: ClassVar[tuple[str, ...]] = ("attention",)

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        q, k, v = node.operands[:3]
        name = node.name
        scores = rewriter.add(
            opdef("attention_scores"),
            (q, k),
            {"scale": node.attributes["scale"]},
            name=f"{name}_scores",
            origins=(node,),
        )
        softmax = rewriter.add(
            opdef("attention_softmax"),
            (scores.result, operand(node, 3), operand(node, 4)),
            {key: node.attribute(key) for key in ("causal", "softcap", "window")},
            name=f"{name}_softmax",
            origins=(node,),
        )
        context = rewriter.replace(node, opdef("attention_context"), (softmax.result, v))
        _share_facts(node, (scores, softmax, context), rewriter)


def _share_facts(whole: Node, parts: tuple[Node, Node, Node], rewriter: Rewriter) -> None:
    tagger = TagNaturePass()
    for part in parts:
        for kind, fact in whole.facts.items():
            if kind is not Work:
                rewriter.set_fact(part, fact)
        if Work in whole.facts:
            rewriter.set_fact(part, tagger.work(part, RowOrigins()))
