"""Recognise attention, whatever the exporter wrote, and give it one canonical form."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import Array, Attribute
from pimc.ir.stage import GraphStage
from pimc.passes.attention_mask import HIDDEN, MaskPattern, classify
from pimc.passes.attention_pattern import (
    Kind,
    Mask,
    Scores,
    Weighted,
    find_scores,
    find_weighted,
    key_groups,
    query_groups,
    result_groups,
    stretches,
    value_groups,
)
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import contents_of, opdef, operand
from pimc.passes.views import Axis, Factor, Origin, arrange, origins, size_of, steps_to_arrange
from pimc.record import record


@record
class FuseAttentionPass(Pass):
    """`softmax(q @ k^T * scale + mask) @ v` becomes one op on q [B,H,S,D], k [B,KV,T,D] and v [B,KV,T,Dv].

        %s = matmul(%q * 0.5, transpose(expand(unsqueeze(%k))) * 0.5)
        %p = softmax(%s + %mask), %y = matmul(where(is_nan(%p), 0, %p), %v)
    ->  %y = attention(%q, %k, %v, %mask) {scale=0.25}

    Anchored at the softmax; up to the nearest product of two activations, down to the next. In between may lie scaling
    (also of q and k), a soft cap, additive masks, conditions, casts and any data movement. Repeated key/value heads
    are taken back to the tensors before the repetition, queries grouped by key/value head to all their heads.
    A mask with known contents is dropped if it hides nothing, and becomes `causal` (and `window`) if that is what it
    says. Left alone: whatever has a step that something else reads, or axes that cannot be told apart.
    """

    name: ClassVar[str] = "fuse-attention"
    before: ClassVar[GraphStage] = GraphStage.BOUND

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        version = graph.version
        masks = _Masks(rewriter)
        for node in graph.order():
            if node not in graph:
                continue
            if node.op.name == "softmax":
                _fuse(node, rewriter, masks)
            elif node.op.name == "attention":
                _simplify(node, rewriter)
        if graph.version != version:
            rewriter.remove_dead()


def _fuse(softmax: Node, rewriter: Rewriter, masks: _Masks) -> None:
    graph = rewriter.graph
    source = softmax.operands[0]
    if source is None or source.type.rank < 2 or softmax.attribute("axis") not in (-1, source.type.rank - 1):
        return
    if any(u.op.name == "top_k" for u in graph.users(softmax.result)) or graph.users(source) != [softmax]:
        return
    scores = find_scores(source, graph)
    if scores is None or [f.axis for f in scores.axes[-1]] != scores.of(Kind.KEY):
        return
    weighted = find_weighted(softmax, scores, graph)
    if weighted is None or graph.is_output(source):
        return
    mask = masks.combined(scores)
    if mask is None:
        return
    _replace(softmax, scores, weighted, mask, rewriter)


def _replace(softmax: Node, scores: Scores, weighted: Weighted, mask: _Combined, rewriter: Rewriter) -> None:
    steps = (*scores.steps, softmax, *weighted.steps, weighted.node)
    q = arrange(rewriter, scores.q.base, query_groups(scores), steps)
    k = arrange(rewriter, scores.k.base, key_groups(scores), steps)
    v = arrange(rewriter, weighted.v.base, value_groups(scores, weighted), steps)
    if not (q.type.dtype is k.type.dtype is v.type.dtype is weighted.node.result.type.dtype):
        return
    attributes: dict[str, Attribute] = {"scale": scores.scale, "softcap": scores.softcap, **mask.attributes()}
    width = v.type.static_shape[3]
    attention = rewriter.add(opdef("attention"), (q, k, v, mask.value), attributes, origins=steps)
    result = arrange(rewriter, attention.result, result_groups(scores, weighted, width), steps)
    old = weighted.node.result
    name = old.name
    rewriter.replace_uses(old, result)
    rewriter.remove(weighted.node)
    rewriter.rename(result, name)


# -- masks -----------------------------------------------------------------------------------------------------------


@record
class _Combined:
    """All masks of an attention: what can be said by attributes, and one value with the rest."""

    pattern: MaskPattern
    value: Value | None = None

    def attributes(self) -> dict[str, Attribute]:
        return {"causal": self.pattern.causal, "window": self.pattern.window}


@record
class _Masks:
    """Brings masks into the canonical shape [B|1, H|1, S|1, T|1]; each once, since layers share them."""

    rewriter: Rewriter
    placed: dict[tuple[Value, tuple[Axis, ...]], Value] = field(default_factory=dict)
    additive: dict[tuple[Value, float, bool], Value] = field(default_factory=dict)
    sums: dict[tuple[Value, Value], Value] = field(default_factory=dict)
    scaled: dict[tuple[Value, float], Value] = field(default_factory=dict)

    def combined(self, scores: Scores) -> _Combined | None:
        """None where a mask does not fit."""
        queries = _product(scores, Kind.QUERY)
        keys = _product(scores, Kind.KEY)
        values: list[Value] = []
        for mask in scores.masks:
            value = self._placed(mask, scores)
            if value is None:
                return None
            pattern = _pattern(value, queries, keys)
            if pattern is None or not pattern.hides_nothing:
                values.append(value)
        if len(values) == 1:
            pattern = _pattern(values[0], queries, keys)
            if pattern is not None:
                return _Combined(pattern)
        if not values:
            return _Combined(MaskPattern())
        return _Combined(MaskPattern(), self._sum(values))

    def _sum(self, values: list[Value]) -> Value:
        total = values[0]
        for value in values[1:]:
            if (total, value) not in self.sums:
                self.sums[total, value] = self.rewriter.add(opdef("add"), (total, value)).result
            total = self.sums[total, value]
        return total

    def _placed(self, mask: Mask, scores: Scores) -> Value | None:
        groups = _mask_groups(mask, scores)
        value = mask.value if mask.low is None else self._from_condition(mask, mask.low * mask.scale)
        if groups is None or value is None:
            return None
        if mask.low is None and mask.scale != 1.0:
            value = self._scaled(value, mask.scale)
        shape = value.type.static_shape
        wanted = tuple(size_of(g) for g in groups)
        if len(shape) <= 4 and (1,) * (4 - len(shape)) + shape == wanted:
            return value
        key = value, groups
        if key not in self.placed:
            self.placed[key] = arrange(self.rewriter, value, groups)
        return self.placed[key]

    def _scaled(self, value: Value, scale: float) -> Value:
        """An additive mask that is scaled together with the scores."""
        if (value, scale) not in self.scaled:
            array = contents_of(value)
            if array is not None:
                made = self.rewriter.constant("mask", (array * array.dtype.type(scale)).astype(array.dtype))
            else:
                factor = self.rewriter.constant("mask_scale", np.array(scale, value.type.dtype.numpy))
                made = self.rewriter.add(opdef("mul"), (value, factor)).result
            self.scaled[value, scale] = made
        return self.scaled[value, scale]

    def _from_condition(self, mask: Mask, low: float) -> Value | None:
        """An additive mask: 0 where keys show, `low` elsewhere."""
        if low > HIDDEN or mask.value.type.dtype.text != "bool":
            return None
        key = mask.value, low, mask.shows
        if key not in self.additive:
            zero, hidden = np.float32(0), np.float32(low)
            shown, other = (zero, hidden) if mask.shows else (hidden, zero)
            array = contents_of(mask.value)
            if array is not None:
                self.additive[key] = self.rewriter.constant("mask", np.where(array, shown, other))
            else:
                numbers = [self.rewriter.constant("mask_value", np.array(n)) for n in (shown, other)]
                self.additive[key] = self.rewriter.add(opdef("where"), (mask.value, *numbers)).result
        return self.additive[key]


def _product(scores: Scores, kind: Kind) -> int:
    return int(np.prod([scores.parts[i].size for i in scores.of(kind)], dtype=np.int64))


def _mask_groups(mask: Mask, scores: Scores) -> tuple[Axis, ...] | None:
    """The canonical axes as factors of the mask's own axes; None where it covers part of one."""
    shape = mask.value.type.static_shape
    if len(shape) > len(mask.axes):
        return None
    own: dict[int, Factor] = {}
    for axis, (length, parts) in enumerate(zip(shape, mask.axes[len(mask.axes) - len(shape) :], strict=True)):
        if length == 1:
            continue
        if length != size_of(parts):
            return None
        own |= stretches(axis, [f.axis for f in parts], scores.parts)
    groups: list[Axis] = []
    for kinds in ((Kind.BATCH,), (Kind.KV, Kind.GROUP), (Kind.QUERY,), (Kind.KEY,)):
        numbers = scores.of(*kinds)
        present = [own[i] for i in numbers if i in own]
        if present and len(present) != len(numbers):
            return None
        groups.append(tuple(present))
    return tuple(groups)


def _pattern(mask: Value, queries: int, keys: int) -> MaskPattern | None:
    array: Array | None = contents_of(mask)
    return None if array is None else classify(array, queries, keys)


# -- attention that is already one op --------------------------------------------------------------------------------


def _simplify(node: Node, rewriter: Rewriter) -> None:
    """Take repeated key/value heads back, move scaling into the attribute, and read a mask with known contents."""
    q, k, v = (node.operands[i] for i in range(3))
    if q is None or k is None or v is None:
        return
    operands: list[Value | None] = list(node.operands)
    attributes = dict(node.attributes)
    keys, values = _unrepeated(k), _unrepeated(v)
    if keys is not None and values is not None and keys.heads == values.heads and values.scale == 1.0:
        operands[1], operands[2] = (arrange(rewriter, t.base, t.groups, (node,)) for t in (keys, values))
        scale = attributes["scale"]
        assert isinstance(scale, float)
        attributes["scale"] = scale * keys.scale
    mask = operand(node, 3)
    plain = not node.attribute("causal") and not node.attribute("window") and operand(node, 4) is None
    if mask is not None and plain:
        pattern = _pattern(mask, q.type.static_shape[2], k.type.static_shape[2])
        if pattern is not None:
            operands[3] = None
            attributes |= _Combined(pattern).attributes()
    if operands != list(node.operands):
        rewriter.replace(node, node.op, operands, attributes)


@record
class _Unrepeated:
    base: Value
    groups: tuple[Axis, ...]
    heads: int
    scale: float


def _unrepeated(value: Value) -> _Unrepeated | None:
    """The tensor with the fewest heads that [B, H, T, D] repeats, each head some times in a row.

    Of several, the one that takes the least movement to put in order, then the highest.
    """
    best: tuple[tuple[int, int], _Unrepeated] | None = None
    for origin in origins(value):
        found = _without_repetition(origin)
        if found is None:
            continue
        cost = found.heads, steps_to_arrange(found.base.type.static_shape, found.groups)
        if best is None or cost <= best[0]:
            best = cost, found
    return best[1] if best is not None else None


def _without_repetition(origin: Origin) -> _Unrepeated | None:
    heads = origin.view[1]
    real = tuple(f for f in heads if not f.is_broadcast)
    others = [f for i, axis in enumerate(origin.view) if i != 1 for f in axis]
    if heads[: len(real)] != real or any(f.is_broadcast for f in others):
        return None
    groups = (origin.view[0], real, *origin.view[2:])
    return _Unrepeated(origin.base, groups, size_of(real), origin.scale)
