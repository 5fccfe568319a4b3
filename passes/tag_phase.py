"""Find the phase of inference that each node belongs to."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from pimc.ir.facts import Phase
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.stage import GraphStage
from pimc.passes.attention_mask import is_triangular
from pimc.passes.building import operand_at
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import contents_of, is_constant, operand, skip
from pimc.record import record

_ATTENTION = frozenset({"attention", "attention_scores"})
_MOVES = frozenset(
    {"reshape", "transpose", "squeeze", "unsqueeze", "expand", "flatten", "identity", "cast", "slice", "mul", "div"}
)
_COMPARES = frozenset({"less", "less_or_equal", "greater", "greater_or_equal"})
_MASK_OPS = (
    _MOVES | _COMPARES | {"where", "and", "or", "not", "add", "sub", "min", "max", "equal", "concat", "gather_nd"}
)
_WRITES = frozenset({"scatter_nd", "scatter_elements", "tensor_scatter", "cache_write"})
_MASK_STEPS = 256
_DECODER = frozenset({Phase.PREFILL, Phase.DECODE, Phase.CHUNKED})


@record
class TagPhasePass(Pass):
    """Every node gets a `Phase`: prefill, decode, chunked, encode or mixed.

        %y = attention(%q[1,32,1,128], cache_append(%past, %new)[1,8,513,128], ..)   ->   same   // phase = decode

    An attention decides by its query length S, its cached length P and its dataflow, never by names: P > 0 is decode
    for S = 1 and chunked (a prompt in pieces, or a check of speculated tokens) for more; no past, but a causal mask or
    keys that are handed out, is prefill; neither is encode. A cache written at given positions, whose fill is not
    known, is decode for S = 1 and prefill for more. Attention over another sequence has the phase of its query.
    Other nodes take the phase of the attention before them, else of the one behind; mixed if these differ. A graph
    without attention is prefill. `--phase` overrides all of this.
    """

    name: ClassVar[str] = "tag-phase"
    before: ClassVar[GraphStage] = GraphStage.CANONICAL

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        order = graph.order()
        phases = dict.fromkeys(order, context.phase) if context.phase is not None else find_phases(graph)
        for node in order:
            rewriter.set_fact(node, phases[node])


def find_phases(graph: Graph) -> dict[Node, Phase]:
    """The phase of every node."""
    order = graph.order()
    above: dict[Node, frozenset[Phase]] = {}
    own: dict[Node, Phase] = {}
    for node in order:
        near: set[Phase] = set()
        for value in node.inputs():
            if value.owner is not None:
                near |= {own[value.owner]} if value.owner in own else above[value.owner]
        above[node] = frozenset(near)
        if node.op.name in _ATTENTION:
            own[node] = attention_phase(node, graph, _of_query(node, own, above))
    below = _below(graph, order, own)
    rest = _one(frozenset(own.values())) if own else Phase.PREFILL
    return {n: own[n] if n in own else _one(above[n] or below[n]) or rest or Phase.MIXED for n in order}


def graph_phase(graph: Graph) -> Phase:
    """The phase of a whole tagged graph: the one that all its attentions have, else mixed."""
    found = {p for n in graph.order() if n.op.name in _ATTENTION and (p := n.fact(Phase)) is not None}
    if not found:
        found = {p for n in graph.order() if (p := n.fact(Phase)) is not None}
    return found.pop() if len(found) == 1 else Phase.MIXED


def _of_query(node: Node, own: dict[Node, Phase], above: dict[Node, frozenset[Phase]]) -> Phase | None:
    """The decoder phase that the query comes from."""
    q = node.operands[0]
    if q is None or q.owner is None:
        return None
    found = (frozenset({own[q.owner]}) if q.owner in own else above[q.owner]) & _DECODER
    return _one(found) if len(found) == 1 else None


def _below(graph: Graph, order: list[Node], own: dict[Node, Phase]) -> dict[Node, frozenset[Phase]]:
    below: dict[Node, frozenset[Phase]] = {}
    for node in reversed(order):
        near: set[Phase] = set()
        for result in node.results:
            for user in graph.users(result):
                near |= {own[user]} if user in own else below[user]
        below[node] = frozenset(near)
    return below


def _one(phases: frozenset[Phase]) -> Phase | None:
    if not phases:
        return None
    return next(iter(phases)) if len(phases) == 1 else Phase.MIXED


# -- one attention ---------------------------------------------------------------------------------------------------


class _Written(Enum):
    """How a cache is filled: behind its end, at given positions, or not by this graph."""

    APPENDED = "appended"
    AT_POSITIONS = "at positions"
    READ_ONLY = "read only"


@record
class _Cached:
    written: _Written
    length: int


def attention_phase(node: Node, graph: Graph, of_query: Phase | None) -> Phase:
    """The phase of an attention; `of_query` is that of the attention its query comes from, if it is a decoder's."""
    q, k = node.operands[0], node.operands[1]
    assert q is not None
    assert k is not None
    queries, keys = q.type.static_shape[2], k.type.static_shape[2]
    cached = _cached(k)
    if cached is not None and cached.written is _Written.AT_POSITIONS:
        return Phase.DECODE if queries == 1 else Phase.PREFILL
    if cached is not None and cached.written is _Written.READ_ONLY:
        if of_query is not None or queries == 1:
            return of_query or Phase.DECODE
        cached = None
    causal = _is_causal(node)
    past = cached.length if cached is not None else keys - queries if causal else 0
    if past > 0:
        return Phase.DECODE if queries == 1 else Phase.CHUNKED
    if cached is not None or causal or _handed_out(k, graph):
        return Phase.PREFILL
    return of_query or Phase.ENCODE


def _cached(value: Value, *, projected: bool = False) -> _Cached | None:
    """The cache that keys come from, through any data movement.

    Keys may also be made from a cache by a product with a weight (`projected`), or be put together from several (as
    those of latent attention are); then only a cache that this graph writes counts.
    """
    while True:
        node = value.owner
        if node is None:
            lives_on = value.role in (Role.INPUT, Role.CACHE) and value.type.rank >= 3 and not projected
            return _Cached(_Written.READ_ONLY, value.type.static_shape[-2]) if lives_on else None
        source = node.operands[0] if node.operands else None
        if source is None:
            return None
        if node.op.name == "cache_append" or (node.op.name == "concat" and _is_past(source)):
            axis = node.attribute("axis")
            assert isinstance(axis, int)
            return _Cached(_Written.APPENDED, source.type.static_shape[axis])
        if node.op.name in _WRITES:
            below = _cached(source)
            return _Cached(_Written.AT_POSITIONS, below.length) if below is not None else None
        if node.op.name == "concat":
            found = (_cached(piece, projected=True) for piece in node.inputs())
            return next((f for f in found if f is not None), None)
        if node.op.name == "matmul" and not projected and is_constant(operand_at(node, 1)):
            projected = True
        elif node.op.name not in _MOVES:
            return None
        value = source


def _is_past(value: Value) -> bool:
    """Whether a value is a cache that is given, or the part of one that is in use."""
    source = skip(value, "slice", "reshape", "transpose")
    return source.role in (Role.INPUT, Role.CACHE) and source.type.rank >= 3


def _handed_out(value: Value, graph: Graph) -> bool:
    """Whether keys, in any arrangement, are an output of the graph."""
    while True:
        if graph.is_output(value):
            return True
        node = value.owner
        source = node.operands[0] if node is not None and node.op.name in _MOVES else None
        if source is None:
            return _reader_is_output(value, graph)
        value = source


def _reader_is_output(value: Value, graph: Graph) -> bool:
    return any(u.op.name in _MOVES and graph.is_output(u.result) for u in graph.users(value))


def _is_causal(node: Node) -> bool:
    """Whether an attention hides later keys: by attribute, or by a mask that was made from a triangle or positions."""
    softmax = node
    if "causal" in node.op.attributes and softmax.attribute("causal"):
        return True
    mask = operand(node, 3) if node.op.name == "attention" else None
    return mask is not None and _mask_is_causal(mask)


def _mask_is_causal(mask: Value) -> bool:
    queue, seen = [mask], {mask}
    while queue and len(seen) < _MASK_STEPS:
        value = queue.pop()
        array = contents_of(value)
        if array is not None and is_triangular(array):
            return True
        node = value.owner
        if node is None or node.op.name not in _MASK_OPS:
            continue
        if node.op.name in _COMPARES and _compares_positions(node):
            return True
        for source in node.inputs():
            if source not in seen:
                seen.add(source)
                queue.append(source)
    return False


def _compares_positions(node: Node) -> bool:
    """Whether a comparison sets a column of positions against a row of them."""
    left, right = node.operands[0], node.operands[1]
    if left is None or right is None or min(left.type.rank, right.type.rank) < 1:
        return False
    a, b = ((1, *v.type.static_shape)[-2:] for v in (left, right))
    return (a[1] == 1 and b[0] == 1 and a[0] > 1 < b[1]) or (b[1] == 1 and a[0] == 1 and b[0] > 1 < a[1])
