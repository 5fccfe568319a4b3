"""From a sweep file to a sweep: every mistake at once, each at its place.

What can be judged without compiling is judged here: names of models, targets, passes, dimensions and objectives, keys
and values of changes. What only fails together (a capacity, a degree of parallelism) is the failure of a point.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from pimc.backends.target import target_hash
from pimc.backends.target_file import FileKind, Located, read_tree, tree_of
from pimc.backends.target_registry import is_file_name, load_target, override_mistakes
from pimc.backends.tree_check import Form, without_mistakes
from pimc.driver import Options, pipeline_for, read_model, registry_for
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, UsageError, did_you_mean
from pimc.ir.source import TextSpan
from pimc.record import record
from pimc.sweeps.identity import file_digest, model_digest, point_key, revision
from pimc.sweeps.job import Answer, Failure, Job
from pimc.sweeps.numbers import QUANTITIES
from pimc.sweeps.plan import Plan, Point, option_texts, setting_text
from pimc.sweeps.spec import MOST_VALUES, SweepSpec

SWEEP_FILE = FileKind(Kind.SWEEP_BAD, "sweep")
FORM = Form(SweepSpec, SWEEP_FILE, "kind")
MOST_COMBINATIONS = 1 << 62

ModelName = tuple[str, str | None]
"""A model as the sweep names it, and the phase that is taken of it."""


@record
class Sweep:
    """A sweep whose names lead somewhere. `folder`: what its file names are relative to."""

    plan: Plan
    folder: Path
    models: Mapping[ModelName, str]
    """digests"""
    plugins: tuple[str, ...]
    """digests"""
    _machines: dict[tuple[str, tuple[str, ...]], str | CompileError] = field(default_factory=dict)

    def job(self, point: Point) -> Job | Answer:
        """The work of a point; an answer at once where there is no such machine."""
        spec = self.plan.spec
        phase = point.only("phase")
        overrides = option_texts(point.of("set"))
        mapping = point.only("mapping")
        overrides += (f"mapping={mapping}",) if mapping is not None else ()
        target = file_or_name(point.only("target"), self.folder)
        parts = {
            "model": self.models[point.only("model"), phase],
            "target": self._target_hash(target, overrides),
            "phase": phase,
            "dims": point.of("dim"),
            "parallel": point.of("parallel"),
            "passes": option_texts(point.of("pass")),
            "disabled": spec.disable_pass,
            "plugins": self.plugins,
            "shapes_only": spec.shapes_only,
        }
        machine = parts["target"]
        if isinstance(machine, CompileError):
            key = point_key({**parts, "target": [target, *overrides]})
            return Answer(key, failures=tuple(Failure.of(d) for d in machine.diagnostics), lasting=False)
        options = Options(
            dims=point.of("dim"),
            overrides=overrides,
            parallel=point.of("parallel"),
            phase=phase,
            pass_options=option_texts(point.of("pass")),
            disabled=spec.disable_pass,
            plugins=tuple(absolute(name, self.folder) for name in spec.load),
            shapes_only=spec.shapes_only,
        )
        model = absolute(point.only("model"), self.folder)
        return Job(
            point_key(parts), model, self.models[point.only("model"), phase], target, machine, options, revision()
        )

    def _target_hash(self, target: str, overrides: tuple[str, ...]) -> str | CompileError:
        known = self._machines.get((target, overrides))
        if known is None:
            try:
                known = target_hash(load_target(target, overrides))
            except CompileError as error:
                known = error
            self._machines[target, overrides] = known
        return known


def read_sweep(given: str | Path | Mapping[str, Any]) -> Sweep:
    """The sweep of a YAML file, or of the same as plain data (its files are relative to the working directory).

    Raises CompileError (FILE_MISSING, SWEEP_BAD, and what is wrong with the models, targets and passes it names).
    """
    problems: list[Diagnostic] = []
    if isinstance(given, Mapping):
        tree, folder = tree_of(json.loads(json.dumps(given, default=_as_plain)), "<sweep>"), Path.cwd()
    else:
        tree, folder = read_tree(Path(given), problems, SWEEP_FILE), Path(given).resolve().parent
    spec, mistakes = FORM.parsed(tree)
    check = _Check(tree, folder)
    named = [
        *check.duplicates(),
        *check.plugins(),
        *check.models(),
        *check.dims(),
        *check.targets(),
        *check.overrides(),
    ]
    named += [*check.passes(), *check.objectives()]
    if spec is not None:
        named += check.size(Plan(spec))
    spec = without_mistakes(spec, [*problems, *mistakes, *named])
    return Sweep(Plan(spec), folder, check.digests, tuple(file_digest(absolute(p, folder)) for p in spec.load))


def _as_plain(each: object) -> object:
    if isinstance(each, range):
        return list(each)
    if isinstance(each, os.PathLike):
        return os.fspath(each)
    raise UsageError(f"a sweep holds texts, numbers, lists and groups, not {each!r}")


def absolute(name: str, folder: Path) -> str:
    return str(folder / name)


def file_or_name(target: str, folder: Path) -> str:
    """A target as `load_target` finds it wherever it is asked for."""
    return absolute(target, folder) if is_file_name(target) else target


class _Check:
    """Judges the names in a tree, as far as the tree is well formed around them."""

    def __init__(self, tree: Located, folder: Path) -> None:
        self.tree, self.folder = tree, folder
        self.digests: dict[ModelName, str] = {}
        self.known_dims: set[str] = set()
        self.all_models = True
        """all could be read"""
        self.good_targets: list[str] = []
        self.good_plugins: list[str] = []

    def models(self) -> Iterator[Diagnostic]:
        """Read every model in every phase that is asked for."""
        shapes_only = self.tree.at(("shapes_only",))
        named = [str(each.value) for each in self._values("phases")]
        phases: Sequence[str | None] = [phase for phase in named if phase in ("prefill", "decode")] or [None]
        for each in self._texts("models"):
            for phase in phases:
                options = Options(phase=phase, shapes_only=shapes_only is not None and shapes_only.value is True)
                try:
                    path = absolute(str(each.value), self.folder)
                    graph = read_model(path, options)
                except CompileError as error:
                    self.all_models = False
                    yield from _at(each.span, error.diagnostics)
                else:
                    self.digests[str(each.value), phase] = model_digest(path, graph)
                    self.known_dims |= {*graph.dims(), *graph.defaults}

    def dims(self) -> Iterator[Diagnostic]:
        """A dimension that no model has; a model without it fails as a point."""
        for name, each in self._group("dims").items():
            if self.all_models and self.digests and name not in self.known_dims:
                help_line = did_you_mean(name, self.known_dims) or "all dimensions of the models are fixed"
                yield _bad(f"no model has a dimension '{name}'", each.key, help_line)

    def targets(self) -> Iterator[Diagnostic]:
        for each in self._texts("targets"):
            target = file_or_name(str(each.value), self.folder)
            try:
                load_target(target)
                self.good_targets.append(target)
            except CompileError as error:
                yield from _at(each.span, error.diagnostics)

    def overrides(self) -> Iterator[Diagnostic]:
        """Keys and values that no target takes; a target that does not take them fails as a point."""
        for key, values in self._group("set").items():
            if key == "mapping":
                yield _bad("mappings stand under 'mappings'", values.key)
                continue
            for each in _elements(values):
                if not isinstance(each.value, str | int | float):
                    continue  # the form says so
                option = f"{key}={setting_text(each.value)}"
                found = [override_mistakes(target, option) for target in self.good_targets]
                if found and all(found):
                    span = values.key if any(d.message.startswith("unknown key") for d in found[0]) else each.span
                    yield from (Diagnostic(Kind.SWEEP_BAD, d.message, span, d.notes, d.help) for d in found[0])

    def plugins(self) -> Iterator[Diagnostic]:
        for each in self._texts("load"):
            path = absolute(str(each.value), self.folder)
            try:
                registry_for(Options(plugins=(path,)))
                self.good_plugins.append(path)
            except CompileError as error:
                yield from _at(each.span, error.diagnostics)

    def passes(self) -> Iterator[Diagnostic]:
        for each in self._texts("disable_pass"):
            yield from _at(each.span, self._pipeline_mistakes(Options(disabled=(str(each.value),))))
        for key, values in self._group("pass_config").items():
            for each in _elements(values):
                if isinstance(each.value, str | int | float):
                    option = f"{key}={setting_text(each.value)}"
                    yield from _at(each.span, self._pipeline_mistakes(Options(pass_options=(option,))))

    def _pipeline_mistakes(self, options: Options) -> Sequence[Diagnostic]:
        try:
            pipeline_for(options, None, registry_for(Options(plugins=self.good_plugins)))
        except CompileError as error:
            return error.diagnostics
        return ()

    def objectives(self) -> Iterator[Diagnostic]:
        """Objectives are numbers of points, or axes of numbers."""
        given = self.tree.at(("objectives",))
        axes = {
            f"{group}.{key}": values
            for where, group in (("set", "set"), ("dims", "dim"), ("parallel", "parallel"))
            for key, values in self._group(where).items()
        }
        named = {k: v.key for k, v in given.group.items()} if given is not None and given.group is not None else {}
        if given is not None and not named:
            named = {str(each.value): each.span for each in _elements(given) if isinstance(each.value, str)}
        for name, span in named.items():
            if name in axes:
                words = [e for e in _elements(axes[name]) if not isinstance(e.value, int | float)]
                if words and not name.startswith("dim."):
                    yield _bad(f"'{name}' cannot be an objective: {words[0].value!r} is not a number", span)
            elif name not in QUANTITIES:
                yield _bad(f"no such objective: '{name}'", span, did_you_mean(name, [*QUANTITIES, *axes]))

    def duplicates(self) -> Iterator[Diagnostic]:
        """Values that one axis has twice."""
        lists = [self.tree.at((name,)) for name in ("models", "targets", "phases", "mappings")]
        lists += [values for name in ("set", "pass_config") for values in self._group(name).values()]
        for each in lists:
            seen: set[str] = set()
            for element in _elements(each) if each is not None else ():
                text = json.dumps(element.value) if isinstance(element.value, str | int | float) else ""
                if text and text in seen:
                    yield _bad(f"{element.value!r} is given twice", element.span)
                seen.add(text)

    def size(self, plan: Plan) -> Iterator[Diagnostic]:
        number, search = plan.combinations, plan.spec.search
        wanted = number if search.kind == "grid" else search.points
        if number > MOST_COMBINATIONS or wanted > MOST_VALUES:
            yield _bad(
                f"{wanted} points of {number} combinations are too many",
                self.tree.span,
                f"at most {MOST_VALUES} points; search: {{kind: random, points: N}} takes some of them",
            )

    # -- parts of the tree --------------------------------------------------------------------------------------------

    def _values(self, key: str) -> list[Located]:
        given = self.tree.at((key,))
        return _elements(given) if given is not None else []

    def _texts(self, key: str) -> list[Located]:
        return [each for each in self._values(key) if isinstance(each.value, str) and each.value]

    def _group(self, key: str) -> dict[str, Located]:
        given = self.tree.at((key,))
        return (given.group if given is not None else None) or {}


def _elements(given: Located) -> list[Located]:
    """The elements of a list; a single value is a list of one."""
    return given.value if isinstance(given.value, list) else [given]


def _bad(message: str, span: TextSpan, help_line: str | None = None) -> Diagnostic:
    return Diagnostic(Kind.SWEEP_BAD, message, span, (), help_line)


def _at(span: TextSpan, found: Sequence[Diagnostic]) -> Iterator[Diagnostic]:
    """What is wrong with something that the sweep names: at its own place, else at that of the name."""
    for d in found:
        yield Diagnostic(d.kind, d.message, d.source or span, d.notes, d.help, d.window)
