"""Print a graph as text, the same for the same graph."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pimc.ir.diagnostics import CompileError
from pimc.ir.graph import Graph, Node, Role, Value
from pimc.ir.source import roots
from pimc.ir.text.literals import INLINE_ELEMENTS, spell_array, spell_attribute, spell_facts, spell_value, spell_word
from pimc.ir.types import TensorType
from pimc.ir.weights import External, Inline, Missing, Random

_WIDTH = 120


def show(graph: Graph, *, locations: bool = False) -> str:
    """The text of a graph; `locations` adds where each node came from as comments."""
    lines = [_head(graph)]
    lines += [f"  dim {name} = {extent}" for name, extent in sorted(graph.defaults.items())]
    lines += [_weight(value) for value in graph.weights]
    for node in graph.order():
        lines.append(_node(node) + (_location(node) if locations else ""))
    lines += [_return(graph), "}"]
    return "\n".join(lines) + "\n"


def _head(graph: Graph) -> str:
    parameters = [_parameter(v) for v in graph.inputs]
    line = f"graph {spell_word(graph.name)}({', '.join(parameters)}) {{"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"graph {spell_word(graph.name)}(", *(f"  {p}," for p in parameters), ") {"])


def _parameter(value: Value) -> str:
    cache = "cache " if value.role is Role.CACHE else ""
    return cache + _typed(value) + (f" = {_contents(value)}" if value.contents is not None else "")


def _typed(value: Value) -> str:
    return f"{spell_value(value.name)}: {value.type}"


def _weight(value: Value) -> str:
    keyword = "constant" if value.role is Role.CONSTANT else "weight"
    return f"  {keyword} {_typed(value)} = {_contents(value)}"


def _contents(value: Value) -> str:
    match value.contents:
        case None | Missing():
            return "missing"
        case Random(name=name, scale=scale):
            default = name == value.name and scale == Random.__dataclass_fields__["scale"].default
            return "random" if default else f"random({json.dumps(name)}, {scale!r})"
        case External(path=path, offset=offset):
            return f"external {json.dumps(path.name)} {offset}"
        case Inline(value=array) if value.role is Role.CONSTANT or array.size <= INLINE_ELEMENTS:
            return spell_array(array)
        case contents if value.role is Role.CONSTANT:
            try:
                return spell_array(contents.array())
            except CompileError:
                return f"elided {json.dumps(contents.describe())}"
        case contents:
            return f"elided {json.dumps(contents.describe())}"


def _node(node: Node) -> str:
    names = ", ".join(spell_value(r.name) for r in node.results)
    operands = ", ".join("_" if v is None else spell_value(v.name) for v in node.operands)
    facts = "".join("  " + fact if i == 0 else " " + fact for i, fact in enumerate(spell_facts(node.facts)))
    return f"  {names} = {node.op.name}({operands}){_attributes(node)} : {_types(r.type for r in node.results)}{facts}"


def _attributes(node: Node) -> str:
    defaults = node.op.attributes
    given = sorted((k, v) for k, v in node.attributes.items() if k not in defaults or defaults[k] != v)
    return f" {{{', '.join(f'{k}={spell_attribute(v)}' for k, v in given)}}}" if given else ""


def _types(types: Iterable[TensorType]) -> str:
    return ", ".join(str(t) for t in types)


def _return(graph: Graph) -> str:
    outputs = [
        spell_value(value.name) if name == value.name else f"{json.dumps(name)} = {spell_value(value.name)}"
        for name, value in graph.outputs
    ]
    line = f"  return {', '.join(outputs)}".rstrip()
    return line if len(line) <= _WIDTH else "  return\n" + ",\n".join(f"    {o}" for o in outputs)


def _location(node: Node) -> str:
    places = [" ".join(str(place).split()) for place in roots(node.source)]
    return f"  // {'; '.join(places)}" if places else ""
