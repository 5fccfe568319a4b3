"""Lets caches and attention of a batch of requests end where each request ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.facts import Ragged
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.requests import Batch
from pimc.ir.stage import GraphStage
from pimc.passes.building import content_name
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import operand
from pimc.passes.ragged_tokens import take_own_tokens
from pimc.record import record

KEYS = 2
"""The axis of key positions of caches [B, KV, T, D]."""
_ALONG = frozenset(
    {
        "cast", "identity", "unsqueeze", "squeeze", "reshape", "expand", "transpose", "where", "add", "sub", "mul",
        "div",
        "less", "less_or_equal", "greater", "greater_or_equal", "equal", "and", "or", "not", "min", "max", "reduce_sum",
    }
)  # fmt: skip
"""What may happen to masks on their way to attention: every key position by itself, or all of them added up."""


@record
class RaggedAttentionPass(Pass):
    """Caches take new tokens behind each request's own ones, and attention ends there.

        %k = cache_append(%past, %new)               %k = cache_append(%past, %new, [[past of request 0], ..])  #ragged
        %y = attention(%q, %k, %v) {causal}    ->    %y = attention(%q, %k, %v, lengths=[..])                   #ragged

    The caches are as long as those of the longest request; what lies behind a request's own tokens is never looked at.
    Where requests add different numbers of tokens, what takes the last ones takes each request's own:

        %l = slice(%x, [-1], [end], [1])       ->    %l = gather_nd(%x, [[[last token of request 0]], ..])

    Refuses models that use the axis of cached tokens, or that of new ones, for anything else. Does nothing without
    `--requests`.
    """

    name: ClassVar[str] = "ragged-attention"
    before: ClassVar[GraphStage] = GraphStage.CANONICAL

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        batch = graph.batch
        if batch is None:
            return
        said = "mixes new tokens, of which requests have different numbers"
        hint = "give all requests the same number in the column 'new'"
        mixing = [_refused(graph, node, said, hint) for node in take_own_tokens(graph, rewriter, batch)]
        wrong = [*_misuses(graph, batch), *mixing]
        if wrong:
            raise CompileError(wrong)
        fact = _fact(batch)
        for node in graph.order():
            if node.op.name == "cache_append" and node.operands[0] in _ragged_caches(graph, batch):
                _append(node, rewriter, batch, fact)
        for node in graph.order():
            k = node.operands[1] if node.op.name == "attention" else None
            if k is not None and k.owner is not None and k.owner.fact(Ragged) is not None:
                _attend(node, rewriter, batch, fact)


def _fact(batch: Batch) -> Ragged:
    channels = tuple(r.channel for r in batch.requests if r.channel is not None)
    return Ragged(batch.lengths, batch.groups, channels)


def _append(node: Node, rewriter: Rewriter, batch: Batch, fact: Ragged) -> None:
    past, new = node.operands[:2]
    positions = np.array([[r.past + i for i in range(batch.new)] for r in batch.requests], np.int64)
    constant = _constant(rewriter, positions)
    made = rewriter.replace(node, node.op, (past, new, constant), node.attributes)
    rewriter.set_fact(made, fact)


def _attend(node: Node, rewriter: Rewriter, batch: Batch, fact: Ragged) -> None:
    lengths = operand(node, 4) or _constant(rewriter, np.array(batch.lengths, np.int64))
    made = rewriter.replace(node, node.op, (*node.operands[:3], operand(node, 3), lengths), node.attributes)
    rewriter.set_fact(made, fact)


def _constant(rewriter: Rewriter, array: np.typing.NDArray[np.int64]) -> Value:
    """A constant, the same one for the same contents."""
    name = content_name(array)
    known = next((w for w in rewriter.graph.weights if w.name == name), None)
    return known or rewriter.constant(name, array)


# -- what a model may do with lengths ---------------------------------------------------------------------------------


def _ragged_inputs(graph: Graph, batch: Batch) -> list[Value]:
    """Inputs with an axis other than that of requests which the number of cached tokens decides."""
    names = batch.ragged_inputs
    return [v for v in graph.inputs if v.name in names]


def _ragged_caches(graph: Graph, batch: Batch) -> set[Value]:
    return {v for v in _ragged_inputs(graph, batch) if v.role is Role.CACHE}


def _misuses(graph: Graph, batch: Batch) -> Iterator[Diagnostic]:
    for value in _ragged_inputs(graph, batch):
        if value.type.dtype.is_float and value.type.rank == 4:
            yield from _cache_misuses(graph, value, batch)
        else:
            yield from _mask_misuses(graph, value)


def _cache_misuses(graph: Graph, value: Value, batch: Batch) -> Iterator[Diagnostic]:
    for node in graph.users(value):
        if (
            value.role is not Role.CACHE
            or node.op.name != "cache_append"
            or node.attribute("axis") not in (KEYS, KEYS - 4)
        ):
            yield _refused(graph, node, f"reads '{value.name}' otherwise than as a cache that grows")
            continue
        for user in graph.users(node.result):
            if user.op.name != "attention" or node.result not in user.operands[1:3]:
                yield _refused(graph, user, f"reads the keys or values in '{value.name}', but is no attention")
            elif not user.attribute("causal") and len({r.new for r in batch.requests}) > 1:
                said = "attends to all keys, so that requests cannot differ in their number of new tokens"
                yield _refused(graph, user, said, help="give all requests the same number in the column 'new'")


def _mask_misuses(graph: Graph, value: Value) -> Iterator[Diagnostic]:
    reached, queue = {value}, [value]
    while queue:
        current = queue.pop()
        for node in graph.users(current):
            if node.op.name == "attention" and current in node.operands[3:]:
                continue
            if node.op.name not in _ALONG:
                yield _refused(graph, node, f"does not treat every position of '{value.name}' by itself")
            elif node.op.name != "reduce_sum":
                fresh = [r for r in node.results if r not in reached]
                reached.update(fresh)
                queue += fresh


def _refused(graph: Graph, node: Node, why: str, help: str | None = None) -> Diagnostic:
    said = f"requests of different lengths: %{node.name} ({node.op.name}) {why}"
    return Diagnostic(Kind.REQUESTS_BAD, said, node.source, help=help, window=graph.window(node))
