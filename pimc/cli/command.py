"""What all subcommands have in common: options in sections, an example in the help, suggestions for typing errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from pimc.cli.complete import type_of

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
OPTIONS = "Options"
WIDE = 70
"""Characters in a line from which on options and what they do stand side by side in the help."""


def missing_name(what: str, name: str, known: Iterable[str], ctx: click.Context | None = None) -> click.UsageError:
    """The error for a name that is not there, with the nearest one that is."""
    from pimc.ir.diagnostics import did_you_mean

    error = click.UsageError(f"no such {what}: '{name}'", ctx)
    error.__dict__["help"] = did_you_mean(name, known)
    return error


class SectionOption(click.Option):
    """An option that the help shows under a heading."""

    def __init__(self, *args: Any, section: str = OPTIONS, **kwargs: Any) -> None:
        self.section = section
        super().__init__(*args, **kwargs)


def option(section: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """Declare an option of a section."""
    if isinstance(settings.get("type"), click.ParamType):
        settings.setdefault("metavar", settings["type"].name)
    return click.option(*names, cls=SectionOption, section=section, **settings)


class PimcCommand(click.Command):
    """A subcommand with its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", OPTIONS), []).append(record)
        for title, records in sorted(sections.items(), key=lambda item: item[0] == OPTIONS):
            with formatter.section(title):
                formatter.write_dl(records, col_max=36 if formatter.width >= WIDE else 4)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [name for p in self.get_params(ctx) for name in p.opts if name.startswith("--")]
            raise missing_name("option", error.option_name, known, ctx) from None
        except click.MissingParameter as error:
            if error.param is not None and error.param.name in ("target", "targets"):
                error.__dict__["help"] = "pimc targets lists the machines"
            raise


def command(name: str, *, example: str) -> Callable[[Callable[..., Any]], PimcCommand]:
    """Declare a subcommand; `example` holds one or more command lines."""
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    title = "Examples" if "\n" in lines else "Example"

    def declare(function: Callable[..., Any]) -> PimcCommand:
        epilog = f"\b\n{title}:\n{lines}"
        declared = click.command(name, cls=PimcCommand, context_settings=SETTINGS, epilog=epilog)(function)
        for parameter in declared.params:
            if parameter.type is click.STRING:
                parameter.type = type_of(parameter) or parameter.type
        return declared

    return declare
