"""From what a .pimc expression says to nodes of the graph: op calls, constants, and dimensions used as values.

An op is called by its registered name. Numbers and lists among its operands become constants of the type that the op
wants there; dimensions become scalars read off the shape of an input, so that binding and folding find their number.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeGuard, cast

import numpy as np

from pimc.frontends.dsl_arithmetic import Scalar, quotient, shown
from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.ir.facts import Placement
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import Array, Attribute, OpDef, TypeRuleError, lookup
from pimc.ir.ops.rules import broadcast
from pimc.ir.source import TextSpan
from pimc.ir.types import Dim, DType, Sym, TensorType

Item: TypeAlias = "Scalar | list[Item] | Value"
Datum: TypeAlias = "Item | tuple[Item, ...]"
"""What an expression can be: a number or string, a list of them, a tensor, or several results."""

NODE_LIMIT = 100_000

_INFIX = {"+": "add", "-": "sub", "*": "mul", "/": "div", "@": "matmul", "**": "pow"}
_COMPARE = {"<": "less", "<=": "less_or_equal", ">": "greater", ">=": "greater_or_equal", "==": "equal"}
_WHOLE = frozenset(
    {"shape", "axes", "starts", "ends", "steps", "split", "repeats", "indices", "pads", "k", "depth", "axis"}
)
"""Operands that hold counts or positions, whatever the type of the tensors beside them."""


@dataclass
class Calls:
    """Adds nodes to a graph on behalf of the elaboration. `engine` and `channels` are the placement asked for, where
    there is one."""

    rewriter: Rewriter
    engine: str | None = None
    channels: tuple[int, ...] = ()
    fresh: set[Value] = field(default_factory=set)
    """Results that no name of the text has been given to."""
    _constants: dict[tuple[DType, tuple[int, ...], bytes], Value] = field(default_factory=dict)
    _scalars: dict[Dim, Value] = field(default_factory=dict)
    _pending: dict[str, tuple[Node, Node, TextSpan]] = field(default_factory=dict)
    """Dimensions read before any input has them: their shape and gather nodes, without the right operands yet."""

    @property
    def graph(self) -> Graph:
        return self.rewriter.graph

    def add(
        self,
        op: OpDef,
        operands: Sequence[Value | None],
        attributes: Mapping[str, Attribute],
        span: TextSpan,
        types: Sequence[TensorType] | None = None,
    ) -> Node:
        if len(self.graph) >= NODE_LIMIT:
            raise fail(Kind.GRAPH, f"the model has more than {NODE_LIMIT} nodes", span, help="check the repeat counts")
        node = self.rewriter.add(op, operands, attributes, source=span, types=types)
        if self.engine is not None:
            reason = f"the model asks for it ({span})"
            self.rewriter.set_fact(node, Placement(self.engine, reason, channels=self.channels))
        self.fresh.update(node.results)
        return node

    # -- constants ----------------------------------------------------------------------------------------------

    def constant(self, array: Array, span: TextSpan) -> Value:
        """A constant; equal ones are one value."""
        dtype = DType.of(array)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self.rewriter.constant(name, array, source=span)
        return self._constants[key]

    def made(self, value: Value) -> bool:
        """Whether a value is a constant that was made here, whose name the text does not know."""
        return any(value is constant for constant in self._constants.values())

    def tensor(self, value: Datum, dtype: DType | None, span: TextSpan) -> Value:
        """A value as a tensor; numbers become constants of `dtype` (None: i64 or f32, by what they are)."""
        if isinstance(value, Value):
            return value
        if isinstance(value, Sym):
            scalar = self.scalar(value, span)
            return scalar if dtype in (None, DType.I64) else self.cast(scalar, cast(DType, dtype), span)
        if isinstance(value, list):
            value = _flat(value, span)
            if any(isinstance(v, Sym) for v in value):
                return self._vector(_dimensions(value, span), span)
        elif isinstance(value, str | tuple) or value is None:
            raise fail(Kind.TYPE, f"{shown(value)} is not a tensor", span)
        return self.constant(_array(value, dtype, span), span)

    def cast(self, value: Datum, dtype: DType, span: TextSpan) -> Value:
        tensor = self.tensor(value, None if isinstance(value, Sym) else dtype, span)
        if tensor.type.dtype is dtype:
            return tensor
        return self.add(lookup("cast"), [tensor], {"to": dtype.text}, span).result

    # -- dimensions as values -----------------------------------------------------------------------------------

    def scalar(self, dim: Dim, span: TextSpan) -> Value:
        """A dimension as an i64 scalar that is known once the dimension is bound."""
        if isinstance(dim, int):
            return self.constant(np.array(dim, np.int64), span)
        if dim not in self._scalars:
            self._scalars[dim] = self._polynomial(dim, span)
        return self._scalars[dim]

    def _polynomial(self, dim: Sym, span: TextSpan) -> Value:
        if dim.terms == (((next(iter(dim.names)),), 1),):
            return self._read_dimension(dim.terms[0][0][0], span)
        total: Value | None = None
        for names, factor in dim.terms:
            factors = [self.scalar(Sym.named(name), span) for name in names]
            if factor != 1 or not factors:
                factors.append(self.constant(np.array(factor, np.int64), span))
            term = functools.reduce(lambda x, y: self.infix("*", x, y, span), factors)
            total = term if total is None else self.infix("+", total, term, span)
        assert total is not None
        return total

    def _read_dimension(self, name: str, span: TextSpan) -> Value:
        zero = self.constant(np.array(0, np.int64), span)
        rank = TensorType(DType.I64, (1,))
        shape = self.add(lookup("shape"), [zero], {}, span, types=[rank])
        gather = self.add(lookup("gather"), [shape.result, zero], {}, span, types=[TensorType(DType.I64, ())])
        if not self._connect(name, shape, gather, span):
            self._pending[name] = (shape, gather, span)
        return gather.result

    def _connect(self, name: str, shape: Node, gather: Node, span: TextSpan) -> bool:
        """Read the dimension off the first input that has it as it is."""
        dim = Sym.named(name)
        for value in self.graph.inputs:
            if dim in value.type.shape:
                at = value.type.shape.index(dim)
                self.rewriter.set_operand(shape, 0, value)
                self.rewriter.set_operand(gather, 1, self.constant(np.array(at, np.int64), span))
                self.rewriter.reinfer(shape)
                return True
        return False

    def finish(self) -> None:
        """Connect the dimensions that were used before the input that has them was declared."""
        for name, (shape, gather, span) in self._pending.items():
            if not self._connect(name, shape, gather, span):
                raise fail(
                    Kind.DIM_UNBOUND,
                    f"no input has the dimension '{name}', so its value cannot be read",
                    span,
                    help=f"declare an input or a cache with a dimension that is just '{name}'",
                )

    def _vector(self, dims: Sequence[Dim], span: TextSpan) -> Value:
        """An i64 vector of dimensions."""
        zero = self.constant(np.array([0], np.int64), span)
        parts = [
            self.constant(np.array([d], np.int64), span)
            if isinstance(d, int)
            else self.add(lookup("unsqueeze"), [self.scalar(d, span), zero], {}, span).result
            for d in dims
        ]
        return self.add(lookup("concat"), parts, {"axis": 0}, span).result

    # -- operators ----------------------------------------------------------------------------------------------

    def infix(self, operator: str, left: Datum, right: Datum, span: TextSpan) -> Value:
        """An infix operator with a tensor on at least one side, broadcast as numpy does."""
        name = _INFIX.get(operator) or _COMPARE.get(operator)
        if name is None:
            raise fail(Kind.TYPE, f"'{operator}' does not apply to tensors", span)
        return self.call(lookup(name), [left, right], {}, span)[0]

    # -- op calls -----------------------------------------------------------------------------------------------

    def call(
        self, op: OpDef, arguments: Sequence[Datum], keywords: Mapping[str, tuple[Datum, TextSpan]], span: TextSpan
    ) -> tuple[Value, ...]:
        """Call an op: operands by position (or by their name), attributes by name."""
        operands, attributes = _sort_arguments(op, list(arguments), keywords, span)
        types: Sequence[TensorType] | None = None
        match op.name:
            case "reshape":
                operands, types = self._reshape(operands, span)
            case "expand":
                types = _expand_type(operands, span)
            case "constant_of_shape":
                types = _filled_type(operands, attributes, span)
            case "range":
                operands, types = _range(operands, span)
            case "slice":
                types = _slice_type(operands, span)
            case _:
                pass
        tensors = [v for v in operands if isinstance(v, Value)]
        like = next((v.type.dtype for v in tensors if v.type.dtype is not DType.BOOL), None)
        ready: list[Value | None] = []
        for i, value in enumerate(operands):
            if value is None:
                ready.append(None)
                continue
            declared = op.operands[min(i, len(op.operands) - 1)].name
            ready.append(self.tensor(value, DType.I64 if declared in _WHOLE else like, span))
        try:
            return self.add(op, ready, attributes, span, types).results
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            # A type rule that did not foresee these operands: the mistake is still the model's.
            shown_types = ", ".join(str(v.type) if v is not None else "none" for v in ready)
            notes = (f"operands: {shown_types}", str(error))
            raise fail(Kind.TYPE, f"{op.name} cannot take these operands", span, notes=notes) from error

    def _reshape(self, operands: list[Datum], span: TextSpan) -> tuple[list[Datum], Sequence[TensorType] | None]:
        """Say a symbolic target by 0 (the same dimension) and -1 (the rest), so that it is a constant if possible."""
        x, target, *rest = operands
        if not isinstance(x, Value) or not isinstance(target, list) or not any(isinstance(d, Sym) for d in target):
            return operands, None
        dims = _dimensions(target, span)
        source = x.type.shape
        if -1 in dims:
            others = functools.reduce(_times, [d for d in dims if d != -1], cast(Dim, 1))
            left = quotient(functools.reduce(_times, source, cast(Dim, 1)), others)
            if left is None:
                raise fail(Kind.TYPE, f"reshape: {x.type} does not divide into {_dims(dims)}", span)
            dims = [left if d == -1 else d for d in dims]
        before, after = (functools.reduce(_times, s, cast(Dim, 1)) for s in (source, dims))
        if before != after:
            raise fail(
                Kind.TYPE,
                f"reshape: {x.type} cannot become {_dims(dims)}",
                span,
                notes=(f"there are {before} elements before and {after} after",),
            )
        said: list[Item] = [0 if i < len(source) and source[i] == d else d for i, d in enumerate(dims)]
        open_dims = [i for i, d in enumerate(said) if isinstance(d, Sym)]
        if len(open_dims) == 1:
            said[open_dims[0]] = -1
        if len(open_dims) <= 1:
            return [x, said, *rest], None
        return [x, cast("list[Item]", dims), *rest], [TensorType(x.type.dtype, tuple(dims))]


def _times(left: Dim, right: Dim) -> Dim:
    return left * right


def _dims(dims: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _has_dimension(value: Datum) -> TypeGuard[list[Item]]:
    return isinstance(value, list) and any(isinstance(v, Sym) for v in value)


def _dimensions(items: list[Item], span: TextSpan) -> list[Dim]:
    """A list as dimensions; refuses anything but whole numbers and dimensions in it."""
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | Sym):
            raise fail(Kind.TYPE, f"a list with dimensions holds whole numbers, not {shown(item)}", span)
    return cast("list[Dim]", items)


def _expand_type(operands: list[Datum], span: TextSpan) -> list[TensorType] | None:
    x, target = operands
    if not isinstance(x, Value) or not _has_dimension(target):
        return None
    try:
        return [TensorType(x.type.dtype, broadcast(x.type.shape, tuple(_dimensions(target, span))))]
    except TypeRuleError as error:
        raise fail(Kind.TYPE, f"expand: {error}", span, notes=(f"operand: {x.type}",)) from None


def _filled_type(operands: list[Datum], attributes: Mapping[str, Attribute], span: TextSpan) -> list[TensorType] | None:
    target = operands[0]
    if not _has_dimension(target):
        return None
    dtype = str(attributes.get("dtype", "f32"))
    try:
        return [TensorType(DType.parse(dtype), tuple(_dimensions(target, span)))]
    except ValueError as error:
        raise fail(Kind.ATTRIBUTE, str(error), span) from None


def _range(operands: list[Datum], span: TextSpan) -> tuple[list[Datum], list[TensorType] | None]:
    """`range(limit)`, `range(start, limit)` and `range(start, limit, delta)`, with dimensions allowed."""
    given = [v for v in operands if v is not None]
    if not given:
        raise fail(Kind.TYPE, "range takes 1 to 3 operands: range(start, limit, delta)", span)
    start, limit, delta = ([0, given[0], 1], [*given, 1], given)[len(given) - 1]
    if not isinstance(start, int | Sym) or not isinstance(limit, int | Sym) or not isinstance(delta, int):
        return [start, limit, delta], None
    if isinstance(start, int) and isinstance(limit, int):
        return [start, limit, delta], None
    length = quotient(limit - start, delta)
    if length is None:
        raise fail(Kind.TYPE, f"range: {limit - start} is not a multiple of {delta} for all dimensions", span)
    return [start, limit, delta], [TensorType(DType.I64, (length,))]


def _slice_type(operands: list[Datum], span: TextSpan) -> list[TensorType] | None:
    """The result of a slice with symbolic bounds; positive bounds are taken to lie inside."""
    x, starts, ends, axes, steps = (*operands, None, None)[:5]
    if not isinstance(x, Value) or not (_has_dimension(starts) or _has_dimension(ends)) or steps is not None:
        return None
    if not isinstance(starts, list) or not isinstance(ends, list) or len(starts) != len(ends):
        return None
    chosen = axes if isinstance(axes, list) else list(range(len(starts)))
    shape = list(x.type.shape)
    for axis, start, end in zip(chosen, _dimensions(starts, span), _dimensions(ends, span), strict=False):
        if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
            return None
        whole = shape[axis]
        low, high = (whole + bound if isinstance(bound, int) and bound < 0 else bound for bound in (start, end))
        shape[axis] = high - low
    return [TensorType(x.type.dtype, tuple(shape))]


# -- arguments ------------------------------------------------------------------------------------------------------


def _sort_arguments(
    op: OpDef, operands: list[Datum], keywords: Mapping[str, tuple[Datum, TextSpan]], span: TextSpan
) -> tuple[list[Datum], dict[str, Attribute]]:
    """Operands in their order, attributes checked; raises CompileError with the signature of the op."""
    variadic = any(o.variadic for o in op.operands)
    names = [o.name for o in op.operands]
    if not variadic and len(operands) > len(names):
        raise fail(Kind.TYPE, f"{op.name} takes {_count(op)}, not {len(operands)}", span, notes=(signature(op),))
    attributes: dict[str, Attribute] = {}
    for name, (value, place) in keywords.items():
        if name in names and not variadic:
            at = names.index(name)
            if at < len(operands):
                raise fail(Kind.NAME_TWICE, f"operand '{name}' of {op.name} is given twice", place)
            operands += [None] * (at + 1 - len(operands))
            operands[at] = value
        else:
            attributes[name] = _attribute(op, name, value, place)
    missing = [o.name for o, v in zip(op.operands, [*operands, *[None] * len(names)], strict=False)
               if v is None and not o.optional and not o.variadic]  # fmt: skip
    if missing and op.name != "range":
        raise fail(
            Kind.TYPE,
            f"{op.name} takes {_count(op)}; '{missing[0]}' is missing",
            span,
            notes=(signature(op),),
        )
    lacking = sorted(op.required - set(attributes))
    if lacking:
        raise fail(Kind.ATTRIBUTE, f"{op.name} needs the attribute '{lacking[0]}'", span, notes=(signature(op),))
    return operands, attributes


def _count(op: OpDef) -> str:
    low = sum(not (o.optional or o.variadic) for o in op.operands)
    high = len(op.operands)
    if any(o.variadic for o in op.operands):
        return f"at least {low} operand{'s' * (low != 1)}"
    return f"{low} operand{'s' * (low != 1)}" if low == high else f"{low} to {high} operands"


def signature(op: OpDef) -> str:
    """An op as it is called: `softmax(x, axis = -1)`."""
    parts = [f"*{o.name}" if o.variadic else f"{o.name}?" if o.optional else o.name for o in op.operands]
    parts += [f"{name} = ..." for name in sorted(op.required)]
    parts += [f"{name} = {shown(list(v) if isinstance(v, tuple) else v)}" for name, v in op.attributes.items()]
    return f"{op.name}({', '.join(parts)})"


@functools.cache
def _annotations(name: str) -> Mapping[str, str]:
    """The declared types of an op's attributes, as its rule writes them."""
    parameters = inspect.signature(lookup(name).rule).parameters.values()
    return {p.name: str(p.annotation) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _attribute(op: OpDef, name: str, value: Datum, span: TextSpan) -> Attribute:
    if name not in op.attributes and name not in op.required:
        known = [*op.attributes, *op.required, *(o.name for o in op.operands)]
        raise fail(
            Kind.ATTRIBUTE,
            f"{op.name} has no attribute or operand '{name}'",
            span,
            notes=(signature(op),),
            help=did_you_mean(name, known),
        )
    wanted = _annotations(op.name).get(name, "")
    found = tuple(value) if isinstance(value, list) else value
    if isinstance(found, bool) and wanted == "int":
        return int(found)
    if isinstance(found, int | float) and not isinstance(found, bool) and wanted == "float":
        # ONNX keeps float attributes in 32 bits: rounded alike, both frontends give the same graph.
        return float(np.float32(found))
    if not any(_fits(found, kind.strip()) for kind in wanted.split("|")):
        what = f"a tensor ({value.type})" if isinstance(value, Value) else shown(value)
        hint = "; dimensions have no number yet" if isinstance(value, Sym) else ""
        words = " or ".join(_KINDS.get(kind.strip(), (kind.strip(),))[0] for kind in wanted.split("|"))
        raise fail(Kind.ATTRIBUTE, f"attribute '{name}' of {op.name} must be {words}, not {what}{hint}", span)
    return cast(Attribute, found)


_KINDS: dict[str, tuple[str, type, type | None]] = {
    "int": ("a whole number", int, None),
    "float": ("a number", float, None),
    "bool": ("true or false", bool, None),
    "str": ("a string", str, None),
    "None": ("none", type(None), None),
    "tuple[int, ...]": ("a list of whole numbers", tuple, int),
    "tuple[float, ...]": ("a list of numbers", tuple, float),
    "tuple[str, ...]": ("a list of strings", tuple, str),
}
"""Declared types of attributes: in words, the Python type, and that of the elements."""


def _fits(value: Datum, kind: str) -> bool:
    if kind not in _KINDS:
        return not isinstance(value, Value | Sym)
    _, outer, inner = _KINDS[kind]
    if not isinstance(value, outer) or (isinstance(value, bool) and outer is not bool):
        return False
    return inner is None or (isinstance(value, tuple) and all(isinstance(v, inner) for v in value))


def _flat(items: list[Item], span: TextSpan) -> list[Item]:
    for item in items:
        if isinstance(item, Value | str) or item is None:
            what = "a tensor" if isinstance(item, Value) else shown(item)
            raise fail(
                Kind.TYPE,
                f"a list holds numbers and dimensions, not {what}",
                span,
                help="join tensors by concat(a, b, axis = 0)",
            )
    return items


def _array(value: object, dtype: DType | None, span: TextSpan) -> Array:
    """Numbers, or nested lists of them, as an array; refuses what the element type cannot hold."""
    try:
        array = np.asarray(value)
        if array.dtype == object or (array.dtype.kind == "u" and dtype is None):
            raise ValueError("a number is too large")
    except (ValueError, OverflowError):
        raise fail(Kind.TYPE, f"{shown(value)} does not make a tensor", span) from None
    if dtype is None:
        return array if array.dtype == np.bool_ else array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        cast_array = array.astype(dtype.numpy)
    if not dtype.is_float and not np.array_equal(cast_array, array):
        raise fail(Kind.TYPE, f"{shown(value)} does not fit {dtype.text}", span)
    return cast_array
