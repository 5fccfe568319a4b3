"""Binding: symbolic dimensions become numbers, given by the user, by the model's defaults, or by arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail
from pimc.ir.graph import Graph, Rewriter, Value
from pimc.ir.op import Array
from pimc.ir.stage import GraphStage
from pimc.ir.types import Dim, DType, Sym
from pimc.ir.weights import Random
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

LARGEST_DIM = 2**31 - 1
"""No dimension of a model reaches this; a number above it is a slip."""


@record
class BindPass(Pass):
    """Substitute numbers for the named dimensions of inputs and weights: `f32[batch, past + 1] -> f32[2, 13]`.

    Numbers come from the context, else from the graph's own defaults. Types of results follow as far as names reach;
    the rest (shapes that were computed from shapes) is left to `fold`.
    """

    name: ClassVar[str] = "bind"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        values = resolve_dims(graph, context.dims)
        for value in list(graph.values()):
            if not value.type.is_static:
                rewriter.retype(value, value.type.bind(values))
            _check_shape(value)
        _check_work(graph, values)
        for weight in graph.weights:
            self._resize(weight, rewriter)

    def _resize(self, weight: Value, rewriter: Rewriter) -> None:
        """Generated contents take the shape that their weight now has."""
        if isinstance(weight.contents, Random) and weight.contents.shape != weight.type.shape:
            rewriter.set_contents(weight, replace(weight.contents, shape=weight.type.static_shape))


def _check_work(graph: Graph, dims: Mapping[str, int]) -> None:
    """Refuse dimensions that leave nothing to compute: no token at all (caches may be empty)."""
    empty = ", ".join(f"{name}=0" for name, size in dims.items() if size == 0)
    tokens = [v for v in graph.inputs if not v.type.dtype.is_float and v.type.array is None] or graph.inputs
    if empty and tokens and all(v.type.is_static and v.type.elements == 0 for v in tokens):
        raise fail(
            Kind.DIM_BAD,
            f"with {empty} '{graph.name}' has nothing to compute",
            help="batch and sequence length must be 1 or more",
        )


def resolve_dims(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """A number for every symbolic dimension of the graph's inputs and weights.

    Raises CompileError: DIM_UNBOUND with all names that have none, DIM_BAD for unknown names and impossible numbers.
    """
    names = graph.dims()
    wrong = [*_unknown_names(given, {*names, *graph.defaults}), *_bad_numbers(given)]
    if wrong:
        raise CompileError(wrong)
    values = {**graph.defaults, **given}
    unbound = [name for name in names if name not in values]
    if unbound:
        raise _unbound(graph, unbound)
    return values


def _unknown_names(given: Mapping[str, int], known: set[str]) -> list[Diagnostic]:
    hint = "all its dimensions are fixed" if not known else None
    return [
        Diagnostic(Kind.DIM_BAD, f"the model has no dimension '{name}'", help=hint or did_you_mean(name, known))
        for name in given
        if name not in known
    ]


def _bad_numbers(given: Mapping[str, int]) -> list[Diagnostic]:
    return [
        Diagnostic(
            Kind.DIM_BAD,
            f"dimension '{name}' cannot be {number}",
            help="a dimension is at least 0" if number < 0 else f"the largest dimension is {LARGEST_DIM}",
        )
        for name, number in given.items()
        if not 0 <= number <= LARGEST_DIM
    ]


def _unbound(graph: Graph, names: list[str]) -> CompileError:
    inputs = [v for v in (*graph.inputs, *graph.weights) if _names(v) & set(names)]
    return fail(
        Kind.DIM_UNBOUND,
        f"dimension{'s' * (len(names) > 1)} without a value: {', '.join(names)}",
        notes=[f"'{v.name}' is {v.type}" for v in inputs[:6]],
        help=f"bind {'them' if len(names) > 1 else 'it'}: {' '.join(f'--dim {name}=N' for name in names)}"
        + "; or let --phase both compile its prefill and a decode step" * _has_two_phases(graph, set(names)),
    )


def _has_two_phases(graph: Graph, unbound: set[str]) -> bool:
    """Whether the lengths of sequences (of ids that index a table) and of caches are both open."""
    ids = [v for v in graph.inputs if any(u.op.name == "gather" and u.operands[1] is v for u in graph.users(v))]
    sequences = {n for v in ids for n in _names(v) & unbound}
    caches = {n for v in graph.inputs if v.type.rank > 2 and v.type.dtype.is_float for n in _names(v) & unbound}
    return bool(sequences - caches) and bool(caches - sequences)


def _names(value: Value) -> set[str]:
    return {n for d in value.type.shape if isinstance(d, Sym) for n in d.names}


def _check_shape(value: Value) -> None:
    fixed = [d for d in value.type.shape if isinstance(d, int)]
    if any(d < 0 or d > 2**40 for d in fixed):
        raise fail(
            Kind.DIM_BAD,
            f"'{value.name}' would have the impossible type {value.type}",
            value.source,
            help="the numbers given for its dimensions do not fit together",
        )


# -- from arrays ----------------------------------------------------------------------------------------------------


def dims_from_arrays(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, int]:
    """The symbolic dimensions that the shapes of input arrays decide, solved from forms such as `past + seq`.

    Inputs without an array decide nothing. Raises CompileError (INPUT_BAD), one diagnostic for each array that does
    not fit: unknown name, wrong element type, wrong rank, or dimensions that contradict each other.
    """
    inputs = {v.name: v for v in graph.inputs}
    wrong = [
        Diagnostic(Kind.INPUT_BAD, f"the model has no input '{name}'", help=did_you_mean(name, inputs))
        for name in arrays
        if name not in inputs
    ]
    equations: list[_Equation] = []
    for name, array in arrays.items():
        if name in inputs:
            problem = _misfit(inputs[name], array)
            if problem is not None:
                wrong.append(problem)
                continue
            pairs = zip(inputs[name].type.shape, array.shape, strict=True)
            equations += [_Equation(name, axis, dim, size) for axis, (dim, size) in enumerate(pairs)]
    values = _solve(equations)
    wrong += [e.conflict(values) for e in equations if e.disagrees(values)]
    if wrong:
        raise CompileError(wrong)
    return values


@record
class _Equation:
    """Dimension `axis` of input `name`, declared as `dim`, is `size` in the given array."""

    name: str
    axis: int
    dim: Dim
    size: int

    def bound(self, values: Mapping[str, int]) -> Dim:
        return self.dim.bind(values) if isinstance(self.dim, Sym) else self.dim

    def disagrees(self, values: Mapping[str, int]) -> bool:
        """Whether no number for what is still open makes both sides equal."""
        have = self.bound(values)
        if isinstance(have, int):
            return have != self.size
        return _linear(have) is not None and self.solved(values) is None

    def solved(self, values: Mapping[str, int]) -> tuple[str, int] | None:
        """The one name that this equation decides, given the others."""
        rest = self.bound(values)
        form = _linear(rest) if isinstance(rest, Sym) else None
        if form is None:
            return None
        name, factor, offset = form
        number, left = divmod(self.size - offset, factor)
        return (name, number) if number >= 0 and not left else None

    def conflict(self, values: Mapping[str, int]) -> Diagnostic:
        where = f"dimension {self.axis} of '{self.name}' is {self.size}"
        if not isinstance(self.dim, Sym):
            return Diagnostic(Kind.INPUT_BAD, f"{where}, but the model wants {self.dim}")
        numbers = ", ".join(f"{n}={values[n]}" for n in sorted(self.dim.names) if n in values)
        return Diagnostic(
            Kind.INPUT_BAD,
            f"{where}, but {self.dim} is {self.bound(values)} by the other arrays",
            notes=(numbers,) if numbers else (),
        )


def _linear(dim: Sym) -> tuple[str, int, int] | None:
    """Name, factor and offset of `factor * name + offset`; None for any other form."""
    factors = [(m[0], c) for m, c in dim.terms if len(m) == 1]
    offsets = [c for m, c in dim.terms if not m]
    if len(factors) != 1 or len(factors) + len(offsets) != len(dim.terms):
        return None
    return *factors[0], sum(offsets)


def _solve(equations: Iterable[_Equation]) -> dict[str, int]:
    values: dict[str, int] = {}
    open_ones = [e for e in equations if isinstance(e.dim, Sym)]
    progress = True
    while progress:
        progress = False
        for equation in open_ones:
            solved = equation.solved(values)
            if solved is not None:
                values[solved[0]] = solved[1]
                progress = True
    return values


def _misfit(value: Value, array: Array) -> Diagnostic | None:
    try:
        dtype = DType.of(array.dtype)
    except ValueError as error:
        return Diagnostic(Kind.INPUT_BAD, f"input '{value.name}': {error}", value.source)
    wanted = value.type.dtype
    if dtype is not wanted and not (dtype.is_float and wanted.is_float):
        message = f"input '{value.name}' is {wanted.text}, but the given array is {dtype.text}"
        return Diagnostic(Kind.INPUT_BAD, message, value.source)
    if array.ndim != value.type.rank:
        message = f"input '{value.name}' is {value.type}, but the given array has shape {list(array.shape)}"
        return Diagnostic(Kind.INPUT_BAD, message, value.source)
    return None
