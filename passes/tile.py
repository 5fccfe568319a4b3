"""Says how contractions are cut into what the units can hold."""

from __future__ import annotations

from pimc.ir.chains import chains_in, waiting
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Placement, Tile
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.record import record


@record
class TilePass(Pass):
    """Cut contractions to scratchpads, accumulators, rows and global buffers.

    The NPU's tiles come out of a search over what fits the scratchpad, scored by time; PIM's tile is what one
    activation opens. The options bound the NPU's tiles from above (0: no bound).

        %y = matmul(%x, %w)  // npu  ->  %y = matmul(%x, %w)  #tile=64{n=1536, k=4096, tiles=3}
    """

    name = "tile"
    before = GraphStage.LAID_OUT
    after = GraphStage.LAID_OUT

    m: int = 0
    n: int = 0
    k: int = 0

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        target = context.target
        if target is None:
            raise fail(Kind.TARGET_UNKNOWN, "tiling needs a target", help="give one with -t")
        engines = {e.name: e for e in target.engines()}
        nodes = graph.scheduled()
        chains = {nodes[chain.product]: [nodes[i] for i in chain.all] for chain in chains_in(nodes)}
        seconds = {  # each comes behind the op that waits for it
            nodes[waits + 1]: nodes[chain.product]
            for chain in chains_in(nodes)
            if (waits := waiting(nodes, chain)) is not None
        }
        for node in graph.order():
            placement = node.fact(Placement)
            if placement is None or node.fact(Tile) is not None or node in seconds:
                continue
            engine = engines[placement.engine]
            if engine.kind == "npu" and (self.m or self.n or self.k):
                rewriter.set_fact(node, Tile(*(bound or _UNBOUNDED for bound in (self.m, self.n, self.k))))
            tile = target.tile(node, engine, graph.homes, chains.get(node, ()))
            if tile is not None:
                rewriter.set_fact(node, tile)
        for node, product in seconds.items():
            tile = product.fact(Tile)
            if tile is not None:
                rewriter.set_fact(node, tile)


_UNBOUNDED = 1 << 40
