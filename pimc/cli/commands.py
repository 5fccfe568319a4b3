"""`pimc commands`: what engines take in their streams."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import complete
from pimc.cli import options as o
from pimc.cli.command import command

if TYPE_CHECKING:
    from pimc.backends.isa import Command, OperandDecl
    from pimc.cli.screen import Line


@command("commands", example="pimc commands\npimc commands MAC_ABK")
@click.argument("name", type=complete.CommandName(), required=False, metavar="[NAME]")
@o.json_option
@o.quiet_option
def commands(name: str | None, as_json: bool, quiet: bool) -> None:
    """List the commands that the streams of engines hold; for NAME its operands and what it does."""
    from pimc.backends.engines import commands as declared_commands
    from pimc.cli.screen import write_answer

    declared = declared_commands()
    if name:
        cls = _found(name, dict(declared))
        write_answer(lambda: to_json(cls), _page(cls), as_json=as_json, quiet=quiet)
        return
    every = list(declared.values())
    write_answer(lambda: {"commands": [to_json(c) for c in every]}, _table(every), as_json=as_json, quiet=quiet)


def _found(name: str, declared: dict[str, type[Command]]) -> type[Command]:
    from pimc.ir.diagnostics import Kind, did_you_mean, fail

    cls = declared.get(name) or declared.get(name.upper())
    if cls is None:
        raise fail(Kind.NAME_UNKNOWN, f"no such command: '{name}'", help=did_you_mean(name.upper(), declared))
    return cls


def _table(declared: list[type[Command]]) -> Iterator[Line]:
    from pimc.cli.layout import Column, table
    from pimc.cli.passes import first_sentence

    for unit in dict.fromkeys(c.unit for c in declared):
        rows = [(c.mnemonic, first_sentence(c)) for c in declared if c.unit == unit]
        yield [(f"{unit or 'every engine'}", "bold")]
        yield from table([Column("", "<", "bold"), Column("")], rows)
        yield []


def _page(cls: type[Command]) -> Iterator[Line]:
    from pimc.backends.isa import operands_of
    from pimc.cli.layout import Column, table
    from pimc.cli.screen import line

    yield [(cls.mnemonic, "bold"), (f" · {cls.unit or 'every engine'}", "")]
    yield line()
    for each in (inspect.getdoc(cls) or "").splitlines():
        yield line(f"  {each}")
    rows = [(name, _kind(d), _default(d), " ".join(d.doc.split())) for name, d in operands_of(cls).items()]
    if rows:
        yield line()
        yield from table([Column("operand", "<", "bold"), Column("type"), Column("default"), Column("")], rows)


def _kind(d: OperandDecl) -> str:
    if d.kind == "choice":
        return "|".join(d.choices)
    return "address" if d.hexadecimal else d.kind


def _default(d: OperandDecl) -> str:
    from pimc.backends.assembly import operand_text

    return "" if d.default is dataclasses.MISSING else operand_text(d.default, d)


def to_json(cls: type[Command]) -> dict[str, Any]:
    from pimc.backends.isa import operands_of

    return {
        "name": cls.mnemonic,
        "unit": cls.unit,
        "doc": inspect.getdoc(cls) or "",
        "operands": [
            {"name": name, "type": _kind(d), "default": _default(d) or None, "doc": d.doc}
            for name, d in operands_of(cls).items()
        ],
    }
