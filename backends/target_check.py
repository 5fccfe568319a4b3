"""From a tree to a machine: every mistake of a target file at once, each at its place, with the likely mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Protocol, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pimc.backends.quantity import ClockTime
from pimc.backends.target import TargetSpec
from pimc.backends.target_file import Located
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean
from pimc.ir.source import TextSpan

Path = tuple[str, ...]


def checked(tree: Located, problems: Sequence[Diagnostic] = ()) -> TargetSpec:
    """The machine that a tree describes. Raises CompileError with all mistakes, `problems` first."""
    found = list(problems)
    spec: TargetSpec | None = None
    try:
        spec = TargetSpec.model_validate(tree.plain())
    except ValidationError as error:
        for details in error.errors(include_url=False):
            found.append(_diagnostic(tree, details))
    found += contradictions(tree)
    unique = list(dict.fromkeys(found))
    if unique or spec is None:
        raise CompileError(sorted(unique, key=_order))
    return spec


def _order(d: Diagnostic) -> tuple[str, int, int]:
    return (d.source.file, d.source.line, d.source.column) if isinstance(d.source, TextSpan) else ("", 0, 0)


def _walk(tree: Located, loc: Sequence[str | int]) -> tuple[Located, Path, list[str]]:
    """The deepest value on the way to `loc`, its path, and the steps that lead nowhere.

    pydantic also names union members in `loc`; those are no keys, and are passed over.
    """
    here, path, rest = tree, list[str](), list[str]()
    for step in loc:
        if isinstance(step, int) and isinstance(here.value, list):
            here = here.value[step]
            path.append(str(step))
        elif here.group is not None and str(step) in here.group and not rest:
            here = here.group[str(step)]
            path.append(str(step))
        elif not (here.group is not None and here.group.get("style") is not None and step == _style(here)):
            rest.append(str(step))
    return here, tuple(path), rest


def _style(group: Located) -> Any:
    style = group.at(("style",))
    return None if style is None else style.value


def _diagnostic(tree: Located, details: ErrorDetails) -> Diagnostic:
    here, path, rest = _walk(tree, details["loc"])
    name = ".".join(path)
    kind = details["type"]
    context: Mapping[str, Any] = details.get("ctx", {})
    if kind == "missing":
        lacking = str(details["loc"][-1])
        if not rest:
            return Diagnostic(Kind.TARGET_BAD, f"'{name}' cannot be empty", here.key)
        within = f"'{name}'" if name else "the target"
        return Diagnostic(Kind.TARGET_BAD, f"{within} lacks '{lacking}'", here.key)
    if kind == "extra_forbidden":
        return _unknown(tree, here, path)
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        expected = str(context.get("expected_tags", "'aim', 'newton'"))
        style = here.at(("style",))
        if style is None:
            return Diagnostic(Kind.TARGET_BAD, f"'{name}' lacks 'style'", here.key, (f"styles: {expected}",))
        message = f"'{name}.style' should be one of {expected}"
        return Diagnostic(Kind.TARGET_BAD, message, style.span)
    if rest:
        return Diagnostic(Kind.TARGET_BAD, f"'{name}' should be a number, a text, true or false", here.span)
    return Diagnostic(Kind.TARGET_BAD, f"'{name}' {_expected(kind, context, details, here)}", here.span)


def _expected(kind: str, context: Mapping[str, Any], details: ErrorDetails, here: Located) -> str:
    given = repr(here.value) if not isinstance(here.value, dict | list) else "a group or list"
    if kind == "value_error":
        return f"is wrong: {context['error']}"
    texts = {
        "int_type": "should be a whole number",
        "bool_type": "should be true or false",
        "string_type": "should be text",
        "string_too_short": "should not be empty",
        "greater_than": f"should be greater than {context.get('gt')}",
        "greater_than_equal": f"should be at least {context.get('ge')}",
        "literal_error": f"should be {context.get('expected')}",
        "string_pattern_mismatch": "should be a sum of timing names and whole numbers",
        "model_type": "should be a group of keys",
        "model_attributes_type": "should be a group of keys",
        "mapping_type": "should be a group of keys",
        "tuple_type": "should be a list",
    }
    return f"{texts.get(kind, details['msg'])}, not {given}"


def _unknown(tree: Located, here: Located, path: Path) -> Diagnostic:
    known = known_keys(tree, path[:-1])
    key = path[-1]
    if key.startswith("n") and "t" + key[1:] in {k.replace("_", "") for k in known}:
        written = next(k for k in known if k.replace("_", "") == "t" + key[1:])
        help_line: str | None = f"{key} is derived; give {written} as a time (16ns) or a count of clocks (32clk)"
    else:
        help_line = did_you_mean(key, known)
    return Diagnostic(Kind.TARGET_BAD, f"unknown key '{'.'.join(path)}'", here.key, (), help_line)


# What the models declare, by path.


def _models(annotation: Any, style: Any = None) -> Iterator[type[BaseModel]]:
    """The groups that an annotation allows; of several, the one of the given style."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get("style")
        if style is None or field is None or style in get_args(field.annotation):
            yield annotation
    elif get_origin(annotation) is not Mapping:
        for part in get_args(annotation):
            yield from _models(part, style)


def _models_at(tree: Located, path: Path) -> list[type[BaseModel]]:
    """The models that may stand at a path of the tree."""
    models: list[type[BaseModel]] = [TargetSpec]
    for depth, key in enumerate(path):
        group = tree.at(path[: depth + 1])
        style = _style(group) if group is not None else None
        fields = [m.model_fields[key] for m in models if key in m.model_fields]
        models = [m for f in fields for m in _models(f.annotation, style)]
    return models


def known_keys(tree: Located, path: Path) -> list[str]:
    """The keys that may stand in the group at a path."""
    keys = [k for m in _models_at(tree, path) for k in m.model_fields]
    return [*dict.fromkeys(keys), "base"] if not path else list(dict.fromkeys(keys))


def all_paths() -> list[Path]:
    """Every path that the models declare, groups included."""

    def below(model: type[BaseModel], prefix: Path) -> Iterator[Path]:
        for name, field in model.model_fields.items():
            yield (*prefix, name)
            for inner in _models(field.annotation):
                yield from below(inner, (*prefix, name))

    return list(dict.fromkeys(below(TargetSpec, ())))


# Combinations that cannot be.


class Report(Protocol):
    def __call__(self, at: str, message: str, help_line: str | None = None) -> None:
        """Note that the value at a dotted path cannot be together with others."""


@dataclass(frozen=True, slots=True)
class _Values:
    """Single values of a tree, parsed; None for what is absent or wrong on its own."""

    tree: Located

    def get(self, dotted: str) -> Any:
        path = tuple(dotted.split("."))
        here = self.tree.at(path)
        for model in _models_at(self.tree, path[:-1]):
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


def contradictions(tree: Located) -> list[Diagnostic]:
    """Values that are each possible but not together. Judged even where other values are wrong."""
    values = _Values(tree)
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
