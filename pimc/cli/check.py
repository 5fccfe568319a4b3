"""`pimc check`: whether issued DRAM commands keep the rules of the part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option
from pimc.cli.guard import DONE, FAILED

if TYPE_CHECKING:
    from pimc.backends.target import TargetSpec
    from pimc.cli.screen import Line
    from pimc.sim.check import Issued, Verdict, Violation

KINDS = ("timing", "bus", "row", "mode", "contents", "refresh")
LIMIT = 20


@command(
    "check",
    example="""
pimc check model.pimprog
pimc check issued.csv.gz -t cent --kind timing --kind refresh
""",
)
@click.argument("commands", metavar="PROGRAM|ISSUED.csv")
@option(
    o.MACHINE,
    "-t",
    "--target",
    type=o.TargetType(),
    help="The machine of ISSUED.csv (see `pimc targets`).",
)
@o.set_option
@o.background_option
@option(
    o.OUTPUT,
    "--kind",
    "kinds",
    type=o.WordType("kind of violation", KINDS),
    multiple=True,
    help="Check this alone; may be repeated.",
)
@option(
    o.OUTPUT,
    "--limit",
    type=click.IntRange(0),
    default=LIMIT,
    metavar="N",
    help=f"Print so many violations one by one; default: {LIMIT}. All are counted.",
)
@o.json_option
@o.quiet_option
def check(**given: Any) -> int:
    """Simulate a stored PROGRAM and check the DRAM commands that it brings about; or, with -t, check those of a file
    that `pimc sim --issue-trace` or `pimc replay --issue-trace` has written (- is stdin).

    The checker shares the target's tables with the simulator and no code. Exit status 1: there are violations.
    """
    from pimc.cli.screen import write_page, write_text
    from pimc.sim.check import check as checked
    from pimc.sim.check import part_of

    if given["background"] is not None and given["target"]:
        raise click.UsageError("--background goes with the simulation of a program; a file of commands is as it is")
    if given["overrides"] and not given["target"]:
        raise click.UsageError("--set changes the machine of -t; a program carries its own")
    spec, issued = _of_file(given) if given["target"] else _of_program(given)
    found = checked(issued, part_of(spec), kinds=given["kinds"] or KINDS, limit=given["limit"])
    if given["as_json"]:
        write_text(json.dumps({"file": given["commands"], **found.to_json()}, indent=2) + "\n")
    elif not given["quiet"]:
        write_page(page(found, given["commands"]))
    return DONE if found.ok else FAILED


def _of_file(given: dict[str, Any]) -> tuple[TargetSpec, Issued]:
    from pimc.backends.storage import MAGIC
    from pimc.backends.target_registry import load_target
    from pimc.cli.files import read_unpacked
    from pimc.sim.check import part_of
    from pimc.sim.issue_reader import read_issues

    spec = load_target(given["target"], given["overrides"])
    part = part_of(spec)
    data = read_unpacked(given["commands"])
    if data.startswith(MAGIC):
        raise click.UsageError(f"{given['commands']} is a program, which carries its own target: leave out -t")
    name = "<stdin>" if given["commands"] == "-" else given["commands"]
    return spec, read_issues(data, name, part)


def _of_program(given: dict[str, Any]) -> tuple[TargetSpec, Issued]:
    from pimc.backends.engines import spec_of
    from pimc.cli.files import read_program
    from pimc.cli.progress import Progress
    from pimc.sim.check import part_of
    from pimc.sim.issue_trace import IssueLog
    from pimc.simulation import simulate

    name = given["commands"]
    if name.removesuffix(".gz").endswith(".csv"):
        raise click.UsageError(f"{name} does not say of which machine it is: give -t TARGET")
    program = read_program(name)
    spec = spec_of(program)
    part_of(spec)
    log = IssueLog()
    with Progress(name, quiet=given["quiet"]) as progress:
        progress.say("simulating")
        simulate(program, issues=log, background=given["background"])
    return spec, log.issued()


# -- for people -------------------------------------------------------------------------------------------------------


def page(found: Verdict, name: str) -> Iterator[Line]:
    """What was checked, how often each rule was broken, and the first violations."""
    from pimc.cli.layout import Column, grouped, table
    from pimc.cli.screen import line

    issued = found.issued
    yield [(name, "bold"), (" · ", "dim"), (found.part.name, "bold")]
    if not issued.entries:
        yield line("  no DRAM commands: nothing to check")
        return
    several = "s" * (issued.channels != 1)
    counted = f"  {grouped(found.commands)} commands in {issued.channels} channel{several}"
    last = f", the last at cycle {grouped(issued.last_cycle)}"
    number = f"{grouped(found.total)} violation{'s' * (found.total != 1)}"
    yield [(f"{counted}{last}: ", ""), ("no violations", "bold green") if found.ok else (number, "bold red")]
    if found.ok:
        return
    yield line()
    rules = [[rule.kind, rule.text, grouped(count)] for rule, count in found.counts.items()]
    yield from table([Column("kind"), Column("rule that was broken"), Column("times", ">", "bold")], rules)
    if not found.violations:
        return
    yield line()
    columns = [Column("cycle", ">"), Column("channels"), Column("command", "<", "bold"), Column("what is wrong")]
    yield from table(columns, [_row(each) for each in found.violations])
    left = found.total - sum(len(each.channels) for each in found.violations)
    if left:
        yield line(f"  and {grouped(left)} more", "dim")


def _row(each: Violation) -> list[str | Line]:
    from pimc.backends.assembly import ranks
    from pimc.cli.layout import grouped

    return [grouped(each.command.cycle), ranks(each.channels), str(each.command), each.reason]
