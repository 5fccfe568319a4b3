"""Files of declared groups as text: YAML read into a tree that knows where each key and value stands.

Trees of targets are merged (`base:`), changed by `--set`, and only then validated, so that every mistake points at the
file that holds the value, or at the option. `!table file.csv` stands for the rows of a CSV file beside the YAML file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail, file_missing
from pimc.ir.reading import read_text
from pimc.ir.source import TextSpan
from pimc.record import record

TABLE_TAG = "!table"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_NODES = 100_000
_DEEPEST = 32

Scalar = str | int | float | bool | None


@record
class FileKind:
    """A kind of file, for messages: what its mistakes are, and what it describes."""

    kind: Kind
    noun: str


TARGET_FILE = FileKind(Kind.TARGET_BAD, "target")


@record
class Located:
    """A value and where it stands; `key` is the place of the key that holds it."""

    value: dict[str, Located] | list[Located] | Scalar
    span: TextSpan
    key: TextSpan

    @property
    def group(self) -> dict[str, Located] | None:
        return self.value if isinstance(self.value, dict) else None

    def plain(self) -> Any:
        """The value without places; keys whose value is null are left out."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items() if v.value is not None}
        return [v.plain() for v in self.value] if isinstance(self.value, list) else self.value

    def at(self, path: Sequence[str]) -> Located | None:
        """The value under a path of keys."""
        here: Located | None = self
        for key in path:
            here = here.group.get(key) if here is not None and here.group is not None else None
        return here


def read_tree(path: Path, problems: list[Diagnostic], what: FileKind = TARGET_FILE) -> Located:
    """The tree of one file. Duplicate keys go to `problems`; a file that is no YAML group raises CompileError."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise file_missing(path, f"cannot read {what.noun} file {path}: {reason}") from None
    return _Reader(str(path), text, path.parent, problems, what).tree()


@lru_cache(maxsize=16)
def _composed(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=_LOADER)


class _Reader:
    """Turns the YAML nodes of one text into `Located`s."""

    def __init__(
        self, file: str, text: str, folder: Path | None, problems: list[Diagnostic], what: FileKind = TARGET_FILE
    ) -> None:
        self.file = file
        self.kind, self.noun = what.kind, what.noun
        self.text = text
        self.lines = text.splitlines()
        self.folder = folder
        self.problems = problems
        self.nodes = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def tree(self) -> Located:
        start = TextSpan(self.file, 1, 1, self.lines[0] if self.lines else "")
        try:
            node = _composed(self.text)
        except yaml.YAMLError as error:
            raise self._syntax(error, start) from None
        except RecursionError:
            raise fail(self.kind, "the file is nested too deeply", start) from None
        if node is None or not isinstance(node, yaml.MappingNode):
            raise fail(self.kind, f"a {self.noun} file is a group of 'key: value' lines", start)
        return self._located(node, start, 0)

    def _syntax(self, error: yaml.YAMLError, start: TextSpan) -> CompileError:
        mark = getattr(error, "problem_mark", None)
        span = self._span(mark) if mark is not None else start
        problem = getattr(error, "problem", None) or "the text holds characters that YAML does not allow"
        return fail(self.kind, f"not valid YAML: {problem}", span)

    def _span(self, mark: Any, end: Any = None) -> TextSpan:
        text = self.lines[mark.line] if mark.line < len(self.lines) else ""
        length = end.column - mark.column if end is not None and end.line == mark.line else 1
        return TextSpan(self.file, mark.line + 1, mark.column + 1, text, max(1, length))

    def _located(self, node: yaml.Node, key: TextSpan, depth: int) -> Located:
        span = self._span(node.start_mark, node.end_mark)
        self.nodes += 1
        if depth > _DEEPEST or self.nodes > _MOST_NODES:
            raise fail(self.kind, "the file is nested too deeply, or refers to itself", span)
        if node.tag == TABLE_TAG:
            return Located(self._table(node, span), span, key)
        if isinstance(node, yaml.MappingNode):
            return Located(self._group(node, depth), span, key)
        if isinstance(node, yaml.SequenceNode):
            return Located([self._located(n, span, depth + 1) for n in node.value], span, key)
        return Located(self._scalar(node, span), span, key)

    def _group(self, node: yaml.MappingNode, depth: int) -> dict[str, Located]:
        group: dict[str, Located] = {}
        for key_node, value_node in node.value:
            span = self._span(key_node.start_mark, key_node.end_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Diagnostic(self.kind, "a key is one word", span))
                continue
            key = str(key_node.value)
            if key in group:
                first = group[key].key
                note = f"first given at {first}"
                self.problems.append(Diagnostic(self.kind, f"'{key}' is given twice", span, (note,)))
            group[key] = self._located(value_node, span, depth + 1)
        return group

    def _scalar(self, node: yaml.Node, span: TextSpan) -> Scalar:
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self.problems.append(Diagnostic(self.kind, f"'{node.tag}' is not a tag of {self.noun} files", span))
            return str(node.value)
        try:
            value = self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = node.value
        if isinstance(value, int | float) and ":" in node.value:
            value = node.value  # YAML 1.1 takes 1:30 for 90
        return value if isinstance(value, str | int | float | bool | None) else str(node.value)

    def _table(self, node: yaml.Node, span: TextSpan) -> list[Located]:
        """The rows of a CSV file, each a group under the names of its header."""
        if not isinstance(node, yaml.ScalarNode) or self.folder is None:
            self.problems.append(Diagnostic(self.kind, f"{TABLE_TAG} is followed by the name of a file", span))
            return []
        path = self.folder / str(node.value)
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError):
            self.problems.append(Diagnostic(self.kind, f"cannot read the table {path}", span))
            return []
        lines = text.splitlines()
        rows: list[Located] = []
        for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2):
            place = TextSpan(str(path), number, 1, lines[number - 1] if number <= len(lines) else "")
            cells = {str(k): Located(v, place, place) for k, v in row.items()}
            rows.append(Located(dict(cells), place, place))
        return rows


def tree_of(plain: Any, file: str) -> Located:
    """A tree of plain data that stands in no file."""
    span = TextSpan(file, 1, 1)
    if isinstance(plain, Mapping):
        return Located({str(k): tree_of(v, file) for k, v in plain.items()}, span, span)
    if isinstance(plain, list | tuple):
        return Located([tree_of(v, file) for v in plain], span, span)
    return Located(plain, span, span)


def merged(base: Located, changes: Located) -> Located:
    """`base` with what `changes` gives: groups are merged key by key, everything else is replaced."""
    if base.group is None or changes.group is None:
        return changes
    result = dict(base.group)
    for key, value in changes.group.items():
        result[key] = merged(result[key], value) if key in result else value
    return replace(changes, value=result)


def parse_override(option: str) -> tuple[tuple[str, ...], Located]:
    """`a.b=value` of a `--set` option as a path and its value, which stands in the option's text."""
    path, sign, text = option.partition("=")
    span = TextSpan("--set", 1, 1, option, max(1, len(path)))
    if not sign or not path.strip() or not all(part.strip() for part in path.split(".")):
        raise fail(Kind.TARGET_BAD, f"'{option}' is not a change", span, help="write --set dram.timing.tRP=16ns")
    place = TextSpan("--set", 1, len(path) + 2, option, max(1, len(text)))
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError:
        node = None
    if node is None or not isinstance(node, yaml.ScalarNode):
        value: Scalar = text
    else:
        value = _Reader("--set", text, None, [])._scalar(node, place)
    return tuple(part.strip() for part in path.split(".")), Located(value, place, span)


def with_value(tree: Located, path: Sequence[str], value: Located) -> Located:
    """The tree with one value replaced; groups on the way are made where they lack."""
    if not path:
        return value
    group = dict(tree.group or {})
    below = group.get(path[0]) or Located({}, value.span, value.key)
    group[path[0]] = with_value(below, path[1:], value)
    return replace(tree, value=group)
