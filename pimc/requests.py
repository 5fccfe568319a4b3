"""A batch of requests with lengths of their own: the dimensions that they give a model, and the arrays of each alone.

Arrays of the whole batch are padded: row i belongs to request i of the file, whose own elements come first along every
axis. Arrays of one request alone have a batch of 1 and the request's own lengths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail
from pimc.ir.graph import Graph, Value
from pimc.ir.op import Array
from pimc.ir.requests import Batch, Request
from pimc.ir.types import Dim, Sym
from pimc.passes.bind import resolve_dims
from pimc.step_dims import step_dims, token_input

BATCH, SEQ, PAST = "batch", "seq", "past"
"""Dimensions of models in the model language."""
_OF_ONE = re.compile(r"(?P<name>.+)\[(?P<id>.+)\]")


def batch_of(graph: Graph, requests: Sequence[Request], given: Mapping[str, int], room: int = 0) -> Batch:
    """The batch that a model is compiled for; `given` are dimensions that the user has bound beside it.

    room: new tokens that there is room for at least.

    Raises CompileError where the model cannot serve several requests, or `given` contradicts them.
    """
    past, new = max(r.past for r in requests), max(room, *(r.new for r in requests))
    count = len(requests)
    dims = _dims(graph, count, new, past, given)
    wrong = [
        Diagnostic(Kind.DIM_BAD, f"dimension '{name}' is bound by the requests already", help="leave out --dim " + name)
        for name in given
        if name in _bound_by_requests(graph)
    ]
    if wrong:
        raise CompileError(wrong)
    own = tuple(_dims(graph, 1, r.new, r.past, given) for r in requests)
    spread = tuple(_dims(graph, count, new, r.past, given) for r in requests)
    names = _batch_names(graph)
    _check_shared(graph, names, dims, own)
    longer = _dims(graph, count, new, past + 1, given)
    inputs = {v.name: v.type for v in graph.inputs if v.type.rank and _names(v.type.shape[0]) & names}
    return Batch(
        tuple(requests),
        dims,
        own,
        spread,
        inputs,
        frozenset(n for n, v in graph.outputs if v.type.rank and _may_count(v.type.shape[0], names, dims)),
        frozenset(n for n, type in inputs.items() if type.bind(longer).shape != type.bind(dims).shape),
        room,
    )


def _dims(graph: Graph, count: int, new: int, past: int, given: Mapping[str, int]) -> dict[str, int]:
    names = {*graph.dims(), *graph.defaults}
    sizes = {**given, **dict.fromkeys(_batch_names(graph), count)}
    if {BATCH, PAST} <= names:
        if SEQ not in names and new != 1:
            raise fail(Kind.REQUESTS_BAD, f"'{graph.name}' has no dimension '{SEQ}' for {new} new tokens of a request")
        sizes |= {n: size for n, size in ((SEQ, new), (PAST, past)) if n in names}
        if names <= {*sizes, *graph.defaults}:
            return resolve_dims(graph, sizes)
    return step_dims(graph, count, new, past, {n: size for n, size in sizes.items() if n in names})


def _may_count(dim: Dim, names: frozenset[str], dims: Mapping[str, int]) -> bool:
    """Whether a dimension counts requests, as far as it is known before dimensions are bound."""
    return bool(_names(dim) & names) or bool(_names(dim) - dims.keys())


def _check_shared(
    graph: Graph, names: frozenset[str], dims: Mapping[str, int], own: Sequence[Mapping[str, int]]
) -> None:
    """Refuse inputs that all requests share, but that are as long as one of them."""
    for value in graph.inputs:
        if value.type.rank and _names(value.type.shape[0]) & names:
            continue
        if any(value.type.bind(d).shape != value.type.bind(dims).shape for d in own):
            raise fail(
                Kind.REQUESTS_BAD,
                f"input '{value.name}' ({value.type}) depends on the length of a request, but has no axis of requests",
                value.source,
                help="give it the batch as its first axis",
            )


def _batch_names(graph: Graph) -> frozenset[str]:
    """Dimensions that count requests: the first one of token ids, of caches and of whatever else has several axes."""
    if {BATCH, PAST} <= {*graph.dims(), *graph.defaults}:
        first: Dim = Sym.named(BATCH)
    else:
        first = token_input(graph).type.shape[0]
    if not isinstance(first, Sym):
        raise fail(
            Kind.REQUESTS_BAD,
            f"'{graph.name}' is for a batch of {first}, which --requests cannot change",
            help="export the model with a symbolic batch dimension",
        )
    others = [v.type.shape[0] for v in graph.inputs if v.type.rank in (2, 4)]
    return first.names | {n for dim in others if isinstance(dim, Sym) and dim == Sym.named(str(dim)) for n in dim.names}


def _bound_by_requests(graph: Graph) -> frozenset[str]:
    if {BATCH, PAST} <= {*graph.dims(), *graph.defaults}:
        return frozenset({BATCH, SEQ, PAST})
    tokens = token_input(graph)
    caches = [v.type.shape[-2] for v in graph.inputs if v.type.dtype.is_float and v.type.rank >= 3]
    return frozenset(n for dim in (*tokens.type.shape, *caches) for n in _names(dim))


def _names(dim: Dim) -> frozenset[str]:
    return dim.names if isinstance(dim, Sym) else frozenset()


# -- arrays -----------------------------------------------------------------------------------------------------------


def own_inputs(batch: Batch, index: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of one request alone, out of those of the batch."""
    row, dims = batch.requests[index].row, batch.own_dims[index]
    own: dict[str, Array] = {}
    for name, array in inputs.items():
        type = batch.inputs.get(name)
        if type is None:
            own[name] = array
        else:
            own[name] = array[row : row + 1][tuple(slice(0, extent) for extent in type.bind(dims).static_shape)]
    return own


def name_of_one(name: str, request: Request) -> str:
    """What an array of one request is called."""
    return f"{name}[{request.id}]"


def of_each(batch: Batch, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, Array]:
    """Out of the outputs of the batch, those parts that are expected of single requests."""
    found: dict[str, Array] = {}
    by_id = {r.id: r for r in batch.requests}
    for name, wanted in expected.items():
        match = _OF_ONE.fullmatch(name)
        if name in outputs or match is None:
            if name in outputs:
                found[name] = outputs[name]
            continue
        whole = outputs.get(match["name"])
        if whole is not None and match["id"] in by_id and whole.ndim == wanted.ndim:
            row = by_id[match["id"]].row
            found[name] = whole[row : row + 1][tuple(slice(0, extent) for extent in wanted.shape)]
    return found


def padded_inputs(graph: Graph, batch: Batch, given: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the batch out of padded arrays, or out of one for each request named `input[id]`.

    Raises CompileError (INPUT_BAD) with every array that does not fit.
    """
    wrong: list[Diagnostic] = []
    index = {r.id: i for i, r in enumerate(batch.requests)}
    types = {v.name: v for v in graph.inputs}
    found: dict[str, Array] = {}
    alone: dict[str, set[str]] = {}
    for name, array in given.items():
        match = _OF_ONE.fullmatch(name)
        if name in types or match is None or match["name"] not in batch.inputs:
            found[name] = array
            continue
        whole, id = match["name"], match["id"]
        if id not in index:
            wrong.append(
                Diagnostic(Kind.INPUT_BAD, f"array '{name}': there is no request '{id}'", help=did_you_mean(id, index))
            )
            continue
        shape = batch.inputs[whole].bind(batch.own_dims[index[id]]).static_shape
        if array.shape != shape:
            said = f"array '{name}' has shape {list(array.shape)}, but that request's is {list(shape)}"
            wrong.append(Diagnostic(Kind.INPUT_BAD, said))
            continue
        alone.setdefault(whole, set()).add(id)
        room = found.setdefault(whole, _room(types[whole], batch, array))
        room[batch.requests[index[id]].row][tuple(slice(0, extent) for extent in shape[1:])] = array[0]
    for whole, ids in alone.items():
        missing = [r.id for r in batch.requests if r.id not in ids]
        if missing or whole in given:
            said = f"there are arrays '{whole}[..]' of single requests, but " + (
                f"none for request '{missing[0]}'" if missing else f"'{whole}' is given as well"
            )
            wrong.append(Diagnostic(Kind.INPUT_BAD, said))
    if wrong:
        raise CompileError(wrong)
    return found


def _room(value: Value, batch: Batch, like: Array) -> Array:
    return np.zeros(value.type.bind(batch.dims).static_shape, like.dtype)


def expected_of_each(batch: Batch, graph: Graph, expected: Mapping[str, Array]) -> dict[str, Array]:
    """Expected outputs request by request: padded ones are cut to what each request has of them."""
    found: dict[str, Array] = {}
    types = dict(graph.outputs)
    for name, array in expected.items():
        if name not in batch.outputs or array.ndim != types[name].type.rank or len(array) != len(batch.requests):
            found[name] = array
            continue
        for i, request in enumerate(batch.requests):
            type = types[name].type.bind(batch.own_dims[i])
            cut = tuple(slice(0, n) if isinstance(n, int) else slice(None) for n in type.shape[1:])
            found[name_of_one(name, request)] = array[request.row : request.row + 1][(slice(None), *cut)]
    return found
