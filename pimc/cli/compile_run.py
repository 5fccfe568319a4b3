"""What `pimc compile` does once its options are understood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import click

from pimc.cli.files import check_writable, write_file, write_text_file
from pimc.cli.guard import DONE
from pimc.cli.outcome import outcome, values_of, write_tables, written_line
from pimc.cli.progress import Progress
from pimc.cli.screen import Line, line, write_page, write_text
from pimc.cli.watch import check_pass_names, observers_of, pass_seconds, print_timing
from pimc.driver import Options, Result, compile_model, pipeline_for, registry_for
from pimc.execution import Values, tolerance_of


def side_by_side(options: Options, given: Mapping[str, Any]) -> int:
    """Compile and simulate for several targets; print what differs."""
    from pimc.cli.compare import write_comparison

    check_writable(given["csv"])
    values = values_of(given)
    results: list[Result] = []
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        options = watched(options, given, progress)
        for target in given["targets"]:
            progress.say(target)
            wide = given["form"] == "wide"
            results.append(compile_model(given["models"][0], target, options, values=values, wide=wide))
    print_timing(options.observers)
    write_comparison([(r.report.target, r.report) for r in results if r.report is not None], given)
    return outcome(*(r.comparison for r in results))


def watched(options: Options, given: Mapping[str, Any], progress: Progress) -> Options:
    """The options with the observers that the command line asks for."""
    names = given["print_ir_after"]
    if names:
        check_pass_names(names, [p.name for p in pipeline_for(options, None, registry_for(options))])
    asked = observers_of(
        print_ir_after=names,
        print_ir_after_all=given["print_ir_after_all"],
        dump_stages=given["dump_stages"],
        timing=given["timing"],
        verbose=given["verbose"],
    )
    return replace(options, observers=(progress, *asked))


def report(options: Options, given: Mapping[str, Any]) -> int:
    """Compile, simulate, run on values; print the report."""
    from pimc.backends.storage import to_bytes

    for path in (given["output"], given["trace"], given["annotate"], given["dot"], given["csv"]):
        check_writable(path)
    values = values_of(given)
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        options = watched(options, given, progress)
        wide = given["form"] == "wide"
        result = compile_model(given["models"][0], given["target"], options, values=values, wide=wide)
    print_timing(options.observers)
    result = replace(result, pass_seconds=pass_seconds(result.program, options.observers))
    if given["trace"] and result.timing is not None:
        from pimc.sim.trace import write_trace

        write_trace(given["trace"], result.program, result.timing)
    _export(result, given)
    if given["output"]:
        write_file(given["output"], to_bytes(result.program))
    if result.report is not None:
        write_tables(result.report, result.program, given)
    _print(result, given)
    return outcome(result.comparison)


def _export(result: Result, given: Mapping[str, Any]) -> None:
    """The files for other programs: Netron, Graphviz."""
    if given["annotate"]:
        from pimc.annotate import annotated

        write_file(given["annotate"], annotated(given["models"][0], result))
    if given["dot"]:
        from pimc.graphviz import dot

        write_text_file(given["dot"], dot(result))


def _print(result: Result, given: Mapping[str, Any]) -> None:
    if given["emit"] == "asm":
        from pimc.backends.assembly import disassemble

        write_text(disassemble(result.program))
    elif given["as_json"]:
        write_text(json.dumps(json_of(result, given), indent=2) + "\n")
    elif not given["quiet"] and "-" not in (given["output"], given["csv"]):
        write_page(page_of(result, given))


def json_of(result: Result, given: Mapping[str, Any]) -> dict[str, Any]:
    """The object that `--json` prints; without a simulation what is known without one."""
    if result.report is not None:
        return result.report.to_json()
    program = result.program
    plain: dict[str, Any] = {
        "model": program.graph,
        "target": program.target_name,
        "target_hash": program.target_hash,
        "dims": dict(program.dims),
        "phase": program.phase,
        "devices": program.devices,
        "ops": [
            {
                "name": row.name,
                "op": row.op,
                "source": row.source,
                "phase": row.phase,
                "nature": row.nature,
                "engine": row.engine,
                "reason": row.reason,
                "flops": row.flops,
                "bytes": row.bytes,
            }
            for row in program.ops
        ],
    }
    if program.choice is not None:
        plain["parallel"] = program.choice.to_json()
    if program.requests:
        from pimc.sim.report import request_rows

        plain["requests"] = [asdict(r) for r in request_rows(program)]
    if result.comparison is not None:
        plain["values"] = result.comparison.to_json(given["form"])
    return plain


def page_of(result: Result, given: Mapping[str, Any]) -> list[Line]:
    from pimc.cli import tables

    program = result.program
    if result.report is not None:
        page = tables.report_page(result.report, program, verbose=given["verbose"])
    else:
        page = [*tables.title(program.graph, program.target_name, program.phase, program.dims, program.devices), line()]
        page += [*tables.plain_ops(program.ops), line(), *tables.memory_table(program, verbose=given["verbose"])]
    if result.outputs is not None:
        tolerance = tolerance_of(result.spec, wide=given["form"] == "wide")
        page += tables.values_lines(result.comparison, given["form"], len(result.outputs), tolerance)
    return page + written_line(given["output"], given["trace"], given["annotate"], given["dot"])


def emit_stage(options: Options, given: Mapping[str, Any]) -> int:
    """Print the graph as the frontend made it, or as it is after a stage of the pipeline."""
    from pimc.driver import lower_model, read_model
    from pimc.ir.text import show

    if given["emit"] == "ir":
        write_text(show(read_model(given["models"][0], options)))
        return DONE
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        options = replace(watched(options, given, progress), until=last_pass(options, given["emit"]))
        lowered = lower_model(given["models"][0], given["target"], options)
    print_timing(options.observers)
    homes = [f"// %{value.name} lies in {home}\n" for value, home in lowered.graph.homes.items()]
    write_text(show(lowered.graph) + "".join(homes if given["emit"] == "tiled" else ()))
    return DONE


def last_pass(options: Options, wanted: str) -> str:
    """The last pass before the graph goes beyond the wanted stage."""
    from pimc.ir.stage import GraphStage

    stage = {"tagged": GraphStage.TAGGED, "placed": GraphStage.PLACED, "tiled": GraphStage.LAID_OUT}[wanted]
    passes = list(pipeline_for(options, None, registry_for(options)))
    end = next((i for i, p in enumerate(passes) if p.after is not None and p.after > stage), len(passes))
    return passes[end - 1].name


def generate(options: Options, given: Mapping[str, Any]) -> int:
    """Prefill and decode steps; print times to the first and to each further token."""
    from pimc.cli.generation_page import generation_page
    from pimc.generation import generate as run
    from pimc.sim.report_csv import csv_text

    check_writable(given["csv"])
    if given["values"] not in (None, "random"):
        raise click.UsageError("--generate draws its own prompt: it takes --values random, not a file")
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        options = watched(options, given, progress)
        found = run(
            given["models"],
            given["target"],
            options,
            given["generate"],
            values=given["values"] is not None,
            wide=given["form"] == "wide",
            progress=progress.steps,
        )
    print_timing(options.observers)
    if given["csv"]:
        write_text_file(given["csv"], csv_text(found.to_json(given["form"])["steps"]))
    if given["as_json"]:
        write_text(json.dumps(found.to_json(given["form"]), indent=2) + "\n")
    elif not given["quiet"] and given["csv"] != "-":
        write_page(generation_page(found, given["form"]))
    wrong = next((s.comparison for s in found.steps if s.comparison is not None and not s.comparison.ok), None)
    return outcome(wrong)


def disaggregated(options: Options, given: Mapping[str, Any]) -> int:
    """Prefill on one machine, decode steps on another; print times of the request and of its parts."""
    from pimc.cli.request_page import request_page
    from pimc.disaggregated import serve
    from pimc.request_trace import write_request_trace
    from pimc.sim.report_csv import ops_csv
    from pimc.target_pair import pair_of

    for path in (given["csv"], given["trace"]):
        check_writable(path)
    targets = pair_of(given["target"])
    assert targets is not None
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        found = serve(
            given["models"],
            targets,
            watched(options, given, progress),
            given["generate"] or 1,
            values=given["values"] is not None,
            wide=given["form"] == "wide",
            by_layer=given["transfer"] == "by-layer",
            progress=progress.steps,
        )
    print_timing(options.observers)
    if given["csv"]:
        write_text_file(given["csv"], ops_csv(*found.reports.values()))
    if given["trace"]:
        write_request_trace(given["trace"], found)
    if given["as_json"]:
        write_text(json.dumps(found.to_json(), indent=2) + "\n")
    elif not given["quiet"] and given["csv"] != "-":
        page = request_page(found, steps=bool(given["generate"]), verbose=given["verbose"])
        write_page([*page, *written_line(given["trace"])])
    return outcome(*(s.comparison for s in found.generation.steps))


def both_phases(options: Options, given: Mapping[str, Any]) -> int:
    """Prefill and decode step of one model, each with its report."""
    from pimc.cli.tables import report_page, values_lines
    from pimc.phases import compile_phases
    from pimc.sim.report_csv import ops_csv

    check_writable(given["csv"])
    values: Values | None = "random" if given["values"] is not None else None
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        options = watched(options, given, progress)
        wide = given["form"] == "wide"
        found = compile_phases(given["models"], given["target"], options, values=values, wide=wide)
    print_timing(options.observers)
    if given["csv"]:
        write_text_file(given["csv"], ops_csv(*(r.report for _, r in found.items() if r.report is not None)))
    if given["as_json"]:
        write_text(json.dumps(found.to_json(given["form"]), indent=2) + "\n")
    elif not given["quiet"] and given["csv"] != "-":
        page: list[Line] = []
        for _, result in found.items():
            assert result.report is not None
            page += [line()] if page else []
            page += report_page(result.report, result.program, verbose=given["verbose"])
            if result.outputs is not None:
                tolerance = tolerance_of(result.spec, wide=given["form"] == "wide")
                page += values_lines(result.comparison, given["form"], len(result.outputs), tolerance)
        write_page(page)
    return outcome(*(r.comparison for _, r in found.items()))


def points(options: Options, ranges: Mapping[str, range], given: Mapping[str, Any]) -> int:
    """Times at all values of the ranges."""
    from pimc.cli.layout import Column, grouped, table, time_text
    from pimc.points import time_points
    from pimc.sim.report_csv import csv_text

    check_writable(given["csv"])
    with Progress(given["models"][0], quiet=given["quiet"]) as progress:
        found = time_points(given["models"][0], given["target"], options, ranges, progress=progress.points)
    if given["csv"]:
        rows_of = ({**p.dims, "cycles": p.cycles, "seconds": p.seconds} for p in found.points)
        write_text_file(given["csv"], csv_text(rows_of))
    if given["as_json"]:
        write_text(json.dumps(found.to_json(), indent=2) + "\n")
    elif not given["quiet"] and given["csv"] != "-":
        names = list(ranges)
        columns = [*(Column(name, ">") for name in names), Column("cycles", ">"), Column("time", ">")]
        rows = [(*(str(p.dims[n]) for n in names), grouped(p.cycles), time_text(p.seconds)) for p in found.points]
        write_page([[(given["models"][0], "bold"), (f" · {found.target}", "")], line(), *table(columns, rows)])
    return DONE
