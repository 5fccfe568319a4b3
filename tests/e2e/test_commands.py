"""Every command matters: where its values are broken on purpose, the outputs are no longer right."""

from __future__ import annotations

import pytest

from pimc.backends.engines import commands
from pimc.backends.isa import Command
from pimc.backends.program import steps
from pimc.execution import time_program
from pimc.ir.diagnostics import CompileError, Kind
from tests.e2e.breaking import Effect, broken, half_done, nothing, slightly_off
from tests.e2e.harness import keeping
from tests.e2e.programs import PROGRAMS, program_of

SYNCHRONISING = {"SIGNAL", "WAIT"}
ANNOUNCING = {"FENCE", "HEADER"}
"""Commands that change no values, but when others may start."""
PUBLISHED = {"TRACE", "EOC", "SYNC", "W_MEM", "R_MEM"}
"""Commands of published streams, which have a time and compute nothing; so have all analytic ones."""
HANDING_OVER = {"EXPORT", "IMPORT"}
"""Commands between two programs (test_disaggregated loses what they send)."""
BY_TABLE = {"MAPBLOCKS", "STBLK"}
COMPUTING = sorted(
    name
    for name, declared in commands().items()
    if name not in SYNCHRONISING | ANNOUNCING | PUBLISHED | HANDING_OVER
    and declared.__module__.startswith("pimc.")
    and "analytic" not in declared.__module__
)


def holders(mnemonic: str) -> list[str]:
    """The programs that hold a command."""
    found = [name for name in PROGRAMS if mnemonic in program_of(name).mnemonics and not _only_clears(name, mnemonic)]
    if not found:
        pytest.fail(f"no program of tests/e2e/programs.py holds {mnemonic}")
    return found


def _only_clears(name: str, mnemonic: str) -> bool:
    """Whether all that a command does in a program is to write zeros where zeros of a bank's padding are multiplied."""
    used = [s.command for stream in program_of(name).program.streams for s in steps(stream.items)]
    return all(
        getattr(c, "form", "") == "i" and getattr(c, "immediate", 1.0) == 0.0 for c in used if c.mnemonic == mnemonic
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_are_right(name: str) -> None:
    built = program_of(name)
    comparison = built.compare(built.run())
    assert comparison.ok, comparison.outputs
    assert comparison.max_rel_err < 1e-5


@pytest.mark.parametrize("effect", [nothing, slightly_off, pytest.param(half_done, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mnemonic", COMPUTING)
def test_a_broken_command_is_seen_wherever_it_is_used(mnemonic: str, effect: Effect) -> None:
    if mnemonic in BY_TABLE and effect is not nothing:
        pytest.skip("what it writes lies where a table says: test_paged has wrong tables")
    for name in holders(mnemonic):
        assert _is_seen(name, commands()[mnemonic], effect), f"{name}: nobody sees that {mnemonic} is broken"


def _is_seen(name: str, command: type[Command], effect: Effect) -> bool:
    """Whether an output is wrong, or the run comes to an end with an error."""
    built = program_of(name)
    try:
        with broken(command, effect):
            outputs = built.run()
    except CompileError as error:
        assert effect is nothing or error.diagnostics[0].kind is Kind.INPUT_BAD, "only an index may be off the map"
        return True
    return not built.compare(outputs).ok


@pytest.mark.parametrize("name", ["neupims", "newton"])
def test_commands_without_values_are_there_for_time(name: str) -> None:
    """The array does not look at what the vector unit still writes, nor the memory at what comes next."""
    program = program_of(name).program
    announced = ANNOUNCING & program_of(name).mnemonics
    assert announced
    for mnemonic in announced:
        without = keeping(program, lambda _, command, mnemonic=mnemonic: command.mnemonic != mnemonic)  # type: ignore[misc]
        assert time_program(without).time != time_program(program).time
