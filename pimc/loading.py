"""Programs from files, with all at hand that simulating them takes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pimc.backends import storage
from pimc.backends.engines import platform_of
from pimc.backends.program import Program
from pimc.backends.timing import Resource
from pimc.backends.verify import verify_program
from pimc.garbage import collecting_seldom
from pimc.ir.diagnostics import CompileError


@collecting_seldom()
def load_program(path: Path | str) -> Program:
    """Read a stored program. Raises CompileError: FILE_MISSING; PROGRAM_BROKEN for what `save_program` does not write.

    What simulating it takes is made ready: its machine, what times that, and the look at the program for mistakes. A
    program with mistakes can be loaded all the same, to look into it.
    """
    program = storage.load(path)
    try:
        _make_timers(program)
        verify_program(program)
    except CompileError:
        pass  # whoever simulates it is told
    return program


def _make_timers(program: Program) -> None:
    """One for each engine in use: their modules are imported and what is known of the machine is kept."""
    machine = platform_of(program)
    resources: defaultdict[str, Resource] = defaultdict(lambda: Resource(""))
    for name in {stream.engine for stream in program.streams} & machine.engines.keys():
        machine.timer(machine.engines[name], resources)
