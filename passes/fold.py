"""Folding: what follows from bound dimensions and known contents is computed here, once, instead of on the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import Array, OpClass, TypeRuleError, UnknownContents, lookup
from pimc.ir.source import Derived
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.record import record


@record
class FoldPass(Pass):
    """Infer all types again with contents known, and put constants in the place of nodes whose operands are known.

        %n = shape(%ids); %m = range(0, %n, 1); %x = expand(%m, ...)   ->   %x: constant i64[2, 8]

    Weights are not constants: what is computed from them stays an op. Afterwards every type is static, and nodes that
    only served shapes are gone.
    """

    name: ClassVar[str] = "fold"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    after: ClassVar[GraphStage | None] = GraphStage.BOUND

    limit: int = 1 << 24
    """Elements of the largest result that is computed."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for node in graph.order():
            self._retype(node, graph, rewriter)
            arrays = self._evaluate(node, graph)
            if arrays is not None:
                self._replace(node, arrays, rewriter)
        rewriter.remove_dead()

    def _retype(self, node: Node, graph: Graph, rewriter: Rewriter) -> None:
        try:
            found = node.infer()
        except UnknownContents as unknown:
            raise _undecided(node, graph, str(unknown)) from None
        except TypeRuleError as error:
            raise _misfit(node, graph, str(error)) from None
        for value, type in zip(node.results, found, strict=False):
            rewriter.retype(value, type)

    def _evaluate(self, node: Node, graph: Graph) -> list[Array] | None:
        """The contents of all results, where they are known and small enough."""
        if not self._is_small(node) or (node.op.name == "identity" and graph.is_output(node.result)):
            return None
        arrays = [r.type.array for r in node.results]
        if all(a is not None for a in arrays):
            return [a for a in arrays if a is not None]
        return evaluate_known(node) if node.operands else None

    def _is_small(self, node: Node) -> bool:
        return all(r.type.is_static and math.prod(r.type.static_shape) <= self.limit for r in node.results)

    def _replace(self, node: Node, arrays: Sequence[Array], rewriter: Rewriter) -> None:
        source = Derived(self.name, (node.source,)) if node.source is not None else None
        labels = [r.name for r in node.results]
        constants: list[Value] = []
        for result, array in zip(node.results, arrays, strict=True):
            constants.append(rewriter.constant(result.name, np.array(array), source=source))
            replacement = constants[-1]
            if rewriter.graph.is_output(result):  # which has a place of its own in memory
                replacement = rewriter.add(lookup("identity"), [constants[-1]], origins=(node,)).result
            rewriter.replace_uses(result, replacement)
        rewriter.remove(node)
        for label, constant in zip(labels, constants, strict=True):
            rewriter.rename(constant, label)


def evaluate_known(node: Node) -> list[Array] | None:
    """The results of a node whose operands' contents are all known; None where one is not.

    Raises CompileError where known operands make no sense, e.g. an index beyond the end.
    """
    if node.op.meaning is None or node.op.cls is OpClass.COLLECTIVE:
        return None
    operands = [v.type.array if v is not None else None for v in node.operands]
    if any(v is not None and a is None for v, a in zip(node.operands, operands, strict=True)):
        return None
    try:
        results = node.op.evaluate(operands, node.attributes)
    except (ArithmeticError, IndexError, ValueError, TypeRuleError) as error:
        raise fail(Kind.TYPE, f"{node.op.name} of constants makes no sense: {error}", node.source) from None
    types = [r.type for r in node.results]
    fits = all(a.shape == t.shape and a.dtype == t.dtype.numpy for a, t in zip(results, types, strict=False))
    return list(results[: len(types)]) if fits else None


def _undecided(node: Node, graph: Graph, why: str) -> CompileError:
    """The shape of a result is not known although all dimensions should be."""
    unbound = sorted({str(d) for v in node.inputs() for d in v.type.shape if not isinstance(d, int)})
    if unbound:
        return CompileError(
            Diagnostic(
                Kind.DIM_UNBOUND,
                f"{node.op.name}: {why}; dimensions {', '.join(unbound)} have no value",
                node.source,
                help="run 'bind' before 'fold', with a number for each dimension",
                window=graph.window(node),
            )
        )
    return CompileError(
        Diagnostic(
            Kind.DATA_DEPENDENT,
            f"the shape of '{node.name}' ({node.op.name}) depends on data: {why}",
            node.source,
            notes=tuple(_unknown(v) for v in node.inputs() if v.type.array is None),
            help="export the model so that its shapes follow from those of its inputs, or give arrays for the inputs "
            "that decide them (--values)",
            window=graph.window(node),
        )
    )


def _unknown(value: Value) -> str:
    return f"'{value.name}' is {value.type}, {'an input' if value.owner is None else 'computed from inputs'}"


def _misfit(node: Node, graph: Graph, why: str) -> CompileError:
    shown = ", ".join(str(v.type) if v is not None else "_" for v in node.operands)
    return CompileError(
        Diagnostic(
            Kind.TYPE,
            f"{node.op.name}: {why}",
            node.source,
            notes=(f"operands: {shown}",),
            help="the numbers given for dimensions may not fit together",
            window=graph.window(node),
        )
    )
