"""If, Loop and Scan written out, where the compiler knows which branch is taken and how often a body runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, helper

from pimc.frontends.onnx_ops import NeedsContents, Unsupported
from pimc.frontends.onnx_steps import Steps
from pimc.ir.graph import Value
from pimc.ir.op import Array

MOST_TURNS = 4096
"""Turns of a loop beyond which a graph would have more nodes than anybody wants."""


class Scope(Steps):
    """Where nodes are written out: values by their ONNX names, and new nodes."""

    @abstractmethod
    def value(self, name: str) -> Value:
        """The value of that name."""

    @abstractmethod
    def define(self, name: str, value: Value) -> None: ...

    @abstractmethod
    def add(self, node: NodeProto) -> bool:
        """Import a node; False where it is refused, which has been reported then."""


def write_out(proto: NodeProto, scope: Scope) -> Sequence[Value] | None:
    """The outputs of an If, Loop or Scan; None where a node of its body has been refused. Raises Unsupported."""
    rule = {"If": _if, "Loop": _loop, "Scan": _scan}[proto.op_type]
    return rule(proto, scope)


def _attribute(proto: NodeProto, name: str) -> object:
    found = next((a for a in proto.attribute if a.name == name), None)
    return None if found is None else helper.get_attribute_value(found)


def _body(proto: NodeProto, name: str) -> GraphProto:
    body = _attribute(proto, name)
    if not isinstance(body, GraphProto):
        raise Unsupported(f"it has no {name}")
    return body


def _run(body: GraphProto, prefix: str, given: Sequence[Value], scope: Scope) -> list[Value] | None:
    """One turn of a body: its outputs, with everything in it named with a prefix of its own."""
    names = [i.name for i in body.input]
    made = [n for node in body.node for n in node.output if n] + [t.name for t in body.initializer]
    rename = {name: f"{prefix}{name}" for name in (*names, *made)}
    for name, value in zip(names, given, strict=True):
        scope.define(rename[name], value)
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in body.initializer if t.name not in names]
    taken = [scope.add(_renamed(node, rename)) for node in (*constants, *body.node)]  # all, to report all refusals
    if not all(taken):
        return None
    return [scope.value(rename.get(o.name, o.name)) for o in body.output]


def _renamed(node: NodeProto, rename: Mapping[str, str]) -> NodeProto:
    """A copy whose values are called otherwise, in the bodies that it holds too."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [rename.get(n, n) for n in node.input]
    copy.output[:] = [rename.get(n, n) for n in node.output]
    for attribute in copy.attribute:
        if attribute.type == AttributeProto.GRAPH:
            own = {i.name for i in attribute.g.input} | {t.name for t in attribute.g.initializer}
            own |= {n for inner in attribute.g.node for n in inner.output}
            outer = {name: new for name, new in rename.items() if name not in own}
            nodes = [_renamed(inner, outer) for inner in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(nodes)
            for output in attribute.g.output:
                output.name = outer.get(output.name, output.name)
    return copy


def _known(value: Value, what: str) -> Array:
    if value.type.array is None:
        raise NeedsContents(f"control flow: {what} is not known", value)
    return np.asarray(value.type.array)


# -- the three --------------------------------------------------------------------------------------------------------


def _if(proto: NodeProto, scope: Scope) -> Sequence[Value] | None:
    taken = bool(_known(scope.value(proto.input[0]), "which branch is taken").any())
    branch = _body(proto, "then_branch" if taken else "else_branch")
    return _run(branch, f"{proto.output[0]}/", [], scope)


def _loop(proto: NodeProto, scope: Scope) -> Sequence[Value] | None:
    body = _body(proto, "body")
    limit = MOST_TURNS + 1
    if proto.input[0]:
        limit = int(_known(scope.value(proto.input[0]), "how often the body runs").reshape(-1)[0])
    condition = scope.value(proto.input[1]) if len(proto.input) > 1 and proto.input[1] else None
    states = [scope.value(n) for n in proto.input[2:]]
    stacked: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(states))]
    turn = 0
    while turn < limit and (condition is None or _known(condition, "when the body stops").any()):
        _check(turn)
        number = scope.call("identity", np.asarray(turn, np.int64))
        held = condition if condition is not None else scope.call("identity", np.asarray(True))
        outputs = _run(body, f"{proto.output[0]}/{turn}/", [number, held, *states], scope)
        if outputs is None:
            return None
        condition, states = outputs[0], outputs[1 : 1 + len(states)]
        for parts, value in zip(stacked, outputs[1 + len(states) :], strict=True):
            parts.append(value)
        turn += 1
    return [*states, *(_stacked(parts, 0, False, scope) for parts in stacked)]


def _scan(proto: NodeProto, scope: Scope) -> Sequence[Value] | None:
    body, count = _body(proto, "body"), _attribute(proto, "num_scan_inputs")
    if not isinstance(count, int) or len(body.input) != len(proto.input):
        raise Unsupported("control flow as it was before opset 9")
    values = [scope.value(n) for n in proto.input]
    states, rows = values[: len(values) - count], values[len(values) - count :]
    outputs = len(body.output) - len(states)
    axes, backwards = _ints(proto, "scan_input_axes", count), _ints(proto, "scan_input_directions", count)
    lengths = {row.type.shape[axis] for row, axis in zip(rows, axes, strict=True)}
    length = lengths.pop()
    if lengths or not isinstance(length, int):
        raise Unsupported("control flow over a dimension that is not a number yet")
    stacked: list[list[Value]] = [[] for _ in range(outputs)]
    for turn in range(length):
        _check(turn)
        places = [np.asarray(length - 1 - turn if back else turn, np.int64) for back in backwards]
        parts = [scope.call("gather", r, p, axis=a) for r, p, a in zip(rows, places, axes, strict=True)]
        found = _run(body, f"{proto.output[0]}/{turn}/", [*states, *parts], scope)
        if found is None:
            return None
        states = found[: len(states)]
        for list_, value in zip(stacked, found[len(states) :], strict=True):
            list_.append(value)
    along = zip(
        stacked, _ints(proto, "scan_output_axes", outputs), _ints(proto, "scan_output_directions", outputs), strict=True
    )
    return [*states, *(_stacked(parts, axis, bool(back), scope) for parts, axis, back in along)]


def _ints(proto: NodeProto, name: str, count: int) -> list[int]:
    """An attribute of one number for each input or output; 0 where it is left out."""
    given = _attribute(proto, name)
    return [int(v) for v in given] if isinstance(given, Sequence) else [0] * count


def _stacked(parts: list[Value], axis: int, backwards: bool, scope: Scope) -> Value:
    """The results of all turns along a new axis."""
    if not parts:
        raise Unsupported("control flow whose body never runs, and so gives no rows")
    at = np.asarray([axis], np.int64)
    rows = [scope.call("unsqueeze", part, at) for part in (reversed(parts) if backwards else parts)]
    return scope.call("concat", *rows, axis=axis)


def _check(turn: int) -> None:
    if turn >= MOST_TURNS:
        raise Unsupported(f"control flow of more than {MOST_TURNS} turns")
