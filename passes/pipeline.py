"""Pipelines as text: `fuse-norm,tag-nature{gemv_rows=2}`, and options as `tag-nature.gemv_rows=2`.

The types of options come from the dataclass fields of the pass: bool, int, float, str, and tuples of these
written `[a,b]`; `X | None` also takes `none`.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, Pipeline
from pimc.passes.registry import PassRegistry, default_registry, import_builtin

DEFAULT: tuple[str, ...] = (
    "bind",
    "fold",
    "canonicalize",
    "fuse-cache",
    "fuse-norm",
    "fuse-activation",
    "fuse-rotary",
    "fuse-attention",
    "fuse-experts",
    "canonicalize",
    "dce",
    "canonical-order",
    "partition",
    "fuse-quantized",
    "tag-phase",
    "tag-nature",
    "find-layers",
    "split-attention",
    "place",
    "schedule",
    "fuse-epilogues",
    "fuse-prologues",
    "share-rows",
    "layout",
    "tile",
    "emit",
)
"""The passes of `pimc compile`, in order, before lowering."""

import_builtin(DEFAULT)  # here rather than within the first compilation

_PARTITIONED, _PLACED = DEFAULT.index("partition") + 1, DEFAULT.index("place") + 1
WITH_REQUESTS: tuple[str, ...] = (
    "assign-requests",
    "spread-positions",
    *DEFAULT[:_PARTITIONED],
    "ragged-attention",
    *DEFAULT[_PARTITIONED:_PLACED],
    "sub-batches",
    "split-reductions",
    *DEFAULT[_PLACED:],
)
"""Those for a batch of requests with lengths of their own (`--requests`)."""

FRONT: tuple[str, ...] = DEFAULT[: DEFAULT.index("find-layers") + 1]
"""The part that needs no target."""

_ITEM = re.compile(r"\s*([\w.-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")
_OPTION = re.compile(r"\s*([\w-]+)\s*=\s*(\[[^\[\]]*\]|[^\s,\[\]]*)\s*(?:,|\s|$)\s*")


def parse_pipeline(text: str, registry: PassRegistry | None = None) -> Pipeline:
    """The passes that `text` names; raises CompileError (SYNTAX, PASS_UNKNOWN, PASS_OPTION)."""
    registry = registry or default_registry()
    passes: list[Pass] = []
    at = 0
    while at < len(text.rstrip()):
        item = _ITEM.match(text, at)
        if item is None:
            raise fail(
                Kind.SYNTAX,
                f"cannot read the pipeline at '{text[at : at + 20]}'",
                help="write passes as a,b{option=value,option=value}",
            )
        passes.append(make_pass(item[1], _parse_options(item[1], item[2] or ""), registry))
        at = item.end()
    return Pipeline(tuple(passes))


def show_pipeline(pipeline: Pipeline) -> str:
    """The text that `parse_pipeline` reads back; options with their default value are left out."""
    return ",".join(_show_pass(p) for p in pipeline)


def default_pipeline(
    options: Iterable[str] = (), *, names: Iterable[str] = DEFAULT, registry: PassRegistry | None = None
) -> Pipeline:
    """The named passes with `options`, each `pass.option=value`, e.g. `tag-nature.gemv_rows=2`.

    Passes loaded from files join: each behind pimc's own passes at the stage that it asks for.
    """
    registry = registry or default_registry()
    chosen = list(names)
    extra = [name for name in dict.fromkeys(registry.loaded_from_files) if name not in chosen]
    given: dict[str, dict[str, str]] = {}
    for option in options:
        name, key, value = _split_option(option)
        if name not in chosen and name not in extra:
            registry.load(name)
            runs = f"it runs {', '.join(dict.fromkeys([*chosen, *extra]))}"
            raise fail(Kind.PASS_OPTION, f"'{option}': pass '{name}' is not in the pipeline", help=runs)
        given.setdefault(name, {})[key] = value
    passes = [make_pass(name, given.get(name, {}), registry) for name in chosen]
    for name in extra:
        added = make_pass(name, given.get(name, {}), registry)
        passes.insert(_place_for(added, passes), added)
    return Pipeline(tuple(passes))


def _place_for(added: Pass, passes: Sequence[Pass]) -> int:
    """Behind the last pass that leaves the graph at the stage at which `added` can first run."""
    stage, first = GraphStage.IMPORTED, None
    for index, p in enumerate(passes):
        if first is None and stage >= added.before:
            first = stage
        stage = stage if p.after is None else max(stage, p.after)
        if first is not None and stage > first:
            return index
    return len(passes)


def make_pass(name: str, options: Mapping[str, str], registry: PassRegistry | None = None) -> Pass:
    """The pass of that name with options given as text; raises CompileError (PASS_UNKNOWN, PASS_OPTION)."""
    kind = (registry or default_registry()).load(name)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints = typing.get_type_hints(kind) if options else {}
    values: dict[str, object] = {}
    for key, text in options.items():
        if key not in fields:
            hint = did_you_mean(key, fields) if fields else f"'{name}' takes no options"
            raise fail(Kind.PASS_OPTION, f"pass '{name}' has no option '{key}'", help=hint)
        try:
            values[key] = _convert(text, hints[key])
        except ValueError as error:
            raise fail(Kind.PASS_OPTION, f"option '{key}' of pass '{name}': {error}") from None
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise fail(Kind.PASS_OPTION, f"pass '{name}': {error}") from None


def _parse_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        match = _OPTION.match(text, at)
        if match is None:
            where = f"pass '{name}' at '{text[at:].strip()}'"
            raise fail(Kind.SYNTAX, f"cannot read the options of {where}", help="write option=value")
        options[match[1]] = match[2]
        at = match.end()
    return options


def _split_option(option: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"\s*([\w-]+)\.(\w+)\s*=\s*(.*?)\s*", option)
    if match is None:
        raise fail(Kind.PASS_OPTION, f"not a pass option: '{option}'", help="write pass.option=value")
    return match[1], match[2], match[3]


def _convert(text: str, wanted: object) -> object:
    """`text` as a value of the annotated type; raises ValueError saying what was expected."""
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(text, typing.get_args(wanted))
    if origin is tuple:
        parts = [p.strip() for p in text.strip("[]").split(",") if p.strip()]
        return tuple(_convert(p, typing.get_args(wanted)[0]) for p in parts)
    if wanted is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"expected true or false, not '{text}'")
        return text.lower() in ("true", "1", "yes")
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return _convert_enum(text, wanted)
    if wanted is int or wanted is float:
        try:
            return wanted(text)
        except ValueError:
            raise ValueError(f"expected {'an integer' if wanted is int else 'a number'}, not '{text}'") from None
    return text


def _convert_union(text: str, choices: tuple[object, ...]) -> object:
    if type(None) in choices and text.lower() == "none":
        return None
    errors: list[ValueError] = []
    for choice in choices:
        if choice is not type(None):
            try:
                return _convert(text, choice)
            except ValueError as error:
                errors.append(error)
    raise errors[0]


def _convert_enum(text: str, wanted: type[Enum]) -> Enum:
    for member in wanted:
        if text == member.value or text.lower() == member.name.lower():
            return member
    raise ValueError(f"expected one of {', '.join(str(m.value) for m in wanted)}, not '{text}'")


def _show_pass(p: Pass) -> str:
    shown = []
    for f in dataclasses.fields(p):
        value = getattr(p, f.name)
        if value != f.default and not (f.default_factory is not dataclasses.MISSING and value == f.default_factory()):
            shown.append(f"{f.name}={_show_value(value)}")
    return p.name + (f"{{{','.join(shown)}}}" if shown else "")


def _show_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(_show_value(v) for v in value)}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value.value) if isinstance(value, Enum) else str(value)
