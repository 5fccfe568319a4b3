"""What a canonical graph still spells out op by op although it looks like something that has an op of its own, and why.

Used by reports only: such graphs compile, but are placed and timed step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from pimc.ir.graph import Graph, Node, Role, Value
from pimc.passes.attention_pattern import Kind, find_scores, find_weighted
from pimc.passes.match import ints_of, is_constant, operand, owner, scaled, skip
from pimc.passes.views import is_movement
from pimc.record import record

_BETWEEN = frozenset({"mul", "div", "add", "where", "tanh", "cast"})
"""Steps that may lie between the product of queries and keys and its softmax, besides data movement."""
_CHOICES = frozenset({"top_k", "arg_max"})
_WRITES = frozenset({"scatter_nd", "scatter_elements", "tensor_scatter"})
_MOVES = ("reshape", "transpose", "squeeze", "unsqueeze", "expand", "slice", "identity")


@record
class Remark:
    """One place in a graph that no pattern took."""

    node: Node
    looks_like: str
    why: str

    def __str__(self) -> str:
        return f"{self.node.op.name} '{self.node.name}' is not recognised as {self.looks_like}: {self.why}"


def unrecognised(graph: Graph) -> list[Remark]:
    """Remarks on the nodes of a graph that has been through the fuse passes, in its order."""
    found: list[Remark] = []
    for node in graph.order():
        for looks_like, ask in _QUESTIONS.get(node.op.name, ()):
            why = ask(node, graph)
            if why is not None:
                found.append(Remark(node, looks_like, why))
                break
    return found


# -- attention -------------------------------------------------------------------------------------------------------


def _attention(node: Node, graph: Graph) -> str | None:
    source = operand(node, 0)
    if source is None or _feeds(node.result, graph, _CHOICES) or _weighs_choices(source):
        return None
    if node.attribute("axis") not in (-1, source.type.rank - 1):
        return "it does not run over the last axis"
    if graph.users(source) != [node] or graph.is_output(source):
        return f"its operand '{source.name}' is also read by something else"
    scores = find_scores(source, graph)
    if scores is None:
        return _why_no_scores(source, graph)
    if [f.axis for f in scores.axes[-1]] != scores.of(Kind.KEY):
        return f"the last axis of '{source.name}' is not that of the keys"
    if find_weighted(node, scores, graph) is None:
        readers = graph.users(node.result)
        by = f"{readers[0].op.name} '{readers[0].name}'" if len(readers) == 1 else f"{len(readers)} nodes"
        return f"its result is read by {by}, which is not one product with values of the same heads"
    return "a mask does not cover whole axes of the scores, or queries, keys and values differ in type"


def _feeds(value: Value, graph: Graph, ops: frozenset[str], depth: int = 4) -> bool:
    """Whether a value reaches one of these ops over few steps."""
    users = graph.users(value)
    if any(u.op.name in ops for u in users):
        return True
    return depth > 0 and any(_feeds(u.result, graph, ops, depth - 1) for u in users if _is_light(u))


def _is_light(node: Node) -> bool:
    return is_movement(node) or node.op.name in ("add", "cast", "mul", "where", "slice")


def _weighs_choices(value: Value) -> bool:
    """Whether scores are those that `top_k` has chosen: a router that normalises behind its choice."""
    node = skip(value, *_MOVES, "cast").owner
    return node is not None and node.op.name in (*_CHOICES, "gather_elements", "gather_nd")


def _why_no_scores(value: Value, graph: Graph) -> str:
    """Why no product of two activations was found above a softmax: the first step that does not fit."""
    while (node := value.owner) is not None:
        if node.op.name == "matmul":
            constant = next((v.name for v in node.inputs() if is_constant(v)), None)
            if constant is not None:
                return f"its scores come from matmul '{node.name}' with the constant '{constant}'"
            return f"the heads of the operands of matmul '{node.name}' cannot be told apart"
        if node.op.name not in _BETWEEN and not is_movement(node):
            return f"{node.op.name} '{node.name}' lies between it and the product of queries and keys"
        above = [v for v in node.inputs() if v.type.shape == node.result.type.shape or is_movement(node)]
        above = [v for v in above if v.type.dtype.is_float and v.owner is not None]
        if not above:
            return f"no operand of {node.op.name} '{node.name}' leads to a product of queries and keys"
        value = above[0]
        if len(graph.users(value)) > 1 or graph.is_output(value):
            return f"'{value.name}', which lies between it and the product, is also read by something else"
    return f"its scores are the {value.role.value} '{value.name}'"


# -- the others ------------------------------------------------------------------------------------------------------


def _norm(node: Node, graph: Graph) -> str | None:
    inside = operand(node, 0)
    square = owner(inside, "mul", "pow") if inside is not None else None
    if square is None or (square.op.name == "mul" and square.operands[0] is not square.operands[1]):
        return None
    axes = ints_of(operand(node, 1))
    if inside is not None and axes not in ([-1], [inside.type.rank - 1]):
        return "the mean is not over the last axis alone"
    return "it is not followed by '+ epsilon', a square root and the division of what was squared, each read once"


def _rotation(node: Node, graph: Graph) -> str | None:
    pieces = list(node.inputs())
    turned = len(pieces) == 2 and any(_is_negated(v) for v in pieces)
    spelled = any(owner(a, "sub") and owner(b, "add") for a, b in pairwise(pieces))
    users = graph.users(node.result)
    if not (spelled or (turned and any(u.op.name == "mul" for u in users))):
        return None
    if node.result.type.rank != 4 and not spelled:
        return f"the tensor has rank {node.result.type.rank}, not 4 (requests, heads, positions, elements)"
    return "its parts are not two halves of one tensor, or its tables do not provably hold each number twice"


def _is_negated(value: Value) -> bool:
    product = scaled(value)
    return owner(value, "neg") is not None or (product is not None and product[1] == -1)


def _activation(node: Node, graph: Graph) -> str | None:
    x = operand(node, 0)
    if x is None or x.type.rank < 2 or not any(u.op.name in ("mul", "add") for u in graph.users(node.result)):
        return None
    if node.op.name == "tanh" and scaled(x) is not None and scaled(node.result) is None and len(graph.users(x)) == 1:
        users = graph.users(node.result)
        if len(users) == 1 and scaled(users[0].result) is not None:
            return None
    return "what it is multiplied with is not the same tensor, or the function is neither GELU nor SiLU"


def _experts(node: Node, graph: Graph) -> str | None:
    weight, indices = operand(node, 0), operand(node, 1)
    if weight is None or indices is None or weight.type.rank != 3 or not is_constant(skip(weight, *_MOVES)):
        return None
    readers = graph.users(skip_down(node.result, graph))
    if is_constant(indices) or not any(u.op.name == "matmul" for u in readers):
        return None
    return "its product is not one of a matrix with one vector for each token and expert"


def skip_down(value: Value, graph: Graph) -> Value:
    """The value below any chain of data movement that nothing else reads."""
    users = graph.users(value)
    while len(users) == 1 and is_movement(users[0]):
        value = users[0].result
        users = graph.users(value)
    return value


def _cache(node: Node, graph: Graph) -> str | None:
    past = operand(node, 0)
    if past is None or not past.type.dtype.is_float:
        return None
    source = skip(past, "transpose", "reshape")
    if source.role not in (Role.INPUT, Role.CACHE) or source.type.rank < 3:
        return None
    if not any(graph.is_output(v) for v in _near(node.result, graph)):
        return None
    if len(graph.users(source)) > 1:
        return f"input '{source.name}' is also read by something else, so it cannot change in place"
    if source.type.rank != 4:
        return f"input '{source.name}' has rank {source.type.rank}, not 4 (requests, heads, positions, elements)"
    what = "written" if node.op.name in _WRITES else "lengthened"
    return f"input '{source.name}' is not {what} along its axis 2"


def _near(value: Value, graph: Graph) -> Iterator[Value]:
    yield value
    for user in graph.users(value):
        if is_movement(user):
            yield user.result


Question = Callable[[Node, Graph], str | None]

_QUESTIONS: dict[str, tuple[tuple[str, Question], ...]] = {
    "softmax": (("attention", _attention),),
    "reduce_mean": (("a normalisation", _norm),),
    "concat": (("rotary embedding", _rotation), ("an append to a cache", _cache)),
    "tanh": (("an activation", _activation),),
    "erf": (("an activation", _activation),),
    "gather": (("a product with experts", _experts),),
    "gather_nd": (("a product with experts", _experts),),
    **dict.fromkeys(sorted(_WRITES), (("a write into a cache", _cache),)),
}
"""What is asked of the nodes of an op: what it may be part of, and the function that says why it is not, or None."""
