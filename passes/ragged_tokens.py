"""New tokens of requests that add different numbers of them: each by itself, or each request's own last ones.

All requests have room for the most new tokens that one has. What lies behind a request's own is never looked at as
long as ops treat tokens one by one, or look back as causal attention does. An op that takes the last tokens would take
what lies there; it takes each request's own instead. Any other op that mixes tokens is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import OpClass, lookup
from pimc.ir.requests import Batch
from pimc.passes.building import content_name
from pimc.passes.match import ints_of
from pimc.record import record


@record
class Tokens:
    """Where a value has the new tokens: `count` of them along an axis (again and again, if that is longer), on which
    each takes `inner` indices."""

    count: int
    axis: int
    inner: int = 1


class MixedError(Exception):
    """An op does not treat every token by itself."""


class LostError(Exception):
    """Where the tokens are in a result is not known; they are not followed any further."""


def take_own_tokens(graph: Graph, rewriter: Rewriter, batch: Batch) -> Iterator[Node]:
    """Have each request's own last tokens taken, where some are; yields the ops that mix tokens in another way."""
    if all(r.new == batch.new for r in batch.requests):
        return
    places = dict(_given(graph, batch))
    for node in graph.order():
        for slot, value in enumerate(node.operands):
            if value is None or value not in places:
                continue
            try:
                places |= dict.fromkeys(node.results, _through(node, slot, places[value]))
            except LostError:
                pass
            except MixedError:
                if value.type.dtype.is_float and not _take_last(node, rewriter, batch, places[value]):
                    yield node


def _given(graph: Graph, batch: Batch) -> Iterator[tuple[Value, Tokens]]:
    """Inputs with an axis of new tokens: ids, positions, embeddings."""
    for value in graph.inputs:
        type = batch.inputs.get(value.name)
        if type is None or value.name in batch.ragged_inputs:
            continue
        own = [type.bind(dims).static_shape for dims in batch.own_dims]
        for axis in range(1, type.rank):
            if all(shape[axis] == r.new for shape, r in zip(own, batch.requests, strict=True)):
                yield value, Tokens(batch.new, axis)


# -- the last tokens --------------------------------------------------------------------------------------------------


def _take_last(node: Node, rewriter: Rewriter, batch: Batch, place: Tokens) -> bool:
    """`slice(x, [-1], [end], [1])`, `gather(x, -1, axis=1)` -> `gather_nd(x, [[[last of request 0]], ..])`"""
    value, last = node.operands[0], _last(node, place)
    by_request = value is not None and value.type.static_shape[:2] == (len(batch.requests), place.count)
    if not by_request or place.axis != 1 or last is None or last > min(r.new for r in batch.requests):
        return False
    places = np.array([[[r.new - last + i] for i in range(last)] for r in batch.requests], np.int64)
    if node.result.type.rank < len(_shape(value)):
        places = places[:, 0]
    indices = rewriter.constant(content_name(places), places)
    rewriter.replace(node, lookup("gather_nd"), (value, indices), {"batch_dims": 1})
    return True


def _last(node: Node, place: Tokens) -> int | None:
    """How many of the last tokens a node takes, if it does."""
    shape = _shape(node.operands[0])
    if node.op.name == "gather":
        where = ints_of(node.operands[1])
        return 1 if where is not None and where in ([-1], [shape[place.axis] - 1]) else None
    if node.op.name != "slice":
        return None
    start, stop, step = _bounds(node, place.axis, shape[place.axis])
    return stop - start if stop == shape[place.axis] and step == 1 else None


# -- where the tokens are behind an op --------------------------------------------------------------------------------


def _through(node: Node, slot: int, place: Tokens) -> Tokens:
    """Where a result has the tokens that operand `slot` has there. Raises MixedError, LostError."""
    if node.op.cls is OpClass.ELEMENTWISE:
        return _aligned(node, slot, place)
    rule = _RULES.get(node.op.name)
    if rule is None:
        raise LostError
    return rule(node, slot, place)


def _shape(value: Value | None) -> tuple[int, ...]:
    return () if value is None else value.type.static_shape


def _aligned(node: Node, slot: int, place: Tokens) -> Tokens:
    """Axes count from the last one."""
    return replace(place, axis=node.result.type.rank - len(_shape(node.operands[slot])) + place.axis)


def _rowwise(node: Node, slot: int, place: Tokens) -> Tokens:
    """Something happens along the last axis."""
    if place.axis == len(_shape(node.operands[slot])) - 1:
        raise MixedError
    return place


def _along(node: Node, slot: int, place: Tokens) -> Tokens:
    """Something happens along the axis that an attribute names."""
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    if axis % len(_shape(node.operands[slot])) == place.axis:
        raise MixedError
    return place


def _product(node: Node, slot: int, place: Tokens) -> Tokens:
    rank = len(_shape(node.operands[slot]))
    if place.axis == rank - 1 - (slot == 1 and rank > 1):
        raise MixedError
    if slot > 1:
        raise LostError
    dropped = 1 if len(_shape(node.operands[1 - slot])) == 1 else 0  # a vector has no axis of its own in the result
    return replace(place, axis=node.result.type.rank + dropped - rank + place.axis)


def _attention(node: Node, slot: int, place: Tokens) -> Tokens:
    """Queries one by one; keys and masks end where the request ends."""
    if slot or place.axis != 2:
        raise LostError
    return place


def _first(node: Node, slot: int, place: Tokens) -> Tokens:
    if slot:
        raise LostError
    return place


def _transposed(node: Node, slot: int, place: Tokens) -> Tokens:
    perm = node.attribute("perm") or tuple(reversed(range(node.result.type.rank)))
    assert isinstance(perm, tuple)
    return replace(place, axis=perm.index(place.axis))


def _reshaped(node: Node, slot: int, place: Tokens) -> Tokens:
    """In row-major order, tokens are as far apart as before."""
    before, after = _shape(node.operands[0]), node.result.type.static_shape
    apart = place.inner * prod(before[place.axis + 1 :])
    for axis, extent in enumerate(after):
        inner, rest = divmod(apart, prod(after[axis + 1 :]))
        if not rest and inner and extent % (inner * place.count) == 0:
            return Tokens(place.count, axis, inner)
    raise LostError


def _gathered(node: Node, slot: int, place: Tokens) -> Tokens:
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    axis %= len(_shape(node.operands[0]))
    if slot == 1:
        return replace(place, axis=axis + place.axis)
    if axis == place.axis:
        if ints_of(node.operands[1]) is None:  # the user says which
            raise LostError
        raise MixedError
    more = len(_shape(node.operands[1])) - 1 if axis < place.axis else 0
    return replace(place, axis=place.axis + more)


def _sliced(node: Node, slot: int, place: Tokens) -> Tokens:
    extent = _shape(node.operands[0])[place.axis]
    if slot or _bounds(node, place.axis, extent) == (0, extent, 1):
        return place
    raise MixedError


def _bounds(node: Node, axis: int, extent: int) -> tuple[int, int, int]:
    """Start, stop and step of a slice along an axis. Raises LostError where they are not known."""
    starts, stops, axes, steps = (ints_of(v) for v in (*node.operands[1:], None, None)[:4])
    if starts is None or stops is None:
        raise LostError
    rank = len(_shape(node.operands[0]))
    found = {a % rank: i for i, a in enumerate(range(len(starts)) if axes is None else axes)}
    if axis not in found:
        return 0, extent, 1
    i = found[axis]
    step = steps[i] if steps is not None else 1
    return (*slice(starts[i], stops[i], step).indices(extent)[:2], step)


def _reduced(node: Node, slot: int, place: Tokens) -> Tokens:
    rank = len(_shape(node.operands[0]))
    axes = ints_of(node.operands[1]) if len(node.operands) > 1 else None
    reduced = {a % rank for a in axes} if axes is not None else set(range(rank))
    if slot:
        raise LostError
    if place.axis in reduced:
        raise MixedError
    gone = 0 if node.attribute("keepdims") else sum(a < place.axis for a in reduced)
    return replace(place, axis=place.axis - gone)


_RULES: Mapping[str, Callable[[Node, int, Tokens], Tokens]] = {
    **dict.fromkeys(("rms_norm", "layer_norm"), _rowwise),
    **dict.fromkeys(("softmax", "log_softmax", "top_k", "split", "concat"), _along),
    **dict.fromkeys(("matmul", "quantized_matmul"), _product),
    **dict.fromkeys(("identity", "rotary", "expert_matmul"), _first),
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze"), _reshaped),
    **dict.fromkeys(
        (f"reduce_{kind}" for kind in ("l1", "l2", "max", "mean", "min", "prod", "sum", "sum_square")), _reduced
    ),
    "attention": _attention,
    "expand": _aligned,
    "gather": _gathered,
    "slice": _sliced,
    "transpose": _transposed,
}
