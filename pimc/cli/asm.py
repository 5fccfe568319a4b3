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
@o.json_option
def asm(text: str, output: str | None, as_json: bool) -> None:
    """Assemble TEXT (- is stdin) into a stored program, and verify it."""
    from pimc.backends.assembler import assemble
    from pimc.backends.storage import to_bytes
    from pimc.backends.verify import verify_program
    from pimc.cli.files import check_writable, read_text, write_file
    from pimc.cli.screen import write_answer

    written = read_text(text)
    place = output or ("-" if text == "-" else str(Path(text).with_suffix(".pimprog")))
    if place == "-" and as_json:
        raise click.UsageError("-o - and --json both write to stdout")
    check_writable(place)
    program = assemble(written, "<stdin>" if text == "-" else text)
    verify_program(program)
    data = to_bytes(program)
    write_file(place, data)
    write_answer(lambda: {"written": place, "bytes": len(data)}, [], as_json=as_json, quiet=True)


@command("disasm", example="pimc disasm a.pimprog | less\npimc disasm a.pimprog -o a.pimasm")
@click.argument("program", metavar="PROGRAM")
@option(o.OUTPUT, "-o", "--output", default="-", metavar="OUT.pimasm", help="Where the text goes; default: stdout.")
@o.json_option
@o.quiet_option
def disasm(program: str, output: str, as_json: bool, quiet: bool) -> None:
    """Print a stored PROGRAM (- is stdin) as text that `pimc asm` takes back."""
    from pimc.backends.assembly import disassemble
    from pimc.cli.files import check_writable, read_program, write_text_file
    from pimc.cli.screen import write_answer

    check_writable(output)
    text = disassemble(read_program(program))
    if as_json:
        write_answer(lambda: {"text": text} if output == "-" else {"written": output}, [], as_json=True)
    if output != "-" or not (as_json or quiet):
        write_text_file(output, text)
