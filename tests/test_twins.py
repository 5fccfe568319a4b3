"""The same model through both frontends, or written in another order: the same streams and memory map, to the byte."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pimc.backends.assembly import stream_lines
from pimc.backends.numbering import canonical
from pimc.backends.program import MapEntry, Program
from pimc.driver import Options, compile_model
from pimc.ir.weights import Sharded

MODELS = Path(__file__).parent.parent / "models"
DIMS = (
    {"batch": 1, "seq": 5, "past": 0},
    {"batch": 2, "seq": 5, "past": 0},
    {"batch": 2, "seq": 1, "past": 7},
    {"batch": 1, "seq": 1, "past": 0},
)


def compiled(model: Path, target: str, dims: Mapping[str, int], **options: Any) -> Program:
    return compile_model(model, target, Options(dims=dims, simulate=False, **options)).program


def streams(program: Program) -> list[str]:
    """The text of each stream; comments, which say where in the user's files a command comes from, are left out."""
    program = canonical(program)
    return ["\n".join(line.split(" ; ")[0].rstrip() for line in stream_lines(s, program.ops)) for s in program.streams]


def memory(program: Program) -> list[tuple[object, ...]]:
    """The entries of the memory map, with the bytes that fill them."""
    return [(*_where(entry), _bytes(entry)) for entry in program.memory]


def _where(entry: MapEntry) -> tuple[object, ...]:
    place = (entry.space, entry.dtype, entry.layout, entry.logical, entry.devices)
    return (entry.name, entry.role, *place, entry.shard, entry.alias, entry.extents)


def _bytes(entry: MapEntry) -> bytes | None:
    if entry.contents is None:
        return None
    whole = entry.contents.whole if isinstance(entry.contents, Sharded) else entry.contents
    return np.ascontiguousarray(whole.array()).tobytes()


def assert_same(one: Program, other: Program) -> None:
    assert memory(one) == memory(other)
    assert streams(one) == streams(other)
    assert [(row.op, row.phase, row.nature, row.engine) for row in one.ops] == [
        (row.op, row.phase, row.nature, row.engine) for row in other.ops
    ]


@pytest.mark.parametrize("dims", DIMS, ids=lambda dims: "-".join(map(str, dims.values())))
@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
def test_tiny_llama_and_its_onnx_twin(target: str, dims: Mapping[str, int]) -> None:
    one, other = (compiled(MODELS / f"tiny-llama.{kind}", target, dims) for kind in ("pimc", "onnx"))
    assert_same(one, other)


def test_tiny_llama_and_its_twin_on_two_devices() -> None:
    options: dict[str, Any] = {"parallel": {"tp": 2}, "overrides": ["system.devices=2"]}
    one, other = (compiled(MODELS / f"tiny-llama.{kind}", "npu", DIMS[2], **options) for kind in ("pimc", "onnx"))
    assert_same(one, other)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_and_names_of_nodes_do_not_matter(seed: int, tmp_path: Path) -> None:
    model = onnx.load(MODELS / "tiny-llama.onnx")
    _shuffle(model.graph, random.Random(seed))
    onnx.save(model, tmp_path / "shuffled.onnx")
    assert_same(
        compiled(MODELS / "tiny-llama.onnx", "npu", DIMS[2]), compiled(tmp_path / "shuffled.onnx", "npu", DIMS[2])
    )


def _shuffle(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Another topological order, other names of intermediates, exchanged operands, initializers in another order."""
    interface = {v.name for v in (*graph.input, *graph.output, *graph.initializer)}
    waiting, order = list(graph.node), []
    known = {*interface - {v.name for v in graph.output}, ""}
    while waiting:
        ready = [n for n in waiting if set(n.input) <= known]
        node = rng.choice(ready)
        waiting.remove(node)
        order.append(node)
        known |= set(node.output)
    names = {o: f"v{rng.random()}" for n in order for o in n.output if o not in interface}
    for node in order:
        inputs = [names.get(i, i) for i in node.input]
        if node.op_type in ("Add", "Mul") and rng.random() < 0.5:
            inputs.reverse()
        outputs = [names.get(o, o) for o in node.output]
        node.input[:], node.output[:], node.name = inputs, outputs, ""
    initializers = list(graph.initializer)
    rng.shuffle(initializers)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(order)
    graph.initializer.extend(initializers)


# -- a packed projection ----------------------------------------------------------------------------------------------

HIDDEN, HEADS, SIZE, FFN, VOCAB, LAYERS = 32, 2, 16, 48, 40, 2

GPT = """\
model gpt(batch = 1, seq = 1, past = 0)
weights from "gpt.onnx"
def norm(x) {
    weight gain: f32[32]
    weight bias: f32[32]
    return layer_norm(x, gain, bias, epsilon = 1e-5)
}
def linear(x, rows, columns) {
    weight w: f32[rows, columns]
    weight bias: f32[columns]
    return x @ w + bias
}
def heads(x) { return transpose(reshape(x, [batch, seq, 2, 16]), perm = [0, 2, 1, 3]) }
def self_attention(x, layer) {
    cache past_key "past.{layer}.key" -> "present.{layer}.key": f32[batch, 2, past, 16]
    cache past_value "past.{layer}.value" -> "present.{layer}.value": f32[batch, 2, past, 16]
    let query, key, value = split(linear(x, 32, 96) as qkv, axis = 2, num_outputs = 3)
    let keys = cache_append(past_key, heads(key))
    let values = cache_append(past_value, heads(value))
    let context = attention(heads(query), keys, values, scale = 1 / sqrt(16), causal = true)
    return linear(reshape(transpose(context, perm = [0, 2, 1, 3]), [batch, seq, 32]), 32, 32) as out
}
input tokens "ids": i64[batch, seq]
weight embedding: f32[40, 32]
let x = gather(embedding, tokens)
repeat layer in 0..2 {
    x = x + self_attention(norm(x) as norm1, layer)
    x = x + linear(gelu(linear(norm(x) as norm2, 32, 48) as up, approximate = "tanh"), 48, 32) as down
}
let logits = norm(x) as last @ transpose(embedding, perm = [1, 0])
output logits
"""


class _Gpt:
    """GPT-2 as exporters write it: Gemm over all tokens, one matrix for query, key and value, a causal mask."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}
        self.rng = np.random.default_rng(5)

    def op(self, op_type: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        stem = name or f"t{len(self.nodes)}"
        results = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, results, **attributes))
        return stem

    def store(self, name: str, array: Any) -> str:
        self.stored[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.store(name, self.rng.normal(0, 0.3, shape).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.store(f"i{'_'.join(map(str, values))}", np.array(values, np.int64))

    def norm(self, x: str, name: str) -> str:
        gain, bias = self.weight(f"{name}.gain", HIDDEN), self.weight(f"{name}.bias", HIDDEN)
        return self.op("LayerNormalization", x, gain, bias, epsilon=1e-5)

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        shape = self.op("Shape", x)
        flat = self.op("Reshape", x, self.ints(-1, rows))
        product = self.op("Gemm", flat, self.weight(f"{name}.w", rows, columns), self.weight(f"{name}.bias", columns))
        lead = self.op("Slice", shape, self.ints(0), self.ints(2), self.ints(0))
        return self.op("Reshape", product, self.op("Concat", lead, self.ints(columns), axis=0))

    def heads(self, x: str) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, HEADS, SIZE)), perm=[0, 2, 1, 3])

    def attention(self, x: str, layer: int) -> str:
        packed = self.linear(x, f"layer.{layer}.self_attention.qkv", HIDDEN, 3 * HIDDEN)
        parts = self.op("Split", packed, self.ints(HIDDEN, HIDDEN, HIDDEN), axis=2, outputs=3)
        q, k, v = (self.heads(f"{parts}_{i}") for i in range(3))
        keys = self.op("Concat", f"past.{layer}.key", k, axis=2, name=f"present.{layer}.key")
        values = self.op("Concat", f"past.{layer}.value", v, axis=2, name=f"present.{layer}.value")
        root = self.store("root", np.float32(np.sqrt(SIZE)))
        scores = self.op("Div", self.op("MatMul", q, self.op("Transpose", keys, perm=[0, 1, 3, 2])), root)
        hidden = self.op("Where", self.causal(q, keys), scores, self.store("low", np.float32(-3e38)))
        context = self.op("MatMul", self.op("Softmax", hidden, axis=-1), values)
        joined = self.op("Reshape", self.op("Transpose", context, perm=[0, 2, 1, 3]), self.ints(0, 0, HIDDEN))
        return self.linear(joined, f"layer.{layer}.self_attention.out", HIDDEN, HIDDEN)

    def causal(self, q: str, keys: str) -> str:
        """The last rows of a triangle, bool [1, 1, S, T]."""
        triangle = self.store("triangle", np.tril(np.ones((1, 1, 32, 32), np.bool_)))
        total, new = (self.op("Shape", x, start=2, end=3) for x in (keys, q))
        rows = self.op("Slice", triangle, self.op("Sub", total, new), total, self.ints(2))
        return self.op("Slice", rows, self.ints(0), total, self.ints(3))

    def model(self) -> onnx.ModelProto:
        x = self.op("Gather", self.weight("embedding", VOCAB, HIDDEN), "ids")
        for layer in range(LAYERS):
            x = self.op("Add", self.attention(self.norm(x, f"layer.{layer}.norm1"), layer), x)
            wide = self.linear(self.norm(x, f"layer.{layer}.norm2"), f"layer.{layer}.up", HIDDEN, FFN)
            x = self.op("Add", x, self.linear(self.gelu(wide), f"layer.{layer}.down", FFN, HIDDEN))
        self.op("MatMul", self.norm(x, "last"), self.op("Transpose", "embedding", perm=[1, 0]), name="logits")
        cache: list[str | int | None] = ["batch", HEADS, "past", SIZE]
        float_ = TensorProto.FLOAT
        names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])]
        inputs += [helper.make_tensor_value_info(f"past.{n}", float_, cache) for n in names]
        outputs = [helper.make_tensor_value_info("logits", float_, ["batch", "seq", VOCAB])]
        outputs += [helper.make_tensor_value_info(f"present.{n}", float_, ["batch", HEADS, None, SIZE]) for n in names]
        graph = helper.make_graph(self.nodes, "gpt", inputs, outputs, list(self.stored.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def gelu(self, x: str) -> str:
        cube = self.op("Pow", x, self.store("three", np.float32(3)))
        cube = self.op("Mul", cube, self.store("a", np.float32(0.044715)))
        inner = self.op("Mul", self.op("Add", x, cube), self.store("b", np.float32(np.sqrt(2 / np.pi))))
        curve = self.op("Add", self.op("Tanh", inner), self.store("one", np.float32(1)))
        return self.op("Mul", self.op("Mul", x, self.store("half", np.float32(0.5))), curve)


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of gpt.pimc and gpt.onnx."""
    folder = tmp_path_factory.mktemp("gpt")
    onnx.save(_Gpt().model(), folder / "gpt.onnx")
    (folder / "gpt.pimc").write_text(GPT)
    return folder


@pytest.mark.parametrize(
    ("target", "dims"), [("npu", DIMS[1]), ("npu", DIMS[3]), ("cent", DIMS[2]), ("neupims", DIMS[0])]
)
def test_a_gpt_with_packed_projections_and_its_twin(gpt: Path, target: str, dims: Mapping[str, int]) -> None:
    assert_same(compiled(gpt / "gpt.pimc", target, dims), compiled(gpt / "gpt.onnx", target, dims))


@pytest.mark.parametrize("dims", [DIMS[1], DIMS[2]], ids=["prefill", "decode"])
def test_packed_heads_are_divided_among_devices(gpt: Path, dims: Mapping[str, int]) -> None:
    options = Options(dims=dims, simulate=False, parallel={"tp": 2}, overrides=["system.devices=2"])
    results = [compile_model(gpt / name, "npu", options, values="random") for name in ("gpt.pimc", "gpt.onnx")]
    assert_same(results[0].program, results[1].program)
    for result in results:
        assert result.comparison is not None
        assert result.comparison.ok
        scores = [n.result.type.shape for n in result.graph.order() if n.op.name == "attention_scores"]
        assert [shape[1] for shape in scores] == [HEADS // 2] * LAYERS
