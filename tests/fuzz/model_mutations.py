"""Damage to ONNX models: nodes, attributes, types, weights, names, opsets and plain bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Mutation = Callable[[ModelProto, Generator], object]

OP_TYPES = (
    "Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Relu", "Softmax", "Transpose", "Reshape", "Concat", "Split",
    "Slice", "Gather", "Unsqueeze", "Squeeze", "Cast", "Where", "Expand", "ReduceMean", "ReduceSum", "Neg", "Shape",
    "Identity", "TopK", "Conv", "Loop", "If", "NonZero", "Attention", "LayerNormalization", "Pow", "Erf", "Constant",
    "ConstantOfShape", "Range", "ScatterND", "GatherND", "Tile", "CumSum", "Einsum", "Dropout", "NoSuchOp",
)  # fmt: skip
EXTENTS = (0, 1, 2, 3, 5, -1, -7, 2**15, 2**31 - 1, 2**31, 10**15, 2**63 - 1, -(2**63))
HOSTILE = (
    "",
    " ",
    "a\nb",
    "\x1b[2J\x1b[31mred\x1b[0m",
    "\x07\x08bell",
    "\u202eoverride",
    "\x9b31m",
    "x" * 100_000,
    "../../etc/passwd",
    "%s%n{0}",
    "'\"`$(id)",
    "\u0000nul",
    "数",
)
VERSIONS = (0, 1, 6, 9, 11, 12, 13, 17, 22, 23, 25, 26, 99, 2**31, 2**62, -1)
LOCATIONS = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "gone.bin",
    "a/../../b",
    "C:\\x",
    "\x1b[31m.bin",
    "model.onnx",
    "\0",
)


def pick(chance: Generator, items: Any) -> Any:
    if not len(items):
        raise NothingToDamageError
    return items[int(chance.integers(len(items)))]


class NothingToDamageError(Exception):
    """The model has nothing of the sort that a mutation looks for."""


def _names(graph: GraphProto) -> list[str]:
    made = [name for node in graph.node for name in node.output if name]
    return [*made, *(i.name for i in graph.input), *(t.name for t in graph.initializer)]


# -- nodes ------------------------------------------------------------------------------------------------------------


def change_op(model: ModelProto, chance: Generator) -> None:
    node = pick(chance, model.graph.node)
    node.op_type = pick(chance, (*OP_TYPES, *{n.op_type for n in model.graph.node}))


def change_domain(model: ModelProto, chance: Generator) -> None:
    pick(chance, model.graph.node).domain = pick(chance, ("", "ai.onnx", "com.microsoft", "my.domain", "ai.onnx.ml"))


def delete_node(model: ModelProto, chance: Generator) -> None:
    del model.graph.node[int(chance.integers(len(model.graph.node)))]


def bypass_node(model: ModelProto, chance: Generator) -> None:
    """Delete a node and let its readers read its operand."""
    node = pick(chance, [n for n in model.graph.node if n.input and n.output])
    _rename(model.graph, node.output[0], node.input[0])
    model.graph.node.remove(node)


def duplicate_node(model: ModelProto, chance: Generator) -> None:
    copy = NodeProto()
    copy.CopyFrom(pick(chance, model.graph.node))
    if chance.random() < 0.7:
        copy.output[:] = [f"{name}_again" for name in copy.output]
    model.graph.node.append(copy)


def rewire(model: ModelProto, chance: Generator) -> None:
    """Any other value as an operand: of another type, or of a later node (a cycle)."""
    node = pick(chance, [n for n in model.graph.node if n.input])
    node.input[int(chance.integers(len(node.input)))] = pick(chance, _names(model.graph))


def swap_operands(model: ModelProto, chance: Generator) -> None:
    node = pick(chance, [n for n in model.graph.node if len(n.input) > 1])
    order = chance.permutation(len(node.input)).tolist()
    node.input[:] = [node.input[i] for i in order]


def dangle(model: ModelProto, chance: Generator) -> None:
    node = pick(chance, [n for n in model.graph.node if n.input])
    node.input[int(chance.integers(len(node.input)))] = pick(chance, ("nowhere", "", "\x1b[31mnowhere"))


def more_operands(model: ModelProto, chance: Generator) -> None:
    pick(chance, model.graph.node).input.append(pick(chance, (*_names(model.graph), "")))


def fewer_operands(model: ModelProto, chance: Generator) -> None:
    node = pick(chance, [n for n in model.graph.node if n.input])
    del node.input[int(chance.integers(len(node.input))) :]


def change_outputs(model: ModelProto, chance: Generator) -> None:
    node = pick(chance, model.graph.node)
    what = chance.integers(4)
    if what == 0:
        node.output.append("one_more")
    elif what == 1:
        del node.output[-1:]
    elif what == 2:
        node.output[:] = [pick(chance, _names(model.graph)) for _ in node.output]
    else:
        node.output[:] = ["" for _ in node.output]


def shuffle_nodes(model: ModelProto, chance: Generator) -> None:
    nodes = list(model.graph.node)
    order = chance.permutation(len(nodes)).tolist()
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)


# -- attributes -------------------------------------------------------------------------------------------------------


def _attribute(model: ModelProto, chance: Generator) -> AttributeProto:
    return pick(chance, [a for n in model.graph.node for a in n.attribute])  # type: ignore[no-any-return]


def change_attribute(model: ModelProto, chance: Generator) -> None:
    a = _attribute(model, chance)
    if a.type == AttributeProto.INT:
        a.i = int(pick(chance, (-1, 0, 1, 2, 3, 7, -9, 2**31, 2**63 - 1, -(2**63))))
    elif a.type == AttributeProto.FLOAT:
        a.f = float(pick(chance, (0.0, -1.0, 0.5, 1e30, float("nan"), float("inf"))))
    elif a.type == AttributeProto.INTS:
        a.ints[:] = [int(pick(chance, (*a.ints, 0, 1, -1, 5, 2**40))) for _ in range(int(chance.integers(6)))]
    elif a.type == AttributeProto.STRING:
        a.s = pick(chance, ("", "none", "tanh", "add", "\x1b[31m", "NOTSET")).encode()
    elif a.type == AttributeProto.TENSOR:
        _damage_tensor(a.t, chance)


def change_attribute_type(model: ModelProto, chance: Generator) -> None:
    a = _attribute(model, chance)
    value = pick(chance, (1, 1.5, "text", [1, 2], [0.5], ["a"], numpy_helper.from_array(np.zeros((2, 2), np.float32))))
    a.CopyFrom(helper.make_attribute(a.name, value))


def rename_attribute(model: ModelProto, chance: Generator) -> None:
    a = _attribute(model, chance)
    a.name = pick(chance, ("axis", "axes", "perm", "to", "keepdims", "\x1b[31mred", "", "ref"))


def delete_attribute(model: ModelProto, chance: Generator) -> None:
    del pick(chance, [n for n in model.graph.node if n.attribute]).attribute[0]


def add_attribute(model: ModelProto, chance: Generator) -> None:
    name = pick(chance, ("axis", "axes", "perm", "alpha", "keepdims", "to", "mode", "unheard_of"))
    value = pick(chance, (0, 1, -1, 99, 0.5, "text", [0], [0, 1], [5, 5], float("nan")))
    pick(chance, model.graph.node).attribute.append(helper.make_attribute(name, value))


def refer_attribute(model: ModelProto, chance: Generator) -> None:
    _attribute(model, chance).ref_attr_name = "outer"


# -- types ------------------------------------------------------------------------------------------------------------


def _infos(model: ModelProto) -> list[ValueInfoProto]:
    return [*model.graph.input, *model.graph.output, *model.graph.value_info]


def change_dim(model: ModelProto, chance: Generator) -> None:
    info = pick(chance, [i for i in _infos(model) if i.type.tensor_type.shape.dim])
    dim = pick(chance, info.type.tensor_type.shape.dim)
    if chance.random() < 0.7:
        dim.dim_value = int(pick(chance, EXTENTS))
    else:
        dim.dim_param = pick(chance, (*HOSTILE, "batch", "a*b", "a+", "0", "-1", "n//2", "n-n", "9" * 5000))


def change_rank(model: ModelProto, chance: Generator) -> None:
    shape = pick(chance, _infos(model)).type.tensor_type.shape
    if shape.dim and chance.random() < 0.5:
        del shape.dim[0]
    else:
        shape.dim.add().dim_value = int(pick(chance, (1, 2, 5)))


def change_dtype(model: ModelProto, chance: Generator) -> None:
    pick(chance, _infos(model)).type.tensor_type.elem_type = int(
        pick(chance, (0, 1, 7, 6, 8, 9, 10, 11, 14, 16, 99, -1))
    )


def drop_type(model: ModelProto, chance: Generator) -> None:
    info = pick(chance, _infos(model))
    info.type.tensor_type.ClearField("shape") if chance.random() < 0.5 else info.ClearField("type")


def declare_more(model: ModelProto, chance: Generator) -> None:
    """Another input, an output that is an input or an initializer, an output twice, a value described twice."""
    name = pick(chance, _names(model.graph))
    what = chance.integers(4)
    if what == 0:
        model.graph.input.append(helper.make_tensor_value_info(pick(chance, ("extra", name)), 1, [2, 3]))
    elif what == 1:
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    elif what == 2:
        model.graph.output.append(model.graph.output[0])
    else:
        model.graph.value_info.append(helper.make_tensor_value_info(name, 7, [3, "n", 5]))


def drop_declared(model: ModelProto, chance: Generator) -> None:
    listed = pick(chance, (model.graph.input, model.graph.output, model.graph.initializer, model.graph.value_info))
    if not len(listed):
        raise NothingToDamageError
    del listed[int(chance.integers(len(listed)))]


# -- weights ----------------------------------------------------------------------------------------------------------


def _damage_tensor(t: TensorProto, chance: Generator) -> None:
    what = chance.integers(7)
    if what == 0:
        t.dims[:] = [int(pick(chance, EXTENTS)) for _ in range(int(chance.integers(4)))]
    elif what == 1:
        t.data_type = int(pick(chance, (0, 1, 2, 6, 7, 8, 9, 10, 11, 14, 16, 17, 22, 23, 99)))
    elif what == 2:
        t.raw_data = t.raw_data[: len(t.raw_data) // 2]
    elif what == 3 and len(t.raw_data):
        data = bytearray(t.raw_data)
        data[int(chance.integers(len(data)))] ^= 1 << int(chance.integers(8))
        t.raw_data = bytes(data)
    elif what == 4:
        t.data_location = TensorProto.EXTERNAL
        t.ClearField("raw_data")
        t.external_data.add(key="location", value=pick(chance, LOCATIONS))
        t.external_data.add(key=pick(chance, ("offset", "length")), value=pick(chance, ("0", "-5", "x", str(10**15))))
    elif what == 5:
        t.float_data.extend([1.0, 2.0])
    else:
        t.ClearField("raw_data")


def damage_weight(model: ModelProto, chance: Generator) -> None:
    _damage_tensor(pick(chance, model.graph.initializer), chance)


def giant_weight(model: ModelProto, chance: Generator) -> None:
    """Weights that are declared larger than any memory."""
    t = pick(chance, model.graph.initializer)
    t.dims[:] = [10**6, int(pick(chance, (10**4, 10**9, 10**15)))]


def change_numbers(model: ModelProto, chance: Generator) -> None:
    """Other contents for a small integer tensor: shapes, axes, indices."""
    whole = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    fit = [t for t in whole if len(t.raw_data) == 8 * np.prod(t.dims)]
    t = pick(chance, fit)
    array = numpy_helper.to_array(t).copy()
    if not array.size:
        raise NothingToDamageError
    array.reshape(-1)[int(chance.integers(array.size))] = int(pick(chance, EXTENTS))
    t.raw_data = array.tobytes()


# -- names and headers ------------------------------------------------------------------------------------------------


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if info.name == old:
            info.name = new


def rename_value(model: ModelProto, chance: Generator) -> None:
    _rename(model.graph, pick(chance, _names(model.graph)), pick(chance, (*HOSTILE, *_names(model.graph))))


def rename_node(model: ModelProto, chance: Generator) -> None:
    """Names of nodes and of the graph may be anything; what is wrong beside them is reported with them."""
    for node in model.graph.node:
        node.name = pick(chance, HOSTILE)
    model.graph.name = pick(chance, HOSTILE)
    pick(chance, (rewire, change_op, change_attribute, dangle))(model, chance)


def change_opset(model: ModelProto, chance: Generator) -> None:
    what = chance.integers(4)
    if what == 0:
        del model.opset_import[:]
    elif what == 1:
        model.opset_import.add(domain=pick(chance, ("", "ai.onnx", "x")), version=int(pick(chance, VERSIONS)))
    else:
        for opset in model.opset_import:
            opset.version = int(pick(chance, VERSIONS))


def change_header(model: ModelProto, chance: Generator) -> None:
    model.ir_version = int(pick(chance, (0, 1, 3, 4, 8, 11, 99, -1, 2**62)))


def add_function(model: ModelProto, chance: Generator) -> None:
    """A local function, perhaps one that calls itself, with the name of an op that the model uses."""
    node = pick(chance, [n for n in model.graph.node if len(n.input) == 1 and len(n.output) == 1])
    function = model.functions.add(name="Local", domain="local", input=["a"], output=["b"])
    function.opset_import.add(domain="", version=18)
    inner = pick(chance, ("Neg", "Local", "NoSuchOp"))
    function.node.append(helper.make_node(inner, ["a"], ["b"], domain="local" if inner == "Local" else ""))
    model.opset_import.add(domain="local", version=1)
    node.op_type, node.domain = "Local", "local"
    del node.attribute[:]


def add_control_flow(model: ModelProto, chance: Generator) -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["q"], ["r"])], "branch", [], [ValueInfoProto(name="r")])
    name = pick(chance, _names(model.graph))
    node = helper.make_node("If", [name], ["decided"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    model.graph.output.append(ValueInfoProto(name="decided"))


MUTATIONS: tuple[Mutation, ...] = (
    *[change_op] * 3, change_domain, delete_node, *[bypass_node] * 3, duplicate_node, *[rewire] * 4,
    *[swap_operands] * 3, dangle, more_operands, fewer_operands, change_outputs, shuffle_nodes, *[change_attribute] * 7,
    change_attribute_type, rename_attribute, *[delete_attribute] * 2, *[add_attribute] * 2, refer_attribute,
    *[change_dim] * 3, change_rank, change_dtype, drop_type, *[declare_more] * 2, drop_declared, *[damage_weight] * 3,
    giant_weight, *[change_numbers] * 6, *[rename_value] * 2, rename_node, change_opset, change_header, add_function,
    add_control_flow,
)  # fmt: skip


def mutated(model: ModelProto, chance: Generator) -> tuple[ModelProto, str]:
    """A copy with one to three mutations, and their names."""
    copy = ModelProto()
    copy.CopyFrom(model)
    done: list[str] = []
    wanted = 1 + int(chance.random() < 0.25)
    for _ in range(20):
        if len(done) == wanted:
            break
        mutation = MUTATIONS[int(chance.integers(len(MUTATIONS)))]
        try:
            mutation(copy, chance)
        except NothingToDamageError:
            continue
        done.append(getattr(mutation, "__name__", "?"))
    return copy, ", ".join(done)


def damaged_bytes(data: bytes, chance: Generator) -> bytes:
    """Bytes cut off, flipped, overwritten, or moved."""
    out = bytearray(data)
    what = int(chance.integers(5))
    at = int(chance.integers(max(1, len(out))))
    if what == 0:
        return bytes(out[:at])
    if what == 1:
        return bytes(out[:at] + out[at + 1 + int(chance.integers(64)) :])
    if what == 2:
        chunk = out[at : at + 1 + int(chance.integers(40))]
        return bytes(out[:at] + chunk + out[at:])
    for _ in range(1 + int(chance.integers(8))):
        at = int(chance.integers(max(1, len(out))))
        if out:
            out[at] = out[at] ^ (1 << int(chance.integers(8))) if what == 3 else int(chance.integers(256))
    return bytes(out)
