"""`pimc completion`: what makes a shell complete commands, options and names."""

from __future__ import annotations

import click

from pimc.cli import options as o
from pimc.cli.command import command

SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "pimc", "_PIMC_COMPLETE"
"""The command that is completed, and the variable by which the shell's script asks it."""


@command(
    "completion",
    example="""
pimc completion bash
pimc completion zsh
pimc completion fish
""",
)
@click.argument("shell", type=o.WordType("shell", SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a SHELL (bash, zsh, fish) complete commands, options, targets, passes, ops and files.

    bash, in ~/.bashrc: eval "$(pimc completion bash)"; zsh, in ~/.zshrc behind compinit: eval "$(pimc completion zsh)";
    fish: pimc completion fish > ~/.config/fish/completions/pimc.fish
    """
    from click.shell_completion import get_completion_class

    from pimc.cli.group import cli
    from pimc.cli.screen import write_text

    kind = get_completion_class(shell)
    assert kind is not None
    maker = kind(cli, {}, PROGRAM, VARIABLE)
    script = maker.source_template % maker.source_vars()
    write_text(script.replace('string split ","', 'string split -m 1 ","') + "\n")  # fish: names may hold commas
