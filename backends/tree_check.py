"""From a tree to a declared group: every mistake of a file at once, each at its place, with the likely mend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pimc.backends.target_file import FileKind, Located
from pimc.ir.diagnostics import CompileError, Diagnostic, did_you_mean, nearest
from pimc.ir.source import TextSpan
from pimc.record import record

Path = tuple[str, ...]
M = TypeVar("M", bound=BaseModel)


@record
class Form(Generic[M]):
    """What a kind of file holds.

    tag: the field that says which one of several groups stands somewhere. also: keys of the top that are no fields.
    patterns: what the patterns of texts ask for, in words.
    """

    model: type[M]
    file: FileKind
    tag: str
    also: tuple[str, ...] = ()
    patterns: str = "should be written as its pattern says"

    def parsed(self, tree: Located) -> tuple[M | None, list[Diagnostic]]:
        """The group that a tree describes, or its mistakes."""
        try:
            return self.model.model_validate(tree.plain()), []
        except ValidationError as error:
            return None, [self._diagnostic(tree, details) for details in error.errors(include_url=False)]

    # -- what is declared, by path ------------------------------------------------------------------------------------

    def models(self, annotation: Any, tag: Any = None) -> Iterator[type[BaseModel]]:
        """The groups that an annotation allows; of several, the one of the given tag."""
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(self.tag)
            if tag is None or field is None or tag in get_args(field.annotation):
                yield annotation
        elif get_origin(annotation) is not Mapping:
            for part in get_args(annotation):
                yield from self.models(part, tag)

    def models_at(self, tree: Located, path: Path) -> list[type[BaseModel]]:
        """The groups that may stand at a path of the tree."""
        models: list[type[BaseModel]] = [self.model]
        for depth, key in enumerate(path):
            group = tree.at(path[: depth + 1])
            tag = self._tag_of(group) if group is not None else None
            fields = [m.model_fields[key] for m in models if key in m.model_fields]
            models = [m for f in fields for m in self.models(f.annotation, tag)]
        return models

    def known_keys(self, tree: Located, path: Path) -> list[str]:
        """The keys that may stand in the group at a path."""
        keys = [k for m in self.models_at(tree, path) for k in m.model_fields]
        return list(dict.fromkeys([*keys, *self.also] if not path else keys))

    def all_paths(self) -> list[Path]:
        """Every path that is declared, groups included."""

        def below(model: type[BaseModel], prefix: Path) -> Iterator[Path]:
            for name, field in model.model_fields.items():
                yield (*prefix, name)
                for inner in self.models(field.annotation):
                    yield from below(inner, (*prefix, name))

        return list(dict.fromkeys(below(self.model, ())))

    def _tag_of(self, group: Located) -> Any:
        tag = group.at((self.tag,))
        return None if tag is None else tag.value

    # -- mistakes -----------------------------------------------------------------------------------------------------

    def _walk(self, tree: Located, loc: Sequence[str | int]) -> tuple[Located, Path, list[str]]:
        """The deepest value on the way to `loc`, its path, and the steps that lead nowhere.

        pydantic also names union members in `loc`, and elements of lists that the file writes as a single value; those
        are no keys, and are passed over.
        """
        here, path, rest = tree, list[str](), list[str]()
        for step in loc:
            if isinstance(step, int):
                if isinstance(here.value, list):
                    here = here.value[step]
                    path.append(str(step))
            elif here.group is not None and step in here.group and not rest:
                here = here.group[step]
                path.append(step)
            elif not (here.group is not None and self._tag_of(here) is not None and step == self._tag_of(here)):
                rest.append(step)
        return here, tuple(path), rest

    def _diagnostic(self, tree: Located, details: ErrorDetails) -> Diagnostic:
        here, path, rest = self._walk(tree, details["loc"])
        name = ".".join(path)
        problem = details["type"]
        context: Mapping[str, Any] = details.get("ctx", {})
        if problem == "missing":
            if not rest:
                return self._bad(f"'{name}' cannot be empty", here.key)
            within = f"'{name}'" if name else f"the {self.file.noun}"
            return self._bad(f"{within} lacks '{details['loc'][-1]}'", here.key)
        if problem == "extra_forbidden":
            return self._unknown(tree, here, path)
        if problem in ("union_tag_not_found", "union_tag_invalid"):
            expected = str(context.get("expected_tags") or ", ".join(map(repr, self._tags(tree, path))))
            tag = here.at((self.tag,))
            if tag is None:
                return self._bad(f"'{name}' lacks '{self.tag}'", here.key, (f"{self.tag}s: {expected}",))
            message = f"'{name}.{self.tag}' should be one of {expected}"
            return self._bad(message, tag.span, (), _nearest(tag.value, expected))
        if rest:
            return self._bad(f"'{name}' should be a number, a text, true or false", here.span)
        help_line = _nearest(here.value, str(context.get("expected", ""))) if problem == "literal_error" else None
        return self._bad(f"'{name}' {self._expected(problem, context, details, here)}", here.span, (), help_line)

    def _tags(self, tree: Located, path: Path) -> list[str]:
        fields = [m.model_fields.get(self.tag) for m in self.models_at(tree, path)]
        return [tag for f in fields if f is not None for tag in get_args(f.annotation)]

    def _bad(
        self, message: str, span: TextSpan, notes: tuple[str, ...] = (), help_line: str | None = None
    ) -> Diagnostic:
        return Diagnostic(self.file.kind, message, span, notes, help_line)

    def _expected(self, problem: str, context: Mapping[str, Any], details: ErrorDetails, here: Located) -> str:
        given = repr(here.value) if not isinstance(here.value, dict | list) else "a group or list"
        if problem == "value_error":
            return f"is wrong: {context['error']}"
        texts = {
            "int_type": "should be a whole number",
            "bool_type": "should be true or false",
            "string_type": "should be text",
            "string_too_short": "should not be empty",
            "greater_than": f"should be greater than {context.get('gt')}",
            "greater_than_equal": f"should be at least {context.get('ge')}",
            "literal_error": f"should be {context.get('expected')}",
            "string_pattern_mismatch": self.patterns,
            "model_type": "should be a group of keys",
            "model_attributes_type": "should be a group of keys",
            "mapping_type": "should be a group of keys",
            "tuple_type": "should be a list",
        }
        return f"{texts.get(problem, details['msg'])}, not {given}"

    def _unknown(self, tree: Located, here: Located, path: Path) -> Diagnostic:
        known = self.known_keys(tree, path[:-1])
        key = path[-1]
        if key.startswith("n") and "t" + key[1:] in {k.replace("_", "") for k in known}:
            written = next(k for k in known if k.replace("_", "") == "t" + key[1:])
            help_line: str | None = f"{key} is derived; give {written} as a time (16ns) or a count of clocks (32clk)"
        else:
            help_line = did_you_mean(key, known)
        return self._bad(f"unknown key '{'.'.join(path)}'", here.key, (), help_line)


def in_order(problems: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Each mistake once, by its place."""
    return sorted(dict.fromkeys(problems), key=_place)


def _place(d: Diagnostic) -> tuple[str, int, int]:
    return (d.source.file, d.source.line, d.source.column) if isinstance(d.source, TextSpan) else ("", 0, 0)


def without_mistakes(parsed: M | None, problems: Sequence[Diagnostic]) -> M:
    """The group, if nothing is wrong. Raises CompileError with all mistakes."""
    if problems or parsed is None:
        raise CompileError(in_order(problems))
    return parsed


def _nearest(given: object, expected: str) -> str | None:
    """The nearest of some words, as pydantic lists them: `'aim', 'newton'`."""
    return nearest(str(given), re.findall(r"'([^']*)'", expected))
