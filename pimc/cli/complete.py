"""What a shell may complete: the types of parameters that know the names they take.

click's mechanism asks a type for what begins with the incomplete word. Names come from entry points and declarations,
as everywhere; a file of the user's is completed by the shell itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
    Items = list[CompletionItem[Any]]
else:
    ParamType = click.ParamType  # older versions of click cannot be subscripted


def items(names: Iterable[str], incomplete: str, before: str = "") -> Items:
    """The names that go on from what is typed; `before` is kept in front of them."""
    return [CompletionItem(before + name) for name in names if name.startswith(incomplete)]


def files(incomplete: str) -> Items:
    return [CompletionItem(incomplete, type="file")]


class Text(ParamType):
    """A text that is taken as it is, with a hint for shells."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


class File(Text):
    """A file; one of some words may stand in its place."""

    def __init__(self, *words: str) -> None:
        self.words = [word for word in words if word.islower()]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return (items(self.words, incomplete) if incomplete else []) or files(incomplete)


class Folder(Text):
    """A folder."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return [CompletionItem(incomplete, type="dir")]


_WRITTEN = re.compile(r"(FILE|IN|OUT)\b")


def type_of(parameter: click.Parameter) -> ParamType | None:
    """The type of a parameter that is declared as mere text, by the name of its value: `OUT.json` is a file."""
    shown = parameter.metavar or ""
    if isinstance(parameter, click.Argument) or _WRITTEN.match(shown):
        return File(*shown.split("|")[1:])
    return {"DIR": Folder(), "P": PassName(), "'a,b{k=v}'": Passes()}.get(shown)


def targets(incomplete: str) -> Items:
    """Names of targets, behind the last comma or colon; where none fits, files."""
    from importlib.metadata import entry_points

    at = max(incomplete.rfind(","), incomplete.rfind(":")) + 1
    names = sorted({point.name for point in entry_points(group="pimc.targets")})
    return items(names, incomplete[at:], incomplete[:at]) or files(incomplete)


class TargetName(Text):
    """A target, or its file."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return targets(incomplete)


def passes() -> list[str]:
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group="pimc.passes")})


class PassName(Text):
    """A pass."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return items(passes(), incomplete)


class Passes(Text):
    """A pipeline: `a,b{k=v}`."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        before, comma, last = incomplete.rpartition(",")
        return items(passes(), last, before + comma)


def pass_options(incomplete: str) -> Items:
    """`pass.option=` once the pass is there, passes before."""
    name, dot, option = incomplete.partition(".")
    if not dot:
        return items((f"{each}." for each in passes()), incomplete)
    from dataclasses import fields

    from pimc.ir.diagnostics import CompileError
    from pimc.passes.registry import default_registry

    try:
        kind = default_registry().load(name)
    except CompileError:
        return []
    return items((f"{f.name}=" for f in fields(kind)), option, name + dot)


def numbers(incomplete: str) -> Items:
    """`group.key=` of a target's numbers, whole or from the last group on."""
    from pimc.backends.target_check import all_paths

    paths = all_paths()
    names = {".".join(path) for path in paths} | {".".join(path[-2:]) for path in paths}
    return items(sorted(f"{name}=" for name in names), incomplete)


class OpName(Text):
    """An op of the IR."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        from pimc.ir.op import REGISTRY, lookup

        lookup("add")  # declares the built-in ops
        return items(sorted(REGISTRY), incomplete)


class CommandName(Text):
    """A command of an engine's streams."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        from pimc.backends.engines import commands

        return items(sorted(commands()), incomplete.upper())
