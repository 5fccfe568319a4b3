"""Where targets are found: entry points of the group `pimc.targets`, and YAML files given by path.

pimc's own targets are entry points like anybody's. `BUILTIN` repeats them for checkouts that are not installed. An
entry point is the path of a YAML file (text or `Path`), or a `TargetSpec`; the module that holds it may register
commands, lowering rules and controllers of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from pimc.backends.target import TargetSpec, describe
from pimc.backends.target_check import FORM, all_paths, checked, known_keys
from pimc.backends.target_file import Located, merged, parse_override, read_tree, tree_of, with_value
from pimc.installed import references
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail

GROUP = "pimc.targets"

BUILTIN: tuple[tuple[str, str], ...] = (
    ("aim-head", "pimc.backends.targets:aim_head"),
    ("aim-pinned", "pimc.backends.targets:aim_pinned"),
    ("cent", "pimc.backends.targets:cent"),
    ("cent-published", "pimc.backends.targets:cent_published"),
    ("neupims", "pimc.backends.targets:neupims"),
    ("neupims-faithful", "pimc.backends.targets:neupims_faithful"),
    ("newton", "pimc.backends.targets:newton"),
    ("newton-faithful", "pimc.backends.targets:newton_faithful"),
    ("npu", "pimc.backends.targets:npu"),
    ("npu-onnxim", "pimc.backends.targets:npu_onnxim"),
    ("npu-scalesim", "pimc.backends.targets:npu_scalesim"),
    ("npu-server", "pimc.backends.targets:npu_server"),
    ("tpuv3", "pimc.backends.targets:tpuv3"),
)
"""Name and place of each target of pimc, as the entry points of its distribution declare them."""

_SUFFIXES = (".yaml", ".yml")


@cache
def _references() -> Mapping[str, str]:
    """`module:attribute` by the name of the target."""
    return references(GROUP, dict(BUILTIN))


def target_names() -> list[str]:
    """The registered targets."""
    return sorted(_references())


def load_target(target: str | Path, overrides: Sequence[str] = ()) -> TargetSpec:
    """A machine by name or by the path of its YAML file, with changes `a.b=value` applied to its primary values.

    A path in an override may leave out its beginning where the rest is unambiguous (`timing.tRP=16ns`). Raises
    CompileError: TARGET_UNKNOWN, FILE_MISSING, PLUGIN, or TARGET_BAD with all mistakes of the files and overrides.
    """
    problems: list[Diagnostic] = []
    tree = _tree(target, problems)
    for option in overrides:
        try:
            path, value = parse_override(option)
            tree = with_value(tree, _resolved(tree, path, value), value)
        except CompileError as error:
            problems += error.diagnostics
    return checked(tree, problems)


def override_mistakes(target: str | Path, option: str) -> list[Diagnostic]:
    """What is wrong with a change of a target by itself, whatever else may not go with it. Raises CompileError where
    the target cannot be read."""
    tree = _tree(target, [])
    try:
        path, value = parse_override(option)
        changed = with_value(tree, _resolved(tree, path, value), value)
    except CompileError as error:
        return list(error.diagnostics)
    before = FORM.parsed(tree)[1]
    return [d for d in FORM.parsed(changed)[1] if d not in before]


def _tree(target: str | Path, problems: list[Diagnostic], below: tuple[Path, ...] = ()) -> Located:
    """The merged tree of a target and what it is based on."""
    place = _place(target)
    if isinstance(place, TargetSpec):
        return tree_of(describe(place), f"<{place.name}>")
    tree = read_tree(place, problems)
    base = tree.at(("base",))
    if base is None:
        return tree
    group = {key: value for key, value in (tree.group or {}).items() if key != "base"}
    own = Located(group, tree.span, tree.key)
    if not isinstance(base.value, str):
        raise fail(Kind.TARGET_BAD, "'base' is the name or the file of a target", base.span)
    if place.resolve() in below:
        raise fail(Kind.TARGET_BAD, f"'{base.value}' is based on itself", base.span)
    beside = place.parent / base.value
    try:
        inherited = _tree(beside if is_file_name(base.value) else base.value, problems, (*below, place.resolve()))
    except CompileError as error:
        found = (Diagnostic(d.kind, d.message, d.source or base.span, d.notes, d.help) for d in error.diagnostics)
        raise CompileError([*problems, *found]) from None
    return merged(_without_name(inherited), own)


def _without_name(tree: Located) -> Located:
    """A target does not inherit its name."""
    return Located({k: v for k, v in (tree.group or {}).items() if k != "name"}, tree.span, tree.key)


def is_file_name(text: str) -> bool:
    """Whether a target is meant as a file rather than as a name."""
    return text.endswith(_SUFFIXES) or "/" in text


def _place(target: str | Path) -> Path | TargetSpec:
    """The file of a target, or the machine itself where its entry point is one."""
    if isinstance(target, Path) or is_file_name(target):
        return Path(target)
    reference = _references().get(target)
    if reference is None:
        raise fail(
            Kind.TARGET_UNKNOWN,
            f"no such target: '{target}'",
            notes=("a target of one's own is given as the path of its .yaml file",),
            help=did_you_mean(target, target_names()),
        )
    module, _, attribute = reference.partition(":")
    try:
        place = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise fail(Kind.PLUGIN, f"cannot load target '{target}' from {reference}: {error}") from error
    if isinstance(place, TargetSpec):
        return place
    if not isinstance(place, str | Path):
        raise fail(Kind.PLUGIN, f"target '{target}': {reference} is neither the path of a YAML file nor a TargetSpec")
    return Path(place)


def _resolved(tree: Located, path: tuple[str, ...], value: Located) -> tuple[str, ...]:
    """The full path that an override names."""
    if path[0] not in known_keys(tree, ()):
        full = [p for p in all_paths() if len(p) > len(path) and p[-len(path) :] == path]
        present = [p for p in full if tree.at(p[:-1]) is not None]
        if len(present) == 1:
            path = present[0]
        elif len(present) > 1:
            choice = ", ".join(".".join(p) for p in present)
            raise fail(Kind.TARGET_BAD, f"'{'.'.join(path)}' is ambiguous", value.key, help=f"one of {choice}")
        else:
            names = [".".join(p) for p in all_paths()] + [".".join(p[-2:]) for p in all_paths() if len(p) > 2]
            help_line = did_you_mean(".".join(path), names)
            raise fail(Kind.TARGET_BAD, f"unknown key '{'.'.join(path)}'", value.key, help=help_line)
    group = tree.at(path[:1])
    if len(path) > 1 and (group is None or group.value is None) and not _is_whole_without_values(tree, path[:1]):
        raise fail(Kind.TARGET_BAD, f"the target has no '{path[0]}'", value.key)
    return path


def _is_whole_without_values(tree: Located, path: tuple[str, ...]) -> bool:
    """Whether a group may stand in a file with any one of its keys alone."""
    models = FORM.models_at(tree, path)
    return bool(models) and not any(field.is_required() for m in models for field in m.model_fields.values())
