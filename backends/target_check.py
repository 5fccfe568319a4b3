"""From a tree to a machine: every mistake of a target file at once, each at its place, with the likely mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import cache, lru_cache
from typing import Annotated, Any, Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pimc.backends.quantity import ClockTime
from pimc.backends.target import TargetSpec
from pimc.backends.target_file import TARGET_FILE, Located
from pimc.backends.tree_check import Form, Path, without_mistakes
from pimc.ir.diagnostics import Diagnostic, Kind, did_you_mean
from pimc.ir.source import TextSpan
from pimc.record import record

FORM = Form(
    TargetSpec, TARGET_FILE, "style", also=("base",), patterns="should be a sum of timing names and whole numbers"
)


def checked(tree: Located, problems: Sequence[Diagnostic] = ()) -> TargetSpec:
    """The machine that a tree describes. Raises CompileError with all mistakes, `problems` first."""
    return _judged(tree, problems) if problems else _sound(_Said(repr(tree.plain()), tree))


@record
class _Said:
    """What a tree says, wherever its values stand."""

    text: str
    tree: Located = field(compare=False)


@lru_cache(maxsize=16)
def _sound(said: _Said) -> TargetSpec:
    """One machine for all that say the same: what is known of it is found by its identity."""
    return _judged(said.tree, ())


def _judged(tree: Located, problems: Sequence[Diagnostic]) -> TargetSpec:
    spec, mistakes = FORM.parsed(tree)
    return without_mistakes(spec, [*problems, *mistakes, *contradictions(tree, spec)])


def known_keys(tree: Located, path: Path) -> list[str]:
    """The keys that may stand in the group at a path."""
    return FORM.known_keys(tree, path)


def all_paths() -> list[Path]:
    """Every path that the models declare, groups included."""
    return FORM.all_paths()


# Combinations that cannot be.


class Report(Protocol):
    def __call__(self, at: str, message: str, help_line: str | None = None) -> None:
        """Note that the value at a dotted path cannot be together with others."""


@record
class _Values:
    """Single values of a tree, parsed; None for what is absent or wrong on its own."""

    tree: Located
    spec: TargetSpec | None
    """the machine of the tree, where nothing is wrong"""

    def get(self, dotted: str) -> Any:
        path = tuple(dotted.split("."))
        if self.spec is not None:
            found: Any = self.spec
            for key in path:
                found = getattr(found, key, None)
            return found
        here = self.tree.at(path)
        for model in FORM.models_at(self.tree, path[:-1]):
            field = model.model_fields.get(path[-1])
            if field is None:
                continue
            if here is None or here.value is None:
                return None if field.is_required() else field.default
            return _parsed(field, here)
        return None

    def clocks(self, dotted: str) -> int | None:
        value, clock = self.get(dotted), self.get("dram.clock")
        return value.clocks(clock) if isinstance(value, ClockTime) and clock else None

    def span(self, dotted: str) -> TextSpan:
        """Where a value stands, or the group that lacks it."""
        path = tuple(dotted.split("."))
        while path:
            here = self.tree.at(path)
            if here is not None:
                return here.span if here.group is None else here.key
            path = path[:-1]
        return self.tree.span


def _parsed(field: FieldInfo, here: Located) -> Any:
    if here.group is not None:
        return here.group
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        return _adapter(kind).validate_python(here.plain())
    except ValidationError:
        return None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def contradictions(tree: Located, spec: TargetSpec | None) -> list[Diagnostic]:
    """Values that are each possible but not together. Judged even where other values are wrong."""
    values = _Values(tree, spec)
    found: list[Diagnostic] = []

    def report(at: str, message: str, help_line: str | None = None) -> None:
        found.append(Diagnostic(Kind.TARGET_BAD, message, values.span(at), (), help_line))

    for rule in (_timing_order, _shapes, _pim_shapes, _parts, _link):
        rule(values, report)
    return found


_NOT_LESS = (
    ("tRAS", "tRCDRD"),
    ("tRAS", "tRCDWR"),
    ("tRC", "tRAS"),
    ("tRRD_L", "tRRD_S"),
    ("tCCD_L", "tCCD_S"),
    ("tWTR_L", "tWTR_S"),
    ("tFAW", "tRRD_S"),
    ("tREFI", "tRFC"),
)
"""Timing of which the first cannot be less than the second."""


def _timing_order(values: _Values, report: Report) -> None:
    for longer, shorter in _NOT_LESS:
        a, b = (values.clocks(f"dram.timing.{name}") for name in (longer, shorter))
        if a is not None and b is not None and a < b:
            report(f"dram.timing.{longer}", f"{longer} ({a} clocks) cannot be less than {shorter} ({b} clocks)")
    for name in ("tBL", "tCCD_S", "tREFI"):
        if values.clocks(f"dram.timing.{name}") == 0:
            report(f"dram.timing.{name}", f"{name} cannot be 0")


def _shapes(values: _Values, report: Report) -> None:
    row, access = values.get("dram.row_bytes"), values.get("dram.access_bytes")
    if row and access and row % access:
        report("dram.row_bytes", f"row_bytes ({row}) is not a multiple of access_bytes ({access})")
    ranks, order = values.get("dram.ranks"), values.get("dram.refresh_order")
    interval, busy = values.clocks("dram.timing.tREFI"), values.clocks("dram.timing.tRFC")
    if order == "staggered-ranks" and ranks and interval and busy is not None and interval // ranks < busy:
        report("dram.ranks", f"refreshes of {ranks} ranks every tREFI/ranks overlap, since each takes tRFC")


def _pim_shapes(values: _Values, report: Report) -> None:
    row, macs = values.get("dram.row_bytes"), values.get("pim.macs_per_bank")
    if row and macs and row % (macs * TargetSpec.element_bytes):
        report("pim.macs_per_bank", f"a row of {row} bytes is not a whole number of {macs}-element MAC operands")
    buffer = values.get("pim.global_buffer_bytes")
    if buffer and macs and buffer % (macs * TargetSpec.element_bytes):
        report("pim.global_buffer_bytes", f"{buffer} bytes are not a whole number of {macs}-element MAC operands")
    groups, banks = values.get("dram.bank_groups"), values.get("dram.banks_per_group")
    together, ranks = values.get("pim.banks_per_activation"), values.get("dram.ranks")
    if groups and banks and ranks and together and groups * banks * ranks % together:
        total = groups * banks * ranks
        report("pim.banks_per_activation", f"{total} banks are not a multiple of {together} opened together")
    _table_names(values, report)


def _table_names(values: _Values, report: Report) -> None:
    """Every name of a constraint formula is a timing of the machine."""
    rows = values.tree.at(("pim", "constraints"))
    if rows is None or not isinstance(rows.value, list):
        return
    names = {
        "n" + key[1:].replace("_", "")
        for path in (("dram", "timing"), ("pim", "timing"))
        for key in known_keys(values.tree, path)
    }
    for row in rows.value:
        formula = row.at(("formula",))
        words = str(formula.value).split() if formula is not None else []
        wrong = [w for w in words if w not in "+-" and not w.isdecimal() and w not in names]
        if formula is not None and wrong:
            message = f"'{wrong[0]}' in a constraint ({formula.span}) is not a timing of this machine"
            report("pim.constraints", message, did_you_mean(wrong[0], names))


def _parts(values: _Values, report: Report) -> None:
    has = {part: values.tree.plain().get(part) is not None for part in ("npu", "pim", "pnm", "dma", "analytic")}
    if values.get("main_clock") == "npu" and not has["npu"]:
        report("main_clock", "main_clock is 'npu', but the machine has no npu")
    if has["dma"] and not has["npu"] and not (has["pim"] and has["pnm"]):
        message = "nothing here can run every op: a machine with DMA needs an npu, or pim and pnm together"
        report("name", message, "for PIM alone: dma: null")
    if has["analytic"]:
        if not has["pim"] or not has["pnm"] or has["npu"] or has["dma"]:
            report("analytic", "formulas stand for the units and the link of a machine with pim and pnm, dma: null")
    elif not has["dma"] and (has["npu"] or has["pnm"] or not has["pim"]):
        report("name", "a machine without DMA has PIM, and no npu or pnm that would need it")


def _link(values: _Values, report: Report) -> None:
    if values.tree.at(("system", "link")) is None:
        return
    rate, lanes = (values.tree.at(("system", "link", key)) for key in ("bandwidth", "lanes"))
    given = [here for here in (rate, lanes) if here is not None and here.value is not None]
    if len(given) != 1:
        report("system.link", "a link has either 'bandwidth' or 'lanes'", None)
    payload, size = values.get("system.link.packet.payload"), values.get("system.link.packet.bytes")
    if payload and size and payload > size:
        report("system.link.packet.payload", f"a packet of {size} bytes cannot carry {payload}")
