"""Exported models import, bind, fold and become canonical, and keep the values that ONNX Runtime gives."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pimc.frontends import load_model
from pimc.frontends.onnx_import import import_file, import_onnx
from pimc.frontends.onnx_model import OnnxFile
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.interp import run
from pimc.ir.stage import GraphStage
from pimc.ir.text import parse, show
from pimc.ir.verify import verify
from pimc.ir.weights import External, Missing
from pimc.passes.bind import BindPass, dims_from_arrays
from pimc.passes.canonicalize import CanonicalizePass
from pimc.passes.dce import DcePass
from pimc.passes.fold import FoldPass
from pimc.passes.manager import Pass, PassContext

DATA = Path(__file__).parent.parent / "data" / "onnx"
SAMPLES = sorted(p.name.removesuffix(".npz") for p in DATA.glob("*.npz"))
OF_SCALE = 5e-6
"""Largest difference from ONNX Runtime, as a share of the largest output: both sum as suits the processor."""

Arrays = Mapping[str, NDArray[Any]]


def zeros(*shape: int) -> NDArray[Any]:
    return np.zeros(shape, np.float32)


def sample(name: str) -> tuple[Path, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    arrays = np.load(DATA / f"{name}.npz")
    model = DATA / (name.removesuffix(".decode").removesuffix(".prefill") + ".onnx")
    inputs = {k[3:]: arrays[k] for k in arrays if k.startswith("in:")}
    return model, inputs, {k[4:]: arrays[k] for k in arrays if k.startswith("out:")}


def assert_close(outputs: Arrays, expected: Arrays, tolerance: float = OF_SCALE) -> None:
    assert outputs.keys() == expected.keys()
    for name, want in expected.items():
        have = outputs[name]
        assert have.shape == want.shape, name
        assert have.dtype == want.dtype, name
        if want.dtype.kind == "f" and want.size:
            scale = max(float(np.abs(want).max()), 1e-30)
            assert float(np.abs(have.astype(np.float64) - want).max()) <= tolerance * scale, name
        else:
            np.testing.assert_array_equal(have, want, name)


def apply(p: Pass, graph: Graph, dims: Mapping[str, int] | None = None) -> Graph:
    p.run(graph, Rewriter(graph, p.name), PassContext(dims=dims or {}))
    return graph


def canonical(graph: Graph, inputs: Arrays) -> Graph:
    apply(BindPass(), graph, dims_from_arrays(graph, inputs))
    apply(FoldPass(), graph)
    verify(graph, GraphStage.BOUND)
    apply(CanonicalizePass(), graph)
    verify(graph, GraphStage.CANONICAL)
    return graph


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.order())


# -- exported models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_values_survive_every_pass(name: str) -> None:
    path, inputs, expected = sample(name)
    graph = load_model(path)
    verify(graph, GraphStage.IMPORTED)
    if "int4" in name:
        expected = run(graph, inputs)
    assert_close(run(graph, inputs), expected)
    apply(BindPass(), graph, dims_from_arrays(graph, inputs))
    assert_close(run(graph, inputs), expected)
    for p, stage in ((FoldPass(), GraphStage.BOUND), (CanonicalizePass(), GraphStage.CANONICAL), (DcePass(), None)):
        apply(p, graph)
        verify(graph, stage or GraphStage.CANONICAL)
        assert_close(run(graph, inputs), expected)
        assert show(parse(show(graph))) == show(graph)


def test_contrib_attention_becomes_cache_and_attention() -> None:
    path, inputs, _ = sample("llamagqa-merged-genai.decode")
    found = ops(canonical(load_model(path), inputs))
    assert {name: found[name] for name in ("attention", "cache_append", "rotary", "rms_norm", "matmul")} == {
        "attention": 2,
        "cache_append": 4,
        "rotary": 4,
        "rms_norm": 5,
        "matmul": 15,
    }
    assert not set(found) & {"split", "squeeze", "unsqueeze", "gemm", "shape", "range", "identity"}


def test_folding_leaves_no_shape_arithmetic() -> None:
    path, inputs, _ = sample("llamagqa-prefill-ts")
    graph = load_model(path)
    before = len(graph)
    apply(BindPass(), graph, dims_from_arrays(graph, inputs))
    apply(FoldPass(), graph)
    assert len(graph) < before / 2
    assert not set(ops(graph)) & {"shape", "range", "constant_of_shape", "greater", "min", "max"}


def test_weights_stay_in_their_file() -> None:
    graph = import_onnx(DATA / "llamagqa-decode-dynamo.onnx")
    external = [w for w in graph.weights if isinstance(w.contents, External)]
    assert len(external) >= 14
    first = external[0].contents
    assert first is not None
    assert isinstance(first.array(), np.memmap)


def test_weights_behind_two_gigabytes(tmp_path: Path) -> None:
    offset = 2**31 + 4096
    with (tmp_path / "big.bin").open("wb") as file:
        file.seek(offset)  # the rest is a hole, which takes no space
        file.write(np.arange(2048, dtype=np.float32).tobytes())
    onnx_file = model_of([helper.make_node("Identity", ["w"], ["y"])], [], ["y"], weights={"w": zeros(2048)})
    weight = onnx_file.proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "big.bin", "offset": offset, "length": 8192}.items():
        weight.external_data.add(key=key, value=str(value))
    graph = import_file(OnnxFile("big.onnx", tmp_path, onnx_file.proto))
    assert_close(run(graph, {}), {"y": np.arange(2048, dtype=np.float32)})


def test_shapes_only_needs_no_weights(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((DATA / "llamagqa-merged-genai.onnx").read_bytes())
    with pytest.raises(CompileError) as error:
        import_onnx(model)
    assert [d.kind for d in error.value.diagnostics] == [Kind.WEIGHT_MISSING] * 2
    graph = import_onnx(model, shapes_only=True)
    assert any(isinstance(w.contents, Missing) for w in graph.weights)
    _, inputs, _ = sample("llamagqa-merged-genai.prefill")
    assert ops(canonical(graph, inputs))["attention"] == 2


def test_head_size_of_caches_is_known() -> None:
    assert load_model(DATA / "llamagqa-merged-genai.onnx").defaults == {"kv_cache_dim": 16}


# -- ops, one by one --------------------------------------------------------------------------------------------------


def tensor(name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    *,
    opset: int = 18,
    weights: Mapping[str, Any] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
) -> OnnxFile:
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()]
    infos = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "test", inputs, infos, initializers)
    domains = {"": opset, "com.microsoft": 1, "local": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10)
    return OnnxFile("test.onnx", Path(), model)


X = np.arange(24, dtype=np.float32).reshape(2, 3, 1, 4) - 11


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("opset", "node", "expected"),
    [
        (11, helper.make_node("Squeeze", ["x"], ["y"], axes=[2]), X.squeeze(2)),
        (11, helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0, -1]), X[None, ..., None]),
        (11, helper.make_node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0), X.sum(1)),
        (13, helper.make_node("ReduceMean", ["x"], ["y"], axes=[-1]), X.mean(-1, keepdims=True)),
        (13, helper.make_node("ReduceMax", ["x"], ["y"]), X.max(keepdims=True)),
        (9, helper.make_node("Slice", ["x"], ["y"], starts=[1, 0], ends=[3, -1], axes=[1, 3]), X[:, 1:3, :, :-1]),
        (12, helper.make_node("Softmax", ["x"], ["y"], axis=2), softmax(X.reshape(6, 4)).reshape(X.shape)),
        (9, helper.make_node("Softmax", ["x"], ["y"]), softmax(X.reshape(2, 12)).reshape(X.shape)),
        (12, helper.make_node("LogSoftmax", ["x"], ["y"]), np.log(softmax(X.reshape(2, 12))).reshape(X.shape)),
        (7, helper.make_node("Clip", ["x"], ["y"], min=-2.0, max=3.0), X.clip(-2, 3)),
        (10, helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 0, 0, 0, 0, 2]),
         np.pad(X, ((0, 0), (0, 0), (1, 0), (0, 2)))),
        (10, helper.make_node("Dropout", ["x"], ["y"], ratio=0.5), X),
        (13, helper.make_node("Dropout", ["x"], ["y", ""]), X),
        (11, helper.make_node("Split", ["x"], ["y", "z"], axis=3, split=[1, 3]), X[..., :1]),
        (13, helper.make_node("Split", ["x"], ["y", "z"], axis=3), X[..., :2]),
        (18, helper.make_node("Split", ["x"], ["y", "z", "u"], axis=3, num_outputs=3), X[..., :2]),
        (18, helper.make_node("Flatten", ["x"], ["y"], axis=2), X.reshape(6, 4)),
        (18, helper.make_node("Transpose", ["x"], ["y"]), X.transpose()),
        (18, helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32), X.astype(np.int32)),
        (18, helper.make_node("CastLike", ["x", "like"], ["y"]), X.astype(np.int64)),
        (18, helper.make_node("MeanVarianceNormalization", ["x"], ["y"]), None),
        (14, helper.make_node("HardSwish", ["x"], ["y"]), X * np.clip(X / 6 + 0.5, 0, 1)),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)  # fmt: skip
def test_older_forms(opset: int, node: onnx.NodeProto, expected: NDArray[Any] | None) -> None:
    weights = {"like": np.zeros(1, np.int64)} if "like" in node.input else {}
    graph = import_file(model_of([node], [tensor("x", list(X.shape))], ["y"], opset=opset, weights=weights))
    mean, deviation = X.mean((0, 2, 3), keepdims=True), X.std((0, 2, 3), keepdims=True)
    y = (X - mean) / deviation if expected is None else expected
    inputs = {"x": X}
    assert_close(run(graph, inputs), {"y": y})
    assert_close(run(canonical(graph, inputs), inputs), {"y": y})


def test_constants_of_every_kind() -> None:
    kinds: dict[str, Any] = {
        "value_int": 3,
        "value_ints": [1, 2],
        "value_float": 0.5,
        "value_floats": [1.0, 2.0],
        "value": numpy_helper.from_array(np.array(7, np.int64)),
    }
    nodes = [helper.make_node("Constant", [], [name], **{name: value}) for name, value in kinds.items()]
    nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds]
    found = run(import_file(model_of(nodes, [], [f"{name}_out" for name in kinds])), {})
    assert {name: array.shape for name, array in found.items()} == {
        "value_int_out": (),
        "value_ints_out": (2,),
        "value_float_out": (),
        "value_floats_out": (2,),
        "value_out": (),
    }


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("local", "NegSquare", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    node = helper.make_node("NegSquare", ["x"], ["y"], domain="local")
    graph = import_file(model_of([node], [tensor("x", [2])], ["y"], functions=[function]))
    assert [n.op.name for n in graph.order()] == ["mul", "neg"]


def test_nodes_may_come_in_any_order() -> None:
    nodes = [helper.make_node("Neg", ["t"], ["y"]), helper.make_node("Abs", ["x"], ["t"])]
    graph = import_file(model_of(nodes, [tensor("x", ["a b", "?"])], ["y"]))
    assert [n.op.name for n in graph.order()] == ["abs", "neg"]
    assert str(graph.inputs[0].type) == "f32[a_b, dim]"


def test_nonzero_of_what_shapes_decide() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.int64))),
        helper.make_node("NonZero", ["ones"], ["y"]),
    ]
    graph = import_file(model_of(nodes, [tensor("x", ["n"])], ["y"]))
    inputs = {"x": np.zeros(3, np.float32)}
    assert_close(run(canonical(graph, inputs), inputs), {"y": np.array([[0, 1, 2]])})


@pytest.fixture(scope="module")
def node_tests() -> list[Any]:
    """ONNX's own tests of single ops; they are generated, with warnings of numpy."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


@pytest.mark.parametrize("op_type", ["Attention", "RotaryEmbedding", "RMSNormalization", "GatherND", "Slice", "Where"])
def test_node_tests_of_onnx(op_type: str, node_tests: list[Any]) -> None:
    """Imported and canonical graphs agree with ONNX's test of each op (bfloat16 and extra outputs aside)."""
    checked = 0
    for case in node_tests:
        if case.model is None or [n.op_type for n in case.model.graph.node] != [op_type]:
            continue
        if "bf16" in case.name or "qk_matmul" in case.name or len(case.data_sets) != 1:
            continue
        graph = import_file(_with_known_integers(case))
        given = dict(zip([i.name for i in case.model.graph.input], case.data_sets[0][0], strict=False))
        inputs = {v.name: np.asarray(given[v.name]) for v in graph.inputs}
        expected = dict(zip([o.name for o in case.model.graph.output], case.data_sets[0][1], strict=True))
        for found in (run(graph, inputs), run(apply_all(graph, inputs), inputs)):
            for name, want in expected.items():
                np.testing.assert_allclose(found[name], want, rtol=1e-3, atol=1e-4, err_msg=case.name)
        checked += 1
    assert checked >= 2


def apply_all(graph: Graph, inputs: Arrays) -> Graph:
    apply(BindPass(), graph, dims_from_arrays(graph, inputs))
    return apply(CanonicalizePass(), apply(FoldPass(), graph))


def _with_known_integers(case: Any) -> OnnxFile:
    """The model with its i64 inputs (starts, axes, ...) as initializers, since shapes depend on them."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [i.name for i in case.model.graph.input]
    arrays = {n: np.asarray(a) for n, a in zip(names, case.data_sets[0][0], strict=False) if n}
    steering = {n for n in names[1:] if case.model.graph.node[0].op_type == "Slice" and arrays[n].dtype == np.int64}
    model.graph.initializer.extend(numpy_helper.from_array(arrays[n], n) for n in sorted(steering))
    kept = [i for i in model.graph.input if i.name not in steering]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return OnnxFile(case.name, Path(), model)


# -- GroupQueryAttention ----------------------------------------------------------------------------------------------


def group_query_attention(
    batch: int, new: int, cached: int, *, capacity: int | None = None, packed: bool = True, **attributes: Any
) -> tuple[OnnxFile, dict[str, NDArray[Any]]]:
    heads, kv_heads, size = 4, 2, 16
    random = np.random.default_rng(7)

    def floats(*shape: int) -> NDArray[Any]:
        return random.standard_normal(shape).astype(np.float32)

    widths = [(heads + 2 * kv_heads) * size] if packed else [heads * size, kv_heads * size, kv_heads * size]
    past = capacity or cached
    inputs = {name: floats(batch, new, width) for name, width in zip("qkv", widths, strict=False)}
    inputs |= {name: floats(batch, kv_heads, past, size) for name in ("past_k", "past_v")}
    for name in ("past_k", "past_v"):
        inputs[name][:, :, cached:] = 0
    inputs["lengths"] = np.full(batch, cached + new - 1, np.int32)
    names = ["q", "" if packed else "k", "" if packed else "v", "past_k", "past_v", "lengths", "total"]
    weights: dict[str, Any] = {"total": np.array(cached + new, np.int32)}
    if attributes.get("do_rotary"):
        angles = np.arange(32)[:, None] / 10 ** np.arange(size // 2)
        weights |= {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
        names += ["cos", "sin"]
    node = helper.make_node(
        "GroupQueryAttention", names, ["y", "present_k", "present_v"],
        domain="com.microsoft", num_heads=heads, kv_num_heads=kv_heads, **attributes,
    )  # fmt: skip
    infos = [tensor(k, list(a.shape), helper.np_dtype_to_tensor_dtype(a.dtype)) for k, a in inputs.items()]
    return model_of([node], infos, ["y", "present_k", "present_v"], weights=weights), inputs


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 1, 5), {"do_rotary": 1}),
        ((2, 1, 5), {"do_rotary": 1, "rotary_interleaved": 1}),
        ((2, 6, 0), {"do_rotary": 1, "packed": False}),
        ((1, 3, 4), {"scale": 0.5, "softcap": 5.0}),
        ((2, 1, 9), {"local_window_size": 4, "packed": False}),
        ((2, 1, 5), {"do_rotary": 1, "capacity": 8}),
        ((1, 4, 0), {"do_rotary": 1, "capacity": 8}),
    ],
)
def test_group_query_attention_equals_onnxruntime(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    file, inputs = group_query_attention(*shape, **options)
    for info in file.proto.graph.output:
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    session = runtime.InferenceSession(file.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = ["y", "present_k", "present_v"]
    expected = dict(zip(names, session.run(names, inputs), strict=True))
    graph = import_file(file)
    assert_close(run(graph, inputs), expected)
    assert_close(run(canonical(graph, inputs), inputs), expected)


# -- canonical forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("%y = identity(%x)", ""),
        ("%y = cast(%x) {to=\"f32\"}", ""),
        ("%t = cast(%x) {to=\"f64\"}\n%y = cast(%t) {to=\"f32\"}", ""),
        ("constant %c: f32[1] = [0]\n%y = add(%c, %x)", ""),
        ("constant %c: f32[3] = [0, 0, 0]\n%y = add(%c, %x)", "add"),
        ("constant %c: f32[3] = [1, 1, 1]\n%y = mul(%c, %x)", "mul"),
        ("constant %c: f32[] = 1\n%y = div(%x, %c)", ""),
        ("constant %c: f32[] = 2\n%y = pow(%x, %c)", "mul"),
        ("constant %c: f32[] = 0.5\n%y = pow(%x, %c)", "sqrt"),
        ("constant %c: i64[1] = [0]\n%y = unsqueeze(%x, %c)", "reshape"),
        ("constant %a: i64[2] = [3, 2]\nconstant %b: i64[2] = [2, 3]\n%t = reshape(%x, %a)\n%y = reshape(%t, %b)", ""),
        ("%t = transpose(%x) {perm=[1, 0]}\n%y = transpose(%t) {perm=[1, 0]}", ""),
        ("constant %c: i64[2] = [1, 1]\n%y = expand(%x, %c)", ""),
        ("%y = concat(%x) {axis=0}", ""),
        ("%y, %z = split(%x) {axis=1, num_outputs=2}", "slice"),
        ("constant %a: i64[1] = [0]\nconstant %b: i64[1] = [9]\n%y = slice(%x, %a, %b)", ""),
        ("constant %c: i64[2] = [1, 2]\n%y = gather(%x, %c) {axis=1}", "slice"),
        ("constant %c: i64[2] = [2, 0]\n%y = gather(%x, %c) {axis=1}", "gather"),
        ("%y = gemm(%x, %x) {transB=1}", "matmul transpose"),
        ("%y = gemm(%x, %x, %x) {transA=1, alpha=0.5}", None),
        ("%y = swish(%x)", "silu"),
        ("%y = sum(%x, %x, %x)", "add add"),
        ("constant %c: i64[4, 2] = [0, 0, 0, 1, 1, 2, 1, 0]\n%y = gather_nd(%x, %c)", "gather_nd"),
        ("constant %c: i64[2, 2, 1] = [0, 1, 0, 1]\n%y = gather_nd(%x, %c)", "expand reshape"),
    ],
)  # fmt: skip
def test_canonical_form(body: str, expected: str | None) -> None:
    if expected is None:
        body, expected = body.replace(", %x) {", ") {"), "matmul mul transpose"
    text = f'graph g(%x: f32[2, 3]) {{\n{body}\n%out = abs(%y)\nreturn "out" = %out\n}}'
    graph = parse(text)
    inputs = {"x": np.abs(np.random.default_rng(3).standard_normal((2, 3))).astype(np.float32)}
    before = run(graph, inputs)
    verify(apply(CanonicalizePass(), graph), GraphStage.CANONICAL)
    assert_close(run(graph, inputs), before)
    found = sorted(node.op.name for node in graph.order())
    found.remove("abs")
    assert " ".join(found) == expected
    version = graph.version
    apply(CanonicalizePass(), graph)
    assert graph.version == version


def test_equal_nodes_become_one() -> None:
    graph = parse('graph g(%x: f32[2]) {\n%a = cos(%x)\n%b = cos(%x)\n%y = mul(%a, %b)\nreturn "y" = %y\n}')
    assert ops(apply(DcePass(), graph)) == {"cos": 1, "mul": 1}


# -- dimensions -------------------------------------------------------------------------------------------------------

LINEAR = 'graph g(%a: f32[batch, past], %b: f32[batch, past + seq]) {\n%y = abs(%b)\nreturn "y" = %y\n}'


def test_dims_are_solved_from_arrays() -> None:
    assert dims_from_arrays(parse(LINEAR), {"a": zeros(2, 5), "b": zeros(2, 8)}) == {"batch": 2, "past": 5, "seq": 3}
    assert dims_from_arrays(parse(LINEAR), {"a": zeros(2, 5)}) == {"batch": 2, "past": 5}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": zeros(2, 5), "b": zeros(3, 8)}, "dimension 0 of 'b' is 3, but batch is 2 by the other arrays"),
        ({"a": zeros(2, 5, 1)}, "input 'a' is f32[batch, past], but the given array has shape [2, 5, 1]"),
        (
            {"a": zeros(2, 5), "b": zeros(2, 4)},
            "dimension 1 of 'b' is 4, but past + seq is seq + 5 by the other arrays",
        ),
        ({"aa": zeros(2, 5)}, "the model has no input 'aa'"),
        ({"a": np.zeros((2, 5), np.int64)}, "input 'a' is f32, but the given array is i64"),
    ],
)
def test_arrays_that_do_not_fit(arrays: Arrays, message: str) -> None:
    with pytest.raises(CompileError) as error:
        dims_from_arrays(parse(LINEAR), arrays)
    assert [(d.kind, d.message) for d in error.value.diagnostics] == [(Kind.INPUT_BAD, message)]


@pytest.mark.parametrize(
    ("dims", "kind", "message"),
    [
        ({"batch": 1}, Kind.DIM_UNBOUND, "dimensions without a value: past, seq"),
        ({"batch": 1, "past": 2, "seq": 1, "sek": 2}, Kind.DIM_BAD, "the model has no dimension 'sek'"),
        ({"batch": -1, "past": 2, "seq": 1}, Kind.DIM_BAD, "dimension 'batch' cannot be -1"),
        ({"batch": 10**12, "past": 2, "seq": 1}, Kind.DIM_BAD, "dimension 'batch' cannot be 1000000000000"),
    ],
)
def test_dims_that_cannot_be_bound(dims: dict[str, int], kind: Kind, message: str) -> None:
    with pytest.raises(CompileError) as error:
        apply(BindPass(), parse(LINEAR), dims)
    assert [(d.kind, d.message) for d in error.value.diagnostics] == [(kind, message)]
    assert error.value.diagnostics[0].help


def test_defaults_hold_unless_others_are_given() -> None:
    graph = parse(LINEAR)
    graph.defaults = {"batch": 1, "past": 0, "seq": 4}
    apply(BindPass(), graph, {"seq": 2})
    assert [v.type.shape for v in graph.inputs] == [(1, 0), (1, 2)]


def test_shapes_that_depend_on_data_are_refused() -> None:
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    file = model_of(nodes, [tensor("x", ["n"]), tensor("shape", [2], TensorProto.INT64)], ["y"])
    graph = apply(BindPass(), import_file(file), {"n": 3})
    with pytest.raises(CompileError) as error:
        apply(FoldPass(), graph)
    (found,) = error.value.diagnostics
    assert found.kind is Kind.DATA_DEPENDENT
    assert "'y' (expand)" in found.message
