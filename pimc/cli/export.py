"""`pimc export`: programs for other tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option
from pimc.cli.complete_inside import NamesInside, engines_of_program

if TYPE_CHECKING:
    from pimc.backends.program import Program


@command(
    "export",
    example="""
pimc export model.pimprog --parquet streams.parquet
pimc export model.pimprog --parquet pim.parquet --unroll --engine pim --device 0
""",
)
@click.argument("program", metavar="PROGRAM")
@option(o.OUTPUT, "--parquet", metavar="OUT.parquet", help="The commands of all streams as columns (- is stdout).")
@option(o.OUTPUT, "--unroll", is_flag=True, help="One row for each command as executed, instead of loops as written.")
@option(o.OUTPUT, "--engine", type=NamesInside("E", engines_of_program), help="The streams of this engine only.")
@option(o.OUTPUT, "--device", type=click.IntRange(0), metavar="N", help="The streams of this device only.")
@o.json_option
@o.quiet_option
def export(**given: Any) -> None:
    """Write a stored PROGRAM (- is stdin) for other tools. A Parquet file is read by DuckDB, Polars, pandas and Spark
    (docs/parquet.md).
    """
    if not given["parquet"]:
        raise click.UsageError("nothing to write; name a file with --parquet")
    if given["parquet"] == "-" and given["as_json"]:
        raise click.UsageError("--parquet - and --json both write to stdout")
    from pimc.backends.columns import StreamTable
    from pimc.cli.files import check_writable, read_program, write_file
    from pimc.cli.layout import grouped, memory_text
    from pimc.cli.screen import write_page, write_text
    from pimc.parquet import parquet_bytes

    check_writable(given["parquet"])
    program = read_program(given["program"])
    table = StreamTable(program, given["unroll"], _streams(program, given["engine"]), _device(program, given["device"]))
    data = parquet_bytes(table)
    write_file(given["parquet"], data)
    if given["as_json"]:
        found = {"written": given["parquet"], "rows": table.size, "columns": len(table.columns), "bytes": len(data)}
        write_text(json.dumps(found, indent=2) + "\n")
    elif not given["quiet"] and given["parquet"] != "-":
        rows = f"{grouped(table.size)} rows, {len(table.columns)} columns, {memory_text(len(data))}"
        write_page([[("  written  ", "dim"), (f"{given['parquet']}: {rows}", "")]])


def _streams(program: Program, engine: str | None) -> tuple[int, ...] | None:
    """The numbers of an engine's streams."""
    if engine is None:
        return None
    from pimc.ir.diagnostics import Kind, did_you_mean, fail

    found = tuple(number for number, stream in enumerate(program.streams) if stream.engine == engine)
    if not found:
        engines = dict.fromkeys(stream.engine for stream in program.streams)
        raise fail(Kind.NAME_UNKNOWN, f"the program has no streams for '{engine}'", help=did_you_mean(engine, engines))
    return found


def _device(program: Program, device: int | None) -> int | None:
    from pimc.ir.diagnostics import Kind, fail

    if device is not None and device >= program.devices:
        raise fail(
            Kind.NAME_UNKNOWN, f"the program has no device {device}; they are numbered 0 to {program.devices - 1}"
        )
    return device
