"""Names of a .pimc file and what they stand for, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import NoReturn

from pimc.frontends.dsl_arithmetic import shown
from pimc.frontends.dsl_calls import Datum, Item
from pimc.frontends.dsl_tree import Name
from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.ir.graph import Value
from pimc.ir.source import TextSpan
from pimc.record import record


@record
class Binding:
    value: Datum
    span: TextSpan
    fixed: str = ""
    """What it is, where it cannot be given another value (a dimension, a counter)."""


@record
class Scope:
    """Names of one block. `path` is put before the names of weights and intermediates ("layer.3.")."""

    parent: Scope | None
    path: str
    is_function: bool = False
    names: dict[str, Binding] = field(default_factory=dict)

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def own(self) -> Iterator[Scope]:
        """This scope and those around it in the same function (or at the top level)."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = None if scope.is_function else scope.parent

    def visible(self) -> set[str]:
        return set(self.names) | (self.parent.visible() if self.parent else set())

    def define(self, name: str, value: Datum, span: TextSpan, fixed: str = "") -> None:
        for scope in self.own():
            if name in scope.names:
                help = f"to give it another value, write {name} = ..." if not scope.names[name].fixed else None
                twice("name", name, span, scope.names[name].span, help)
        self.names[name] = Binding(value, span, fixed)

    def assign(self, name: Name, value: Datum) -> None:
        for scope in self.own():
            if name.name in scope.names:
                binding = scope.names[name.name]
                if binding.fixed:
                    raise fail(Kind.NAME_TWICE, f"'{name.name}' is {binding.fixed} and keeps its value", name.span)
                scope.names[name.name] = Binding(value, name.span)
                return
        if self.find(name.name) is not None:
            raise fail(
                Kind.NAME_UNKNOWN,
                f"a function cannot change '{name.name}', which lies outside",
                name.span,
                help="let the function return the new value",
            )
        near = did_you_mean(name.name, self.visible())
        help = near if near and near.startswith("did") else f"a new name is introduced by: let {name.name} = ..."
        raise fail(Kind.NAME_UNKNOWN, f"no such name: '{name.name}'", name.span, help=help)


def twice(kind: str, name: str, span: TextSpan, first: TextSpan, help: str | None = None) -> NoReturn:
    raise fail(Kind.NAME_TWICE, f"{kind} '{name}' is defined twice", span, notes=(f"first at {first}",), help=help)


def single(value: Datum, span: TextSpan) -> Item:
    """A value that is not several ones."""
    if isinstance(value, tuple):
        raise fail(Kind.TYPE, f"this gives {len(value)} values; name each: let a, b = ...", span)
    return value


def described(value: Datum) -> str:
    return f"a tensor ({value.type})" if isinstance(value, Value) else shown(value)
