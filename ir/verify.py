"""Check that a graph is well formed, that its types are what the ops say, and that it has what its stage asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.facts import Stage
from pimc.ir.graph import Graph, Node, Value
from pimc.ir.op import TypeRuleError, UnknownContents
from pimc.ir.stage import RULES, GraphStage, illegal, is_resolved, is_static, required_facts
from pimc.ir.types import TensorType


def verify(graph: Graph, stage: GraphStage = GraphStage.IMPORTED) -> None:
    """Raises CompileError with every violation, each with a window of the graph around its node."""
    order, values = graph.order(), list(graph.values())
    found = [*_structure(graph, order, values)]
    if not found:  # types say nothing about a graph whose edges are broken
        for node in order:
            found += _types(graph, node, stage)
        found += _static(graph, values, stage)
        found += _notes(graph, order, stage)
    if found:
        raise CompileError(found)


def verify_notes(graph: Graph, stage: GraphStage) -> None:
    """The same for a graph that was verified as one of canonical ops, and in which nothing has changed since but notes
    (`Graph.notes`)."""
    found = [*_notes(graph, graph.order(), stage)]
    if found:
        raise CompileError(found)


def _notes(graph: Graph, order: list[Node], stage: GraphStage) -> Iterator[Diagnostic]:
    """What is said of nodes is what the stage asks for."""
    unfit = {op.name for op in {node.op.name: node.op for node in order}.values() if illegal(op, stage)}
    needed = frozenset(required_facts(stage))
    for node in order:
        if node.op.name in unfit or not _has_facts(node, needed):
            yield from _stage(graph, node, stage)
    yield from _pipeline(graph, order)


def _structure(graph: Graph, order: list[Node], values: list[Value]) -> Iterator[Diagnostic]:
    yield from _names(graph, values)
    yield from _outputs(graph)
    defined = {*graph.inputs, *graph.weights}
    known, reads = graph.reads, 0
    for node in order:
        for index, value in enumerate(node.operands):
            if value is None:
                continue
            if value in defined and known.get(value, {}).get((node.uid, index)) is node:
                reads += 1
                continue
            if value not in defined:
                yield _at(graph, node, Kind.GRAPH, f"operand {index} of %{node.name}, %{value.name}, is not defined")
            else:
                yield _at(graph, node, Kind.GRAPH, f"%{value.name} does not know that %{node.name} reads it")
        for index, result in enumerate(node.results):
            defined.add(result)
            if result.owner is not node or result.index != index:
                yield _at(graph, node, Kind.GRAPH, f"result %{result.name} does not belong to its node")
    if reads == sum(map(len, known.values())):
        return  # nobody else is said to read them
    for value in values:
        for user, index in graph.uses(value):
            if user not in graph or index >= len(user.operands) or user.operands[index] is not value:
                yield Diagnostic(Kind.GRAPH, f"%{value.name} is said to be read by %{user.name}, which does not")


def _names(graph: Graph, values: list[Value]) -> Iterator[Diagnostic]:
    named = graph.named
    lost = [value for value in values if named.get(value.name) is not value]
    if not lost and len(set(values)) == len(values):
        return  # of two with one name one would be lost
    for name, count in Counter([value.name for value in values]).items():
        if count > 1:
            yield Diagnostic(Kind.GRAPH, f"{count} values are called %{name}")
    for value in lost:
        yield Diagnostic(Kind.GRAPH, f"%{value.name} cannot be found by its name", value.source)


def _outputs(graph: Graph) -> Iterator[Diagnostic]:
    if not graph.outputs:
        yield Diagnostic(Kind.GRAPH, f"graph '{graph.name}' has no outputs")
    for name, count in Counter(name for name, _ in graph.outputs).items():
        if count > 1:
            yield Diagnostic(Kind.GRAPH, f"{count} outputs are called '{name}'")
    for name, value in graph.outputs:
        if graph.value(value.name) is not value:
            yield Diagnostic(Kind.GRAPH, f"output '{name}' is %{value.name}, which is not in the graph", value.source)


def _types(graph: Graph, node: Node, stage: GraphStage) -> Iterator[Diagnostic]:
    try:
        inferred = node.infer()
    except UnknownContents as error:
        if is_resolved(stage):
            yield _at(graph, node, Kind.DATA_DEPENDENT, f"the shape of %{node.name} depends on data: {error}")
        return
    except TypeRuleError as error:
        yield _at(graph, node, Kind.TYPE, f"{node.op.name}: {error}")
        return
    if len(inferred) != len(node.results):
        message = f"{node.op.name} gives {len(inferred)} results, but %{node.name} has {len(node.results)}"
        yield _at(graph, node, Kind.TYPE, message)
        return
    for result, expected in zip(node.results, inferred, strict=True):
        if result.type is not expected and not may_equal(result.type, expected):
            yield _at(graph, node, Kind.TYPE, f"%{result.name} is {result.type}, but {node.op.name} gives {expected}")


def may_equal(left: TensorType, right: TensorType) -> bool:
    """Whether two types can be the same once all dimensions are bound."""
    if left == right:
        return True
    if left.dtype is not right.dtype or left.rank != right.rank:
        return False
    return all(a == b for a, b in zip(left.shape, right.shape, strict=True) if isinstance(a - b, int))


def _has_facts(node: Node, needed: Set[type]) -> bool:
    """Whether a node has the facts that it needs, and all that it has are what they should be."""
    return needed <= node.facts.keys() and [*map(type, node.facts.values())] == [*node.facts]


def _stage(graph: Graph, node: Node, stage: GraphStage) -> Iterator[Diagnostic]:
    reason = illegal(node.op, stage)
    if reason is not None:
        yield _at(graph, node, Kind.STAGE, f"at stage {stage.name}: {reason}")
    lacks = [fact.__name__ for fact in required_facts(stage) if fact not in node.facts]
    if lacks:
        yield _at(graph, node, Kind.STAGE, f"at stage {stage.name} %{node.name} must have: {', '.join(lacks)}")
    for kind, fact in node.facts.items():
        if not isinstance(fact, kind):
            yield _at(graph, node, Kind.STAGE, f"%{node.name} has {fact!r} where its {kind.__name__} should be")


def _static(graph: Graph, values: list[Value], stage: GraphStage) -> Iterator[Diagnostic]:
    if not is_static(stage):
        return
    for value in values:
        if not value.type.is_static:
            yield _of_value(graph, value, f"at stage {stage.name} {RULES[GraphStage.BOUND].about}, but {value!r}")


def _pipeline(graph: Graph, order: list[Node]) -> Iterator[Diagnostic]:
    """Where a graph is cut into pipeline stages every node belongs to one."""
    lacking = [node for node in order if Stage not in node.facts]
    if len(lacking) < len(order):
        for node in lacking:
            yield _at(graph, node, Kind.STAGE, f"%{node.name} must have a pipeline stage, as other nodes do")


def _of_value(graph: Graph, value: Value, message: str) -> Diagnostic:
    if value.owner is not None:
        return _at(graph, value.owner, Kind.STAGE, message)
    return Diagnostic(Kind.STAGE, message, value.source)


def _at(graph: Graph, node: Node, kind: Kind, message: str) -> Diagnostic:
    return Diagnostic(kind, message, node.source, window=graph.window(node))
