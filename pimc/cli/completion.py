"""`pimc completion`: what makes a shell complete commands, options and names."""

from __future__ import annotations

import click

from pimc.cli import ASKED
from pimc.cli import options as o
from pimc.cli.command import command

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "pimc"


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
    from pimc.cli.group import cli
    from pimc.cli.screen import write_text
    from pimc.cli.shells import KINDS

    maker = KINDS[shell](cli, {}, PROGRAM, ASKED)
    write_text(maker.source_template % maker.source_vars())
