"""The syntax tree of .pimc files: frozen dataclasses, each with the place it came from."""

from __future__ import annotations

from pimc.ir.source import TextSpan
from pimc.record import record


@record
class Number:
    span: TextSpan
    value: int | float


@record
class Text:
    """A string; odd parts are names whose values are put in ("past_key_values.{i}.key")."""

    span: TextSpan
    parts: tuple[str, ...]


@record
class Name:
    span: TextSpan
    name: str


@record
class Literal:
    span: TextSpan
    value: bool | None


@record
class ListOf:
    span: TextSpan
    items: tuple[Expression, ...]


@record
class Comprehension:
    """`[item for name in start..stop]`, of numbers."""

    span: TextSpan
    item: Expression
    name: str
    start: Expression
    stop: Expression


@record
class Operation:
    """A prefix (`left` is None) or infix operator; the span is the operator's."""

    span: TextSpan
    operator: str
    left: Expression | None
    right: Expression


@record
class Argument:
    span: TextSpan
    name: str | None
    value: Expression


@record
class Call:
    """`function(arguments) as label`."""

    span: TextSpan
    function: str
    arguments: tuple[Argument, ...]
    label: Name | Text | None = None


Expression = Number | Text | Name | Literal | ListOf | Comprehension | Operation | Call


@record
class TypeOf:
    span: TextSpan
    dtype: str
    dims: tuple[Expression, ...]


@record
class Dimension:
    span: TextSpan
    name: str
    default: int | None


@record
class Annotation:
    span: TextSpan
    name: str
    arguments: tuple[Argument, ...]


@record
class Let:
    span: TextSpan
    targets: tuple[Name, ...]
    values: tuple[Expression, ...]
    new: bool
    """True for `let x = ...`, False where an existing name gets another value."""


@record
class Declaration:
    """A weight, input or cache; `label` is its name to the outside, `present` that of the appended cache."""

    span: TextSpan
    role: str
    name: Name
    label: Text | None
    type: TypeOf
    initial: Expression | None = None
    present: Text | None = None


@record
class Include:
    """The statements of another file, put in this place."""

    span: TextSpan
    path: Text


@record
class WeightsFrom:
    span: TextSpan
    path: Text


@record
class Output:
    span: TextSpan
    label: Name | Text
    value: Expression


@record
class Repeat:
    span: TextSpan
    name: Name
    start: Expression
    stop: Expression
    body: tuple[Statement, ...]


@record
class When:
    span: TextSpan
    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@record
class PhaseBlock:
    span: TextSpan
    phases: tuple[Name, ...]
    body: tuple[Statement, ...]


@record
class Parameter:
    span: TextSpan
    name: str
    default: Expression | None


@record
class Function:
    span: TextSpan
    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]


@record
class Return:
    span: TextSpan
    values: tuple[Expression, ...]


Plain = Include | Let | Declaration | WeightsFrom | Output | Repeat | When | PhaseBlock | Function | Return | Call


@record
class Statement:
    annotations: tuple[Annotation, ...]
    plain: Plain


@record
class Model:
    span: TextSpan
    name: str
    dimensions: tuple[Dimension, ...]
    body: tuple[Statement, ...]
