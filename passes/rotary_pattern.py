"""The ways in which exporters write a rotation of pairs of elements.

Elements of a pair lie half of the rotated width apart, or next to one another (interleaved). Exporters add
`x * cos` and a turned copy of x times sin, or compute both elements of each pair by themselves:

    x * cos + concat(-x[R/2:], x[:R/2]) * sin
    x * cos + flatten(stack(-x[1::2], x[::2])) * sin
    concat(a * cos - b * sin, a * sin + b * cos)         // or flatten(stack(..)), with a, b halves or every second
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from itertools import pairwise

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.passes.last_axis import Stretch, interleaved, is_last_axis, stretch_of
from pimc.passes.match import operand, owner, pair, scaled, used_only_by
from pimc.passes.rotary_tables import same_computation
from pimc.record import record


class Pairs(Enum):
    """Where the elements of a pair lie."""

    HALVES = "halves"
    NEIGHBOURS = "neighbours"


@record
class Rotation:
    """A rotation found in a graph: what is rotated, by which tables, and the nodes that do it."""

    x: Stretch
    """The elements that `end` holds: the rotated ones, and behind them those of a partial rotation that stay."""
    width: int
    """How many elements are rotated, R."""
    cos: Value
    sin: Value
    """Tables of R or R/2 columns."""
    read: Pairs
    written: Pairs
    end: Node
    absorbed: tuple[Node, ...]


def nest_rotated(concat: Node, rewriter: Rewriter) -> None:
    """concat(rest, a * cos - b * sin, a * sin + b * cos) -> concat(rest, concat(..)), as partial rotations may be"""
    if len(concat.operands) < 3 or not is_last_axis(concat):
        return
    pieces = list(concat.inputs())
    for i, (first, second) in enumerate(pairwise(pieces)):
        if _spelled(first, second, concat, Pairs.HALVES) is not None:
            inner = rewriter.add(concat.op, (first, second), concat.attributes, origins=(concat,))
            rewriter.replace(concat, concat.op, (*pieces[:i], inner.result, *pieces[i + 2 :]), concat.attributes)
            return


def find_rotation(concat: Node, rewriter: Rewriter) -> Rotation | None:
    """The rotation that a concatenation of two parts belongs to."""
    if len(concat.operands) != 2 or not is_last_axis(concat):
        return None
    stacked = interleaved(concat, rewriter)
    if stacked is not None:
        first, second, end = stacked
        written = Pairs.NEIGHBOURS
    else:
        first, second = pair(concat)
        end, written = concat, Pairs.HALVES
    found = _turned(first, second, end, written, rewriter.graph) or _spelled(first, second, end, written)
    return _with_rest(found, rewriter.graph) if found is not None else None


def _turned(first: Value, second: Value, turn: Node, written: Pairs, graph: Graph) -> Rotation | None:
    """`x * cos + turn * sin`, where `turn` holds the negated second elements of pairs and the first ones."""
    minus = _negated(first)
    joined = _pairs(stretch_of(second), stretch_of(minus)) if minus is not None else None
    if joined is None or joined[1] is not written:
        return None
    x = joined[0]
    with_sin = only_user(graph, turn.result, "mul")
    total = only_user(graph, with_sin.result, "add") if with_sin is not None else None
    if with_sin is None or total is None:
        return None
    straight = owner(_other(total, with_sin.result), "mul")
    if straight is None or straight is with_sin or not used_only_by(graph, straight.result, (total,)):
        return None
    left, right = pair(straight)
    cos = right if stretch_of(left) == x else left if stretch_of(right) == x else None
    if cos is None:
        return None
    sin = _other(with_sin, turn.result)
    return Rotation(x, x.count, cos, sin, written, written, total, (with_sin, straight, turn))


def _negated(value: Value) -> Value | None:
    negation = owner(value, "neg")
    if negation is not None:
        return negation.operands[0]
    product = scaled(value)
    return product[0] if product is not None and product[1] == -1 else None


def _pairs(first: Stretch, second: Stretch) -> tuple[Stretch, Pairs] | None:
    """The elements that the first and second ones of pairs are together, and how these lie."""
    if first.whole is not second.whole or first.perm != second.perm:
        return None
    if first.count != second.count or first.step != second.step:
        return None
    whole = first.of(first.start, 2 * first.count)
    if first.step == 1 and second.start == first.stop:
        return whole, Pairs.HALVES
    if first.step == 2 and second.start == first.start + 1:
        return whole, Pairs.NEIGHBOURS
    return None


def _spelled(first: Value, second: Value, end: Node, written: Pairs) -> Rotation | None:
    """Both elements of every pair by themselves: `a * cos - b * sin` and `a * sin + b * cos`."""
    difference, total = owner(first, "sub"), owner(second, "add")
    if difference is None or total is None:
        return None
    factors = [owner(v, "mul") for v in (*pair(difference), *pair(total))]
    if any(f is None for f in factors):
        return None
    a_cos, b_sin, *rest = (f for f in factors if f is not None)
    for a, cos in _both_ways(a_cos):
        for b, sin in _both_ways(b_sin):
            joined = _pairs(stretch_of(a), stretch_of(b))
            if joined is not None and _is_sum_of(rest, (a, sin), (b, cos)):
                x, read = joined
                absorbed = (difference, total, a_cos, b_sin, *rest)
                return Rotation(x, x.count, cos, sin, read, written, end, absorbed)
    return None


def _both_ways(product: Node) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
    left, right = pair(product)
    return (left, right), (right, left)


def _is_sum_of(products: list[Node], one: tuple[Value, Value], other: tuple[Value, Value]) -> bool:
    """Whether two products are these two, in any order, of the same stretches and the same tables."""

    def is_product(node: Node, wanted: tuple[Value, Value]) -> bool:
        return any(
            stretch_of(x) == stretch_of(wanted[0]) and same_computation(table, wanted[1])
            for x, table in _both_ways(node)
        )

    first, second = products
    return (is_product(first, one) and is_product(second, other)) or (
        is_product(first, other) and is_product(second, one)
    )


def _with_rest(found: Rotation, graph: Graph) -> Rotation:
    """The rotation, with the elements behind the rotated ones that a concatenation puts back as they were."""
    joined = only_user(graph, found.end.result, "concat")
    if joined is None or found.read is not found.written or len(joined.operands) != 2 or not is_last_axis(joined):
        return found
    rest = operand(joined, 1)
    if rest is None or joined.operands[0] is not found.end.result:
        return found
    behind = stretch_of(rest)
    if behind != found.x.of(found.x.stop, behind.count):
        return found
    x = found.x.of(found.x.start, found.x.count + behind.count)
    return replace(found, x=x, end=joined, absorbed=(found.end, *found.absorbed))


def only_user(graph: Graph, value: Value, op: str) -> Node | None:
    """The only reader of a value, if it is of this op and the value is no output."""
    users = graph.users(value)
    if len(users) != 1 or graph.is_output(value) or users[0].op.name != op:
        return None
    return users[0]


def _other(node: Node, value: Value) -> Value:
    left, right = pair(node)
    return right if left is value else left
