"""`pimc ops`: the ops of the IR."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import complete
from pimc.cli import options as o
from pimc.cli.command import command

if TYPE_CHECKING:
    from pimc.cli.screen import Line
    from pimc.ir.op import OpDef


@command("ops", example="pimc ops\npimc ops attention")
@click.argument("name", type=complete.OpName(), required=False, metavar="[NAME]")
@o.json_option
@o.quiet_option
def ops(name: str | None, as_json: bool, quiet: bool) -> None:
    """List the ops of the IR; for NAME its operands, attributes and meaning."""
    from pimc.cli.screen import write_answer
    from pimc.ir.op import REGISTRY, lookup

    if name:
        found = lookup(name)
        write_answer(lambda: to_json(found), _page(found), as_json=as_json, quiet=quiet)
        return
    lookup("add")  # declares the built-in ops
    declared = [REGISTRY[n] for n in sorted(REGISTRY)]
    write_answer(lambda: {"ops": [to_json(d) for d in declared]}, _table(declared), as_json=as_json, quiet=quiet)


def _table(declared: list[OpDef]) -> Iterator[Line]:
    from pimc.cli.layout import Column, table

    for kind in dict.fromkeys(d.cls for d in declared):
        rows = [(d.name, signature(d), " ".join(d.doc.partition("\n\n")[0].split())) for d in declared if d.cls is kind]
        yield [(kind.value, "bold")]
        yield from table([Column("", "<", "bold"), Column("", "<", "", 60), Column("", "<", "", 90)], rows)
        yield []


def signature(d: OpDef) -> str:
    """`(x, scale, bias=None, *, epsilon)`."""
    words = []
    for operand in d.operands:
        star, absent = "*" * operand.variadic, "=none" * (operand.optional and not operand.variadic)
        words.append(f"{star}{operand.name}{absent}")
    attributes = [*sorted(d.required), *(f"{name}={_value(value)}" for name, value in d.attributes.items())]
    if attributes:
        words += ["*", *attributes]
    return f"({', '.join(words)})"


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


def _page(d: OpDef) -> Iterator[Line]:
    from pimc.cli.screen import line

    yield [(d.name, "bold"), (signature(d), "")]
    yield line(f"  {d.cls.value}", "dim")
    yield line()
    for each in d.doc.splitlines():
        yield line(f"  {each}")
    if d.meaning is None:
        yield line()
        yield line("  no meaning on a single device", "dim")


def to_json(d: OpDef) -> dict[str, Any]:
    return {
        "name": d.name,
        "class": d.cls.value,
        "doc": d.doc,
        "operands": [{"name": x.name, "optional": x.optional, "variadic": x.variadic} for x in d.operands],
        "attributes": dict(d.attributes),
        "required": sorted(d.required),
    }
