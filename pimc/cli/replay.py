"""`pimc replay`: time the trace of a published simulator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option

if TYPE_CHECKING:
    from pimc.cli.screen import Line
    from pimc.sim.replay import Replay


@command(
    "replay",
    example="""
pimc replay block.trace --trace-format aim -t aim-pinned
pimc replay block.trace.gz --trace-format aim -t aim-head --json
""",
)
@click.argument("trace", metavar="TRACE")
@option(
    o.MACHINE,
    "--trace-format",
    type=o.WordType("format", ("aim",)),
    default="aim",
    help="Whose trace it is: aim, of the GDDR6-AiM simulator.",
)
@o.target_option
@o.set_option
@o.engine_option
@option(
    o.OUTPUT, "--issue-trace", metavar="FILE.csv", help="Write every DRAM command with its clock (.gz: compressed)."
)
@o.json_option
@o.loudness_options
def replay(**given: Any) -> None:
    """Time a TRACE (plain or .gz; - is stdin) with the controller and the numbers of a target.

    `cycles` are those in which the memory system was at work, as the simulator reports them.
    """
    from pimc.backends.target_registry import load_target
    from pimc.cli.files import check_writable, read_lines, write_issue_trace
    from pimc.cli.progress import Progress
    from pimc.cli.screen import write_page, write_text
    from pimc.sim.issue_trace import IssueLog
    from pimc.sim.replay import replay as run

    if given["issue_trace"] == "-" and given["as_json"]:
        raise click.UsageError("--issue-trace - and --json both write to stdout")
    check_writable(given["issue_trace"])
    spec = load_target(given["target"], given["overrides"])
    name = "<stdin>" if given["trace"] == "-" else given["trace"]
    texts = read_lines(given["trace"])
    log = IssueLog() if given["issue_trace"] else None
    issues = None if log is None else log.sink((0,))
    with Progress(name, quiet=given["quiet"]) as progress:
        progress.say("replaying")
        result = run(name, texts, spec, engine=given["sim_engine"], issues=issues)
    if log is not None:
        write_issue_trace(given["issue_trace"], log.issued())
    if given["as_json"]:
        write_text(json.dumps({"trace": name, "target": spec.name, **result.to_json()}, indent=2) + "\n")
    elif not given["quiet"] and given["issue_trace"] != "-":
        write_page(_page(result, name, spec.name, verbose=given["verbose"]))


def _page(result: Replay, name: str, target: str, *, verbose: int) -> Iterator[Line]:
    from pimc.cli.layout import Column, grouped, table, time_text
    from pimc.cli.screen import line

    yield [(name, "bold"), (f" on {target}", "")]
    yield line()
    yield line(f"  {grouped(result.cycles)} cycles, {time_text(result.seconds)}; {grouped(result.lines)} lines")
    yield line()
    rows = [(command, grouped(count)) for command, count in _largest(result.commands.items())]
    if not rows:
        yield line("  no DRAM command")
        return
    yield from table([Column("DRAM command", "<"), Column("times", ">")], rows)
    if verbose:
        yield line()
        busiest = [(str(c.channel), grouped(c.cycles), grouped(c.commands.total())) for c in result.channels]
        yield from table([Column("channel", ">"), Column("last cycle", ">"), Column("commands", ">")], busiest)


def _largest(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(counts, key=lambda item: (-item[1], item[0]))
