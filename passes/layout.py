"""Gives every value a home: DRAM or on chip, dense or in the banks' pattern."""

from __future__ import annotations

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.record import record


@record
class LayoutPass(Pass):
    """Lay out weights, caches and results in the memories of the target.

    Weights and caches that PIM multiplies with lie in the pattern of its banks (output rows over channels and banks,
    sums along a row); everything else is dense. Small results stay on chip while somebody reads them. Refuses models
    that do not fit, with the numbers.
    """

    name = "layout"
    before = GraphStage.PLACED
    after = GraphStage.LAID_OUT

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if context.target is None:
            raise fail(Kind.TARGET_UNKNOWN, "laying out values needs a target", help="give one with -t")
        for value, home in context.target.homes(graph).items():
            rewriter.set_home(value, home)
