"""Lets a row of weights that is open meet several tokens."""

from __future__ import annotations

from typing import ClassVar

from pimc.ir.diagnostics import Kind, fail, nearest
from pimc.ir.facts import Placement, Tile
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

USES = ("auto", "always", "never")


@record
class ShareRowsPass(Pass):
    """Weights of several outputs share a row of the banks, where the vectors of a product are many.

    A row of a bank has one output's weights, and serves one vector: the global buffer holds no more of it than meets a
    row. With parts of several outputs in a row, the buffer holds a stretch of several vectors, and an open row meets
    them all. Which of the tiles is best is asked of the machine; the tile says it to the layout.

        %y = matmul(%x, %w)  // pim  ->  %y = matmul(%x, %w)  #tile=4{n=2048, k=256, tiles=64}

    Does nothing where one vector passes, on other engines, under published mappings, and where prefill and decode of
    one run read the same weights.
    """

    name: ClassVar[str] = "share-rows"
    before: ClassVar[GraphStage] = GraphStage.PLACED

    use: str = "auto"
    """"auto" where that takes less time, "always" where it can, or "never"."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if self.use not in USES:
            message = f"share-rows.use is 'auto', 'always' or 'never', not '{self.use}'"
            raise fail(Kind.PASS_OPTION, message, help=nearest(self.use, USES))
        target = context.target
        if target is None or self.use == "never":
            return
        for node in graph.order():
            if node.op.name == "matmul" and node.fact(Tile) is None:
                tile = self._best(node, target)
                if tile is not None:
                    rewriter.set_fact(node, tile)

    def _best(self, node: Node, target: Target) -> Tile | None:
        """The tile that takes the least time; None: that of one vector."""
        placement = node.fact(Placement)
        engine = next((e for e in target.engines() if placement is not None and e.name == placement.engine), None)
        if engine is None:
            return None
        seconds = {tile: target.estimate(node.with_fact(tile), engine) for tile in target.shared_tiles(node, engine)}
        if not seconds:
            return None
        best = min(seconds, key=seconds.__getitem__)
        return best if self.use == "always" or seconds[best] < target.estimate(node, engine) else None
