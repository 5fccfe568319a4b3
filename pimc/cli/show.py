"""`pimc show`: look into the streams and the memory map of a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option
from pimc.cli.complete_inside import NamesInside, OpNames, engines_of_program, ops_of_program

if TYPE_CHECKING:
    from pimc.backends.program import Item, Program, Stream
    from pimc.cli.screen import Line

LIMIT = 24


@command(
    "show",
    example="""
pimc show model.pimprog
pimc show model.pimprog --engine pim --op attention_scores --limit 100
""",
)
@click.argument("program", metavar="PROGRAM")
@option(o.OUTPUT, "--engine", type=NamesInside("E", engines_of_program), help="The streams of this engine only.")
@option(
    o.OUTPUT,
    "--op",
    type=OpNames(ops_of_program),
    help="Commands of ops of this name, weight or kind only; a part will do.",
)
@option(o.OUTPUT, "--limit", type=click.IntRange(0), metavar="N", help=f"Lines of each stream ({LIMIT}); 0: all.")
@option(
    o.OUTPUT,
    "--as",
    "form",
    type=o.WordType("form", ("text", "aim-trace")),
    default="text",
    help="text, or a trace of the AiM simulator (programs for one AiM device alone).",
)
@option(o.OUTPUT, "--channel", type=click.IntRange(0), metavar="N", help="What this channel is asked for.")
@option(o.OUTPUT, "--bank", type=click.IntRange(0), metavar="N", help="What this bank is asked for.")
@option(o.OUTPUT, "--times", is_flag=True, help="Simulate, and list the commands with the clock of their issue.")
@o.json_option
@o.quiet_option
@option(o.OUTPUT, "-v", "--verbose", count=True, help="The whole memory map and all ops.")
def show(**given: Any) -> None:
    """What a stored PROGRAM (- is stdin) holds: its engines, its memory map, and the beginning of its streams.

    --op asks for the commands of single ops; loops are shown as loops. `pimc disasm` prints everything.
    """
    from pimc.cli.files import read_program
    from pimc.cli.screen import write_page, write_text

    program = read_program(given["program"])
    if given["form"] == "aim-trace":
        from pimc.backends.pim.aim_export import aim_trace

        if given["as_json"]:
            raise click.UsageError("--as aim-trace prints a trace: it does not go with --json")
        write_text("".join(f"{text}\n" for text in aim_trace(program)))
        return
    _check(program, given["engine"], given["op"])
    streams = list(_chosen(program, given["engine"], given["op"]))
    if given["as_json"]:
        write_text(json.dumps(_plain(program, streams), indent=2) + "\n")
        return
    if given["quiet"]:
        return
    page: list[Line] = []
    if not given["engine"] and not given["op"]:
        page += _overview(program, given["verbose"])
    limit = LIMIT if given["limit"] is None else given["limit"]
    if given["times"] or given["channel"] is not None or given["bank"] is not None:
        from pimc.cli.listing import listing

        wanted = None if given["op"] is None else _rows(program, given["op"])
        chosen = [s for s in program.streams if given["engine"] in (None, s.engine)]
        page += [[], *listing(program, chosen, wanted, given, limit)]
        streams = []
    for stream in streams:
        page += [[], *_stream(stream, program, limit)]
    write_page(page[1:] if page and not page[0] else page)


def _check(program: Program, engine: str | None, op: str | None) -> None:
    from pimc.ir.diagnostics import Kind, did_you_mean, fail

    engines = list(dict.fromkeys(s.engine for s in program.streams))
    if engine is not None and engine not in engines:
        raise fail(Kind.NAME_UNKNOWN, f"the program has no streams for '{engine}'", help=did_you_mean(engine, engines))
    if op is not None and not _rows(program, op):
        names = {text for row in program.ops for text in (row.name, row.op, row.weight) if text}
        raise fail(Kind.NAME_UNKNOWN, f"the program has no op '{op}'", help=did_you_mean(op, names))


def _rows(program: Program, op: str) -> frozenset[int]:
    """The rows of the op table that are asked for, and those whose commands they share."""
    rows = list(enumerate(program.ops))
    found = [i for i, row in rows if op in (row.name, row.op, row.weight)]
    found = found or [i for i, row in rows if op in row.name or op in row.weight]
    return frozenset(found) | {program.ops[i].shares for i in found if program.ops[i].shares >= 0}


def _chosen(program: Program, engine: str | None, op: str | None) -> Iterator[Stream]:
    from dataclasses import replace

    wanted = None if op is None else _rows(program, op)
    for stream in program.streams:
        if engine is not None and stream.engine != engine:
            continue
        items = stream.items if wanted is None else _of_ops(stream.items, wanted)
        if items or wanted is None:
            yield replace(stream, items=items)


def _of_ops(items: tuple[Item, ...], wanted: frozenset[int]) -> tuple[Item, ...]:
    from pimc.backends.program import Loop

    kept: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            body = _of_ops(item.body, wanted)
            kept += [Loop(item.variable, item.count, body)] if body else []
        elif item.op in wanted:
            kept.append(item)
    return tuple(kept)


def _overview(program: Program, verbose: int) -> Iterator[Line]:
    from pimc.backends.assembly import ranks
    from pimc.backends.program import count, steps
    from pimc.cli import tables
    from pimc.cli.layout import Column, grouped, table

    yield from tables.title(program.graph, program.target_name, program.phase, program.dims, program.devices)
    yield [("  inputs   ", "dim"), (_names(program.inputs), "")]
    yield [("  outputs  ", "dim"), (_names(program.outputs), "")]
    yield []
    columns = [Column("streams", "<", "bold"), Column("devices"), Column("instances")]
    columns += [Column("as written", ">"), Column("as executed", ">")]
    rows = [
        (s.engine, ranks(s.devices), ranks(s.instances), grouped(len(list(steps(s.items)))), grouped(count(s.items)))
        for s in program.streams
    ]
    yield from table(columns, rows)
    yield []
    yield from tables.memory_table(program)
    yield []
    yield from tables.memory_map(program, 0 if verbose else LIMIT)
    yield from tables.block_tables(program, 0 if verbose else LIMIT)
    if verbose:
        yield []
        yield from tables.plain_ops(program.ops)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _stream(stream: Stream, program: Program, limit: int) -> Iterator[Line]:
    """The text of a stream, cut after `limit` lines."""
    from pimc.backends.assembly import stream_lines
    from pimc.cli.screen import line

    lines = list(stream_lines(stream, program.ops))
    shown = lines if not limit or len(lines) <= limit + 2 else lines[: limit + 1]
    for each in shown:
        code, mark, comment = each.partition(" ; ")
        yield [(code, ""), (mark + comment, "dim")] if mark else line(code)
    if len(shown) < len(lines):
        yield line(f"  ; {len(lines) - len(shown) - 1} more lines (--limit 0 shows all)", "dim")
        yield line("}")


def _plain(program: Program, streams: list[Stream]) -> dict[str, Any]:
    """The object that `--json` prints."""
    from pimc.backends.assembly import layout_text, stream_lines
    from pimc.backends.plain_blocks import plain_blocks
    from pimc.backends.program import count, steps

    return {
        "model": program.graph,
        "target": program.target_name,
        "target_hash": program.target_hash,
        "dims": dict(program.dims),
        "phase": program.phase,
        "devices": program.devices,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "memory": [
            {
                "name": e.name,
                "role": e.role,
                "space": e.space,
                "dtype": e.dtype.text,
                "shape": list(e.shape),
                "layout": layout_text(e.layout),
                "devices": list(e.devices),
                **({"blocks": plain_blocks(e.blocks)} if e.blocks is not None else {}),
                **({"entries": e.contents.array().tolist()} if e.role == "table" and e.contents is not None else {}),
            }
            for e in program.memory
        ],
        "streams": [
            {
                "engine": s.engine,
                "devices": list(s.devices),
                "instances": list(s.instances),
                "written": sum(1 for _ in steps(s.items)),
                "commands": count(s.items),
                "text": list(stream_lines(s, program.ops))[1:-1],
            }
            for s in streams
        ],
    }
