"""`pimc sweep`: many points, each kept when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option

WORK = "Work"


@command(
    "sweep",
    example="""
pimc sweep models/sweeps/gemv.yaml
pimc sweep design.yaml -o results --jobs 8 --csv points.csv
pimc sweep design.yaml --cluster tcp://head:8786
pimc sweep design.yaml --dry-run
""",
)
@click.argument("spec", metavar="SPEC.yaml")
@option(WORK, "-j", "--jobs", type=click.IntRange(0), metavar="N", help="Points at a time; 0: in this process.")
@option(
    WORK,
    "--cluster",
    metavar="ADDRESS|local",
    help="Work on a Dask cluster (tcp://HOST:PORT of its scheduler), or on one of this machine's processes.",
)
@option(WORK, "--dry-run", is_flag=True, help="List the points, and which are done already; run nothing.")
@option(o.OUTPUT, "-o", "--output", metavar="DIR", help="Where points and tables are kept [SPEC.sweep].")
@option(o.OUTPUT, "--csv", "csv_file", metavar="FILE.csv", help="Write the table here too; - is stdout.")
@option(o.OUTPUT, "--plot", metavar="FILE.svg", help="Draw the objectives here too.")
@o.json_option
@o.quiet_option
def sweep(**given: Any) -> int:
    """Compile and simulate every point of a sweep: models, targets, changes of their numbers, dimensions, degrees of
    parallelism, mappings and options of passes, all combinations or some of them (docs/sweeps.md).

    A point is kept in DIR when it is done. A sweep that was ended, by whatever, goes on where it was with the same
    command, and ends with the same results. A point that cannot be compiled is listed, and the others go on.

    Exit status 0: all points are done; 1: some failed, or the sweep file has mistakes.
    """
    if given["csv_file"] == "-" and given["as_json"]:
        raise click.UsageError("--csv - and --json both write to stdout")
    if given["spec"] == "-":
        raise click.UsageError("a sweep names files relative to its own: it is not read from stdin")
    from pimc.cli.sweep_run import list_points, run_and_report

    folder = Path(given["output"] or Path(given["spec"]).stem + ".sweep")
    return (list_points if given["dry_run"] else run_and_report)(folder, given)
