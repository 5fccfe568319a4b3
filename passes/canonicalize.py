"""Canonicalization: the many ways in which exporters write the same thing become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from pimc.ir.diagnostics import InternalError
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes import (
    canonical_arith,
    canonical_attention,
    canonical_expand,
    canonical_linear,
    canonical_moves,
    canonical_norm,
    canonical_packed,
    canonical_shape,
)
from pimc.passes.fold import evaluate_known
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

Rule = Callable[[Node, Rewriter], None]

_TABLES: tuple[dict[str, tuple[Rule, ...]], ...] = (
    canonical_arith.RULES,
    canonical_attention.RULES,
    canonical_expand.RULES,
    canonical_linear.RULES,
    canonical_norm.RULES,
    canonical_shape.RULES,
    canonical_moves.RULES,
    canonical_packed.RULES,
)

RULES: dict[str, tuple[Rule, ...]] = {
    op: tuple(rule for table in _TABLES for rule in table.get(op, ())) for table in _TABLES for op in table
}
"""What is tried at each node, by the name of its op. The docstring of a rule shows it as `before -> after`."""


@record
class CanonicalizePass(Pass):
    """Rewrite exporters' forms until none is left.

        gemm(x, w, c, transB=1)                 -> add(matmul(x, transpose(w)), c)
        squeeze, unsqueeze, flatten             -> reshape to a constant shape
        split                                   -> slices
        onnx_attention, ms_group_query_attention, ms_multi_head_attention -> attention, cache_append, rotary
        layer_normalization, ms_skip_..., ...   -> layer_norm, rms_norm, add
        identity, x + 0, x * 1, a cast to the same type, a reshape to the same shape, transposes that cancel -> x
        pow(x, 2)                               -> mul(x, x)
        slice(transpose(x)), scatter to a known range -> transpose(slice(x)), concat
        slices of the columns of a product      -> products with slices of the weight
        reshape(matmul(reshape(x), w))          -> matmul(x, w) where rows are merged and split again

    Each rule is a small function in `passes/canonical_*.py`.
    """

    name: ClassVar[str] = "canonicalize"
    before: ClassVar[GraphStage] = GraphStage.BOUND
    after: ClassVar[GraphStage | None] = GraphStage.CANONICAL

    rounds: int = 16
    """How often the whole graph is gone through at most; each round may make room for the next."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for _ in range(self.rounds):
            version = graph.version
            for node in graph.order():
                if node in graph:
                    self._rewrite(node, graph, rewriter)
            if graph.version == version:
                break
        else:
            raise InternalError(f"the rules of {self.name} do not come to an end")
        rewriter.remove_dead()

    def _rewrite(self, node: Node, graph: Graph, rewriter: Rewriter) -> None:
        if not graph.use_count(node.result) and not any(graph.use_count(r) for r in node.results):
            rewriter.remove(node)
            return
        for rule in RULES.get(node.op.name, ()):
            if node in graph:
                rule(node, rewriter)
        if node in graph:
            self._fold(node, graph, rewriter)

    def _fold(self, node: Node, graph: Graph, rewriter: Rewriter) -> None:
        """Rules may leave operations on constants (a mask of known lengths): these become constants too."""
        if any(graph.is_output(r) for r in node.results) or not node.operands:
            return
        if any(v is not None and v.type.array is None for v in node.operands):
            return
        arrays = evaluate_known(node)
        if arrays is None or sum(a.size for a in arrays) > 1 << 24:
            return
        for result, array in zip(node.results, arrays, strict=True):
            rewriter.replace_uses(result, rewriter.constant(result.name, array.copy(), source=node.source))
        rewriter.remove(node)
