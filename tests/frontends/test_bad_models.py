"""Files that are no models, damaged ones and hostile ones: each gives a diagnostic of the right kind, never a crash."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pimc.frontends import load_model
from pimc.frontends.onnx_import import import_file
from pimc.frontends.onnx_model import decode_onnx
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.graph import Rewriter
from pimc.passes.bind import BindPass
from pimc.passes.fold import FoldPass
from pimc.passes.manager import PassContext

DATA = Path(__file__).parent.parent / "data" / "onnx"
GOOD = DATA / "llamagqa-merged-genai.onnx"

Edit = Callable[[onnx.ModelProto], None]
node = helper.make_node


def diagnostics(path: Path) -> list[Diagnostic]:
    with pytest.raises(CompileError) as error:
        load_model(path)
    assert all(d.message for d in error.value.diagnostics)
    return list(error.value.diagnostics)


def written(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def small(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """x f32[n, 4], w f32[4, 4] (initializer) -> y"""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = onnx.ValueInfoProto(name="y")
    w = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(list(nodes) or [node("MatMul", ["x", "w"], ["y"], name="mm")], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


# -- files ------------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    assert [d.kind for d in diagnostics(tmp_path / "none.onnx")] == [Kind.FILE_MISSING]


def test_directory(tmp_path: Path) -> None:
    assert [d.kind for d in diagnostics(tmp_path)] == [Kind.FILE_MISSING]


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, I am a text\n", b"\0" * 64, random.Random(1).randbytes(4096), b"\x08\x07", b"PK\x03\x04zip"],
    ids=["empty", "text", "zeros", "random", "only a version", "zip"],
)
def test_no_model_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    (found,) = diagnostics(path)
    assert found.kind is Kind.MODEL_BROKEN
    assert str(path) in found.message
    assert found.help


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text("neither this nor that")
    assert [d.kind for d in diagnostics(path)] == [Kind.MODEL_BROKEN]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    data = GOOD.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    assert [d.kind for d in diagnostics(path)] == [Kind.MODEL_BROKEN]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_crash(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(GOOD.read_bytes())
    for _ in range(chance.randint(1, 6)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    with contextlib.suppress(CompileError):
        import_file(decode_onnx(bytes(data), "damaged.onnx", DATA))


# -- contents ---------------------------------------------------------------------------------------------------------


def add(*nodes: onnx.NodeProto) -> Edit:
    return lambda model: model.graph.node.extend(nodes)


def indexed(op_type: str, numbers: list[Any], **attributes: Any) -> Edit:
    """A node that reads the weight and known integers."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), "i"))
        model.graph.node.append(node(op_type, ["w", "i"], ["z"], **attributes))

    return edit


def dimension(value: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = value

    return edit


def drop_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def sequence_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["n", 4]))


def weight_type(number: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_type = number

    return edit


def weight_dims(*dims: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return edit


def external(location: str, **places: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **places}.items():
            weight.external_data.add(key=key, value=value)

    return edit


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def opsets(*versions: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)

    return edit


def old_sum(model: onnx.ModelProto) -> None:
    opsets(5)(model)
    model.graph.node.append(node("Add", ["w", "w"], ["z"]))


def declared(*dims: int, dtype: int = TensorProto.FLOAT) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", dtype, dims))

    return edit


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.ValueInfoProto(name="y"))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto())


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (add(node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["a"])), Kind.GRAPH, "cycle through 'b'"),
        (add(node("Neg", ["ghost"], ["z"], name="n")), Kind.MODEL_BROKEN, "'n' reads 'ghost', which nothing makes"),
        (add(node("Neg", ["x"], ["y"])), Kind.NAME_TWICE, "two values are called 'y'"),
        (add(node("Neg", ["x"], ["w"])), Kind.NAME_TWICE, "two values are called 'w'"),
        (second_output, Kind.NAME_TWICE, "two outputs are called 'y'"),
        (dimension(2**40), Kind.DIM_BAD, "dimension 0 of input 'x' is 1099511627776"),
        (drop_shape, Kind.MODEL_BROKEN, "input 'x' has no shape"),
        (sequence_input, Kind.OP_UNSUPPORTED, "input 'x' is a sequence"),
        (weight_type(TensorProto.STRING), Kind.OP_UNSUPPORTED, "weight 'w' has elements of type string"),
        (weight_type(TensorProto.FLOAT8E5M2), Kind.OP_UNSUPPORTED, "elements of type float8e5m2"),
        (weight_type(77), Kind.OP_UNSUPPORTED, "elements of type number 77"),
        (weight_dims(4, 5), Kind.MODEL_BROKEN, "the data of weight 'w' do not fit its type"),
        (weight_dims(-4, 4), Kind.DIM_BAD, "weight 'w' has the impossible shape [-4, 4]"),
        (weight_dims(2**40, 2**40), Kind.DIM_BAD, "weight 'w' has the impossible shape"),
        (external("gone.bin"), Kind.WEIGHT_MISSING, "gone.bin is missing"),
        (external("../w.bin"), Kind.MODEL_BROKEN, "not below the folder of the model"),
        (external("/etc/hostname"), Kind.MODEL_BROKEN, "not below the folder of the model"),
        (external(""), Kind.MODEL_BROKEN, "not below the folder of the model"),
        (external("model.onnx", offset="1000000"), Kind.WEIGHT_MISSING, "ends before byte 1000064"),
        (external("model.onnx", offset="x"), Kind.MODEL_BROKEN, "has a bad place"),
        (external("model.onnx", length="12"), Kind.MODEL_BROKEN, "needs 64 bytes, but the model gives it 12"),
        (no_opset, Kind.MODEL_BROKEN, "does not say which opset"),
        (old_sum, Kind.OP_UNSUPPORTED, "is of opset 5; opsets 7 to"),
        (opsets(2**62), Kind.OP_UNSUPPORTED, "is of opset 4611686018427387904"),
        (opsets(17, 18), Kind.MODEL_BROKEN, "its ops are of opset 17 and 18"),
        (declared(3, 5), Kind.TYPE, "output 'y' is declared as f32[3, 5], but is f32[n, 4]"),
        (declared(3, 4, 1), Kind.TYPE, "output 'y' is declared as f32[3, 4, 1], but is f32[n, 4]"),
        (declared(3, 4, dtype=TensorProto.INT64), Kind.TYPE, "output 'y' is declared as i64[3, 4], but is f32[n, 4]"),
        (sparse, Kind.OP_UNSUPPORTED, "has sparse weights"),
        (add(node("Concat", ["w", "w"], ["z"], axis="one")), Kind.ATTRIBUTE, "attribute 'axis' is 'one'"),
        (add(node("Concat", ["w", "w"], ["z"])), Kind.TYPE, "concat lacks attribute axis"),
        (add(node("Concat", ["x", "x"], ["z"])), Kind.TYPE, "concat lacks attribute axis"),
        (add(node("Gemm", ["x", "w"], ["z"], transA=2)), Kind.TYPE, "'transA' of gemm must be 0 or 1, but is 2"),
        (indexed("GatherND", [[4]]), Kind.TYPE, "gather_nd: index [4] is out of range for a dimension of 4"),
        (indexed("Gather", [0, -5]), Kind.TYPE, "gather: index [-5] is out of range for a dimension of 4"),
        (indexed("Reshape", [[4, 4]]), Kind.TYPE, "must be a vector, but are i64[1, 2]"),
        (add(node("Split", ["w"], ["z"], num_outputs=2**31)), Kind.TYPE, "2147483648 parts"),
        (add(node("MatMul", ["w"], ["z"])), Kind.TYPE, "matmul takes 2 operands, not 1"),
        (add(node("And", ["w", "w"], ["z"])), Kind.TYPE, "must be bool, not f32"),
    ],
)  # fmt: skip
def test_broken_model(tmp_path: Path, edit: Edit, kind: Kind, words: str) -> None:
    model = small()
    edit(model)
    (found,) = diagnostics(written(tmp_path, model))
    assert (found.kind, words in found.message) == (kind, True), found


def test_unsupported_ops_are_listed_together(tmp_path: Path) -> None:
    branch = helper.make_graph([node("Neg", ["x"], ["b"])], "branch", [], [onnx.ValueInfoProto(name="b")])
    nodes = [
        node("Bogus", ["x"], ["a"], name="first", domain="my.ops"),
        node("Conv", ["a", "w"], ["b"], name="second"),
        node("If", ["x"], ["c"], name="third", then_branch=branch, else_branch=branch),
        node("Softmax", ["x"], ["d"], name="fine"),
        node("Unique", ["d"], ["e"], name="fourth"),
        node("NonZero", ["d"], ["f"], name="fifth"),
        node("Pad", ["f"], ["y"], name="after"),
    ]
    found = diagnostics(written(tmp_path, small(*nodes)))
    assert [(d.kind, getattr(d.source, "node", "")) for d in found] == [
        (Kind.OP_UNSUPPORTED, "first"),
        (Kind.OP_UNSUPPORTED, "second"),
        (Kind.OP_UNSUPPORTED, "third"),
        (Kind.DATA_DEPENDENT, "fourth"),
        (Kind.DATA_DEPENDENT, "fifth"),
    ]
    assert found[0].message == "my.ops::Bogus is not supported: pimc knows no op of domain my.ops"
    assert "batched_mm" in str(found[4].help)


def test_dims_that_contradict_a_weight(tmp_path: Path) -> None:
    graph = load_model(written(tmp_path, small(node("MatMul", ["w", "x"], ["y"], name="mm"))))
    BindPass().run(graph, Rewriter(graph, "bind"), PassContext(dims={"n": 5}))
    with pytest.raises(CompileError) as error:
        FoldPass().run(graph, Rewriter(graph, "fold"), PassContext())
    (found,) = error.value.diagnostics
    assert found.kind is Kind.TYPE
    assert "4 does not match 5" in found.message
    assert found.window
