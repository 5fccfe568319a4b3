"""Run a graph on arrays by the reference meanings of its ops. The values that everything else is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, InternalError, Kind, did_you_mean, fail
from pimc.ir.graph import Graph, Node, Value
from pimc.ir.op import Array
from pimc.ir.types import DType, Sym, TensorType

Observer = Callable[[Node, tuple[Array, ...]], None]


def run(
    graph: Graph, inputs: Mapping[str, Array], *, observe: Observer | None = None, wide: bool = False
) -> dict[str, Array]:
    """The outputs by name. `inputs` holds an array for every input, caches included.

    wide: every float of 16 bits is computed with and kept as a float32, never rounded, and may be given as one. Values
    are dropped after their last use. `observe` sees every node with its results. Raises CompileError (INPUT_BAD, with
    all mistakes) where the arrays do not fit, WEIGHT_MISSING where a weight has no data.
    """
    bind_inputs(graph, inputs, wide=wide)
    keep = _widened if wide else np.asarray
    live: dict[Value, Array] = {value: keep(inputs[value.name]) for value in graph.inputs}
    for weight in graph.weights:
        if graph.use_count(weight):
            live[weight] = keep(_contents(weight))
    left = Counter({value: graph.use_count(value) for value in graph.values()})
    for node in graph.order():
        results = evaluate(node, [None if v is None else live[v] for v in node.operands], wide=wide)
        if observe is not None:
            observe(node, results)
        live.update(zip(node.results, results, strict=True))
        for value in (*node.inputs(), *(r for r in node.results if not left[r])):
            left[value] -= 1
            if left[value] <= 0:
                live.pop(value, None)
    return {name: live[value] for name, value in graph.outputs}


def evaluate(node: Node, arrays: Sequence[Array | None], *, wide: bool = False) -> tuple[Array, ...]:
    """The results of one node for arrays in the order of its operands (None where an optional one is absent)."""
    if wide and arrays[:1] and arrays[0] is not None and _keeps_width(node):
        return (_widened(arrays[0]).astype(_wide_type(node.result.type.dtype)),)
    if node.op.meaning is None:
        raise fail(
            Kind.STAGE,
            f"{node.op.name} has no meaning on a single device",
            node.source,
            help="interpret the graph before it is partitioned",
        )
    try:
        results = node.op.evaluate(arrays, node.attributes)
    except IndexError as error:
        raise fail(Kind.INPUT_BAD, f"{node.op.name}: {error}", node.source) from error
    except MemoryError:
        given = ", ".join(str(r.type) for r in node.results)
        raise fail(
            Kind.CAPACITY, f"{node.op.name} gives {given}, which is more than the memory of this computer", node.source
        ) from None
    if wide:
        results = tuple(_widened(array) for array in results)
    for value, array in zip(node.results, results, strict=True):
        if not _fits(value.type, array, wide=wide):
            raise InternalError(f"{node!r} gave {array.dtype}{list(array.shape)}, but its type is {value.type}")
    return results


def _wide_type(dtype: DType) -> np.dtype[Any]:
    return DType.F32.numpy if dtype in (DType.F16, DType.BF16) else dtype.numpy


def _widened(array: Array) -> Array:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype in (DType.F16.numpy, DType.BF16.numpy) else array


def _keeps_width(node: Node) -> bool:
    """A cast between floats that nothing is lost in if floats are wide."""
    source = node.operands[0]
    return (
        node.op.name == "cast" and source is not None and source.type.dtype.is_float and node.result.type.dtype.is_float
    )


def bind_inputs(graph: Graph, inputs: Mapping[str, Array], *, wide: bool = False) -> dict[str, int]:
    """The values of symbolic dimensions that the arrays imply. Raises INPUT_BAD with every mistake there is.

    wide: floats of 16 bits may be float32.
    """
    found: list[Diagnostic] = []
    bound: dict[str, tuple[int, str]] = {}
    names = [value.name for value in graph.inputs]
    for name in inputs:
        if name not in names:
            found.append(_bad(f"the model has no input '{name}'", help=did_you_mean(name, names)))
    present = [value for value in graph.inputs if value.name in inputs]
    found += [_bad(f"no array for input '{n}'", help="give every input an array") for n in names if n not in inputs]
    for value in present:
        found += _bind_named(value, np.asarray(inputs[value.name]), bound, wide=wide)
    dims = {name: extent for name, (extent, _) in bound.items()}
    for value in present:
        expected = value.type.bind(dims)
        array = np.asarray(inputs[value.name])
        if not found and not any(_fits(expected, array, wide=w) for w in (False, wide)):
            found.append(_bad(f"input '{value.name}' has shape {list(array.shape)}, but should be {expected}"))
        settled = value.type.array
        if not found and settled is not None and not np.array_equal(array, settled):
            found.append(_bad(f"input '{value.name}' holds {array.tolist()}, but the graph is for {settled.tolist()}"))
    if found:
        raise CompileError(found)
    return dims


def _bind_named(value: Value, array: Array, bound: dict[str, tuple[int, str]], *, wide: bool) -> list[Diagnostic]:
    """Bind the dimensions of one input that are a single name; the mistakes that are seen on the way."""
    declared = value.type.dtype
    if array.dtype != declared.numpy and not (wide and array.dtype == _wide_type(declared)):
        given = array.dtype.name
        return [_bad(f"input '{value.name}' has elements of type {given}, but should be {value.type.dtype.text}")]
    if array.ndim != value.type.rank:
        return [_bad(f"input '{value.name}' has shape {list(array.shape)}, but should be {value.type}")]
    found = []
    for dim, extent in zip(value.type.shape, array.shape, strict=True):
        name = _single_name(dim)
        if name is None:
            continue
        known, by = bound.setdefault(name, (extent, value.name))
        if known != extent:
            message = f"dimension '{name}' is {extent} in input '{value.name}', but {known} in '{by}'"
            found.append(_bad(message))
    return found


def _single_name(dim: int | Sym) -> str | None:
    if isinstance(dim, Sym) and len(dim.names) == 1:
        (name,) = dim.names
        return name if dim == Sym.named(name) else None
    return None


def _bad(message: str, help: str | None = None) -> Diagnostic:
    return Diagnostic(Kind.INPUT_BAD, message, help=help)


def _contents(weight: Value) -> Array:
    if weight.contents is None:
        raise fail(Kind.WEIGHT_MISSING, f"weight '{weight.name}' has no data", weight.source)
    array = np.asarray(weight.contents.array())
    if not _fits(weight.type, array):
        shape = list(array.shape)
        raise fail(Kind.WEIGHT_MISSING, f"the data of '{weight.name}' is {array.dtype}{shape}, not {weight.type}")
    return array


def _fits(type: TensorType, array: Array, *, wide: bool = False) -> bool:
    """Whether an array can be a value of the type (symbolic dimensions fit anything)."""
    expected = _wide_type(type.dtype) if wide else type.dtype.numpy
    if array.dtype != expected and not (type.dtype in (DType.I4, DType.U4) and DType.of(array) is type.dtype):
        return False
    return array.ndim == type.rank and all(
        not isinstance(dim, int) or dim == extent for dim, extent in zip(type.shape, array.shape, strict=True)
    )
