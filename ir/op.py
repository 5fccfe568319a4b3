"""How an op is declared: one function whose signature is the op and whose body is its type rule.

    @op("relu", cls=OpClass.ELEMENTWISE)
    def relu(x: TensorType) -> TensorType:
        '''`max(x, 0)`.'''
        return x

    @relu.reference
    def _(x: Array) -> Array:
        return np.maximum(x, 0)

Positional parameters are operands (`TensorType | None` with a default: optional; `*xs`: any number), keyword-only ones
are attributes with their defaults. The body checks the operands, raising through `require`, and returns the type of the
result, or a tuple of types. From this one declaration come verifier, printer, parser, interpreter and the reference
page. Work is counted by `@relu.flops` where the default (one operation per result element) is wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.ir.types import TensorType
from pimc.record import record

Array = NDArray[Any]
Attribute = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | None


KNOWN_ELEMENTS = 1024
"""Contents of results of at most so many elements are worked out while types are inferred."""


class OpClass(Enum):
    """What sort of work an op is, before any shape is known."""

    CONTRACTION = "contraction"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    MOVEMENT = "movement"
    COMPOSITE = "composite"
    CONSTANT = "constant"
    COLLECTIVE = "collective"


class TypeRuleError(Exception):
    """Raised by `require` inside a type rule; the graph turns it into a diagnostic with the node's place."""


def require(condition: bool, message: str) -> None:
    """State what operands must satisfy, inside a type rule."""
    if not condition:
        raise TypeRuleError(message)


def reject(message: str) -> NoReturn:
    raise TypeRuleError(message)


def known(operand: TensorType, what: str) -> Array:
    """The contents of an operand that the result's shape depends on; refuses where the compiler does not know them."""
    if operand.array is None:
        raise UnknownContents(what, operand)
    return operand.array


class UnknownContents(TypeRuleError):
    """The result's shape depends on contents that are not known (yet): bind and fold may still find them."""

    def __init__(self, what: str, operand: TensorType | None = None) -> None:
        super().__init__(what)
        self.operand = operand
        """whose contents they are, where it is one operand's"""


@record
class Operand:
    name: str
    optional: bool = False
    variadic: bool = False


@dataclass
class OpDef:
    """A declared op; made by `op`, never by hand."""

    name: str
    cls: OpClass
    doc: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Attribute]
    rule: Callable[..., TensorType | tuple[TensorType, ...]]
    meaning: Callable[..., Array | tuple[Array, ...]] | None = None
    count_flops: Callable[..., int] | None = None
    required: frozenset[str] = field(default_factory=frozenset)
    """Attributes without a default."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """The annotations of attributes."""

    def __reduce__(self) -> tuple[Callable[[str], OpDef], tuple[str]]:
        """An op is declared once, and a copy of it is itself."""
        return _declared, (self.name,)

    def reference(self, function: Callable[..., Array | tuple[Array, ...]]) -> OpDef:
        """Declare the numpy meaning: same operands as arrays, same attributes, arrays out."""
        self.meaning = function
        return self

    def flops(self, function: Callable[..., int]) -> OpDef:
        """Declare the work: called like the type rule, with result types as keyword `results`."""
        self.count_flops = function
        return self

    def infer(
        self, operands: Sequence[TensorType | None], attributes: Mapping[str, Attribute]
    ) -> tuple[TensorType, ...]:
        """Result types; raises TypeRuleError where operands or attributes do not fit."""
        self.check_call(operands, attributes)
        result = self.rule(*operands, **attributes)
        results = result if isinstance(result, tuple) else (result,)
        return self._with_contents(operands, attributes, results)

    def check_call(self, operands: Sequence[TensorType | None], attributes: Mapping[str, Attribute]) -> None:
        """Raises TypeRuleError for what is wrong whatever the types are: numbers of operands, attributes."""
        low = sum(not (o.optional or o.variadic) for o in self.operands)
        high = None if any(o.variadic for o in self.operands) else len(self.operands)
        if len(operands) < low or (high is not None and len(operands) > high):
            expected = f"{low}" if low == high else f"{low} to {high}" if high is not None else f"at least {low}"
            reject(f"{self.name} takes {expected} operands, not {len(operands)}")
        for index, given in enumerate(operands):
            declared = self.operands[min(index, len(self.operands) - 1)]
            if given is None and not declared.optional:
                reject(f"operand '{declared.name}' of {self.name} is missing")
        self.check_attributes(attributes)

    def _with_contents(
        self,
        operands: Sequence[TensorType | None],
        attributes: Mapping[str, Attribute],
        results: tuple[TensorType, ...],
    ) -> tuple[TensorType, ...]:
        """Results of small operands with known contents have known contents: chains of shape arithmetic resolve."""
        given = [o for o in operands if o is not None]
        if self.meaning is None or not given or any(o.array is None for o in given):
            return results
        sizes = (o.elements for o in (*given, *results) if o.is_static)
        if max(sizes, default=0) > KNOWN_ELEMENTS or not all(r.is_static for r in results):
            return results
        try:
            arrays = self.evaluate([o.array if o is not None else None for o in operands], attributes)
        except (IndexError, ValueError) as error:
            reject(str(error))
        return tuple(TensorType(r.dtype, r.shape, a) for r, a in zip(results, arrays, strict=True))

    def check_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Raises TypeRuleError for attributes that are unknown, missing, or of another type than declared."""
        for name, value in attributes.items():
            if name not in self.attributes and name not in self.required:
                hint = did_you_mean(name, [*self.attributes, *self.required])
                reject(f"{self.name} has no attribute '{name}'" + (f"; {hint}" if hint else ""))
            if not is_of(value, self.kinds.get(name, "")):
                reject(f"attribute '{name}' of {self.name} must be of type {self.kinds[name]}, but is {value!r}")
            if name in FLAGS and value not in (0, 1):
                reject(f"attribute '{name}' of {self.name} must be 0 or 1, but is {value!r}")
        missing = sorted(self.required - set(attributes))
        if missing:
            reject(f"{self.name} lacks attribute{'s' * (len(missing) > 1)} {', '.join(missing)}")

    def evaluate(self, operands: Sequence[Array | None], attributes: Mapping[str, Attribute]) -> tuple[Array, ...]:
        """Run the numpy meaning."""
        if self.meaning is None:
            raise NotImplementedError(f"{self.name} has no reference meaning")
        with np.errstate(all="ignore"):
            result = self.meaning(*operands, **attributes)
        return tuple(np.asarray(r) for r in (result if isinstance(result, tuple) else (result,)))

    def work(
        self,
        operands: Sequence[TensorType | None],
        results: Sequence[TensorType],
        attributes: Mapping[str, Attribute],
    ) -> int:
        """Arithmetic operations of one execution (a multiply-accumulate counts as two)."""
        if self.count_flops is not None:
            return self.count_flops(*operands, results=results, **attributes)
        if self.cls in (OpClass.MOVEMENT, OpClass.CONSTANT):
            return 0
        if self.cls is OpClass.REDUCTION:
            return sum(o.elements for o in operands if o is not None)
        return sum(r.elements for r in results)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "int": int, "float": (int, float), "bool": (bool, int), "str": str, "None": type(None),
    "tuple[int, ...]": tuple, "tuple[float, ...]": tuple, "tuple[str, ...]": tuple,
}  # fmt: skip


FLAGS = frozenset(
    {
        "allowzero", "detect_negative", "detect_positive", "do_rotary", "exclusive", "interleaved", "is_causal",
        "keepdims", "largest", "noop_with_empty_axes", "reverse", "rotary_interleaved", "select_last_index",
        "smooth_softmax", "sorted", "transA", "transB", "transBatchA", "transBatchB", "transposed", "unidirectional",
        "upper",
    }
)  # fmt: skip
"""Attributes that are 0 or 1 wherever they are declared; implementations differ in what they make of other numbers."""


def is_of(value: Attribute, annotation: str) -> bool:
    """Whether an attribute has one of the annotated types; integers stand for floats and booleans too."""
    choices = annotation.split(" | ")
    return any(isinstance(value, _KINDS.get(choice, object)) for choice in choices)


REGISTRY: dict[str, OpDef] = {}


def _declared(name: str) -> OpDef:
    return REGISTRY[name]


def op(name: str, *, cls: OpClass) -> Callable[[Callable[..., TensorType | tuple[TensorType, ...]]], OpDef]:
    """Declare an op (see the module's text). The function's parameters are checked here, once."""

    def declare(rule: Callable[..., TensorType | tuple[TensorType, ...]]) -> OpDef:
        operands: list[Operand] = []
        attributes: dict[str, Attribute] = {}
        required: set[str] = set()
        kinds: dict[str, str] = {}
        for parameter in inspect.signature(rule).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                operands.append(Operand(parameter.name, variadic=True))
            elif parameter.kind is parameter.KEYWORD_ONLY:
                kinds[parameter.name] = str(parameter.annotation)
                if parameter.default is parameter.empty:
                    required.add(parameter.name)
                else:
                    attributes[parameter.name] = parameter.default
            else:
                operands.append(Operand(parameter.name, optional=parameter.default is None))
        if name in REGISTRY:
            raise ValueError(f"op '{name}' is declared twice")
        definition = OpDef(
            name,
            cls,
            inspect.getdoc(rule) or "",
            tuple(operands),
            attributes,
            rule,
            required=frozenset(required),
            kinds=kinds,
        )
        REGISTRY[name] = definition
        return definition

    return declare


def lookup(name: str) -> OpDef:
    """The op of that name; a diagnostic with a suggestion where there is none."""
    import pimc.ir.ops  # noqa: F401  (declares the built-in ops; late, since they import this module)

    try:
        return REGISTRY[name]
    except KeyError:
        raise fail(Kind.NAME_UNKNOWN, f"no such op: '{name}'", help=did_you_mean(name, REGISTRY)) from None
