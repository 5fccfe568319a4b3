"""The `pimc` command and its subcommands, each imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

import click

from pimc.cli.command import SETTINGS, PimcCommand, missing_name

COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("compile:compile_command", "Compile a model, simulate it, and say where the time goes."),
    "sweep": ("sweep:sweep", "Compile and simulate many points, and go on where a sweep was ended."),
    "sim": ("sim:sim", "Execute a stored program: its time, and its values if asked."),
    "compare": ("compare:compare", "Put results side by side: what differs, and why."),
    "replay": ("replay:replay", "Time the trace of a published simulator."),
    "check": ("check:check", "Check the DRAM commands that were issued against the timing of the part."),
    "explain": ("explain:explain", "Say why each op is where it is, and what it would cost elsewhere."),
    "report": ("report:report", "Draw a result as one HTML page: where the time goes, and why."),
    "show": ("show:show", "Look into the streams and the memory map of a program."),
    "export": ("export:export", "Write a program as a Parquet file."),
    "asm": ("asm:asm", "Assemble text into a program."),
    "disasm": ("asm:disasm", "Print a program as text."),
    "opt": ("opt:opt", "Run passes on the text of a graph."),
    "targets": ("targets:targets", "List the machines, or the numbers of one."),
    "passes": ("passes:passes", "List the passes, or the docs and options of one."),
    "ops": ("ops:ops", "List the ops, or the docs of one."),
    "commands": ("commands:commands", "List the commands that engines take, or the docs of one."),
    "completion": ("completion:completion", "Print what makes a shell complete commands, options and names."),
}
"""Place in `pimc.cli` and summary of each subcommand, in the order of the help."""


class LazyGroup(click.Group):
    """Imports a subcommand when it runs; suggests the nearest one where a name is wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(f"pimc.cli.{module}"), attribute)
        assert isinstance(found, PimcCommand)
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(n, help=about) for n, (_, about) in COMMANDS.items() if n.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise missing_name("command", name, COMMANDS, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from pimc.version import described

        click.echo(f"pimc {described()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings=SETTINGS,
    epilog="\b\nExample:\n  pimc compile models/tiny-llama.pimc -t neupims --values random",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and the revision.",
)
def cli() -> None:
    """Compile language models for NPU, PIM and PNM, and execute the command streams."""
