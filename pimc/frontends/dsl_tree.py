"""The syntax tree of .pimc files: frozen dataclasses, each with the place it came from."""

from __future__ import annotations

from dataclasses import dataclass

from pimc.ir.source import TextSpan


@dataclass(frozen=True, slots=True)
class Number:
    span: TextSpan
    value: int | float


@dataclass(frozen=True, slots=True)
class Text:
    """A string; odd parts are names whose values are put in ("past_key_values.{i}.key")."""

    span: TextSpan
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    span: TextSpan
    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    span: TextSpan
    value: bool | None


@dataclass(frozen=True, slots=True)
class ListOf:
    span: TextSpan
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Comprehension:
    """`[item for name in start..stop]`, of numbers."""

    span: TextSpan
    item: Expression
    name: str
    start: Expression
    stop: Expression


@dataclass(frozen=True, slots=True)
class Operation:
    """A prefix (`left` is None) or infix operator; the span is the operator's."""

    span: TextSpan
    operator: str
    left: Expression | None
    right: Expression


@dataclass(frozen=True, slots=True)
class Argument:
    span: TextSpan
    name: str | None
    value: Expression


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments) as label`."""

    span: TextSpan
    function: str
    arguments: tuple[Argument, ...]
    label: Name | Text | None = None


Expression = Number | Text | Name | Literal | ListOf | Comprehension | Operation | Call


@dataclass(frozen=True, slots=True)
class TypeOf:
    span: TextSpan
    dtype: str
    dims: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Dimension:
    span: TextSpan
    name: str
    default: int | None


@dataclass(frozen=True, slots=True)
class Annotation:
    span: TextSpan
    name: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Let:
    span: TextSpan
    targets: tuple[Name, ...]
    values: tuple[Expression, ...]
    new: bool
    """True for `let x = ...`, False where an existing name gets another value."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A weight, input or cache; `label` is its name to the outside, `present` that of the appended cache."""

    span: TextSpan
    role: str
    name: Name
    label: Text | None
    type: TypeOf
    initial: Expression | None = None
    present: Text | None = None


@dataclass(frozen=True, slots=True)
class Include:
    """The statements of another file, put in this place."""

    span: TextSpan
    path: Text


@dataclass(frozen=True, slots=True)
class WeightsFrom:
    span: TextSpan
    path: Text


@dataclass(frozen=True, slots=True)
class Output:
    span: TextSpan
    label: Name | Text
    value: Expression


@dataclass(frozen=True, slots=True)
class Repeat:
    span: TextSpan
    name: Name
    start: Expression
    stop: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class When:
    span: TextSpan
    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class PhaseBlock:
    span: TextSpan
    phases: tuple[Name, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    span: TextSpan
    name: str
    default: Expression | None


@dataclass(frozen=True, slots=True)
class Function:
    span: TextSpan
    name: str
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Return:
    span: TextSpan
    values: tuple[Expression, ...]


Plain = Include | Let | Declaration | WeightsFrom | Output | Repeat | When | PhaseBlock | Function | Return | Call


@dataclass(frozen=True, slots=True)
class Statement:
    annotations: tuple[Annotation, ...]
    plain: Plain


@dataclass(frozen=True, slots=True)
class Model:
    span: TextSpan
    name: str
    dimensions: tuple[Dimension, ...]
    body: tuple[Statement, ...]
