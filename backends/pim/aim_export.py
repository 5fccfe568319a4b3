"""Writes the stream of an AiM device as a trace of the AiM simulator."""

from __future__ import annotations

from collections.abc import Iterator

from pimc.backends.engines import spec_of
from pimc.backends.pim.aim_isa import EndTrace
from pimc.backends.pim.aim_lines import LINES, LineMaker
from pimc.backends.pim.aim_trace import END_TEXT, text_of
from pimc.backends.program import Item, Program, steps, unrolled
from pimc.backends.target import AimPim
from pimc.ir.diagnostics import Kind, fail


def aim_trace(program: Program) -> Iterator[str]:
    """The lines of the trace. Raises CompileError (UNAVAILABLE) where the program holds more than one AiM device's
    stream."""
    spec = spec_of(program)
    if not isinstance(spec.pim, AimPim):
        raise fail(Kind.UNAVAILABLE, f"'{program.target_name}' has no GDDR6-AiM, whose trace this would be")
    others = sorted({s.engine for s in program.streams if any(type(x.command) not in LINES for x in steps(s.items))})
    if others:
        raise fail(
            Kind.UNAVAILABLE,
            f"the program is not for PIM alone: there are other commands in the streams of {', '.join(others)}",
            help="a trace holds what one AiM device is asked for; compile for aim-pinned, which has nothing else",
        )
    streams = [s for s in program.streams if s.items]
    if program.devices > 1 or len(streams) > 1:
        raise fail(Kind.UNAVAILABLE, f"a trace is of one device; the program is for {program.devices}")
    for stream in streams:
        yield from trace_texts(stream.items, spec.dram.channels)
    yield END_TEXT


def trace_texts(items: tuple[Item, ...], channels: int) -> Iterator[str]:
    """The lines that items of one stream are, loops unrolled. A trace of its own ends with its EOC."""
    maker = LineMaker(channels)
    for step in unrolled(items):
        if isinstance(step.command, EndTrace):
            yield END_TEXT
        else:
            for line in maker.lines(step.command):
                yield text_of(line, channels)
