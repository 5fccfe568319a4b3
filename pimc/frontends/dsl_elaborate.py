"""From the syntax tree of a model to its graph, by running it once, statement by statement.

Repeats are unrolled, functions are inlined, numbers are computed, and calls of ops become nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pimc.frontends.dsl_arithmetic import FUNCTIONS, BadArithmetic, call, infix, prefix
from pimc.frontends.dsl_calls import NODE_LIMIT, Calls, Datum, Item
from pimc.frontends.dsl_functions import bind_arguments
from pimc.frontends.dsl_scope import Binding, Scope, described, single, twice
from pimc.frontends.dsl_tree import (
    Annotation,
    Call,
    Comprehension,
    Declaration,
    Expression,
    Function,
    Include,
    Let,
    ListOf,
    Literal,
    Model,
    Name,
    Number,
    Operation,
    Output,
    PhaseBlock,
    Repeat,
    Return,
    Statement,
    Text,
    TypeOf,
    WeightsFrom,
    When,
)
from pimc.frontends.dsl_weights import WeightFile, read_weights
from pimc.ir.diagnostics import CompileError, Kind, did_you_mean, fail
from pimc.ir.graph import Graph, Rewriter, Role, Value
from pimc.ir.op import REGISTRY, lookup
from pimc.ir.source import TextSpan
from pimc.ir.types import Dim, DType, Sym, TensorType
from pimc.ir.weights import Contents, Inline, Random

_STEP_LIMIT = 1_000_000
_LARGEST_DIM = 2**31 - 1
_SMALL = 1024
"""Weights of at most so many elements that come from a file are constants, as in the ONNX frontend."""


@dataclass
class Elaboration:
    """One run through a model's statements."""

    model: Model
    phase: str | None
    folder: Path
    graph: Graph
    calls: Calls
    top: Scope
    scope: Scope
    functions: dict[str, Function] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    stored: WeightFile | None = None
    outputs: dict[str, tuple[Value, TextSpan]] = field(default_factory=dict)
    presents: dict[str, tuple[Value, TextSpan]] = field(default_factory=dict)
    caches: dict[Value, str] = field(default_factory=dict)
    appended: dict[Value, TextSpan] = field(default_factory=dict)
    steps: int = 0

    @staticmethod
    def of(model: Model, phase: str | None, folder: Path) -> Elaboration:
        graph = Graph(model.name)
        top = Scope(None, "")
        return Elaboration(model, phase, folder, graph, Calls(Rewriter(graph)), top, top)

    def run(self) -> Graph:
        lookup("add")  # declares the built-in ops
        self._declare_dimensions()
        self._declare_functions()
        self._choose_phase()
        self.block(self.model.body)
        self.calls.finish()
        if not self.outputs and not self.presents:
            raise fail(
                Kind.GRAPH, f"model '{self.model.name}' has no output", self.model.span, help="add: output logits"
            )
        for label, (value, _) in (*self.outputs.items(), *self.presents.items()):
            self.calls.rewriter.output(label, value)
        return self.graph

    def _declare_dimensions(self) -> None:
        for dim in self.model.dimensions:
            self.scope.define(dim.name, Sym.named(dim.name), dim.span, fixed="a dimension")
            if dim.default is not None:
                self.graph.defaults[dim.name] = dim.default

    def _declare_functions(self) -> None:
        for statement in self.model.body:
            if isinstance(function := statement.plain, Function):
                if function.name in self.functions:
                    twice("function", function.name, function.span, self.functions[function.name].span)
                if function.name in REGISTRY or function.name in FUNCTIONS:
                    raise fail(Kind.NAME_TWICE, f"'{function.name}' is the name of an op already", function.span)
                self.functions[function.name] = function

    def _choose_phase(self) -> None:
        known = list(dict.fromkeys(_phases(self.model.body)))
        if self.phase is None and known:
            self.phase = known[0]
        if known and self.phase not in known:
            raise fail(
                Kind.NAME_UNKNOWN,
                f"model '{self.model.name}' has no phase '{self.phase}'",
                self.model.span,
                help=did_you_mean(str(self.phase), known),
            )
        self.scope.define("phase", self.phase, self.model.span, fixed="the phase")

    # -- labels -------------------------------------------------------------------------------------------------

    def label(self, label: Name | Text) -> str:
        """The name that the outside sees: quoted ones as they are, others behind the path of their scope."""
        if isinstance(label, Name):
            return self.scope.path + label.name
        text = self.text(label)
        if not re.fullmatch(r"[^\s\"%]+", text):
            raise fail(Kind.SYNTAX, f'"{text}" is not a name: it is empty or has blanks', label.span)
        return text

    def text(self, text: Text) -> str:
        parts = list(text.parts)
        for i in range(1, len(parts), 2):
            value = self.name(Name(text.span, parts[i]))
            if not isinstance(value, int | str) or isinstance(value, bool):
                raise fail(Kind.TYPE, f"'{parts[i]}' cannot be put into a string: it is {described(value)}", text.span)
            parts[i] = str(value)
        return "".join(parts)

    # -- statements ---------------------------------------------------------------------------------------------

    def block(self, statements: Sequence[Statement]) -> Datum:
        """Run statements; the returned values (as a tuple) once a `return` is met, else None."""
        for statement in statements:
            self.steps += 1
            if self.steps > _STEP_LIMIT:
                raise fail(
                    Kind.GRAPH, f"the model takes more than {_STEP_LIMIT} steps", statement.plain.span,
                    help="check the repeat counts",
                )  # fmt: skip
            outer = self.calls.engine, self.calls.channels
            for annotation in statement.annotations:
                self.annotation(annotation)
            returned = self.statement(statement)
            self.calls.engine, self.calls.channels = outer
            if returned is not None:
                return returned
        return None

    def annotation(self, annotation: Annotation) -> None:
        if annotation.name != "engine":
            raise fail(
                Kind.NAME_UNKNOWN,
                f"no such annotation: '@{annotation.name}'",
                annotation.span,
                help=did_you_mean(annotation.name, ["engine"]),
            )
        given = {a.name or "": self.value(a.value) for a in annotation.arguments}
        engine, channels = given.pop("", None), given.pop("channels", [])
        if (
            not isinstance(engine, str)
            or given
            or len({a.name for a in annotation.arguments}) < len(annotation.arguments)
        ):
            raise fail(
                Kind.ATTRIBUTE,
                "@engine takes the name of an engine, and channels of its memory by name",
                annotation.span,
                help='as in @engine("pim") or @engine("pim", channels = [0])',
            )
        self.calls.engine, self.calls.channels = engine, self.channels(channels, annotation)

    @staticmethod
    def channels(given: Datum, annotation: Annotation) -> tuple[int, ...]:
        """Neighbouring channels, in order."""
        if isinstance(given, list) and all(isinstance(c, int) and not isinstance(c, bool) for c in given):
            numbers = tuple(c for c in given if isinstance(c, int))
            if not numbers or (numbers[0] >= 0 and numbers == tuple(range(numbers[0], numbers[0] + len(numbers)))):
                return numbers
        raise fail(
            Kind.ATTRIBUTE,
            f"channels is a list of neighbouring numbers from 0, not {described(given)}",
            annotation.span,
            help="as in channels = [0] or channels = [0, 1, 2, 3]",
        )

    def statement(self, statement: Statement) -> Datum:
        match statement.plain:
            case Let() as let:
                self.let(let)
            case Declaration() as declaration:
                self.declare(declaration)
            case Output() as output:
                self.output(output)
            case Repeat() as repeat:
                return self.repeat(repeat)
            case When() as when:
                condition = self.value(when.condition)
                if not isinstance(condition, bool):
                    raise fail(Kind.TYPE, f"'when' needs a condition, not {described(condition)}", when.condition.span)
                return self.block(when.then if condition else when.otherwise)
            case PhaseBlock() as phase:
                return self.block(phase.body) if self.phase in [p.name for p in phase.phases] else None
            case Return() as statement_return:
                if not self.running:
                    raise fail(Kind.SYNTAX, "'return' belongs into a function", statement_return.span)
                values = [self.value(v) for v in statement_return.values]
                return tuple(single(v, e.span) for v, e in zip(values, statement_return.values, strict=True))
            case WeightsFrom() as source:
                self.stored = read_weights(self._folder_of(source.span) / self.text(source.path), source.span)
            case Include() as include:
                raise fail(Kind.SYNTAX, "'include' stands at the top level, outside blocks", include.span)
            case Function() as function:
                if self.scope is not self.top or self.functions.get(function.name) is not function:
                    raise fail(Kind.SYNTAX, "a function is declared at the top level, outside blocks", function.span)
            case Call() as called:
                self.value(called)
        return None

    def _folder_of(self, span: TextSpan) -> Path:
        """The folder of the file that a statement stands in."""
        return self.folder if span.file == self.model.span.file else Path(span.file).parent

    def let(self, let: Let) -> None:
        values: list[Datum] = [self.value(v) for v in let.values]
        if len(values) == 1 and isinstance(values[0], tuple):
            values = list(values[0])
        if len(values) != len(let.targets):
            names = f"{len(let.targets)} name{'s' * (len(let.targets) > 1)}"
            raise fail(Kind.TYPE, f"{names} for {len(values)} value{'s' * (len(values) != 1)}", let.targets[0].span)
        for target, value in zip(let.targets, values, strict=True):
            if isinstance(value, Value) and value in self.calls.fresh:
                self.calls.rewriter.rename(value, self.scope.path + target.name)
                self.calls.fresh.discard(value)
            if let.new:
                self.scope.define(target.name, value, target.span)
            else:
                self.scope.assign(target, value)

    def repeat(self, repeat: Repeat) -> Datum:
        start, stop = self.whole(repeat.start, "a repeat count"), self.whole(repeat.stop, "a repeat count")
        if stop - start > NODE_LIMIT:
            raise fail(
                Kind.GRAPH,
                f"{stop - start} repetitions are too many; the limit is {NODE_LIMIT}",
                repeat.stop.span,
            )
        outer = self.scope
        for i in range(start, stop):
            self.scope = Scope(outer, f"{outer.path}{repeat.name.name}.{i}.")
            self.scope.define(repeat.name.name, i, repeat.name.span, fixed="a counter")
            returned = self.block(repeat.body)
            if returned is not None:
                return returned
        self.scope = outer
        return None

    def output(self, output: Output) -> None:
        label = self.label(output.label)
        value = self.value(output.value)
        if not isinstance(value, Value):
            raise fail(Kind.TYPE, f"output '{label}' must be a tensor, not {described(value)}", output.value.span)
        self._claim_output(label, output.span)
        self.outputs[label] = value, output.span

    def _claim_output(self, label: str, span: TextSpan) -> None:
        earlier = self.outputs.get(label) or self.presents.get(label)
        if earlier is not None:
            twice("output", label, span, earlier[1])

    # -- weights, inputs, caches --------------------------------------------------------------------------------

    def declare(self, declaration: Declaration) -> None:
        label = self.label(declaration.label or declaration.name)
        type = self.type(declaration.type)
        self._claim(label, declaration)
        rewriter, span = self.calls.rewriter, declaration.span
        match declaration.role:
            case "weight":
                value = self._weight(label, type, declaration)
            case "input":
                value = rewriter.input(label, type, source=span)
            case _:
                value = rewriter.input(label, type, role=Role.CACHE, source=span)
                present = declaration.present
                self.caches[value] = f"{label}.present" if present is None else self.label(present)
        self.scope.define(declaration.name.name, value, declaration.name.span)

    def _claim(self, label: str, declaration: Declaration) -> None:
        """Make sure that no other weight or input has the name; results give way."""
        other = self.graph.value(label)
        if other is None:
            return
        if other.role is Role.RESULT or self.calls.made(other):
            self.calls.rewriter.rename(other, f"{label}_")
            return
        help = None
        if self.running:
            help = f"give each call its own name: {self.running[-1]}(...) as first"
        assert isinstance(other.source, TextSpan)
        twice(declaration.role, label, declaration.name.span, other.source, help)

    def _weight(self, label: str, type: TensorType, declaration: Declaration) -> Value:
        for given, dim in zip(declaration.type.dims, type.shape, strict=True):
            if not isinstance(dim, int) or dim == 0:
                why = "it has no number yet" if isinstance(dim, Sym) else "it must be positive"
                raise fail(Kind.DIM_BAD, f"{dim} cannot be a dimension of a weight: {why}", given.span)
        rewriter, span = self.calls.rewriter, declaration.span
        contents = self._contents(label, type, declaration)
        if declaration.initial is None and self.stored is not None and type.elements <= _SMALL:
            return rewriter.constant(label, np.array(contents.array()), source=span)
        return rewriter.weight(label, type, contents, source=span)

    def _contents(self, label: str, type: TensorType, declaration: Declaration) -> Contents:
        initial, shape = declaration.initial, type.static_shape
        if initial is None:
            if self.stored is None:
                return Random(label, type.dtype, shape)
            return self.stored.find(label, type, declaration.name.span, declaration.type.span)
        if isinstance(initial, Call) and initial.function == "random":
            scales = [self.value(a.value) for a in initial.arguments]
            if len(scales) == 1 and isinstance(scales[0], int | float):
                return Random(label, type.dtype, shape, float(scales[0]))
            raise fail(Kind.ATTRIBUTE, "random takes the standard deviation, as in random(0.02)", initial.span)
        value = self.value(initial)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fail(
                Kind.TYPE, f"a weight starts as a number or random(scale), not as {described(value)}", initial.span
            )
        return Inline(np.broadcast_to(np.asarray(value).astype(type.dtype.numpy), shape))

    def type(self, type: TypeOf) -> TensorType:
        try:
            dtype = DType.parse(type.dtype)
        except ValueError as error:
            help = did_you_mean(type.dtype, [d.text for d in DType])
            span = replace(type.span, length=len(type.dtype))
            raise fail(Kind.NAME_UNKNOWN, str(error), span, help=help) from None
        return TensorType(dtype, tuple(self.dimension(d) for d in type.dims))

    def dimension(self, expression: Expression) -> Dim:
        value = self.value(expression)
        if isinstance(value, Sym):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise fail(Kind.DIM_BAD, f"a dimension must be a whole number, not {described(value)}", expression.span)
        if not 0 <= value <= _LARGEST_DIM:
            raise fail(Kind.DIM_BAD, f"{value} is not a possible dimension (0 to {_LARGEST_DIM})", expression.span)
        return value

    def whole(self, expression: Expression, what: str) -> int:
        value = self.value(expression)
        if isinstance(value, bool) or not isinstance(value, int):
            hint = "; a dimension has no number yet" if isinstance(value, Sym) else ""
            raise fail(Kind.TYPE, f"{what} must be a whole number, not {described(value)}{hint}", expression.span)
        return value

    # -- expressions --------------------------------------------------------------------------------------------

    def value(self, expression: Expression) -> Datum:
        match expression:
            case Name():
                return self.name(expression)
            case Number() | Literal():
                return expression.value
            case Operation():
                return self.operation(expression)
            case Call():
                return self.call(expression)
            case Text():
                return self.text(expression)
            case ListOf():
                return [single(self.value(item), item.span) for item in expression.items]
            case Comprehension():
                return self.comprehension(expression)

    def name(self, name: Name) -> Datum:
        binding = self.scope.find(name.name)
        if binding is None:
            if name.name in self.functions or name.name in REGISTRY:
                raise fail(Kind.NAME_UNKNOWN, f"'{name.name}' must be called: {name.name}(...)", name.span)
            known = self.scope.visible() - {"phase"}
            raise fail(
                Kind.NAME_UNKNOWN, f"no such name: '{name.name}'", name.span, help=did_you_mean(name.name, known)
            )
        return binding.value

    def comprehension(self, listed: Comprehension) -> Datum:
        start, stop = self.whole(listed.start, "a bound"), self.whole(listed.stop, "a bound")
        if stop - start > 2**20:
            raise fail(Kind.DIM_BAD, f"a list of {stop - start} items is too long", listed.stop.span)
        outer = self.scope
        self.scope = Scope(outer, outer.path)
        items: list[Item] = []
        for i in range(start, stop):
            self.scope.names[listed.name] = Binding(i, listed.span)
            items.append(single(self.value(listed.item), listed.item.span))
        self.scope = outer
        return items

    def operation(self, operation: Operation) -> Datum:
        mark, span = operation.operator, operation.span
        left = None if operation.left is None else single(self.value(operation.left), operation.left.span)
        right = single(self.value(operation.right), operation.right.span)
        try:
            if operation.left is None:
                if isinstance(right, Value):
                    return self.calls.call(lookup("neg" if mark == "-" else "not"), [right], {}, span)[0]
                return prefix(mark, _scalar(right, mark))
            if isinstance(left, Value) or isinstance(right, Value):
                return self.calls.infix(mark, left, right, span)
            return infix(mark, _scalar(left, mark), _scalar(right, mark))
        except BadArithmetic as error:
            raise fail(Kind.TYPE, str(error), span) from None

    def call(self, called: Call) -> Datum:
        name = called.function
        if name in self.functions:
            return self.call_function(self.functions[name], called)
        if called.label is not None:
            raise fail(Kind.SYNTAX, f"'as' names the call of a function, and '{name}' is none", called.label.span)
        keywords: dict[str, tuple[Datum, TextSpan]] = {}
        operands: list[Datum] = []
        for argument in called.arguments:
            value = single(self.value(argument.value), argument.value.span)
            if argument.name is None:
                if keywords:
                    raise fail(Kind.SYNTAX, "operands come before attributes", argument.span)
                operands.append(value)
            elif argument.name in keywords:
                raise fail(Kind.NAME_TWICE, f"'{argument.name}' is given twice", argument.span)
            else:
                keywords[argument.name] = value, argument.span
        numbers = [v for v in operands if isinstance(v, int | float)]
        if name in FUNCTIONS and len(numbers) == len(operands) and not keywords:
            try:
                return call(name, numbers)
            except BadArithmetic as error:
                raise fail(Kind.TYPE, str(error), called.span) from None
        if name in _DTYPES:
            if len(operands) != 1 or keywords:
                raise fail(Kind.TYPE, f"{name}(...) converts one value", called.span)
            return self.calls.cast(operands[0], _DTYPES[name], called.span)
        if name not in REGISTRY:
            known = [*REGISTRY, *self.functions, *FUNCTIONS]
            raise fail(
                Kind.NAME_UNKNOWN, f"no such op or function: '{name}'", called.span, help=did_you_mean(name, known)
            )
        results = self.calls.call(REGISTRY[name], operands, keywords, called.span)
        if name == "cache_append" and operands[0] in self.caches:
            self._append(operands[0], results[0], called.span)
        return results[0] if len(results) == 1 else results

    def _append(self, cache: Datum, result: Value, span: TextSpan) -> None:
        """What is appended to a cache lives on: it becomes an output."""
        assert isinstance(cache, Value)
        label = self.caches[cache]
        if cache in self.appended:
            first = self.appended[cache]
            raise fail(Kind.NAME_TWICE, f"cache '{cache.name}' is appended twice", span, notes=(f"first at {first}",))
        self._claim_output(label, span)
        self.appended[cache] = span
        self.presents[label] = result, span

    def call_function(self, function: Function, called: Call) -> Datum:
        if function.name in self.running:
            chain = " -> ".join([*self.running[self.running.index(function.name) :], function.name])
            raise fail(
                Kind.GRAPH, f"function '{function.name}' calls itself: {chain}", called.span,
                help="use repeat; functions are inlined",
            )  # fmt: skip
        arguments = {
            name: Binding(single(self.value(given), given.span), given.span)
            for name, given in bind_arguments(function, called).items()
        }
        label = function.name if called.label is None else _label_text(called.label, self)
        outer, self.scope = self.scope, Scope(self.top, f"{self.scope.path}{label}.", is_function=True)
        self.scope.names.update(arguments)
        self.running.append(function.name)
        try:
            returned = self.block(function.body)
        except CompileError as error:
            note = f"in '{function.name}', called at {called.span}"
            raise CompileError([replace(d, notes=(*d.notes, note)) for d in error.diagnostics]) from None
        self.running.pop()
        self.scope = outer
        return returned[0] if isinstance(returned, tuple) and len(returned) == 1 else returned


_DTYPES = {d.text: d for d in DType}


def _label_text(label: Name | Text, elaboration: Elaboration) -> str:
    return label.name if isinstance(label, Name) else elaboration.label(label)


def _phases(statements: Sequence[Statement]) -> Iterator[str]:
    for statement in statements:
        match statement.plain:
            case PhaseBlock() as block:
                yield from (p.name for p in block.phases)
                yield from _phases(block.body)
            case Repeat() | Function() as block:
                yield from _phases(block.body)
            case When() as when:
                yield from _phases((*when.then, *when.otherwise))
            case _:
                pass


def _scalar(value: Datum, mark: str) -> bool | int | float | str | Sym | None:
    if isinstance(value, list | tuple | Value):
        raise BadArithmetic(f"'{mark}' does not apply to {described(value)}")
    return value
