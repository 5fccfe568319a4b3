"""What the DSL computes while it builds the graph: numbers, dimensions, strings and lists of them.

A dimension stays a polynomial (`Sym`): it can be added, subtracted, multiplied, and divided where that is exact.
Everything raises `BadArithmetic` with the reason; the caller knows the place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pimc.ir.types import Dim, Sym

Scalar = bool | int | float | str | Sym | None

_LARGEST_BITS = 4096
"""Whole numbers beyond this many bits are a mistake (and slow)."""


class BadArithmetic(ValueError):
    """The numbers cannot be combined like that."""


def infix(operator: str, left: Scalar, right: Scalar) -> Scalar:
    """`left operator right`; raises BadArithmetic."""
    if operator in ("and", "or"):
        if not isinstance(left, bool) or not isinstance(right, bool):
            raise BadArithmetic(f"'{operator}' joins conditions, not {shown(left)} and {shown(right)}")
        return (left and right) if operator == "and" else (left or right)
    if operator in ("==", "!=", "<", "<=", ">", ">="):
        return _compare(operator, left, right)
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        return left + right
    if isinstance(left, str | bool | None):
        raise BadArithmetic(f"'{operator}' needs numbers, not {shown(left)}")
    if isinstance(right, str | bool | None):
        raise BadArithmetic(f"'{operator}' needs numbers, not {shown(right)}")
    if isinstance(left, Sym) or isinstance(right, Sym):
        return _dimension(operator, left, right)
    return _number(operator, left, right)


def prefix(operator: str, value: Scalar) -> Scalar:
    if operator == "not":
        if not isinstance(value, bool):
            raise BadArithmetic(f"'not' needs a condition, not {shown(value)}")
        return not value
    if isinstance(value, (str, bool)) or value is None:
        raise BadArithmetic(f"'-' needs a number, not {shown(value)}")
    return -value


def _number(operator: str, left: int | float, right: int | float) -> int | float:
    whole = isinstance(left, int) and isinstance(right, int)
    try:
        match operator:
            case "+":
                result = left + right
            case "-":
                result = left - right
            case "*":
                result = left * right
            case "/":
                result = left // right if whole and right != 0 and left % right == 0 else left / right
            case "//":
                result = left // right
            case "%":
                result = left % right
            case "**":
                if whole and abs(left) > 1 and right * math.log2(abs(left)) > _LARGEST_BITS:
                    raise BadArithmetic(f"{left} ** {right} is too large")
                result = left**right
            case _:
                raise BadArithmetic(f"'{operator}' joins tensors, not numbers")
    except ZeroDivisionError:
        raise BadArithmetic("division by zero") from None
    except OverflowError:
        raise BadArithmetic(f"{left} {operator} {right} is too large") from None
    if isinstance(result, complex):
        raise BadArithmetic(f"{left} {operator} {right} is not a real number")
    if isinstance(result, int) and result.bit_length() > _LARGEST_BITS:
        raise BadArithmetic("the number is too large")
    return result


def _dimension(operator: str, left: Dim | float, right: Dim | float) -> Dim:
    if isinstance(left, float) or isinstance(right, float):
        number = left if isinstance(left, float) else right
        raise BadArithmetic(f"a dimension ({left if number is right else right}) cannot be combined with {number}")
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/" | "//":
            exact = quotient(left, right)
            if exact is None:
                raise BadArithmetic(f"{left} / {right} is not a whole number for all dimensions")
            return exact
        case _:
            raise BadArithmetic(f"'{operator}' cannot be applied to a dimension ({left} and {right})")


def quotient(left: Dim, right: Dim) -> Dim | None:
    """The exact quotient, or None: by a number, by the same dimension, or by a product that every term holds."""
    if left == right:
        return 1
    if isinstance(right, int):
        if isinstance(left, Sym):
            return left.divided(right)
        return left // right if right != 0 and left % right == 0 else None
    if not isinstance(left, Sym) or len(right.terms) != 1:
        return 0 if left == 0 else None
    ((names, factor),) = right.terms
    total: Dim = 0
    for monomial, coefficient in left.terms:
        rest = list(monomial)
        for name in names:
            if name not in rest:
                return None
            rest.remove(name)
        if coefficient % factor:
            return None
        term: Dim = coefficient // factor
        for name in rest:
            term = term * Sym.named(name)
        total = total + term
    return total


def _compare(operator: str, left: Scalar, right: Scalar) -> bool:
    if isinstance(left, Sym) or isinstance(right, Sym):
        if left == right:
            return operator in ("==", "<=", ">=")
        raise BadArithmetic(f"{shown(left)} {operator} {shown(right)} is not known before the dimensions are bound")
    if operator in ("==", "!="):
        return (left == right) is (operator == "==")
    if isinstance(left, (str, bool)) or isinstance(right, (str, bool)) or left is None or right is None:
        raise BadArithmetic(f"'{operator}' compares numbers, not {shown(left)} and {shown(right)}")
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]


FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "sqrt": (1, math.sqrt),
    "exp": (1, math.exp),
    "log": (1, math.log),
    "sin": (1, math.sin),
    "cos": (1, math.cos),
    "abs": (1, abs),
    "floor": (1, math.floor),
    "ceil": (1, math.ceil),
    "min": (2, min),
    "max": (2, max),
}
"""Functions of numbers: how many they take, and what they do. Called on tensors, the same names are ops."""


def call(name: str, arguments: list[int | float]) -> int | float:
    """Apply a function of `FUNCTIONS`; raises BadArithmetic."""
    count, function = FUNCTIONS[name]
    if len(arguments) != count:
        raise BadArithmetic(f"{name} takes {count} number{'s' * (count > 1)}, not {len(arguments)}")
    try:
        result: int | float = function(*arguments)
        return result
    except (ValueError, OverflowError):
        raise BadArithmetic(f"{name}({', '.join(map(str, arguments))}) has no value") from None


def shown(value: object) -> str:
    """A value as a message names it."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list():
            return f"[{', '.join(map(shown, value[:6]))}{', ...' * (len(value) > 6)}]"
        case tuple():
            return f"{len(value)} values"
        case _:
            return str(value)
