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
@o.background_option
@option(o.VALUES, "--values", metavar="IN.npz|random", help="Execute on in:<input>; compare with out:<output>.")
@option(o.VALUES, "--out", metavar="OUT.npz", help="Write the outputs, as out:<output>.")
@option(o.VALUES, "--weights", metavar="FILE", help="The file of the weights, if it has moved, or an .npz by name.")
@o.format_option
@option(o.VALUES, "--seed", type=click.IntRange(0), default=0, metavar="N", help="Of random values.")
@option(o.OUTPUT, "--trace", metavar="OUT.json.gz", help="Write a Chrome trace, which Perfetto opens.")
@option(
    o.OUTPUT, "--issue-trace", metavar="OUT.csv", help="Write every DRAM command of the PIM engines (.gz: compressed)."
)
@o.csv_option
@o.tables_option
@o.json_option
@o.loudness_options
def sim(**given: Any) -> int:
    """Execute the streams of a stored PROGRAM (- is stdin): how long they take and, with --values, what they compute.

    Random values have nothing to be compared with here; `pimc compile --values random` compares with the interpreter.
    """
    if not given["values"] and (given["out"] or given["weights"]):
        raise click.UsageError("--out and --weights need --values")
    piped = [f"--{name.replace('_', '-')} -" for name in ("out", "issue_trace", "csv") if given[name] == "-"]
    piped += ["--json"] * given["as_json"]
    if len(piped) > 1:
        raise click.UsageError(f"{' and '.join(piped[:2])} both write to stdout")
    from pimc.cli.arrays import write_outputs
    from pimc.cli.files import check_writable, read_program, write_issue_trace
    from pimc.cli.outcome import outcome, values_of, write_tables
    from pimc.cli.progress import Progress
    from pimc.cli.screen import write_page, write_text
    from pimc.sim.issue_trace import IssueLog
    from pimc.sim.trace import write_trace
    from pimc.simulation import simulate

    for path in (given["out"], given["trace"], given["issue_trace"], given["csv"]):
        check_writable(path)
    program = read_program(given["program"])
    log = IssueLog() if given["issue_trace"] else None
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
            issues=log,
            background=given["background"],
        )
    if given["trace"]:
        write_trace(given["trace"], program, run.timing)
    if log is not None:
        write_issue_trace(given["issue_trace"], log.issued())
    if given["out"] and run.outputs is not None:
        write_outputs(given["out"], run.outputs)
    write_tables(run.report, program, given)
    if given["as_json"]:
        write_text(json.dumps(run.report.to_json(), indent=2) + "\n")
    elif not given["quiet"] and not piped:
        write_page(_page(run, given))
    return outcome(run.comparison)


def _weights(path: str | None) -> Any:
    """Arrays by name, or the path of the file that holds the weights."""
    if path is None or not path.endswith(".npz"):
        return path
    from pimc.cli.arrays import read_arrays

    return read_arrays(path)


def _page(run: Any, given: dict[str, Any]) -> list[Any]:
    from pimc.backends.engines import spec_of
    from pimc.cli import tables
    from pimc.cli.outcome import written_line
    from pimc.execution import tolerance_of

    page = tables.report_page(run.report, run.program, verbose=given["verbose"])
    if run.outputs is not None:
        tolerance = tolerance_of(spec_of(run.program), wide=given["form"] == "wide")
        page += tables.values_lines(run.comparison, given["form"], len(run.outputs), tolerance)
    return page + written_line(given["out"], given["trace"], given["issue_trace"])
