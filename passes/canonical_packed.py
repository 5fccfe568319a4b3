"""Canonical forms of projections: one product for each tensor that is used, over the axes that the activation has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.types import TensorType
from pimc.ir.weights import Sliced
from pimc.passes.building import Builder, operand_at
from pimc.passes.match import ints_of, is_constant, operand, pair, used_only_by
from pimc.record import record

Rule = Callable[[Node, Rewriter], None]


def unpack(node: Node, rewriter: Rewriter) -> None:
    """slice(add(matmul(x, w), b), i:j) -> add(matmul(x, w[:, i:j]), b[i:j]), where only slices of columns are read

    So packed projections (query, key and value; gate and up) become those of models that keep them apart. The columns
    are axis 1 of the weight, also in the weight [E, N, K] of an expert_matmul.
    """
    weight = operand_at(node, 1)
    if weight.type.rank != (3 if node.op.name == "expert_matmul" else 2) or not _is_sliceable(weight):
        return
    found = _packed(node, rewriter.graph)
    if found is None:
        return
    folded = next((step for step in found.steps if step.op.name == "reshape" and _folded(step, rewriter.graph)), None)
    if folded is not None:
        unfold_rows(folded, rewriter)
        return
    for reader, (start, stop) in zip(found.readers, found.columns, strict=True):
        x = operand_at(node, 0)
        origins = (reader, node, *found.steps)
        part = _columns(weight, 1, start, stop, rewriter)
        value = rewriter.add(node.op, (x, part, *node.operands[2:]), node.attributes, origins=origins).result
        below = node.result
        for step in found.steps:
            value = _again(step, below, value, (start, stop), rewriter)
            below = step.result
        Builder(rewriter, reader).replace(value)


@record
class _Packed:
    """The steps that lead from a product to slices of its columns, and the columns that each of these reads."""

    steps: tuple[Node, ...]
    readers: tuple[Node, ...]
    columns: tuple[tuple[int, int], ...]


def _packed(product: Node, graph: Graph) -> _Packed | None:
    steps: list[Node] = []
    value = product.result
    while True:
        users = graph.users(value)
        if not users or graph.is_output(value):
            return None
        if all(user.op.name == "slice" for user in users):
            break
        if len(users) > 1 or not (_keeps_columns(users[0]) or _is_bias(users[0], value)):
            return None
        steps.append(users[0])
        value = users[0].result
    columns = [_slice_of_columns(user, value) for user in users]
    given = [c for c in columns if c is not None]
    return _Packed(tuple(steps), tuple(users), tuple(given)) if len(given) == len(users) and _apart(given) else None


def _keeps_columns(node: Node) -> bool:
    """Whether a node regroups the rows of a matrix and leaves its columns alone."""
    return node.op.name == "reshape" and operand_at(node, 0).type.shape[-1:] == node.result.type.shape[-1:]


def _is_bias(node: Node, value: Value) -> bool:
    """Whether a node adds a weight to every row of `value`."""
    return node.op.name == "add" and value.type == node.result.type and _bias(node, value) is not None


def _bias(node: Node, value: Value) -> Value | None:
    """The weight that an addition adds to every row of `value`."""
    left, right = pair(node)
    other = right if left is value else left
    last = value.type.static_shape[-1]
    fits = other.role in (Role.WEIGHT, Role.CONSTANT) and other.type.shape[-1:] == (last,)
    return other if fits and other.type.elements == last else None


def _slice_of_columns(node: Node, value: Value) -> tuple[int, int] | None:
    starts, ends, axes = (ints_of(operand(node, i)) for i in (1, 2, 3))
    if operand(node, 0) is not value or len(node.operands) > 4 or axes != [value.type.rank - 1]:
        return None
    return (starts[0], ends[0]) if starts is not None and ends is not None and 0 <= starts[0] < ends[0] else None


def _apart(ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether no two different ranges overlap."""
    ordered = sorted(set(ranges))
    return all(before[1] <= after[0] for before, after in pairwise(ordered))


def _is_sliceable(value: Value) -> bool:
    """A weight, or one that is transposed on its way."""
    if value.owner is not None and value.owner.op.name == "transpose":
        return _is_sliceable(operand_at(value.owner, 0))
    return is_constant(value) and value.contents is not None


def _columns(value: Value, axis: int, start: int, stop: int, rewriter: Rewriter) -> Value:
    """Indices `start` to `stop` along an axis of a weight, as a weight of its own; each once."""
    owner = value.owner
    if owner is not None:
        perm = owner.attribute("perm")
        inner = int(perm[axis]) if isinstance(perm, tuple) and perm else value.type.rank - 1 - axis
        part = _columns(operand_at(owner, 0), inner, start, stop, rewriter)
        return rewriter.add(owner.op, (part,), owner.attributes, origins=(owner,)).result
    assert value.contents is not None
    name, contents = f"{value.name}.{start}:{stop}", Sliced(value.contents, axis, start, stop)
    made = rewriter.graph.value(name)
    if made is not None and made.contents == contents:
        return made
    if value.type.array is not None:
        return rewriter.constant(name, np.ascontiguousarray(contents.array()), source=value.source)
    shape = list(value.type.static_shape)
    shape[axis] = stop - start
    return rewriter.weight(name, TensorType(value.type.dtype, tuple(shape)), contents, source=value.source)


def _again(step: Node, below: Value, value: Value, columns: tuple[int, int], rewriter: Rewriter) -> Value:
    """The same step on `value`, some columns of what it reads, which is `below`."""
    if step.op.name == "reshape":
        shape = np.array([*step.result.type.static_shape[:-1], value.type.static_shape[-1]], np.int64)
        target = rewriter.constant(f"{step.name}.shape", shape, source=step.source)
        return rewriter.add(step.op, (value, target), step.attributes, origins=(step,)).result
    bias = _bias(step, below)
    assert bias is not None
    part = _columns(bias, bias.type.rank - 1, *columns, rewriter)
    return rewriter.add(step.op, (value, part), step.attributes, origins=(step,)).result


def unfold_rows(node: Node, rewriter: Rewriter) -> None:
    """reshape(add(matmul(reshape(x), w), b)) -> add(matmul(x, w), b), where reshapes merge rows and split them again

    What the second reshape does to columns stays behind the product.
    """
    found = _folded(node, rewriter.graph)
    if found is None:
        return
    top = operand_at(found.steps[0], 0)
    assert top.owner is not None
    value = Builder(rewriter, top.owner).reshape(operand_at(top.owner, 0), (*found.rows, top.type.static_shape[-1]))
    for step in found.steps:
        other = operand_at(step, 1) if step.op.name == "matmul" else _bias(step, found.below[step])
        value = rewriter.add(step.op, (value, other), step.attributes, origins=(step,)).result
    builder = Builder(rewriter, node)
    builder.replace(builder.reshape(value, node.result.type.static_shape))


@record
class _Folded:
    """A product and the additions behind it on merged rows, and the rows that these are split into afterwards."""

    steps: tuple[Node, ...]
    below: Mapping[Node, Value]
    """what each addition adds to"""
    rows: tuple[int, ...]


def _folded(node: Node, graph: Graph) -> _Folded | None:
    value, reader = operand_at(node, 0), node
    steps: list[Node] = []
    below: dict[Node, Value] = {}
    while (step := value.owner) is not None and used_only_by(graph, value, (reader,)):
        steps.insert(0, step)
        if step.op.name == "matmul":
            rows = _unfolded_rows(step, node)
            return _Folded(tuple(steps), below, rows) if rows is not None else None
        above = next((v for v in step.inputs() if _is_bias(step, v)), None)
        if above is None:
            return None
        below[step] = above
        value, reader = above, step
    return None


def _unfolded_rows(product: Node, reader: Node) -> tuple[int, ...] | None:
    """The rows that `reader` splits those of a product into, where a reshape has merged them."""
    x, result = operand_at(product, 0), reader.result.type.static_shape
    merged = x.owner
    if merged is None or merged.op.name != "reshape" or x.type.rank != 2 or operand_at(product, 1).type.rank != 2:
        return None
    before = operand_at(merged, 0).type.static_shape
    if _keeps_columns(reader):
        rows = result[:-1]
    else:
        rows = before[:-1] if _keeps_columns(merged) and before[:-1] == result[: len(before) - 1] else ()
    return rows if len(rows) > 1 else None


RULES: dict[str, tuple[Rule, ...]] = {"matmul": (unpack,), "expert_matmul": (unpack,), "reshape": (unfold_rows,)}
