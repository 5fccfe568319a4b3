"""Gives every node an engine: the one on which its own commands take the least time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail, nearest
from pimc.ir.facts import Alternative, Placement, Work
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import OpClass
from pimc.ir.stage import GraphStage
from pimc.ir.target import Engine, Target
from pimc.ir.views import is_view_op
from pimc.passes.expand_quantized import expand_weight, expanded_product
from pimc.passes.manager import Pass, PassContext
from pimc.passes.tag_nature import RowOrigins, TagNaturePass
from pimc.record import record


class _Orders:
    """In which order values lie for the engines that have one of their own: the first that needs a value decides."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._found: dict[Value, tuple[Hashable, Node]] = {}

    def why_not(self, node: Node, engine: Engine) -> str:
        """Why an operand cannot lie as the engine needs it; empty if all can."""
        for value, order in self._target.lying(node, engine):
            found, first = self._found.get(value, (order, node))
            if found != order:
                return f"its operand %{value.name} lies there as %{first.name} needs it, in another order"
        return ""

    def settle(self, node: Node, placement: Placement) -> None:
        engine = next((e for e in self._target.engines() if e.name == placement.engine), None)
        for value, order in self._target.lying(node, engine) if engine is not None else ():
            self._found.setdefault(value, (order, node))


@record
class PlacePass(Pass):
    """Place each op on an engine of the target, and keep the reason.

    Every engine that has commands for the op is asked what those would take on an idle machine, bringing the operands
    included; the fastest one gets the op. A placement that the model itself asks for (`@engine(...)` in the DSL), or
    that an earlier pass has set, is kept.

        %s = attention_scores(%q, %k)  ->  %s = attention_scores(%q, %k)  #place=pim
    """

    name = "place"
    before = GraphStage.TAGGED
    after = GraphStage.PLACED

    only: str = ""
    """Place everything on this engine where it can run there; empty: by estimated time."""
    expand: str = "auto"
    """Quantized weights lie in memory by their values, worked out when they are loaded: "auto" for engines that cannot
    expand them as they read them, "always", or "never" (only engines that can expand them get them)."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        target = context.target
        if self.expand not in ("auto", "always", "never"):
            message = f"place.expand is 'auto', 'always' or 'never', not '{self.expand}'"
            raise fail(Kind.PASS_OPTION, message, help=nearest(self.expand, ("auto", "always", "never")))
        if target is None:
            raise fail(Kind.TARGET_UNKNOWN, "placing ops needs a target", help="give one with -t")
        if self.only and self.only not in {e.name for e in target.engines()}:
            hint = did_you_mean(self.only, [e.name for e in target.engines()])
            raise fail(Kind.PASS_OPTION, f"place.only: '{target.name}' has no engine '{self.only}'", help=hint)
        wrong: list[Diagnostic] = []
        orders = _Orders(target)
        for node in graph.order():
            try:
                if node.op.name == "quantized_matmul" and node.fact(Placement) is None:
                    self._place_quantized(node, rewriter, target)
                else:
                    placement = self._placement(node, target, orders)
                    rewriter.set_fact(node, placement)
                    orders.settle(node, placement)
            except CompileError as error:
                wrong += error.diagnostics
        if wrong:
            raise CompileError(wrong)

    def _placement(self, node: Node, target: Target, orders: _Orders) -> Placement:
        given = node.fact(Placement)
        if given is not None:
            return self._kept(node, given, target, orders)
        refusals = {e: target.why_not(node, e) or orders.why_not(node, e) for e in target.engines()}
        able = [e for e in refusals if not refusals[e]]
        if not able:
            raise self._nowhere(node, refusals)
        wished = [e for e in able if e.name == self.only]
        if node.op.cls is OpClass.COLLECTIVE:
            return Placement(able[0].name, "joins devices over the link")
        if is_view_op(node):
            chosen = (wished or able)[0]
            return Placement(chosen.name, "changes how elements are addressed; moves them only where it must")
        costs = {e: target.estimate(node, e) if len(able) > 1 else 0.0 for e in able}
        best = wished[0] if wished else min(able, key=lambda e: costs[e])
        alternatives = tuple(
            Alternative(e.name, costs.get(e, 0.0), illegal=refusals[e])
            for e in refusals
            if e is not best and e.kind != "link"
        )
        reason = self._reason(node, best, costs, target.bound(node, best))
        return Placement(best.name, reason, alternatives, seconds=costs[best])

    def _place_quantized(self, node: Node, rewriter: Rewriter, target: Target) -> None:
        """Compare engines that expand the weight as they read it with those that need it by its values.

        On one engine the small form wins, since memory is what quantized weights are for.
        """
        plain = expanded_product(node)
        refusals = {e: target.why_not(node, e) for e in target.engines()}
        asked = {"always": refusals, "auto": [e for e in refusals if refusals[e]], "never": []}[self.expand]
        forms = {e: plain if e in asked else node for e in refusals}
        illegal = {e: target.why_not(plain, e) if form is plain else refusals[e] for e, form in forms.items()}
        able = [e for e in forms if not illegal[e]]
        if not able:
            raise self._nowhere(node, illegal)
        costs = {e: target.estimate(forms[e], e) for e in able}
        wished = [e for e in able if e.name == self.only]
        best = wished[0] if wished else min(able, key=lambda e: costs[e])
        limit = target.bound(forms[best], best)
        if forms[best] is plain:
            node = expand_weight(node, rewriter)
            work = node.fact(Work)
            if work is not None:
                rewriter.set_fact(node, replace(work, bytes=TagNaturePass().work(node, RowOrigins()).bytes))
            what = f"its weight is expanded when it is loaded: {refusals[best] or 'asked for by place.expand'}"
        else:
            levels = node.operands[1]
            kept = levels.type.dtype.text if levels is not None else ""
            what = f"its weight stays {kept} in memory and is expanded by commands as it is read"
        reason = f"{self._reason(node, best, costs, limit)}; {what}"
        others = tuple(
            Alternative(e.name, costs.get(e, 0.0), illegal=illegal[e])
            for e in forms
            if e is not best and e.kind != "link"
        )
        rewriter.set_fact(node, Placement(best.name, reason, others, seconds=costs[best]))

    def _kept(self, node: Node, given: Placement, target: Target, orders: _Orders) -> Placement:
        engine = next((e for e in target.engines() if e.name == given.engine), None)
        refusal = f"'{target.name}' has no such engine"
        if engine is not None:
            refusal = target.why_not(node, engine) or orders.why_not(node, engine)
        if refusal:
            raise fail(
                Kind.ILLEGAL,
                f"%{node.name} ({node.op.name}) is asked to run on '{given.engine}', but {refusal}",
                node.source,
                help=f"engines of '{target.name}': {', '.join(e.name for e in target.engines())}",
            )
        return given

    @staticmethod
    def _nowhere(node: Node, refusals: dict[Engine, str]) -> CompileError:
        notes = tuple(f"{e.name}: {why}" for e, why in refusals.items() if e.kind != "link")
        return fail(Kind.ILLEGAL, f"no engine can run %{node.name} ({node.op.name})", node.source, notes=notes)

    def _reason(self, node: Node, best: Engine, costs: dict[Engine, float], limit: str) -> str:
        work = node.fact(Work)
        nature = f"{work.nature.value}" if work is not None else node.op.name
        if work is not None and work.k:
            nature += f" {work.m}x{work.n}x{work.k}, {work.intensity:.1f} FLOP/B"
        if node.op.name == "expert_matmul":
            nature += ", experts lie alike, so that any routing takes the same time"
        others = [(costs[e], e.name) for e in costs if e is not best]
        limit = f"; {limit}" if limit else ""
        if self.only and best.name == self.only:
            return f"{nature}: asked for by place.only{limit}"
        if not others:
            return f"{nature}: {best.name} is the only engine that can run it{limit}"
        seconds, name = min(others)
        share = seconds / costs[best] if costs[best] else float("inf")
        here, there = show_seconds(costs[best]), show_seconds(seconds)
        return f"{nature}: {here} on {best.name}, {there} on {name} ({_two_digits(share)}x){limit}"


def _two_digits(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):.15g}"


def show_seconds(seconds: float) -> str:
    """A time with three digits and a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size:  # three digits of less would be 1e+03
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
