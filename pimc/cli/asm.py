"""`pimc asm` and `pimc disasm`: programs as text and back, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import click

from pimc.cli import options as o
from pimc.cli.command import command, option


@command("asm", example="pimc disasm a.pimprog > a.pimasm\npimc asm a.pimasm -o b.pimprog")
@click.argument("text", metavar="TEXT.pimasm")
@option(
    o.OUTPUT,
    "-o",
    "--output",
    metavar="OUT.pimprog",
    help="Where the program goes; default: beside TEXT, and stdout for stdin.",
)
def asm(text: str, output: str | None) -> None:
    """Assemble TEXT (- is stdin) into a stored program, and verify it."""
    from pimc.backends.assembler import assemble
    from pimc.backends.storage import to_bytes
    from pimc.backends.verify import verify_program
    from pimc.cli.files import check_writable, read_text, write_file

    place = output or ("-" if text == "-" else str(Path(text).with_suffix(".pimprog")))
    check_writable(place)
    program = assemble(read_text(text), "<stdin>" if text == "-" else text)
    verify_program(program)
    write_file(place, to_bytes(program))


@command("disasm", example="pimc disasm a.pimprog | less\npimc disasm a.pimprog -o a.pimasm")
@click.argument("program", metavar="PROGRAM")
@option(o.OUTPUT, "-o", "--output", default="-", metavar="OUT.pimasm", help="Where the text goes; default: stdout.")
def disasm(program: str, output: str) -> None:
    """Print a stored PROGRAM (- is stdin) as text that `pimc asm` takes back."""
    from pimc.backends.assembly import disassemble
    from pimc.cli.files import check_writable, read_program, write_text_file

    check_writable(output)
    write_text_file(output, disassemble(read_program(program)))
