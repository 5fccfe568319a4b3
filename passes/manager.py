"""What a pass is, and how a pipeline of passes is checked and run.

    @dataclass(frozen=True)
    class DoubleToAdd(PatternPass):
        '''`mul(x, 2) -> add(x, x)`.'''

        name = "double-to-add"
        root = ("mul",)

        def rewrite(self, node: Node, rewriter: Rewriter) -> None: ...

A pass is a frozen dataclass whose fields are its options. It says from which stage on it can run (`before`) and
which stage it makes the graph reach (`after`); a pipeline in an impossible order is refused before anything runs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

from pimc.ir.diagnostics import CompileError, Diagnostic, InternalError, Kind, PimcError, fail
from pimc.ir.facts import Phase
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.ir.verify import verify, verify_notes
from pimc.record import record

if TYPE_CHECKING:
    from pimc.ir.requests import Batch, Request
    from pimc.ir.target import Target


@record
class PassContext:
    """What a compilation gives to every pass."""

    dims: Mapping[str, int] = field(default_factory=dict)
    """Numbers for symbolic dimensions, by name."""
    target: Target | None = None
    phase: Phase | None = None
    """The phase that the user says the graph has; None: found out from dataflow."""
    batch: Batch | None = None
    """The requests that the graph is compiled for, where they have lengths of their own."""
    parallel: Mapping[str, int] = field(default_factory=dict)
    """Degrees of parallelism by kind: `{"pp": 4, "tp": 8}`."""
    emitted: Callable[[object], None] | None = None
    """Is given the program that `emit` makes."""
    disabled: frozenset[str] = frozenset()
    """Names of passes that must not run."""
    instance: Callable[[Sequence[Request]], Graph] | None = None
    """The model once more, for some of the requests, as it comes out of the passes before the one that asks."""


@record
class Pass(ABC):
    """One transformation. Subclasses are frozen dataclasses; their fields are the options users can set."""

    name: ClassVar[str]
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    """The stage that the graph must have reached."""
    after: ClassVar[GraphStage | None] = None
    """The stage that the graph has reached afterwards, if it was not further already; None: the one it had."""

    @abstractmethod
    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        """Transform the graph; raises CompileError where the user's work cannot be done."""


@record
class PatternPass(Pass):
    """A pass that looks at every node of some ops, once, in topological order."""

    root: ClassVar[tuple[str, ...]] = ()
    """Names of the ops at which the pattern is anchored; empty: every op."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for node in graph.order():
            if node in graph and (not self.root or node.op.name in self.root):
                self.rewrite(node, rewriter)

    @abstractmethod
    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        """Rewrite around `node`, or leave it. Nodes may be removed and added at will."""


class Observer:
    """Is told about every pass; the base class does nothing."""

    def before_pass(self, name: str, graph: Graph) -> None:
        """Called before the pass runs."""

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        """Called after the pass, and after the verifier has agreed with its result."""


@record
class Pipeline:
    """Passes in the order in which they run."""

    passes: tuple[Pass, ...]

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def without(self, disabled: Iterable[str]) -> Pipeline:
        gone = frozenset(disabled)
        return Pipeline(tuple(p for p in self.passes if p.name not in gone))

    def check(self, start: GraphStage = GraphStage.IMPORTED, disabled: Iterable[Pass] = ()) -> GraphStage:
        """The stage that a graph of stage `start` will have at the end.

        disabled: passes that were left out. Raises CompileError (PIPELINE), with one diagnostic for every pass that
        comes too early.
        """
        stage, wrong = start, []
        for p in self.passes:
            if stage < p.before:
                wrong.append(self._too_early(p, stage, disabled))
                stage = p.before
            stage = stage if p.after is None else max(stage, p.after)
        if wrong:
            raise CompileError(wrong)
        return stage

    def _too_early(self, early: Pass, stage: GraphStage, disabled: Iterable[Pass]) -> Diagnostic:
        need, given = (s.name.lower().replace("_", " ") for s in (early.before, stage))
        rest = self.passes[self.passes.index(early) + 1 :]
        missed = [p.name for p in disabled if p.after is not None and early.before <= p.after]
        later = [p.name for p in rest if p.after is not None and early.before <= p.after and p.before <= stage]
        mend = f"add a pass that makes the graph {need}"
        if missed:
            mend = f"let '{missed[0]}' run: without it no program can be made"
        elif later:
            mend = f"move '{later[0]}' before it"
        return Diagnostic(
            Kind.PIPELINE,
            f"pass '{early.name}' needs a graph that is {need}, but here it is {given}",
            notes=(f"order: {', '.join(p.name for p in self.passes)}",),
            help=mend,
        )


@record
class PassManager:
    """Runs pipelines: checks the order first, then verifies the graph after every pass: what the pass has changed, by
    the rewriter's count, and all of it after a pass that is not trusted."""

    verify: bool = True
    observers: Sequence[Observer] = ()
    trusted: frozenset[str] | None = None
    """Names of the passes whose failures are bugs of ours; None: all. Others' failures are reported as PLUGIN."""

    def run(
        self,
        pipeline: Pipeline,
        graph: Graph,
        context: PassContext | None = None,
        *,
        start: GraphStage = GraphStage.IMPORTED,
    ) -> GraphStage:
        """Run the passes on `graph`, in place; the stage reached. Passes in `context.disabled` are left out."""
        context = context or PassContext()
        active = pipeline.without(context.disabled)
        active.check(start, [p for p in pipeline if p.name in context.disabled])
        stage = start
        for p in active:
            before, stage = stage, stage if p.after is None else max(stage, p.after)
            self._run_one(p, graph, context, before, stage)
        return stage

    def _run_one(self, p: Pass, graph: Graph, context: PassContext, before: GraphStage, stage: GraphStage) -> None:
        for observer in self.observers:
            observer.before_pass(p.name, graph)
        version, notes = graph.version, graph.notes
        began = time.perf_counter()
        try:
            p.run(graph, Rewriter(graph, p.name), context)
        except PimcError:
            raise
        except (Exception, SystemExit) as error:
            raise self._blame(p, f"{type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - began
        edits = graph.version - version
        changed = edits > 0
        if self.verify and (changed or p.after is not None):
            only_notes = before >= GraphStage.CANONICAL and edits == graph.notes - notes and self._trusts(p)
            self._verify(p, graph, stage, verify_notes if only_notes else verify)
        for observer in self.observers:
            observer.after_pass(p.name, graph, seconds, changed)

    def _trusts(self, p: Pass) -> bool:
        return self.trusted is None or p.name in self.trusted

    def _verify(
        self, p: Pass, graph: Graph, stage: GraphStage, check: Callable[[Graph, GraphStage], None]
    ) -> None:
        try:
            check(graph, stage)
        except CompileError as error:
            raise CompileError(
                [
                    Diagnostic(
                        d.kind, d.message, d.source, (*d.notes, f"found after pass '{p.name}'"), d.help, d.window
                    )
                    for d in error.diagnostics
                ]
            ) from error

    def _blame(self, p: Pass, what: str) -> PimcError:
        if self._trusts(p):
            return InternalError(f"pass '{p.name}' failed: {what}")
        return fail(Kind.PLUGIN, f"pass '{p.name}' failed: {what}", help="the pass is not one of pimc's own")
