"""`pimc compare`: results side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command

if TYPE_CHECKING:
    from pimc.sim.report import Report


@command(
    "compare",
    example="""
pimc compare npu.json neupims.json
pimc compare before.pimprog after.pimprog --csv differences.csv
""",
)
@click.argument("results", metavar="RESULT RESULT...", nargs=-1, required=True)
@o.csv_option
@o.json_option
@o.loudness_options
def compare(**given: Any) -> None:
    """Put RESULTs side by side: what each op takes in each of them, where it runs and why, and where the difference
    lies. A RESULT is a .pimprog, which is simulated, or what `pimc compile --json` or `pimc sim --json` printed (- is
    stdin). Where all RESULTs have both phases (--phase both, -t PREFILL:DECODE), each is compared as a whole; else
    phases are put side by side.
    """
    from pimc.cli.files import check_writable, read_runs
    from pimc.cli.progress import Progress

    check_writable(given["csv"])
    with Progress("compare", quiet=given["quiet"]) as progress:
        runs = read_runs(given["results"], progress.say, whole=len(given["results"]) > 1)
    write_comparison([(run.name, run.report) for run in runs], given)


def write_comparison(named: Sequence[tuple[str, Report]], given: Mapping[str, Any]) -> None:
    """Print the comparison, as the options say."""
    from pimc.cli.compare_page import comparison_csv, comparison_page
    from pimc.cli.files import write_text_file
    from pimc.cli.screen import write_page, write_text
    from pimc.side_by_side import compare as put_side_by_side

    found = put_side_by_side(named)
    if given["csv"]:
        write_text_file(given["csv"], comparison_csv(found))
    if given["as_json"]:
        write_text(json.dumps(found.to_json(), indent=2) + "\n")
    elif not given["quiet"] and given["csv"] != "-":
        write_page(comparison_page(found, verbose=given["verbose"]))
