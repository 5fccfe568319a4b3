"""Options that several subcommands share, and what their texts mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from pimc.cli import complete as c
from pimc.cli.command import missing_name, option
from pimc.target_pair import SEPARATOR, names_phase, pair_of

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older versions of click cannot be subscripted

F = TypeVar("F", bound=Callable[..., Any])

MODEL, MACHINE, VALUES, PASSES, OUTPUT, INSIDE = "Model", "Machine", "Values", "Passes", "Output", "Looking inside"
PHASES = ("prefill", "decode")
BOTH = "both"
DEGREES = ("pp=", "tp=")


def _near(name: str, known: Sequence[str]) -> str:
    """The nearest known name as a part of a sentence; empty where the name is known, or none is near."""
    from pimc.ir.diagnostics import nearest

    near = None if name in known else nearest(name, known)
    return f" ({near})" if near else ""


class DimType(ParamType):
    """`N=V`: a dimension and its value; `N=A:B` or `N=A:B:STEP`: all values from A to B, B included."""

    name = "N=V"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | range]:
        if isinstance(value, tuple):
            return value
        name, sign, number = str(value).rpartition("=")
        if not sign or not name.strip():
            self.fail(f"'{value}' does not bind a dimension; write --dim batch=8", param, ctx)
        if re.fullmatch(r"\s*\d{1,15}(:\d{1,15}){1,2}\s*", number):
            start, stop, *rest = (int(part) for part in number.split(":"))
            step = rest[0] if rest else 1
            if step < 1 or stop < start:
                self.fail(f"'{value}': a range is START:STOP or START:STOP:STEP, upwards", param, ctx)
            return name.strip(), range(start, stop + 1, step)
        if not re.fullmatch(r"\s*-?\d{1,15}\s*", number):
            self.fail(f"'{number}' is no whole number; write --dim {name.strip()}=8", param, ctx)
        return name.strip(), int(number)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> c.Items:
        from pimc.cli.complete_inside import dims_of_model, named

        return c.items((f"{name}=" for name in named(ctx, dims_of_model)), incomplete)


class ParallelType(ParamType):
    """`pp=P,tp=T`: degrees of parallelism; or what they are to be chosen for."""

    def __init__(self, *objectives: str) -> None:
        self.objectives = objectives
        self.name = "|".join(("pp=P,tp=T", *objectives))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int] | str:
        if isinstance(value, dict) or value in self.objectives:
            return cast("dict[str, int] | str", value)
        degrees: dict[str, int] = {}
        for part in str(value).split(","):
            name, _, number = (text.strip() for text in part.partition("="))
            kind = name.rpartition(SEPARATOR)[2] if names_phase(name) else name
            if kind not in ("pp", "tp") or not re.fullmatch(r"\d{1,6}", number) or int(number) < 1:
                near = _near(kind, ("pp", "tp", *self.objectives))
                more = f"; or {' or '.join(self.objectives)}" if self.objectives else ""
                said = "write pp=P,tp=T with whole numbers from 1, such as pp=4,tp=8"
                self.fail(f"'{part.strip()}'{near}: {said}{more}", param, ctx)
            if name in degrees:
                self.fail(f"{name} is given twice", param, ctx)
            degrees[name] = int(number)
        return degrees

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> c.Items:
        before, comma, last = incomplete.rpartition(",")
        words = (*DEGREES, *self.objectives) if not comma else DEGREES
        return c.items((word for word in words if word not in before), last, before + comma)


class TargetType(c.TargetName):
    """The name of a target or the path of its file."""

    name = "TARGET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "," in value:
            self.fail(f"'{value}': one target at a time; `pimc compile` takes several", param, ctx)
        if not value:
            self.fail("the name of the target is empty", param, ctx)
        return str(value)


class TargetsType(ParamType):
    """Targets, parted by commas."""

    name = "TARGET,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(part for name in names for part in pair_of(name) or (name,)):
            self.fail(f"'{value}': the name of a target is empty", param, ctx)
        for name in names:
            if names.count(name) > 1:
                self.fail(f"'{name}' is given twice", param, ctx)
        return names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> c.Items:
        return c.targets(incomplete)


class WordType(ParamType):
    """One word out of a fixed list, with the nearest one where it is wrong."""

    def __init__(self, what: str, words: Sequence[str]) -> None:
        self.what, self.words, self.name = what, words, "|".join(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.words:
            raise missing_name(self.what, str(value), self.words, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> c.Items:
        return c.items(self.words, incomplete)


class BackgroundType(ParamType):
    """`reads=N`: traffic beside the program's own."""

    name = "reads=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*reads\s*=\s*(\d{1,3})\s*", str(value))
        if found is None:
            near = _near(str(value).partition("=")[0].strip(), ("reads",))
            text = f"'{value}' is no traffic{near}; write reads=N with a whole number below 1000, as in reads=2"
            self.fail(text, param, ctx)
        return int(found[1])

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> c.Items:
        return c.items(["reads="], incomplete)


class TextPairType(ParamType):
    """`K=V` that is passed on as text."""

    def __init__(self, name: str, example: str, names: Callable[[str], c.Items]) -> None:
        self.name, self.example, self.names = name, example, names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        key, sign, _ = str(value).partition("=")
        if not sign or not key.strip():
            self.fail(f"'{value}' has no value; write {self.example}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> c.Items:
        return self.names(incomplete)


def unique_dims(pairs: Sequence[tuple[str, int | range]]) -> dict[str, int]:
    """The dimensions that are bound to one number; a usage error where one is bound twice."""
    dims: dict[str, int | range] = {}
    for name, number in pairs:
        if dims.setdefault(name, number) != number:
            raise click.UsageError(f"--dim binds '{name}' to both {_dim_text(dims[name])} and {_dim_text(number)}")
    return {name: number for name, number in dims.items() if isinstance(number, int)}


def ranges_of(pairs: Sequence[tuple[str, int | range]]) -> dict[str, range]:
    """The dimensions that take all values of a range."""
    return {name: values for name, values in pairs if isinstance(values, range)}


def _dim_text(value: int | range) -> str:
    return str(value) if isinstance(value, int) else f"{value.start}:{value[-1]}:{value.step}"


def together(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several decorators as one, in the order in which the help shows them."""

    def apply(function: F) -> F:
        for each in reversed(decorators):
            function = each(function)
        return function

    return apply


dims_option = option(
    MODEL, "--dim", "dims", type=DimType(), multiple=True, help="Bind a symbolic dimension; may be repeated."
)
requests_option = option(
    MODEL,
    "--requests",
    metavar="FILE.csv",
    help="A batch of requests with lengths of their own: columns id,past,new,channel, or seq_len,ch_idx.",
)
PHASE = WordType("phase", PHASES)
phase_option = option(MODEL, "--phase", type=PHASE, help="Which phase of a model that has several.")
both_phases_option = option(
    MODEL,
    "--phase",
    type=WordType("phase", (*PHASES, BOTH)),
    help="Which phase of a model that has several; both: its prefill and its decode step, each with its report.",
)
shapes_option = option(
    MODEL, "--shapes-only", is_flag=True, help="The weights of an ONNX model may be missing: compile from shapes alone."
)
target_option = option(
    MACHINE, "-t", "--target", type=TargetType(), required=True, help="A machine (see `pimc targets`) or its YAML file."
)
targets_option = option(
    MACHINE,
    "-t",
    "--target",
    "targets",
    type=TargetsType(),
    required=True,
    help="A machine (see `pimc targets`) or its YAML file; several, parted by commas, are put side by side. "
    "PREFILL:DECODE: one machine prefills, the other decodes on its caches.",
)
set_option = option(
    MACHINE,
    "--set",
    "overrides",
    type=TextPairType("K=V", "--set timing.tRCD=12ns", c.numbers),
    multiple=True,
    help="Change a number of the machine, such as timing.tRP=12ns or system.devices=8; of two machines (-t "
    "PREFILL:DECODE) decode:system.devices=8 changes one.",
)
transfer_option = option(
    MACHINE,
    "--transfer",
    type=WordType("way", ("after", "by-layer")),
    help="Of -t PREFILL:DECODE: caches go when the prefill has ended (after, the default), or each when it is written.",
)
parallel_option = option(
    MACHINE,
    "--parallel",
    type=ParallelType("latency", "throughput"),
    help="Split the model into pp pipeline stages and tp shards a layer. Where several devices are there, the split is "
    "chosen for latency unless this says otherwise.",
)
degrees_option = option(
    MACHINE, "--parallel", type=ParallelType(), help="Split the model into pp pipeline stages and tp shards a layer."
)
load_option = option(
    PASSES, "--load", "plugins", metavar="FILE.py", multiple=True, help="Load passes from a Python file."
)
pass_options = together(
    option(
        PASSES,
        "--pass-config",
        type=TextPairType("P.K=V", "--pass-config tag-nature.gemv_rows=2", c.pass_options),
        multiple=True,
        help="Set an option of a pass (see `pimc passes NAME`).",
    ),
    option(PASSES, "--disable-pass", "disabled", metavar="P", multiple=True, help="Leave a pass out."),
    load_option,
)
watch_options = together(
    option(INSIDE, "--print-ir-after", metavar="P", multiple=True, help="Print the graph after a pass, on stderr."),
    option(INSIDE, "--print-ir-after-all", is_flag=True, help="Print the graph after every pass that changed it."),
    option(INSIDE, "--dump-stages", metavar="DIR", help="Write the graph after every pass that changed it to DIR."),
    option(INSIDE, "--timing", is_flag=True, help="Say on stderr how long each pass took."),
)
engine_option = option(
    MACHINE,
    "--sim-engine",
    type=WordType("simulator", ("fast", "plain")),
    default="fast",
    help="fast skips what repeats, plain executes every command; both give the same cycles.",
)
background_option = option(
    MACHINE,
    "--background",
    type=BackgroundType(),
    help="Offer N normal 64-byte reads a cycle to every channel with PIM work, and say how many it serves.",
)
format_option = option(
    VALUES,
    "--format",
    "form",
    type=WordType("format", ("wide", "device")),
    default="wide",
    help="Floats as float32 (wide, the default) or as the machine stores them (device).",
)
csv_option = option(OUTPUT, "--csv", metavar="FILE.csv", help="Write the table of ops as CSV (- is stdout).")
tables_option = option(
    OUTPUT, "--tables", metavar="DIR", help="Write every table as CSV: ops, engines, phases, memory, streams, ..."
)
json_option = option(OUTPUT, "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")
quiet_option = option(OUTPUT, "-q", "--quiet", is_flag=True, help="Print nothing but errors.")
loudness_options = together(
    option(
        OUTPUT,
        "-v",
        "--verbose",
        count=True,
        help="Say more: every op, every engine, the whole memory map, and what was not recognised, and why.",
    ),
    quiet_option,
)
