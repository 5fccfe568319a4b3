"""The values that a call of a .pimc function gives to its parameters."""

from __future__ import annotations

from typing import NoReturn

from pimc.frontends.dsl_tree import Argument, Call, Expression, Function
from pimc.ir.diagnostics import Kind, did_you_mean, fail


def bind_arguments(function: Function, called: Call) -> dict[str, Expression]:
    """The expression for each parameter: given by position or name, else its default. Raises CompileError."""
    parameters = {p.name: p for p in function.parameters}
    given: dict[str, Expression] = {}
    for i, argument in enumerate(called.arguments):
        name = argument.name or (function.parameters[i].name if i < len(function.parameters) else None)
        if name is None or name not in parameters:
            _refuse(function, called, argument)
        if name in given:
            raise fail(Kind.NAME_TWICE, f"'{name}' of '{function.name}' is given twice", argument.span)
        given[name] = argument.value
    for name, parameter in parameters.items():
        if name not in given and parameter.default is None:
            raise fail(Kind.TYPE, f"'{function.name}' needs '{name}'", called.span, notes=(_declared(function),))
        if parameter.default is not None:
            given.setdefault(name, parameter.default)
    return given


def _refuse(function: Function, called: Call, argument: Argument) -> NoReturn:
    if argument.name is None:
        count = len(function.parameters)
        message = f"'{function.name}' takes {count} value{'s' * (count != 1)}, not {len(called.arguments)}"
        raise fail(Kind.TYPE, message, argument.span, notes=(_declared(function),))
    help = did_you_mean(argument.name, [p.name for p in function.parameters])
    message = f"'{function.name}' has no parameter '{argument.name}'"
    raise fail(Kind.NAME_UNKNOWN, message, argument.span, notes=(_declared(function),), help=help)


def _declared(function: Function) -> str:
    return f"declared at {function.span}: {function.name}({', '.join(p.name for p in function.parameters)})"
