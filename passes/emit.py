"""Turns the scheduled graph into command streams."""

from __future__ import annotations

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.record import record


@record
class EmitPass(Pass):
    """Lower every op to commands of its engine, fold identical layers into loops, and split the result into streams.

    The program goes to `context.emitted`; the graph stays as it is.
    """

    name = "emit"
    before = GraphStage.LAID_OUT
    after = GraphStage.SCHEDULED

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if context.target is None:
            raise fail(Kind.TARGET_UNKNOWN, "emitting commands needs a target", help="give one with -t")
        program = context.target.emit(graph, context.dims)
        if context.emitted is not None:
            context.emitted(program)
