"""The command line. Nothing heavy is imported before a command runs, so that `pimc --help` is quick."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status: 0 done, 1 could not be done, 2 wrong usage, 70 a bug."""
    from pimc.cli.group import cli

    cli.main(arguments, prog_name="pimc")
