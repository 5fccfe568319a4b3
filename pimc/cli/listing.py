"""The commands of a program one by one, as executed: with the clock of their issue, for one channel, for one bank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pimc.backends.assembly import operand_texts
from pimc.backends.engines import platform_of
from pimc.backends.isa import SYNCHRONISING
from pimc.backends.program import Step, unrolled
from pimc.sim.time import simulate

if TYPE_CHECKING:
    from pimc.backends.executors import Executor
    from pimc.backends.isa import Command
    from pimc.backends.program import Program, Stream
    from pimc.backends.timing import Issued
    from pimc.cli.screen import Line

Timed = tuple[int | None, Step]
"""A command, and the clock at which it begins; None where nobody asked."""


def listing(
    program: Program, streams: list[Stream], rows: frozenset[int] | None, given: dict[str, Any], limit: int
) -> Iterator[Line]:
    """The commands of each stream for the channel and the bank that are asked for; `rows`: those of the op table."""
    timed = _timed(program) if given["times"] else {}
    engines = platform_of(program).engines
    for stream in streams:
        instance = stream.instances[0]
        if given["channel"] is not None and engines[stream.engine].instances > 1:
            instance = given["channel"]
            if instance not in stream.instances:
                continue
        key = (stream.engine, stream.devices[0], instance)
        steps = timed[key] if given["times"] else [(None, step) for step in unrolled(stream.items)]
        chosen = [each for each in steps if _is_chosen(each[1], rows, given)]
        yield from _page(stream.engine, instance, chosen, program, limit)


def _timed(program: Program) -> dict[tuple[str, int, int], list[Timed]]:
    """Every command with the clock of its engine at which it begins, by engine, device and instance."""
    found: dict[tuple[str, int, int], list[Timed]] = {}
    clocks = {name: engine.clock_ps for name, engine in platform_of(program).engines.items()}

    def see(executor: Executor, command: Command, op: int, issued: Issued) -> None:
        timed = (issued.start // clocks[executor.engine], Step(executor.engine, command, op))
        for device in executor.devices:
            for instance in executor.instances:
                found.setdefault((executor.engine, device, instance), []).append(timed)

    simulate(program, watch=see)
    return found


def _is_chosen(step: Step, rows: frozenset[int] | None, given: dict[str, Any]) -> bool:
    command: Any = step.command
    if isinstance(command, SYNCHRONISING):
        return False
    if rows is not None and step.op not in rows:
        return False
    mask, bank = getattr(command, "mask", None), getattr(command, "bank", None)
    if given["channel"] is not None and mask is not None and not mask >> given["channel"] & 1:
        return False
    return given["bank"] is None or bank is None or bank == given["bank"]


def _page(engine: str, instance: int, steps: list[Timed], program: Program, limit: int) -> Iterator[Line]:
    from pimc.cli.layout import Column, grouped, table
    from pimc.cli.screen import line

    if not steps:
        yield line(f"  {engine} {instance}: no such commands", "dim")
        return
    shown = steps[:limit] if limit else steps
    cells = [
        (
            "" if clock is None else grouped(clock),
            step.command.mnemonic,
            " ".join(operand_texts(step.command)),
            program.ops[step.op].name if 0 <= step.op < len(program.ops) else "",
        )
        for clock, step in shown
    ]
    timed = shown[0][0] is not None
    columns = [
        Column("clock" if timed else "", ">"),
        Column(f"{engine} {instance}", "<", "bold"),
        Column(""),
        Column("op", "<", "dim"),
    ]
    yield from table(columns, cells)
    if len(shown) < len(steps):
        yield line(f"  {grouped(len(steps) - len(shown))} more commands (--limit 0 shows all)", "dim")
