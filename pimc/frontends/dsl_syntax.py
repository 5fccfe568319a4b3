"""The syntax of .pimc files: text to the tree of `dsl_tree.py`.

The grammar is `dsl.lark`. Whatever does not follow it becomes a diagnostic with line, column and what was expected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lark import PostLex

from pimc.frontends.dsl_tree import (
    Annotation,
    Argument,
    Call,
    Comprehension,
    Declaration,
    Dimension,
    Expression,
    Function,
    Include,
    Let,
    ListOf,
    Literal,
    Model,
    Name,
    Number,
    Operation,
    Output,
    Parameter,
    PhaseBlock,
    Plain,
    Repeat,
    Return,
    Statement,
    Text,
    TypeOf,
    WeightsFrom,
    When,
)
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.grammar import Grammar
from pimc.ir.source import TextSpan
from pimc.record import record

# -- from text to lark's tree ---------------------------------------------------------------------------------------

_OPEN = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_GOES_ON = frozenset({
    "COMMA", "EQUAL", "COLON", "PLUS", "MINUS", "STAR", "SLASH", "DOUBLE_SLASH", "PERCENT", "POWER", "COMPARE", "OR",
    "AND", "NOT", "LBRACE",
})  # fmt: skip
"""After these a newline does not end the statement."""


class Newlines(PostLex):
    """Drops newlines that end no statement, and ends the last statement before `}` and at the end of the file."""

    always_accept = ("_NL", "RBRACE")

    def __init__(self) -> None:
        self.open: list[Token] = []

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        self.open = []
        last = "_NL"
        token = None
        for token in stream:
            if token.type in _OPEN:
                self.open.append(token)
            elif self.open and token.type == _OPEN[self.open[-1].type]:
                self.open.pop()
            elif token.type == "_NL" and (
                last in _GOES_ON or last == "_NL" or (self.open and self.open[-1].type != "LBRACE")
            ):
                continue
            if token.type == "RBRACE" and last not in ("_NL", "LBRACE"):
                yield Token.new_borrow_pos("_NL", "}", token)
            last = token.type
            yield token
        if token is not None and last != "_NL":
            yield Token.new_borrow_pos("_NL", "", token)


GRAMMAR = Grammar(Path(__file__).with_name("dsl.lark"), start=("start", "library"))


@cache
def _parser() -> tuple[Lark, Newlines]:
    newlines = Newlines()
    return GRAMMAR.parser(newlines), newlines


@lru_cache(maxsize=8)
def parse_model(text: str, file: str) -> Model:
    """Parse a whole model. Raises CompileError (SYNTAX) at the first place that does not follow the grammar."""
    tree, builder = _parse(text, file, "start")
    return builder.model(tree)


@lru_cache(maxsize=8)
def parse_library(text: str, file: str) -> tuple[Statement, ...]:
    """Parse a file that has no `model` line and is meant to be included."""
    tree, builder = _parse(text, file, "library")
    return builder.block(tree)


def _parse(text: str, file: str, start: str) -> tuple[Tree[Token], _Builder]:
    parser, newlines = _parser()
    lines = text.split("\n")
    try:
        return parser.parse(text if text.endswith("\n") else text + "\n", start=start), _Builder(file, lines)
    except UnexpectedInput as error:
        raise _syntax_error(error, file, lines, newlines) from None


# -- what is said of mistakes ---------------------------------------------------------------------------------------

_KEYWORDS = (
    "model", "include", "let", "weight", "weights", "input", "cache", "output", "repeat", "when", "else", "phase",
    "def", "return", "in", "for", "as", "from", "and", "or", "not", "true", "false", "none",
)  # fmt: skip
_STATEMENTS = {
    "INCLUDE", "LET", "WEIGHT", "WEIGHTS", "INPUT", "CACHE", "OUTPUT", "REPEAT", "WHEN", "PHASE", "DEF", "RETURN",
    "NAME", "AT",
}  # fmt: skip
_VALUES = {"NUMBER", "STRING", "NAME", "TRUE", "FALSE", "NONE", "LPAR", "LSQB", "MINUS", "NOT"}
_OPERATORS = {"PLUS", "STAR", "SLASH", "DOUBLE_SLASH", "PERCENT", "AT", "POWER", "COMPARE", "OR", "AND", "MINUS"}
_SHOWN = {
    "NAME": "a name", "MODEL_NAME": "the model's name", "NUMBER": "a number", "STRING": 'a string "..."',
    "_NL": "the end of the line", "$END": "the end of the file", "LPAR": "'('", "RPAR": "')'", "LSQB": "'['",
    "RSQB": "']'", "LBRACE": "'{'", "RBRACE": "'}'", "COMMA": "','", "EQUAL": "'='", "COLON": "':'", "AT": "'@'",
}  # fmt: skip


def _expected(terminals: set[str]) -> str:
    """What could have stood there, in words; the usual groups by one word each."""
    left = set(terminals)
    words = []
    for sign, group, word in (
        ("WEIGHT", _STATEMENTS, "a statement"),
        ("LPAR", _VALUES, "a value"),
        ("OR", _OPERATORS, "an operator"),
    ):
        if (sign in left and len(left & group) > len(group) // 3) or (sign == "OR" and sign in left):
            left -= group
            words.append(word)
    words += sorted(_SHOWN.get(t) or f"'{_terminal_text(t)}'" for t in left)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _terminal_text(terminal: str) -> str:
    for definition in _parser()[0].terminals:
        if definition.name == terminal:
            return definition.pattern.value.replace("\\", "")
    return terminal.lower()


def _syntax_error(error: UnexpectedInput, file: str, lines: list[str], newlines: Newlines) -> CompileError:
    line, column = max(error.line, 1), max(error.column, 1)
    if isinstance(error, UnexpectedToken):
        token = error.token
        expected = set(error.accepts or error.expected)
        if expected == {"_NL"} and token.type == "_NL":
            expected = {"RBRACE"}
        at_end = token.type == "$END" or (token.type == "_NL" and (not token or line >= len(lines)))
        what = "end of the file" if at_end else "end of the line" if token.type == "_NL" else f"'{token}'"
        if token.type == "_NL" and str(token) == "}":
            what = "'}'"
        last = error.token_history[-1] if error.token_history else None
        if token.type == "NUMBER" and _number(token) is None:
            return fail(Kind.SYNTAX, f"bad number '{token}'", _span(file, lines, line, column, len(token)))
        if at_end:
            line, column = _end(lines)
        return fail(
            Kind.SYNTAX,
            f"unexpected {what}, expected {_expected(expected)}",
            _span(file, lines, line, column, 1 if at_end else len(token.strip())),
            notes=_unclosed(newlines) if at_end or token.type in ("RBRACE", "RPAR", "RSQB") else (),
            help=_misspelled(last, token, expected),
        )
    what = "unexpected character"
    hint = None
    if isinstance(error, UnexpectedCharacters):
        mark = error.char
        what = f"unexpected character '{mark}'"
        hint = {
            '"': "a string ends on its own line, with '\"'",
            ";": "a statement ends with its line",
            "'": 'strings are written "..."',
        }.get(mark)
    return fail(Kind.SYNTAX, what, _span(file, lines, line, column, 1), help=hint)


def _end(lines: list[str]) -> tuple[int, int]:
    """The place just behind the last character."""
    line = next((i for i in range(len(lines), 0, -1) if lines[i - 1].strip()), 1)
    return line, len(lines[line - 1].rstrip()) + 1


def _unclosed(newlines: Newlines) -> tuple[str, ...]:
    if not newlines.open:
        return ()
    token = newlines.open[-1]
    return (f"the '{token}' of line {token.line}, column {token.column} is not closed",)


def _misspelled(last: Token | None, token: Token, expected: set[str]) -> str | None:
    """A suggestion where the word before, or the unexpected word itself, is nearly a keyword."""
    words = [last] if last is not None and last.type == "NAME" else []
    wanted = [k for k in _KEYWORDS if k.upper() in expected]
    for word, choice in [*((w, _KEYWORDS) for w in words), (token, wanted)]:
        near = difflib.get_close_matches(str(word), choice, n=1, cutoff=0.7)
        if near and near[0] != word:
            return f"did you mean '{near[0]}'?"
    if token.type == "EQUAL" and last is not None and last.type == "RPAR":
        return "a function is declared by 'def name(parameters) { ... }'"
    return None


def _span(file: str, lines: list[str], line: int, column: int, length: int) -> TextSpan:
    return TextSpan(file, line, column, lines[line - 1].rstrip("\r") if line <= len(lines) else "", max(1, length))


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text) if re.fullmatch(r"[\d_]+(\.[\d_]+)?([eE][+-]?\d+)?", text) else None
    except ValueError:
        return None


# -- from lark's tree to ours ---------------------------------------------------------------------------------------

_Child = Tree[Token] | Token | None


@record
class _Builder:
    """One method for each rule of the grammar that stays in lark's tree."""

    file: str
    lines: list[str]

    @cached_property
    def tokens(self) -> Mapping[str, Callable[[Token], Expression]]:
        return {
            "NUMBER": self.number, "STRING": self.text_of, "NAME": self.name, "TRUE": self.literal,
            "FALSE": self.literal, "NONE": self.literal,
        }  # fmt: skip

    @cached_property
    def trees(self) -> Mapping[str, Callable[[Tree[Token]], Expression]]:
        return {
            "list": self.list_of, "comprehension": self.comprehension, "binary": self.operation,
            "unary": self.operation, "call": self.call, "bracketed": self.bracketed,
        }  # fmt: skip

    def span(self, at: Tree[Token] | Token) -> TextSpan:
        place: Any = at if isinstance(at, Token) else at.meta
        line, column, end_line, end = place.line, place.column, place.end_line, place.end_column
        text = self.lines[line - 1].rstrip()
        return TextSpan(self.file, line, column, text, max(1, (end if end_line == line else len(text) + 1) - column))

    def model(self, tree: Tree[Token]) -> Model:
        head, *rest = _trees(tree)
        name = _token(head.children[0])
        dims = tuple(self.dimension(d) for d in _trees(head))
        return Model(self.span(name), str(name), dims, tuple(self.statement(s) for s in rest))

    def dimension(self, tree: Tree[Token]) -> Dimension:
        name, default = tree.children
        value = None
        if default is not None:
            value = self.number_of(_token(default))
            if not isinstance(value, int):
                raise fail(Kind.SYNTAX, "a dimension is a whole number", self.span(_token(default)))
        return Dimension(self.span(_token(name)), str(name), value)

    # -- statements

    def statement(self, tree: Tree[Token]) -> Statement:
        *annotations, plain = _trees(tree)
        return Statement(tuple(self.annotation(a) for a in annotations), self.plain(plain))

    def block(self, tree: Tree[Token]) -> tuple[Statement, ...]:
        return tuple(self.statement(s) for s in _trees(tree))

    def annotation(self, tree: Tree[Token]) -> Annotation:
        name = _token(tree.children[0])
        return Annotation(self.span(name), str(name), self.arguments(tree.children[1:]))

    def plain(self, tree: Tree[Token]) -> Plain:
        rule, children = str(tree.data), tree.children
        match rule:
            case "include":
                return Include(self.span(tree), self.text_of(_token(children[0])))
            case "let" | "assign":
                targets, values = _trees(tree)
                return Let(self.span(tree), self.names(targets), self.all(values.children), rule == "let")
            case "weight":
                name, label, kind, initial = children
                start = None if initial is None else self.expression(initial)
                return Declaration(self.span(tree), rule, self.name(name), self.text(label), self.type(kind), start)
            case "weights_from":
                return WeightsFrom(self.span(_token(children[0])), self.text_of(_token(children[0])))
            case "input":
                name, label, kind = children
                return Declaration(self.span(tree), rule, self.name(name), self.text(label), self.type(kind))
            case "cache":
                name, label, present, kind = children
                return Declaration(
                    self.span(tree), rule, self.name(name), self.text(label), self.type(kind), None, self.text(present)
                )
            case "output":
                return self.output(tree)
            case "repeat":
                name, low, high, body = children
                bounds = self.expression(low), self.expression(high)
                return Repeat(self.span(tree), self.name(name), *bounds, self.block(_tree(body)))
            case "when":
                condition, then, otherwise = children
                return When(
                    self.span(tree), self.expression(condition), self.block(_tree(then)), self.otherwise(otherwise)
                )
            case "phase":
                return PhaseBlock(self.span(tree), self.names(_tree(children[0])), self.block(_tree(children[1])))
            case "def":
                name, *parameters, body = children
                listed = tuple(self.parameter(p) for p in parameters if isinstance(p, Tree))
                return Function(self.span(_token(name)), str(name), listed, self.block(_tree(body)))
            case "return":
                return Return(self.span(tree), self.all(_tree(children[0]).children))
            case _:
                return self.call(tree)

    def output(self, tree: Tree[Token]) -> Output:
        label = _token(tree.children[0])
        value = tree.children[1]
        if label.type == "STRING":
            if value is None:
                raise fail(Kind.SYNTAX, f"output {label} lacks its value, expected '='", self.span(label))
            return Output(self.span(tree), self.text_of(label), self.expression(value))
        name = self.name(label)
        return Output(self.span(tree), name, name if value is None else self.expression(value))

    def otherwise(self, child: _Child) -> tuple[Statement, ...]:
        if child is None:
            return ()
        tree = _tree(child)
        return self.block(tree) if tree.data == "block" else (Statement((), self.plain(tree)),)

    def parameter(self, tree: Tree[Token]) -> Parameter:
        name, default = tree.children
        value = None if default is None else self.expression(default)
        return Parameter(self.span(_token(name)), str(name), value)

    def type(self, child: _Child) -> TypeOf:
        tree = _tree(child)
        return TypeOf(self.span(tree), str(tree.children[0]), self.all(tree.children[1:]))

    def name(self, child: _Child) -> Name:
        token = _token(child)
        return Name(self.span(token), str(token))

    def names(self, tree: Tree[Token]) -> tuple[Name, ...]:
        return tuple(self.name(child) for child in tree.children)

    # -- expressions

    def expression(self, child: _Child) -> Expression:
        if isinstance(child, Token):
            return self.tokens[child.type](child)
        tree = _tree(child)
        return self.trees[str(tree.data)](tree)

    def all(self, children: Sequence[_Child]) -> tuple[Expression, ...]:
        return tuple(self.expression(child) for child in children if child is not None)

    def bracketed(self, tree: Tree[Token]) -> Expression:
        return self.expression(tree.children[0])

    def number_of(self, token: Token) -> int | float:
        value = _number(token)
        if value is None:
            raise fail(Kind.SYNTAX, f"bad number '{token[:40]}'", self.span(token))
        return value

    def number(self, token: Token) -> Number:
        return Number(self.span(token), self.number_of(token))

    def text_of(self, token: Token) -> Text:
        parts = tuple(re.split(r"\{(\w+)\}", token[1:-1]))
        if any("{" in p or "}" in p for p in parts[::2]):
            raise fail(
                Kind.SYNTAX,
                f"bad braces in the string {token}",
                self.span(token),
                help='braces hold one name, as in "layer.{i}"',
            )
        return Text(self.span(token), parts)

    def text(self, child: _Child) -> Text | None:
        return None if child is None else self.text_of(_token(child))

    def literal(self, token: Token) -> Literal:
        return Literal(self.span(token), {"true": True, "false": False}.get(token))

    def list_of(self, tree: Tree[Token]) -> Expression:
        return ListOf(self.span(tree), self.all(tree.children))

    def comprehension(self, tree: Tree[Token]) -> Expression:
        item, name, *bounds = tree.children
        start, stop = (self.expression(b) for b in bounds)
        return Comprehension(self.span(tree), self.expression(item), str(name), start, stop)

    def operation(self, tree: Tree[Token]) -> Expression:
        *left, operator, right = tree.children
        mark = _token(operator)
        return Operation(self.span(mark), str(mark), self.expression(left[0]) if left else None, self.expression(right))

    def call(self, tree: Tree[Token]) -> Call:
        function, *arguments, label = tree.children
        named: Name | Text | None = None
        if label is not None:
            named = self.text(label) if _token(label).type == "STRING" else self.name(label)
        return Call(self.span(_token(function)), str(function), self.arguments(arguments), named)

    def arguments(self, children: list[Any]) -> tuple[Argument, ...]:
        found = []
        for tree in (c for c in children if isinstance(c, Tree)):
            name, value = tree.children
            found.append(Argument(self.span(tree), None if name is None else str(name), self.expression(value)))
        return tuple(found)


def _token(child: _Child) -> Token:
    assert isinstance(child, Token)
    return child


def _tree(child: _Child) -> Tree[Token]:
    assert isinstance(child, Tree)
    return child


def _trees(tree: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in tree.children if isinstance(child, Tree)]
