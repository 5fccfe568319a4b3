"""Observers of passes for the command line: graphs printed or written after passes, and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pimc.cli.screen import Line, line, visible, write_error
from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.ir.graph import Graph
from pimc.ir.text import show
from pimc.passes.manager import Observer
from pimc.record import record

if TYPE_CHECKING:
    from pimc.backends.program import Program


@dataclass
class Printer(Observer):
    """Prints the graph on stderr after the named passes, or after every one that changed it."""

    names: Sequence[str]
    everything: bool = False

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        if name in self.names:
            write_error(f"// after {name}{'' if changed else ' (which changed nothing)'}\n{show(graph)}\n")
        elif self.everything:
            write_error(f"// after {name}\n{show(graph)}\n" if changed else f"// {name} changed nothing\n\n")


@dataclass
class Dumper(Observer):
    """Writes the graph after every pass that changed it, as `NN-name.pimir`."""

    folder: Path
    ran: int = 0

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise fail(Kind.FILE_UNWRITABLE, f"cannot make the folder {self.folder}: {error.strerror}") from None

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        from pimc.backends.storage import write_atomically

        if changed:
            write_atomically(self.folder / f"{self.ran:02}-{name}.pimir", show(graph).encode())
        self.ran += 1


@dataclass
class Leftovers(Observer):
    """Says on stderr what was left op by op although it looks like something that has an op of its own, and why."""

    after: str = "canonical-order"

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        if name != self.after:
            return
        from pimc.passes.unrecognised import unrecognised

        remarks = [f"note: {visible(str(remark))}\n" for remark in unrecognised(graph)]
        if remarks:
            write_error("".join(remarks) + "note: what is not recognised is compiled op by op\n")


@record
class _Ran:
    name: str
    seconds: float
    changed: bool
    nodes: int


@dataclass
class Stopwatch(Observer):
    """How long each pass took, and how many nodes it left."""

    ran: list[_Ran] = field(default_factory=list)

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        self.ran.append(_Ran(name, seconds, changed, len(graph)))

    def page(self) -> list[Line]:
        from pimc.cli.layout import Column, table

        total = sum(each.seconds for each in self.ran)
        rows = [(e.name, f"{e.seconds * 1e3:.1f}", "" if e.changed else "unchanged", str(e.nodes)) for e in self.ran]
        rows.append(("all passes", f"{total * 1e3:.1f}", "", ""))
        return table([Column("pass"), Column("ms", ">"), Column(""), Column("nodes", ">")], rows)


def check_pass_names(names: Sequence[str], pipeline: Sequence[str]) -> None:
    """Raises CompileError (PASS_UNKNOWN) for a name that no pass of the pipeline has."""
    for name in names:
        if name not in pipeline:
            help_line = did_you_mean(name, pipeline)
            raise fail(
                Kind.PASS_UNKNOWN,
                f"--print-ir-after: pass '{name}' does not run here",
                notes=(f"the pipeline is {', '.join(pipeline)}",),
                help=help_line if help_line and help_line.startswith("did") else None,
            )


def observers_of(
    *,
    print_ir_after: Sequence[str],
    print_ir_after_all: bool,
    dump_stages: str | None,
    timing: bool,
    verbose: int = 0,
) -> list[Observer]:
    """The observers that the options ask for."""
    found: list[Observer] = [Leftovers()] if verbose else []
    if print_ir_after or print_ir_after_all:
        found.append(Printer(print_ir_after, print_ir_after_all))
    if dump_stages:
        found.append(Dumper(Path(dump_stages)))
    if timing:
        found.append(Stopwatch())
    return found


def pass_seconds(program: Program, observers: Sequence[Observer]) -> Sequence[float]:
    """How long each pass took, where a stopwatch ran (`--timing`)."""
    for observer in observers:
        if isinstance(observer, Stopwatch) and [p.name for p in program.passes] == [e.name for e in observer.ran]:
            return [each.seconds for each in observer.ran]
    return ()


def print_timing(observers: Sequence[Observer]) -> None:
    from pimc.cli.screen import stderr_page

    for observer in observers:
        if isinstance(observer, Stopwatch):
            stderr_page([*observer.page(), line()])
