"""Passes as text, their options, their order, their observers, and plug-ins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from pimc.ir.diagnostics import CompileError, InternalError, Kind
from pimc.ir.facts import Fact, Nature, Phase, Work
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.op import lookup
from pimc.ir.stage import GraphStage
from pimc.ir.text import parse
from pimc.passes.manager import Observer, Pass, PassContext, PassManager, PatternPass, Pipeline
from pimc.passes.pipeline import DEFAULT, default_pipeline, make_pass, parse_pipeline, show_pipeline
from pimc.passes.registry import BUILTIN, PassRegistry, default_registry
from pimc.passes.tag_nature import TagNaturePass

GRAPH = """\
graph g(%x: f32[4]) {
  constant %two: f32[] = 2.0
  %y = mul(%x, %two) : f32[4]
  return %y
}
"""


@dataclass(frozen=True)
class DoubleToAdd(PatternPass):
    """`mul(x, 2) -> add(x, x)`."""

    name: ClassVar[str] = "double-to-add"
    root: ClassVar[tuple[str, ...]] = ("mul",)
    times: int = 1
    labels: tuple[str, ...] = ()
    limit: float | None = None

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        rewriter.replace(node, lookup("add"), (node.operands[0], node.operands[0]))


@dataclass(frozen=True)
class Broken(Pass):
    """Fails."""

    name: ClassVar[str] = "broken"

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        raise KeyError("gone")


@dataclass(frozen=True)
class Late(Pass):
    """Needs a placed graph."""

    name: ClassVar[str] = "late"
    before: ClassVar[GraphStage] = GraphStage.PLACED

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        raise AssertionError("must not run")


@dataclass(frozen=True)
class Careless(Pass):
    """Notes a fact, or claims a stage that asks for more; breaks an edge behind the rewriter's back, if told so."""

    name: ClassVar[str] = "careless"
    after: ClassVar[GraphStage | None] = GraphStage.TAGGED
    breaks: bool = False
    notes: tuple[Fact, ...] = (Phase.DECODE, Work(Nature.ELEMENTWISE, 1, 1))

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        (node,) = graph.order()
        for fact in self.notes:
            rewriter.set_fact(node, fact)
        if self.breaks:
            node.operands = (node.operands[0], node.operands[0])


def registry() -> PassRegistry:
    own = {p.name: p for p in (DoubleToAdd, Broken, Late)}
    return PassRegistry(dict(BUILTIN), dict(own))


def kinds(error: pytest.ExceptionInfo[CompileError]) -> list[Kind]:
    return [d.kind for d in error.value.diagnostics]


class Seen(Observer):
    def __init__(self) -> None:
        self.events: list[tuple[str, bool]] = []

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        assert seconds >= 0
        self.events.append((name, changed))


def test_observers_see_what_changed() -> None:
    seen = Seen()
    graph = parse(GRAPH)
    pipeline = parse_pipeline("double-to-add, double-to-add,dce", registry())
    stage = PassManager(observers=[seen]).run(pipeline, graph)
    assert stage is GraphStage.IMPORTED
    assert seen.events == [("double-to-add", True), ("double-to-add", False), ("dce", True)]
    assert [n.op.name for n in graph.order()] == ["add"]


def test_disabled_passes_do_not_run() -> None:
    seen = Seen()
    PassManager(observers=[seen]).run(
        parse_pipeline("dce,double-to-add", registry()), parse(GRAPH), PassContext(disabled=frozenset({"dce"}))
    )
    assert [name for name, _ in seen.events] == ["double-to-add"]


def test_options_take_the_types_of_their_fields() -> None:
    text = "double-to-add{times=3,labels=[a,b],limit=0.5},dce"
    pipeline = parse_pipeline(text, registry())
    assert pipeline.passes[0] == DoubleToAdd(times=3, labels=("a", "b"), limit=0.5)
    assert show_pipeline(pipeline) == text
    assert make_pass("double-to-add", {"limit": "none"}, registry()) == DoubleToAdd()


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("tag-natur", Kind.PASS_UNKNOWN, "did you mean 'tag-nature'?"),
        ("tag-nature{gemv_row=2}", Kind.PASS_OPTION, "did you mean 'gemv_rows'?"),
        ("tag-nature{gemv_rows=two}", Kind.PASS_OPTION, None),
        ("broken{x=1}", Kind.PASS_OPTION, "'broken' takes no options"),
        ("dce{x", Kind.SYNTAX, "write passes as a,b{option=value,option=value}"),
        ("dce{x 1}", Kind.SYNTAX, "write option=value"),
    ],
)
def test_mistakes_in_a_pipeline(text: str, kind: Kind, hint: str | None) -> None:
    with pytest.raises(CompileError) as error:
        parse_pipeline(text, registry())
    assert kinds(error) == [kind]
    assert error.value.diagnostics[0].help == hint


def test_a_wrong_order_is_refused_before_anything_runs() -> None:
    seen = Seen()
    with pytest.raises(CompileError) as error:
        PassManager(observers=[seen]).run(parse_pipeline("dce,late,tag-nature,fold", registry()), parse(GRAPH))
    assert kinds(error) == [Kind.PIPELINE]
    assert seen.events == []
    with pytest.raises(CompileError) as error:
        parse_pipeline("fold,tag-nature,canonicalize", registry()).check()
    assert "move 'canonicalize' before it" in str(error.value.diagnostics[0].help)


def test_a_disabled_pass_that_is_needed_is_named() -> None:
    pipeline = parse_pipeline("fold,canonicalize,tag-nature", registry())
    with pytest.raises(CompileError) as error:
        PassManager().run(pipeline, parse(GRAPH), PassContext(disabled=frozenset({"canonicalize"})))
    (found,) = error.value.diagnostics
    assert (found.kind, found.help) == (Kind.PIPELINE, "let 'canonicalize' run: without it no program can be made")


def test_a_failing_pass_is_our_bug_or_the_plug_ins() -> None:
    pipeline = Pipeline((Broken(),))
    with pytest.raises(InternalError, match="pass 'broken' failed: KeyError"):
        PassManager().run(pipeline, parse(GRAPH))
    with pytest.raises(CompileError) as error:
        PassManager(trusted=frozenset()).run(pipeline, parse(GRAPH))
    assert kinds(error) == [Kind.PLUGIN]


def test_what_passes_note_is_verified() -> None:
    PassManager().run(Pipeline((Careless(),)), parse(GRAPH), start=GraphStage.CANONICAL)
    with pytest.raises(CompileError, match="must have: Work") as error:
        PassManager().run(Pipeline((Careless(notes=(Phase.DECODE,)),)), parse(GRAPH), start=GraphStage.CANONICAL)
    assert error.value.diagnostics[0].notes == ("found after pass 'careless'",)


def test_passes_of_others_are_followed_by_a_look_at_all_of_the_graph() -> None:
    others = PassManager(trusted=frozenset())
    with pytest.raises(CompileError, match="does not know that"):
        others.run(Pipeline((Careless(breaks=True),)), parse(GRAPH), start=GraphStage.CANONICAL)


def test_the_default_pipeline_is_in_order() -> None:
    pipeline = default_pipeline(["tag-nature.skinny_rows=8"])
    assert [p.name for p in pipeline] == list(DEFAULT)
    assert pipeline.check() >= GraphStage.LAID_OUT
    assert TagNaturePass(skinny_rows=8) in pipeline.passes


@pytest.mark.parametrize("option", ["tag-nature", "tag-nature.gemv=1", "tag-natur.x=1", "tag-nature.gemv_rows=x"])
def test_mistakes_in_options(option: str) -> None:
    with pytest.raises(CompileError) as error:
        default_pipeline([option])
    assert kinds(error)[0] in (Kind.PASS_OPTION, Kind.PASS_UNKNOWN)


PLUGIN = """\
from dataclasses import dataclass
from pimc.ir.stage import GraphStage
from pimc.passes.manager import PatternPass

@dataclass(frozen=True)
class Mine(PatternPass):
    name = "mine"
    before = GraphStage.TAGGED
    root = ("mul",)
    strength: int = 1

    def rewrite(self, node, rewriter):
        pass
"""


def test_a_file_with_passes_joins_the_default_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    mine = registry()
    assert [p.name for p in mine.load_file(file)] == ["mine"]
    names = [p.name for p in default_pipeline(["mine.strength=2"], registry=mine)]
    assert names.index("mine") == names.index("place") - 1
    assert "mine" not in mine.builtin()
    assert "dce" in mine.builtin()


@pytest.mark.parametrize(
    ("source", "kind"), [(None, Kind.FILE_MISSING), ("x = 1", Kind.PLUGIN), ("import nothing_like_this", Kind.PLUGIN)]
)
def test_mistakes_in_plug_in_files(source: str | None, kind: Kind, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    if source is not None:
        file.write_text(source)
    with pytest.raises(CompileError) as error:
        registry().load_file(file)
    assert kinds(error) == [kind]


def test_an_entry_point_that_cannot_be_loaded_is_a_diagnostic() -> None:
    with pytest.raises(CompileError) as error:
        PassRegistry({"other": "no_such_module:Thing"}).load("other")
    assert kinds(error) == [Kind.PLUGIN]


def test_builtins_are_the_entry_points_of_the_distribution() -> None:
    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        pytest.skip("not a checkout")
    declared = tomllib.loads(file.read_text())["project"]["entry-points"]["pimc.passes"]
    assert declared == dict(BUILTIN)


@pytest.mark.parametrize("name", [name for name, _ in BUILTIN])
def test_every_pass_has_its_name_and_documentation(name: str) -> None:
    kind = default_registry().load(name)
    assert kind.name == name
    assert kind.__doc__
