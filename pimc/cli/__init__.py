"""The command line. Nothing heavy is imported before a command runs, so that `pimc --help` is quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

ASKED = "_PIMC_COMPLETE"
"""The variable by which the script of a shell asks for completions."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit status: 0 done, 1 could not be done, 2 wrong usage, 70 a bug."""
    import os
    import sys

    from pimc.cli.group import cli
    from pimc.cli.guard import guarded
    from pimc.garbage import collect_no_more, collect_seldom

    own = arguments is None
    if own:
        collect_seldom()
    if ASKED in os.environ:
        from pimc.cli.shells import register

        register()
    given = sys.argv[1:] if arguments is None else list(arguments)
    status = guarded(lambda: cli.main(given, "pimc", standalone_mode=False), as_json="--json" in given)
    if own:
        collect_no_more()
    raise SystemExit(status)
