"""`pimc compile`: from a model to a program, its time, and where that goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option
from pimc.target_pair import names_phase, pair_of

if TYPE_CHECKING:
    from pimc.driver import Options

EMITS = ("ir", "tagged", "placed", "tiled", "asm")
_EXPORTS = {"trace": "--trace", "annotate": "--annotate", "dot": "--dot"}
"""Files that are written out of one simulated program."""
_ONE_PROGRAM = {"output": "-o", **_EXPORTS, "emit": "--emit"}
_FORBIDDEN_WITH_EMIT = {"as_json": "--json", **_EXPORTS, "values": "--values", "generate": "--generate"}


@command(
    "compile",
    example="""
pimc compile models/tiny-llama.pimc -t neupims --values random
pimc compile models/tiny-llama.onnx -t cent --dim batch=4 --dim seq=1 --dim past=127 --json > report.json
pimc compile models/gpt3-175b.pimc -t neupims --set system.devices=32 --parallel tp=8,pp=4 --dim batch=64
pimc compile models/llama2-7b.pimc -t npu,neupims,cent --dim past=511
pimc compile models/tiny-llama.pimc -t npu -o model.pimprog --trace trace.json.gz
pimc compile models/tiny-llama.pimc -t cent --phase both --dim seq=16 --dim past=127
pimc compile models/llama2-7b.pimc -t npu-server:neupims --dim seq=512 --generate 8
""",
)
@click.argument("models", metavar="MODEL [DECODE_MODEL]", nargs=-1, required=True)
@o.targets_option
@o.set_option
@o.parallel_option
@o.transfer_option
@o.engine_option
@o.background_option
@option(o.MACHINE, "--no-sim", is_flag=True, help="Compile only, do not simulate.")
@o.dims_option
@o.requests_option
@o.both_phases_option
@o.shapes_option
@option(o.MODEL, "--generate", type=click.IntRange(1), metavar="N", help="Prefill, then N decode steps on its caches.")
@option(o.VALUES, "--values", metavar="FILE.npz|random", help="Run the streams on values and compare the outputs.")
@o.format_option
@option(o.VALUES, "--seed", type=click.IntRange(0), default=0, metavar="N", help="Of random values.")
@o.pass_options
@option(o.OUTPUT, "-o", "--output", metavar="OUT.pimprog", help="Store the program.")
@option(o.OUTPUT, "--trace", metavar="OUT.json.gz", help="Write a Chrome trace, which Perfetto opens.")
@option(o.OUTPUT, "--annotate", metavar="OUT.onnx", help="Write the ONNX model with what became of each node (Netron).")
@option(o.OUTPUT, "--dot", metavar="OUT.dot", help="Write the graph with engines and times, for Graphviz.")
@o.csv_option
@o.tables_option
@o.json_option
@o.loudness_options
@option(
    o.INSIDE,
    "--emit",
    type=o.WordType("form", EMITS),
    help="Print the graph as it is after this step, or the streams, instead of the report.",
)
@o.watch_options
def compile_command(**given: Any) -> int:
    """Compile MODEL (ONNX, .pimc or .pimir; - is stdin) for a machine, simulate its command streams, and say how long
    they take, where the time goes, and how far that is from what the hardware could do. A second model, for the decode
    steps, goes with --generate and --phase both only.
    """
    given["target"], *others = given["targets"]
    _check_usage(given)
    from pimc.cli.compile_run import both_phases, disaggregated, emit_stage, generate, points, report, side_by_side

    if pair_of(given["target"]) is not None:
        return disaggregated(options_of(given), given)
    if others:
        return side_by_side(options_of(given), given)
    ranges = o.ranges_of(given["dims"])
    if ranges:
        return points(options_of(given), ranges, given)
    if given["emit"] and given["emit"] != "asm":
        return emit_stage(options_of(given), given)
    if given["generate"]:
        return generate(options_of(given), given)
    if given["phase"] == o.BOTH:
        return both_phases(options_of(given), given)
    return report(options_of(given), given)


def _check_usage(given: dict[str, Any]) -> None:
    """Refuse options that contradict each other, before anything is imported."""
    pair = pair_of(given["targets"][0]) is not None
    both = given["phase"] == o.BOTH and not pair
    if len(given["models"]) > (2 if given["generate"] or both or pair else 1):
        what = f"got unexpected argument '{given['models'][-1]}'"
        raise click.UsageError(f"{what}; one MODEL, or two with --generate or --phase both")
    if given["emit"]:
        for name, spelling in _FORBIDDEN_WITH_EMIT.items():
            if given[name]:
                raise click.UsageError(f"--emit prints instead of a report: it does not go with {spelling}")
        if given["output"] and given["emit"] != "asm":
            raise click.UsageError(f"--emit {given['emit']} stops before there is a program that -o could store")
    if given["background"] is not None:
        _check_background(given)
    _check_pair(given)
    if len(given["targets"]) > 1:
        _check_several(given)
    if given["csv"] or given["tables"]:
        _check_tables(given)
    for name, spelling in _EXPORTS.items():
        if given["no_sim"] and given[name]:
            raise click.UsageError(f"{spelling} needs the simulation that --no-sim leaves out")
        if given["generate"] and given[name] and not (name == "trace" and pair_of(given["targets"][0])):
            raise click.UsageError(f"--generate makes several programs: it does not go with {spelling}")
    if given["no_sim"] and given["generate"]:
        raise click.UsageError("--generate reports times: it does not go with --no-sim")
    if given["output"] == "-" and (given["as_json"] or given["emit"]):
        raise click.UsageError("-o - already writes the program to stdout")
    if given["generate"] and given["output"]:
        raise click.UsageError("--generate makes several programs: it does not go with -o")
    if both:
        _check_both(given)
    if o.ranges_of(given["dims"]):
        _check_ranges(given)
    if given["requests"]:
        _check_requests(given)


def _check_several(given: dict[str, Any]) -> None:
    """Several targets make a comparison, and nothing that belongs to one program."""
    for name, spelling in {**_ONE_PROGRAM, "generate": "--generate", "no_sim": "--no-sim"}.items():
        if given[name]:
            raise click.UsageError(f"several targets are put side by side: they do not go with {spelling}")
    if given["phase"] == o.BOTH or o.ranges_of(given["dims"]):
        what = "--phase both" if given["phase"] == o.BOTH else "a range of a dimension"
        raise click.UsageError(f"several targets are put side by side: they do not go with {what}")


_ONE_TARGET = {
    "output": "-o",
    "annotate": "--annotate",
    "dot": "--dot",
    "emit": "--emit",
    "no_sim": "--no-sim",
    "requests": "--requests",
    "tables": "--tables",
}


def _check_pair(given: dict[str, Any]) -> None:
    """Two machines for one request, and what is said of one of them."""
    if not any(pair_of(target) for target in given["targets"]):
        if given["transfer"]:
            raise click.UsageError("--transfer is how caches get to another machine: it goes with -t PREFILL:DECODE")
        for spelling, settings in {"--set": given["overrides"], "--parallel": given["parallel"] or ()}.items():
            for setting in (s for s in settings if names_phase(s)):
                what = "is for one of two machines: it goes with -t PREFILL:DECODE"
                raise click.UsageError(f"{spelling} {setting} {what}")
        return
    if len(given["targets"]) > 1:
        raise click.UsageError(
            "-t PREFILL:DECODE is one run; store each with --json and put them side by side with `pimc compare`"
        )
    for name, spelling in _ONE_TARGET.items():
        if given[name]:
            raise click.UsageError(f"-t PREFILL:DECODE makes several programs: it does not go with {spelling}")
    if given["phase"] not in (None, o.BOTH):
        raise click.UsageError(f"-t PREFILL:DECODE has both phases: it does not go with --phase {given['phase']}")
    if o.ranges_of(given["dims"]):
        raise click.UsageError("a range of a dimension does not go with -t PREFILL:DECODE")
    if given["values"] not in (None, "random"):
        raise click.UsageError("-t PREFILL:DECODE draws its own prompt: it takes --values random, not a file")


def _check_tables(given: dict[str, Any]) -> None:
    """Tables are those of what was simulated."""
    for name, spelling in {"no_sim": "--no-sim", "emit": "--emit"}.items():
        if given[name]:
            raise click.UsageError(f"--csv and --tables write what a simulation says: they do not go with {spelling}")
    one = len(given["targets"]) == 1 and not given["generate"] and given["phase"] != o.BOTH
    if given["tables"] and (not one or o.ranges_of(given["dims"])):
        raise click.UsageError("--tables writes the tables of one program: for several there is --csv")
    if given["csv"] == "-" and (given["as_json"] or given["output"] == "-"):
        raise click.UsageError(f"--csv - and {'--json' if given['as_json'] else '-o -'} both write to stdout")


def _check_background(given: dict[str, Any]) -> None:
    """Traffic is offered to one simulated program."""
    for name, spelling in {"no_sim": "--no-sim", "generate": "--generate", "emit": "--emit"}.items():
        if given[name]:
            raise click.UsageError(f"--background goes with the simulation of one program, not with {spelling}")
    if given["phase"] == o.BOTH:
        raise click.UsageError("--background goes with the simulation of one program, not with --phase both")
    if o.ranges_of(given["dims"]):
        raise click.UsageError("--background goes with the simulation of one program, not with a range of a dimension")


def _check_both(given: dict[str, Any]) -> None:
    """What needs one program does not go with two phases."""
    for name, spelling in {**_ONE_PROGRAM, "generate": "--generate", "no_sim": "--no-sim"}.items():
        if given[name]:
            raise click.UsageError(f"--phase both makes and times two programs: it does not go with {spelling}")
    if given["values"] not in (None, "random"):
        raise click.UsageError("--phase both draws its own inputs: it takes --values random, not a file")


def _check_ranges(given: dict[str, Any]) -> None:
    """A range of dimensions gives times, and nothing that belongs to one program."""
    for name, spelling in {
        **_ONE_PROGRAM,
        "generate": "--generate",
        "no_sim": "--no-sim",
        "values": "--values",
    }.items():
        if given[name]:
            raise click.UsageError(f"a range of a dimension is timed point by point: it does not go with {spelling}")
    if given["phase"] == o.BOTH:
        raise click.UsageError("a range of a dimension does not go with --phase both")


def _check_requests(given: dict[str, Any]) -> None:
    """Requests are one batch, decoded in one program."""
    if given["generate"] or given["phase"] == o.BOTH or o.ranges_of(given["dims"]):
        other = "--generate" if given["generate"] else "--phase both" if given["phase"] else "a range of a dimension"
        raise click.UsageError(f"--requests is one run of one batch: it does not go with {other}")
    if given["emit"] == "ir":
        raise click.UsageError("--emit ir prints the model as it was read: it does not go with --requests")
    if given["requests"] == "-" == given["models"][0]:
        raise click.UsageError("stdin cannot be both MODEL and --requests")


def options_of(given: dict[str, Any]) -> Options:
    """What the driver is asked for."""
    from pimc.driver import Options
    from pimc.frontends.requests_csv import read_requests

    parallel: Any = given.get("parallel") or {}
    return Options(
        dims=o.unique_dims(given.get("dims", ())),
        requests=read_requests(given["requests"]) if given.get("requests") else (),
        overrides=given.get("overrides", ()),
        parallel=parallel if isinstance(parallel, dict) else {},
        objective="throughput" if parallel == "throughput" else "latency",
        phase=given.get("phase"),
        pass_options=given.get("pass_config", ()),
        disabled=given.get("disabled", ()),
        plugins=given.get("plugins", ()),
        shapes_only=given.get("shapes_only", False),
        simulate=not given.get("no_sim", False),
        sim_engine=given.get("sim_engine", "fast"),
        background=given.get("background"),
        seed=given.get("seed", 0),
    )
