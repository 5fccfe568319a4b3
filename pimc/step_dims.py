"""Numbers for the symbolic dimensions of a decoder, from how many requests, new tokens and cached tokens there are."""

from __future__ import annotations

from collections.abc import Mapping

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Value
from pimc.ir.types import Sym
from pimc.passes.bind import resolve_dims
from pimc.random_inputs import index_bound


def token_input(graph: Graph) -> Value:
    """The input with token ids: the integers [batch, seq] that index the table with the most entries."""
    found = [
        (bound, value)
        for value in graph.inputs
        if not value.type.dtype.is_float and value.type.rank == 2 and (bound := index_bound(graph, value)) is not None
    ]
    if not found:
        raise fail(
            Kind.UNAVAILABLE,
            f"'{graph.name}' has no input of token ids [batch, seq] that index an embedding",
            help="generation needs a decoder with token ids in and logits out",
        )
    return max(found, key=lambda item: item[0])[1]


def step_dims(graph: Graph, batch: int, new: int, past: int, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """Numbers for the symbolic dimensions of a step; those in `given` are what they are.

    First those of the token ids, then lengths of caches (float inputs), then of masks (integers), which cover both.
    """
    dims: dict[str, int] = dict(given or {})
    tokens = token_input(graph)
    for dim, size in zip(tokens.type.shape, (batch, new), strict=True):
        _bind(dims, dim, size, graph, tokens)
    for value in sorted(graph.inputs, key=lambda v: not v.type.dtype.is_float):
        cache = value.type.dtype.is_float
        for dim in value.type.shape[-2:-1] if cache else value.type.shape:
            if cache if isinstance(dim, int) else not dim.names <= dims.keys():
                _bind(dims, dim, past if cache else past + new, graph, value)
    resolve_dims(graph, dims)
    return dims


def _bind(dims: dict[str, int], dim: object, size: int, graph: Graph, value: Value) -> None:
    if isinstance(dim, int):
        if dim != size:
            raise fail(
                Kind.UNAVAILABLE,
                f"input '{value.name}' of '{graph.name}' is {value.type}, but this step needs a length of {size}",
                value.source,
                help="prefill and decode from one graph need sequence and past lengths that are symbolic",
            )
        return
    assert isinstance(dim, Sym)
    free = sorted(dim.names - dims.keys())
    rest = dim.bind({**dims, **dict.fromkeys(free, 0)})
    if len(free) == 1 and isinstance(rest, int):
        dims[free[0]] = size - rest
