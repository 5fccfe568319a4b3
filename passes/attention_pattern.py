"""The anatomy of a written-out attention: which tensors are its query, key, value and mask, axis by axis.

Every axis of the scores is a product of *parts*: requests, key/value heads, query heads that share one of these,
queries, and keys. Parts are found by following the operands of the two products up through data movement
(`passes.views`), so that it does not matter in what shapes an exporter multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from pimc.ir.graph import Graph, Node, Value
from pimc.passes.match import is_constant, operand, owner, pair, scalar_of, scaled, used_only_by
from pimc.passes.views import (
    Axis,
    Factor,
    Origin,
    View,
    is_movement,
    origins,
    push,
    refine,
    size_of,
    steps_to_arrange,
)
from pimc.record import record


class Kind(Enum):
    """What a part of an axis counts."""

    BATCH = "batch"
    KV = "kv"
    GROUP = "group"
    QUERY = "query"
    KEY = "key"


@record
class Part:
    """One part of the scores' axes: the stretch of the query's and of the key's tensor it runs over."""

    kind: Kind
    size: int
    q: Factor | None = None
    k: Factor | None = None


@record
class Mask:
    """Something added to the scores: a value whose axes broadcast to `axes` (whose factors are parts by number).

    With `low`, the value is a condition: keys are hidden by that number where it is not `shows`. Scores and mask may be
    scaled together, by `scale`.
    """

    value: Value
    axes: View
    low: float | None = None
    shows: bool = True
    scale: float = 1.0


@dataclass
class Scores:
    """A tensor of scores on its way from the first product to the softmax."""

    q: Origin
    k: Origin
    parts: tuple[Part, ...]
    axes: View
    scale: float
    softcap: float = 0.0
    masks: list[Mask] = field(default_factory=list)
    steps: list[Node] = field(default_factory=list)

    def of(self, *kinds: Kind) -> list[int]:
        """Numbers of the parts of these kinds, kind by kind."""
        return [i for kind in kinds for i, p in enumerate(self.parts) if p.kind is kind]


@record
class Weighted:
    """The second product: its node, the value tensor with the factor of each part, and the axes of its result."""

    node: Node
    v: Origin
    factors: dict[int, Factor]
    axes: View
    """Axes of the result before the last, in parts."""
    steps: tuple[Node, ...]


# -- the first product -----------------------------------------------------------------------------------------------


def find_scores(value: Value, graph: Graph) -> Scores | None:
    """The scores that `value` is made of; None where it is not a scaled and masked product of two activations.

    Every step must be read by the next one only. Scaling must come before the soft cap, that before masks; what
    scales masked scores scales the masks.
    """
    node = value.owner
    if node is None:
        return None
    name = node.op.name
    if name == "matmul":
        found = _first_product(node)
    elif name in ("mul", "div"):
        found = _capped(node, graph) or _scaled(value, graph)
    elif name == "add":
        found = _masked(node, graph)
    elif name == "where":
        found = _hidden(node, graph)
    elif is_movement(node) or name == "cast":
        found = _moved(node, graph)
    else:
        return None
    if found is not None:
        found.steps.append(node)
    return found


def _through(value: Value | None, reader: Node, graph: Graph) -> Scores | None:
    if value is None or not value.type.dtype.is_float or not used_only_by(graph, value, (reader,)):
        return None
    return find_scores(value, graph)


def _scaled(value: Value, graph: Graph) -> Scores | None:
    product = scaled(value)
    if product is None or value.owner is None:
        return None
    found = _through(product[0], value.owner, graph)
    if found is None or found.softcap or product[1] <= 0:
        return None
    found.scale *= product[1]
    found.masks = [replace(mask, scale=mask.scale * product[1]) for mask in found.masks]
    return found


def _capped(node: Node, graph: Graph) -> Scores | None:
    """`cap * tanh(scores / cap)`."""
    outer = scaled(node.result)
    curve = owner(outer[0], "tanh") if outer is not None else None
    inner = scaled(curve.operands[0]) if curve is not None else None
    if outer is None or curve is None or inner is None or abs(outer[1] * inner[1] - 1) > 1e-5:
        return None
    divided = curve.operands[0]
    if divided is None or divided.owner is None or not used_only_by(graph, curve.result, (node,)):
        return None
    if not used_only_by(graph, divided, (curve,)):
        return None
    found = _through(inner[0], divided.owner, graph)
    if found is None or found.masks or found.softcap:
        return None
    found.softcap = outer[1]
    found.steps += [divided.owner, curve]
    return found


def _masked(node: Node, graph: Graph) -> Scores | None:
    left, right = pair(node)
    for scores, mask in ((left, right), (right, left)):
        if scores.type.shape != node.result.type.shape:
            continue
        found = _through(scores, node, graph)
        if found is not None:
            found.masks.append(Mask(mask, found.axes))
            return found
    return None


def _hidden(node: Node, graph: Graph) -> Scores | None:
    """`where(condition, scores, low)`, or the other way round."""
    condition = operand(node, 0)
    for at, other in ((1, 2), (2, 1)):
        scores, low = operand(node, at), scalar_of(operand(node, other))
        if condition is None or scores is None or low is None or scores.type.shape != node.result.type.shape:
            continue
        found = _through(scores, node, graph)
        if found is not None:
            found.masks.append(Mask(condition, found.axes, low, shows=at == 1))
            return found
    return None


def _moved(node: Node, graph: Graph) -> Scores | None:
    found = _through(node.operands[0], node, graph)
    if found is None or not node.result.type.dtype.is_float:
        return None
    if is_movement(node):
        axes = push(found.axes, node)
        if axes is None or not _is_made_of_parts(axes, found.parts):
            return None
        found.axes = axes
    return found


def _is_made_of_parts(axes: View, parts: Sequence[Part]) -> bool:
    """Whether no movement has cut a part in two or repeated one."""
    return all(f.step == 1 and f.axis >= 0 and f.size == parts[f.axis].size for axis in axes for f in axis)


def _first_product(node: Node) -> Scores | None:
    left, right = pair(node)
    if min(left.type.rank, right.type.rank) < 2 or not right.type.dtype.is_float:
        return None
    k = _best_key(right)
    if k is None or is_constant(k.base) or is_constant(left):
        return None
    best: tuple[int, Scores] | None = None
    for q in origins(left):
        scores = _joined(q, k) if _is_whole(q, -1) else None
        if scores is None:
            continue
        cost = steps_to_arrange(q.base.type.static_shape, query_groups(scores))
        if best is None or cost <= best[0]:
            best = cost, scores
    return best[1] if best is not None else None


def _is_whole(origin: Origin, axis: int) -> bool:
    """Whether an axis of the value is exactly one axis of the base."""
    factors = origin.view[axis]
    shape = origin.base.type.static_shape
    if not factors:
        return True
    return len(factors) == 1 and factors[0].axis >= 0 and factors[0].size == shape[factors[0].axis]


def _best_key(value: Value) -> Origin | None:
    """The tensor that the key operand [.., D, T] is made of.

    The smallest one; among these, the one that takes the least movement to put in order; among these, the highest.
    """
    best: tuple[tuple[int, int], Origin] | None = None
    for origin in origins(value):
        if not (_is_whole(origin, -1) and _is_whole(origin, -2)):
            continue
        cost = origin.base.type.elements, _key_cost(origin, key=-1, depth=-2)
        if best is None or cost <= best[0]:
            best = cost, origin
    return best[1] if best is not None else None


def _key_cost(origin: Origin, key: int, depth: int) -> int:
    batch, heads = _batch_and_heads(origin, (key, depth))
    real = [f for f in heads if not f.is_broadcast]
    groups = (tuple(batch), tuple(real), origin.view[key], origin.view[depth])
    return steps_to_arrange(origin.base.type.static_shape, groups)


def _batch_and_heads(origin: Origin, own: tuple[int, int]) -> tuple[list[Factor], list[Factor]]:
    """The factors of the leading axes: those of the base's batch axis, and the others.

    The batch axis is the first one of a base of rank 4 or more that is not one of the value's `own` last two axes.
    """
    rank = origin.base.type.rank
    taken = {f.axis for at in own for f in origin.view[at]}
    batch_axis = next((i for i in range(rank) if i not in taken), -1) if rank >= 4 else -1
    leading = [f for axis in origin.view[:-2] for f in axis]
    batch = [f for f in leading if f.axis == batch_axis and batch_axis >= 0]
    return batch, [f for f in leading if f not in batch]


def _joined(q: Origin, k: Origin) -> Scores | None:
    """The parts of the product of the query [.., S, D] and the key [.., D, T]."""
    if any(f.is_broadcast for axis in q.view for f in axis):
        return None
    if size_of(q.view[-1]) != size_of(k.view[-2]):
        return None
    pairs = _paired(q.view[:-2], k.view[:-2])
    if pairs is None:
        return None
    batch, heads = _batch_and_heads(q, (-2, -1))
    batch_axes = {f.axis for f in batch}
    parts: list[Part] = []
    axes: list[Axis] = []
    for first, second in pairs:
        axis: list[Factor] = []
        for f, g in zip(first, second, strict=True):
            kind = Kind.GROUP if g.is_broadcast else Kind.BATCH if f.axis in batch_axes else Kind.KV
            if f.axis in batch_axes and kind is Kind.GROUP:
                return None
            axis.append(Factor(len(parts), 1, f.size))
            parts.append(Part(kind, f.size, f, None if g.is_broadcast else g))
        axes.append(tuple(axis))
    # what was rotated has its heads on axis 1 and its positions on axis 2, even where there is one position only
    turned = {0, 1} if owner(q.base, "rotary") is not None else set[int]()
    rows = _row_parts(q.view[-2], {f.axis for f in heads} | turned)
    axes.append(tuple(Factor(len(parts) + i, 1, p.size) for i, p in enumerate(rows)))
    parts += rows
    axes.append(tuple(Factor(len(parts) + i, 1, f.size) for i, f in enumerate(k.view[-1])))
    parts += [Part(Kind.KEY, f.size, None, f) for f in k.view[-1]]
    return Scores(q, k, tuple(parts), tuple(axes), q.scale * k.scale)


def _row_parts(rows: Axis, head_axes: set[int]) -> list[Part]:
    """Rows of one head are queries; those that run over heads, or over any but the last of several axes, share keys."""
    last = rows[-1].axis if rows else -1
    return [Part(Kind.GROUP if f.axis in head_axes or f.axis != last else Kind.QUERY, f.size, f) for f in rows]


def _paired(left: Sequence[Axis], right: Sequence[Axis]) -> list[tuple[Axis, Axis]] | None:
    """Leading axes of two operands of a product, paired as broadcasting does; the left one may not be repeated."""
    rank = max(len(left), len(right))
    ours = [(), *[()] * (rank - len(left)), *left][1:]
    theirs = [(), *[()] * (rank - len(right)), *right][1:]
    pairs: list[tuple[Axis, Axis]] = []
    for a, b in zip(ours, theirs, strict=True):
        if a and not b:
            pairs.append((a, tuple(Factor(-1, 1, f.size) for f in a)))
            continue
        both = refine(a, b)
        if both is None:
            return None
        pairs.append(both)
    return pairs


# -- the second product ----------------------------------------------------------------------------------------------


def find_weighted(softmax: Node, scores: Scores, graph: Graph) -> Weighted | None:
    """The product of the softmax with a value tensor, past a guard against rows of NaN, casts and movement."""
    steps: list[Node] = []
    current, axes = softmax.result, scores.axes
    while True:
        guard = _nan_guard(current, graph)
        users = graph.users(current)
        if guard is not None:
            steps += guard
            current = guard[-1].result
            continue
        if len(users) != 1 or graph.is_output(current):
            return None
        user = users[0]
        if user.op.name == "matmul":
            return _second_product(user, current, scores, axes, tuple(steps))
        if not (is_movement(user) or user.op.name == "cast") or not user.result.type.dtype.is_float:
            return None
        if is_movement(user):
            moved = push(axes, user)
            if moved is None or not _is_made_of_parts(moved, scores.parts):
                return None
            axes = moved
        steps.append(user)
        current = user.result


def _nan_guard(value: Value, graph: Graph) -> list[Node] | None:
    """`where(is_nan(p), 0, p)`, if nothing else reads p."""
    users = graph.users(value)
    test = next((u for u in users if u.op.name == "is_nan"), None)
    if test is None or len(users) != 2:
        return None
    choice = next(u for u in users if u is not test)
    fits = choice.op.name == "where" and choice.operands[0] is test.result and choice.operands[2] is value
    if not fits or scalar_of(choice.operands[1]) != 0.0 or not used_only_by(graph, value, users):
        return None
    return [test, choice] if used_only_by(graph, test.result, (choice,)) else None


def _second_product(node: Node, p: Value, scores: Scores, axes: View, steps: tuple[Node, ...]) -> Weighted | None:
    left, right = pair(node)
    keys = [f.axis for f in axes[-1]]
    if left is not p or right is p or keys != scores.of(Kind.KEY) or right.type.rank < 2:
        return None
    best: tuple[tuple[int, int], Weighted] | None = None
    for v in origins(right):
        factors = _value_factors(v, scores, axes)
        if factors is None or v.scale != 1.0:
            continue
        cost = v.base.type.elements, _key_cost(v, key=-2, depth=-1)
        if best is None or cost <= best[0]:
            best = cost, Weighted(node, v, factors, axes[:-1], steps)
    return best[1] if best is not None else None


def _value_factors(v: Origin, scores: Scores, axes: View) -> dict[int, Factor] | None:
    """The stretch of the value's tensor for each part that it has: requests, key/value heads and keys, no others."""
    if not (_is_whole(v, -1) and _is_whole(v, -2)):
        return None
    pairs = _paired(axes[:-2], v.view[:-2])
    if pairs is None:
        return None
    factors: dict[int, Factor] = {}
    for ours, theirs in [*pairs, (axes[-1], v.view[-2])]:
        if len(ours) != len(theirs) or not _is_made_of_parts((ours,), scores.parts):
            return None
        for part, f in zip(ours, theirs, strict=True):
            shared = scores.parts[part.axis].kind is Kind.GROUP
            if shared != f.is_broadcast:
                return None
            if not shared:
                factors[part.axis] = f
    return factors if sorted(factors) == sorted(scores.of(Kind.BATCH, Kind.KV, Kind.KEY)) else None


# -- canonical axes --------------------------------------------------------------------------------------------------


def query_groups(scores: Scores) -> tuple[Axis, Axis, Axis, Axis]:
    """The axes B, H, S, D of the query as factors of its base."""

    def gather(*kinds: Kind) -> Axis:
        return tuple(f for i in scores.of(*kinds) if (f := scores.parts[i].q) is not None)

    return gather(Kind.BATCH), gather(Kind.KV, Kind.GROUP), gather(Kind.QUERY), scores.q.view[-1]


def key_groups(scores: Scores) -> tuple[Axis, Axis, Axis, Axis]:
    """The axes B, KV, T, D of the key as factors of its base."""

    def gather(kind: Kind) -> Axis:
        return tuple(f for i in scores.of(kind) if (f := scores.parts[i].k) is not None)

    return gather(Kind.BATCH), gather(Kind.KV), gather(Kind.KEY), scores.k.view[-2]


def value_groups(scores: Scores, weighted: Weighted) -> tuple[Axis, Axis, Axis, Axis]:
    """The axes B, KV, T, Dv of the value as factors of its base."""

    def gather(kind: Kind) -> Axis:
        return tuple(weighted.factors[i] for i in scores.of(kind))

    return gather(Kind.BATCH), gather(Kind.KV), gather(Kind.KEY), weighted.v.view[-1]


def result_groups(scores: Scores, weighted: Weighted, width: int) -> list[Axis]:
    """The axes of the second product's result as factors of [B, H, S, Dv]."""
    place: dict[int, Factor] = {}
    for axis, kinds in enumerate(((Kind.BATCH,), (Kind.KV, Kind.GROUP), (Kind.QUERY,))):
        place |= stretches(axis, scores.of(*kinds), scores.parts)
    groups = [tuple(place[f.axis] for f in axis) for axis in weighted.axes]
    return [*groups, (Factor(3, 1, width),) if width != 1 else ()]


def stretches(axis: int, numbers: Sequence[int], parts: Sequence[Part]) -> dict[int, Factor]:
    """The factor of each part of an axis that is the product of these parts."""
    step = 1
    found: dict[int, Factor] = {}
    for number in reversed(numbers):
        found[number] = Factor(axis, step, parts[number].size)
        step *= parts[number].size
    return found
