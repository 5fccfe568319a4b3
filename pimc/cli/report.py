"""`pimc report`: a result as one page for a browser."""

from __future__ import annotations

import json
from typing import Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option


@command(
    "report",
    example="""
pimc report model.pimprog -o report.html
pimc report neupims.json npu.json -o report.html
""",
)
@click.argument("results", metavar="RESULT [RESULT2]", nargs=-1, required=True)
@option(
    o.OUTPUT, "-o", "--output", default="report.html", metavar="OUT.html", help="The page (report.html); - is stdout."
)
@o.json_option
@o.loudness_options
def report(**given: Any) -> None:
    """Draw a RESULT (a .pimprog, which is simulated, or the JSON of compile or sim; - is stdin) as one HTML page that
    needs no network: where the time goes, a roofline, a time line, all ops, memory, and which numbers are estimates.

    With RESULT2 the page compares the two. A file with several results (--phase both) gives the first two; one of a
    request on two machines (-t PREFILL:DECODE) gives the request and all of both phases.
    """
    if len(given["results"]) > 2:
        raise click.UsageError("a page has one result, or two to compare")
    if given["output"] == "-" and given["as_json"]:
        raise click.UsageError("-o - and --json both write to stdout")
    from pimc.cli.files import check_writable, read_runs, write_text_file
    from pimc.cli.progress import Progress
    from pimc.cli.screen import write_text
    from pimc.report.page import page_of, page_of_request

    check_writable(given["output"])
    with Progress("report", quiet=given["quiet"]) as progress:
        runs = read_runs(given["results"], progress.say, whole=len(given["results"]) > 1)
        of_request = len(given["results"]) == 1 and runs[0].served is not None
        text = page_of_request(runs) if of_request else page_of(*runs[:2])
    write_text_file(given["output"], text)
    if given["as_json"]:
        write_text(json.dumps({"written": given["output"], "bytes": len(text.encode())}, indent=2) + "\n")
    elif given["output"] != "-" and not given["quiet"]:
        write_text(f"{given['output']}: {len(text.encode()) / 1000:.0f} kB\n")
