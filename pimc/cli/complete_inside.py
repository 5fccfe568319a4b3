"""Names that only a file on the command line knows: dimensions and ops of its model, engines and ops of its program.

A shell has no place for errors: a file that cannot be read, or is stdin, has no names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from pimc.cli.complete import Text, items

if TYPE_CHECKING:
    from pimc.backends.program import Program
    from pimc.cli.complete import Items

Names = Callable[[click.Context, str], Iterable[str]]
"""The names that a file holds: its path, in the context of its line."""


def named(ctx: click.Context, names: Names) -> list[str]:
    """Names inside the file that is the command's first argument, so far as that is typed."""
    from pimc.ir.diagnostics import CompileError

    path = _first_argument(ctx)
    if path in (None, "-"):
        return []
    try:
        return list(dict.fromkeys(names(ctx, str(path))))
    except (CompileError, click.ClickException, OSError):
        return []


def _first_argument(ctx: click.Context) -> str | None:
    """A line that ends in an option without its value is not parsed to its end: what was left lies in `ctx.args`."""
    for parameter in ctx.command.params:
        if isinstance(parameter, click.Argument):
            given = ctx.params.get(parameter.name or "") or ctx.args
            return str(given if isinstance(given, str) else given[0]) if given else None
    return None


class NamesInside(Text):
    """A name that a file on the line holds."""

    def __init__(self, name: str, names: Names) -> None:
        self.name, self._names = name, names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return items(named(ctx, self._names), incomplete)


class OpNames(NamesInside):
    """Ops by name; while nothing is typed the kinds of them, which are few."""

    def __init__(self, ops: Callable[[click.Context, str], Iterable[tuple[str, str]]]) -> None:
        super().__init__("NAME", lambda ctx, path: (text for pair in ops(ctx, path) for text in pair))
        self._kinds = NamesInside("NAME", lambda ctx, path: (kind for kind, _ in ops(ctx, path)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        if not incomplete:
            return self._kinds.shell_complete(ctx, param, incomplete)
        return super().shell_complete(ctx, param, incomplete)


def dims_of_model(ctx: click.Context, path: str) -> Iterable[str]:
    """Dimensions that the line has not bound yet."""
    from pimc.frontends.load import load_model

    phase = ctx.params.get("phase")
    graph = load_model(path, shapes_only=True, phase=phase if phase in ("prefill", "decode") else None)
    bound = {name for name, _ in ctx.params.get("dims") or ()}
    return [name for name in {**dict.fromkeys(graph.dims()), **graph.defaults} if name not in bound]


def ops_of_model(ctx: click.Context, path: str) -> Iterable[tuple[str, str]]:
    """Kind and name of each op of a model as the machine gets it; the line names the machine before."""
    from dataclasses import replace

    from pimc.cli.compile import options_of
    from pimc.cli.compile_run import last_pass
    from pimc.driver import lower_model

    given: dict[str, Any] = ctx.params
    if not given.get("target"):
        return []
    options = options_of({name: value for name, value in given.items() if value is not None})
    lowered = lower_model(path, given["target"], replace(options, until=last_pass(options, "tagged")))
    return [(node.op.name, node.name) for node in lowered.graph.order()]


def _program(path: str) -> Program:
    from pimc.cli.files import read_program

    return read_program(path)


def engines_of_program(ctx: click.Context, path: str) -> Iterable[str]:
    return [stream.engine for stream in _program(path).streams]


def ops_of_program(ctx: click.Context, path: str) -> Iterable[tuple[str, str]]:
    """Kind and name of each op of a program."""
    return [(row.op, row.name) for row in _program(path).ops]
