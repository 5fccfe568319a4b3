"""Operands that move with loops: a base plus a multiple of each enclosing loop's counter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pimc.record import record

DEVICE = -1
"""The variable that holds the rank of the device which executes a stream."""
INSTANCE = -2
"""The variable that holds the number of the engine instance (the channel) which executes a stream."""


@record
class Affine:
    """`base + sum(coefficient * variable)`; terms are sorted by variable and hold no zero."""

    base: int
    terms: tuple[tuple[int, int], ...]

    def __add__(self, other: Scalar) -> Scalar:
        if isinstance(other, int):
            return Affine(self.base + other, self.terms)
        total = dict(self.terms)
        for variable, c in other.terms:
            total[variable] = total.get(variable, 0) + c
        return affine(self.base + other.base, total)

    def __radd__(self, other: int) -> Scalar:
        return self + other

    def __sub__(self, other: Scalar) -> Scalar:
        return self + (other * -1)

    def __rsub__(self, other: int) -> Scalar:
        return self * -1 + other

    def __mul__(self, factor: int) -> Scalar:
        return affine(self.base * factor, {v: c * factor for v, c in self.terms})

    def __rmul__(self, factor: int) -> Scalar:
        return self * factor

    def at(self, variables: Mapping[int, int]) -> int:
        """The value for given counters; every variable must be given."""
        total = self.base
        for variable, c in self.terms:
            total += c * variables[variable]
        return total

    def __str__(self) -> str:
        return f"{self.base}" + "".join(f"{c:+d}*{variable_name(v)}" for v, c in self.terms)


Scalar = int | Affine


def affine(base: int, terms: Mapping[int, int]) -> Scalar:
    """An `Affine`, or a plain number where no variable is left."""
    kept = tuple(sorted((v, c) for v, c in terms.items() if c))
    return Affine(base, kept) if kept else base


def variable(number: int) -> Affine:
    """The counter of a loop (or DEVICE, INSTANCE) as an operand."""
    return Affine(0, ((number, 1),))


def variable_name(number: int) -> str:
    return {DEVICE: "dev", INSTANCE: "ch"}.get(number, f"i{number}")


def value(scalar: Scalar, variables: Mapping[int, int]) -> int:
    return scalar if isinstance(scalar, int) else scalar.at(variables)


def evaluated(scalar: Scalar | None) -> Callable[[Mapping[int, int]], int]:
    """`value` of a scalar that is asked for again and again. None counts as 0."""
    if scalar is None or isinstance(scalar, int):
        fixed = scalar or 0
        return lambda variables: fixed
    base, terms = scalar.base, scalar.terms
    if len(terms) == 1:
        ((only, factor),) = terms
        return lambda variables: base + factor * variables[only]
    if len(terms) == 2:
        (first, by_first), (second, by_second) = terms
        return lambda variables: base + by_first * variables[first] + by_second * variables[second]
    return scalar.at
