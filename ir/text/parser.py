"""Read a graph from text. All mistakes in names and types are told at once, a mistake of syntax alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail
from pimc.ir.grammar import Grammar
from pimc.ir.graph import Graph, Rewriter, Role, Value
from pimc.ir.op import REGISTRY, Array, Attribute, OpDef, TypeRuleError, UnknownContents
from pimc.ir.source import TextSpan
from pimc.ir.text.literals import Record, read_array, read_base64, read_fact, read_string, read_value
from pimc.ir.types import DType, TensorType, parse_type
from pimc.ir.verify import may_equal
from pimc.ir.weights import Contents, External, Inline, Missing, Random
from pimc.record import record

_EXPECTED = {
    "VALUE": "a value (%name)", "WORD": "a name", "TYPE": "a type such as f32[batch, 4]", "INT": "a whole number",
    "FLOAT": "a number", "STRING": "a quoted string", "ABSENT": "_", "LPAR": "(", "RPAR": ")", "LBRACE": "{",
    "RBRACE": "}", "LSQB": "[", "RSQB": "]", "COMMA": ",", "COLON": ":", "EQUAL": "=", "HASH": "#", "$END": "the end",
}  # fmt: skip


@record
class Elided:
    """Contents that a text mentions but does not hold."""

    name: str
    text: str

    def array(self) -> Array:
        return Missing(self.name).array()

    def describe(self) -> str:
        return self.text


def parse(text: str, file: str = "<text>") -> Graph:
    """The graph that a text describes. Raises CompileError: SYNTAX, or every unknown name and misfit of types."""
    import pimc.ir.ops  # noqa: F401  (declares the built-in ops)

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise CompileError(_syntax(error, text, file)) from None
    try:
        return _Builder(text, file).build(tree)
    except RecursionError:
        raise fail(Kind.SYNTAX, f"{file} is nested too deeply") from None


GRAMMAR = Grammar(Path(__file__).with_name("grammar.lark"))


@functools.cache
def _parser() -> Lark:
    return GRAMMAR.parser()


def _syntax(error: UnexpectedInput, text: str, file: str) -> Diagnostic:
    lines = text.splitlines() or [""]
    match error:
        case UnexpectedToken(token=Token(type="$END")) | UnexpectedEOF():
            line, column, length, found = len(lines), len(lines[-1]) + 1, 1, "the text ends"
        case UnexpectedToken(token=token):
            line, column, length, found = error.line, error.column, max(1, len(token)), f"'{token}' is not expected"
        case _:
            line, column, length = error.line, error.column, 1
            found = f"'{lines[line - 1][column - 1 : column]}' is not expected"
    names = error.accepts or error.expected if isinstance(error, UnexpectedToken) else _allowed(error)
    wanted = sorted({_EXPECTED.get(name, name.lower()) for name in names})
    span = TextSpan(file, line, column, lines[min(line, len(lines)) - 1], length)
    return Diagnostic(Kind.SYNTAX, f"{found} here", span, help=f"expected {' or '.join(wanted)}" if wanted else None)


def _allowed(error: UnexpectedInput) -> set[str]:
    return set(error.allowed or ()) if isinstance(error, UnexpectedCharacters) else set()


class _Builder:
    """Walks the syntax tree of one text and adds what it says to a graph."""

    def __init__(self, text: str, file: str) -> None:
        self.lines = text.splitlines()
        self.file = file
        self.found: list[Diagnostic] = []
        self.poisoned: set[str] = set()
        """Names whose definition had a mistake: their uses are not reported."""

    def build(self, tree: Tree[Token]) -> Graph:
        name, *parts = tree.children
        self.graph = Graph(_name(name))
        self.rewriter = Rewriter(self.graph)
        steps: dict[str, Callable[[Tree[Token]], None]] = {
            "parameter": self.parameter, "dim": self.dim, "weight": self.weight, "constant": self.weight,
            "node": self.node, "ret": self.outputs,
        }  # fmt: skip
        for part in parts:
            if isinstance(part, Tree):
                steps[part.data](part)
        if self.found:
            raise CompileError(self.found)
        return self.graph

    # -- statements ---------------------------------------------------------------------------------------------

    def parameter(self, tree: Tree[Token]) -> None:
        *cache, token, type_token, contents = tree.children
        name, type = self.declared(token, type_token)
        if type is None or name is None:
            return
        if contents is not None:
            held = self.held(contents, name, type, type_token)
            if not isinstance(held, Inline):
                return
            type = TensorType(type.dtype, type.shape, held.value)
        role = Role.CACHE if cache and cache[0] is not None else Role.INPUT
        self.rewriter.input(name, type, role=role, source=self.span(token))

    def dim(self, tree: Tree[Token]) -> None:
        name, extent = tree.children
        self.graph.defaults[str(name)] = int(str(extent))

    def weight(self, tree: Tree[Token]) -> None:
        token, type_token, contents = tree.children
        name, type = self.declared(token, type_token)
        held = self.held(contents, name, type, type_token) if name is not None and type is not None else None
        if name is None or type is None or held is None:
            return
        value = self.rewriter.weight(name, type, held, source=self.span(token))
        if tree.data == "constant":
            self.rewriter.set_role(value, Role.CONSTANT)
            if isinstance(held, Inline):
                self.rewriter.retype(value, TensorType(type.dtype, type.shape, held.value))

    def held(self, tree: Any, name: str, type: TensorType, token: Token | Tree[Token]) -> Contents | None:
        """What a value holds; None, with a report, where its type and contents do not fit together."""
        try:
            return self.contents(tree, name, type)
        except CompileError as error:  # a shape with symbolic dimensions
            self.report(Kind.TYPE, error.diagnostics[0].message, token)
        except ValueError as error:
            self.report(Kind.TYPE, str(error), token)
        return None

    def contents(self, tree: Any, name: str, type: TensorType) -> Contents:
        children = tree.children
        match tree.data:
            case "missing":
                return Missing(name)
            case "random" if children[0] is None:
                return Random(name, type.dtype, type.static_shape)
            case "random":
                return Random(read_string(children[0]), type.dtype, type.static_shape, float(children[1]))
            case "external":
                return External(Path(read_string(children[0])), int(children[1]), type.dtype, type.static_shape)
            case "elided":
                return Elided(name, read_string(children[0]))
            case "base64":
                return Inline(read_base64(read_string(children[0]), type))
            case _:
                return Inline(read_array(_datum(children[0]), type))

    def node(self, tree: Tree[Token]) -> None:
        tokens, op_token, operands, attributes, types, facts = _node_parts(tree)
        names = [read_value(token) for token in tokens]
        for token, name in zip(tokens, names, strict=True):
            if self.graph.value(name) is not None or names.count(name) > 1:
                self.report(Kind.NAME_TWICE, f"%{name} is defined twice", token)
                return
        before = len(self.found)
        values = [self.use(token) for token in operands]
        op = REGISTRY.get(str(op_token))
        if op is None:
            self.report(Kind.NAME_UNKNOWN, f"no such op: '{op_token}'", op_token, did_you_mean(op_token, REGISTRY))
        declared = [self.type(token) for token in types]
        absent = any(v is None and t.type == "VALUE" for v, t in zip(values, operands, strict=True))
        resolved = None
        if op is not None and not absent and None not in declared:
            known = [t for t in declared if t is not None]
            resolved = self.infer(op, values, attributes, known, op_token, tokens)
        if op is None or resolved is None or len(self.found) > before:
            self.poisoned.update(names)
            return
        source = self.span(op_token)
        node = self.rewriter.add(op, values, attributes, names=names, types=resolved, source=source)
        for token, datum in facts:
            try:
                self.rewriter.set_fact(node, read_fact(str(token), datum))
            except ValueError as error:
                self.report(Kind.SYNTAX, str(error), token)

    def infer(
        self,
        op: OpDef,
        values: Sequence[Value | None],
        attributes: dict[str, Attribute],
        declared: list[TensorType],
        op_token: Token,
        names: list[Token],
    ) -> list[TensorType] | None:
        """The declared types with the contents that the op's rule finds, or the inferred ones where none are given."""
        try:
            inferred = list(op.infer([v.type if v is not None else None for v in values], attributes))
        except UnknownContents as error:
            if not declared:
                help = "write the type of the result behind the operation"
                self.report(Kind.TYPE, f"{op.name}: {error}", op_token, help)
                return None
            inferred = declared
        except TypeRuleError as error:
            self.report(Kind.TYPE, f"{op.name}: {error}", op_token)
            return None
        types = declared or inferred
        if not len(types) == len(inferred) == len(names):
            counts = f"{len(names)} names and {len(types)} types are written"
            message = f"{op.name} gives {len(inferred)} results, but {counts}"
            self.report(Kind.TYPE, message, names[0])
            return None
        for token, type, expected in zip(names, types, inferred, strict=True):
            if not may_equal(type, expected):
                self.report(Kind.TYPE, f"{token} is declared {type}, but {op.name} gives {expected}", token)
                return None
        return [TensorType(t.dtype, t.shape, i.array) for t, i in zip(types, inferred, strict=True)]

    def outputs(self, tree: Tree[Token]) -> None:
        seen: set[str] = set()
        for output in tree.children:
            if not isinstance(output, Tree):
                continue
            label, token = output.children
            assert isinstance(token, Token)
            value = self.use(token)
            name = read_string(str(label)) if label is not None else read_value(token)
            if name in seen:
                self.report(Kind.NAME_TWICE, f"two outputs are called '{name}'", token)
            elif value is not None:
                self.rewriter.output(name, value)
            seen.add(name)

    # -- names, types, places -----------------------------------------------------------------------------------

    def declared(self, token: Any, type_token: Any) -> tuple[str | None, TensorType | None]:
        """The name and type of an input or weight; None where it is taken or not a type."""
        name = read_value(token)
        if self.graph.value(name) is not None:
            self.report(Kind.NAME_TWICE, f"%{name} is defined twice", token)
            return None, None
        type = self.type(type_token)
        if type is None:
            self.poisoned.add(name)
        return name, type

    def use(self, token: Token) -> Value | None:
        if token.type == "ABSENT":
            return None
        name = read_value(token)
        value = self.graph.value(name)
        if value is None and name not in self.poisoned:
            names = [v.name for v in (*self.graph.inputs, *self.graph.weights)]
            names += [r.name for node in self.graph.order() for r in node.results]
            self.report(Kind.NAME_UNKNOWN, f"%{name} is not defined", token, did_you_mean(name, names))
        return value

    def type(self, token: Token) -> TensorType | None:
        try:
            return parse_type(str(token))
        except ValueError as error:
            names = [each.text for each in DType]
            name = str(token).partition("[")[0]
            self.report(Kind.TYPE, str(error), token, None if name in names else did_you_mean(name, names))
            return None

    def span(self, token: Any) -> TextSpan:
        return TextSpan(self.file, token.line, token.column, self.lines[token.line - 1], max(1, len(token)))

    def report(self, kind: Kind, message: str, token: Any, help: str | None = None) -> None:
        self.found.append(Diagnostic(kind, message, self.span(token), help=help))


NodeParts = tuple[list[Token], Token, list[Token], dict[str, Attribute], list[Token], list[tuple[Token, object]]]


def _node_parts(tree: Tree[Token]) -> NodeParts:
    """Result names, op, operands, attributes, types and facts of a node's tree."""
    tokens = [c for c in tree.children if isinstance(c, Token)]
    at = next(i for i, token in enumerate(tokens) if token.type == "WORD")
    attributes: dict[str, Attribute] = {}
    types: list[Token] = []
    facts: list[tuple[Token, object]] = []
    for part in tree.children:
        if not isinstance(part, Tree):
            continue
        children: list[Any] = part.children
        if part.data == "attributes":
            attributes = {name: _as_attribute(value) for name, value in _fields(part).items()}
        elif part.data == "types":
            types = children
        else:
            facts.append((children[0], _datum(children[1])))
    return tokens[:at], tokens[at], tokens[at + 1 :], attributes, types, facts


def _fields(tree: Any) -> dict[str, object]:
    return {str(a.children[0]): _datum(a.children[1]) for a in tree.children if a is not None}


def _as_attribute(value: Any) -> Attribute:
    result: Attribute = tuple(value) if isinstance(value, list) else value
    return result


def _datum(tree: Any) -> object:
    """The Python value of a literal."""
    if isinstance(tree, Token):
        return str(tree)
    children = tree.children
    match tree.data:
        case "int":
            return int(children[0])
        case "float":
            return float(children[0])
        case "string":
            return read_string(children[0])
        case "word":
            return str(children[0])
        case "true":
            return True
        case "false":
            return False
        case "none":
            return None
        case "list":
            return [_datum(c) for c in children if c is not None]
        case "record":
            return Record(_datum(children[0]), _fields(children[1]))
    raise AssertionError(tree.data)


def _name(token: Any) -> str:
    return read_string(token) if token.type == "STRING" else str(token)
