"""`pimc sim`: execute a stored program."""

from __future__ import annotations

import json
from typing import Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option


@command(
    "sim",
    example="""
pimc sim model.pimprog
pimc sim model.pimprog --values io.npz --out results.npz --json
""",
)
@click.argument("program", metavar="PROGRAM")
@o.engine_option
@option(o.VALUES, "--values", metavar="IN.npz|random", help="Execute on in:<input>; compare with out:<output>.")
@option(o.VALUES, "--out", metavar="OUT.npz", help="Write the outputs, as out:<output>.")
@option(o.VALUES, "--weights", metavar="FILE", help="The file of the weights, if it has moved, or an .npz by name.")
@o.format_option
@option(o.VALUES, "--seed", type=click.IntRange(0), default=0, metavar="N", help="Of random values.")
@option(o.OUTPUT, "--trace", metavar="OUT.json.gz", help="Write a Chrome trace, which Perfetto opens.")
@o.json_option
@o.loudness_options
def sim(**given: Any) -> int:
    """Execute the streams of a stored PROGRAM (- is stdin): how long they take and, with --values, what they compute.

    Random values have nothing to be compared with here; `pimc compile --values random` compares with the interpreter.
    """
    if not given["values"] and (given["out"] or given["weights"]):
        raise click.UsageError("--out and --weights need --values")
    if given["out"] == "-" and given["as_json"]:
        raise click.UsageError("--out - and --json both write to stdout")
    from pimc.api import simulate
    from pimc.cli.arrays import write_outputs
    from pimc.cli.compile_run import outcome, values_of
    from pimc.cli.files import check_writable, read_program
    from pimc.cli.screen import write_page, write_text
    from pimc.cli.watch import Progress
    from pimc.sim.trace import write_trace

    for path in (given["out"], given["trace"]):
        check_writable(path)
    program = read_program(given["program"])
    with Progress(given["program"], quiet=given["quiet"]) as progress:
        progress.say("simulating")
        run = simulate(
            program,
            values=values_of(given),
            weights=_weights(given["weights"]),
            form=given["form"],
            sim_engine=given["sim_engine"],
            seed=given["seed"],
            progress=progress.commands,
        )
    if given["trace"]:
        write_trace(given["trace"], program, run.timing)
    if given["out"] and run.outputs is not None:
        write_outputs(given["out"], run.outputs)
    if given["as_json"]:
        write_text(json.dumps(run.report.to_json(), indent=2) + "\n")
    elif not given["quiet"] and given["out"] != "-":
        write_page(_page(run, given))
    return outcome(run.comparison)


def _weights(path: str | None) -> Any:
    """Arrays by name, or the path of the file that holds the weights."""
    if path is None or not path.endswith(".npz"):
        return path
    from pimc.cli.arrays import read_arrays

    return read_arrays(path)


def _page(run: Any, given: dict[str, Any]) -> list[Any]:
    from pimc.backends.target import from_description
    from pimc.cli import tables
    from pimc.cli.compile_run import tolerance_of, written_line

    page = tables.report_page(run.report, run.program, verbose=given["verbose"])
    if run.outputs is not None:
        tolerance = tolerance_of(from_description(run.program.target), given["form"])
        page += tables.values_lines(run.comparison, given["form"], len(run.outputs), tolerance)
    return page + written_line(given["out"], given["trace"])
