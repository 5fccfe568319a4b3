"""Writes tiny-llama.onnx, the twin of tiny-llama.pimc, and samples of its values computed by ONNX Runtime.

    python models/make_tiny_llama.py

The graph is what exporters write for a Llama with grouped-query attention: RMS norm, rotary embedding, causal mask and
repetition of key/value heads in standard ops of opset 20, dynamic batch, seq and past, caches joined by Concat. Weights
lie on a grid of 1/64, so that half precision holds them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 2, 64, 4, 2, 16, 96, 256
THETA, EPSILON = 10000.0, 1e-5

Array = NDArray[np.generic]


class Builder:
    """Collects nodes and initializers; every value is called by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.known: set[str] = set()
        self.random = np.random.default_rng(20)

    def op(self, op_type: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        result = name or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=f"node_{result}", **attributes))
        return result

    def store(self, name: str, array: Array) -> str:
        if name not in self.known:
            self.known.add(name)
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.store("ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def scalar(self, name: str, value: float | int, dtype: type[np.generic] = np.float32) -> str:
        return self.store(name, np.array(value, dtype))

    def weight(self, name: str, *shape: int) -> str:
        spread = 1.0 if name == "embedding" else 1.5 / np.sqrt(shape[0])
        return self.store(name, np.round(self.random.normal(0, spread, shape) * 64).astype(np.float32) / np.float32(64))

    def gain(self, name: str) -> str:
        return self.store(
            name, 1 + np.round(self.random.normal(0, 0.2, HIDDEN) * 64).astype(np.float32) / np.float32(64)
        )

    # -- parts of the model ---------------------------------------------------------------------------------------

    def dimension(self, value: str, axis: int) -> str:
        """One dimension as a vector of length 1."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def positions(self) -> tuple[str, str]:
        """The positions of the new tokens [seq], and of all tokens [past + seq]."""
        zero, one = self.scalar("zero", 0, np.int64), self.scalar("one", 1, np.int64)
        past = self.op("Squeeze", self.dimension("past_key_values.0.key", 2))
        seq = self.op("Squeeze", self.dimension("input_ids", 1))
        total = self.op("Add", past, seq)
        return self.op("Range", past, total, one), self.op("Range", zero, total, one)

    def rotary_tables(self, positions: str) -> tuple[str, str]:
        """cos and sin [1, 1, seq, head_dim], each half twice."""
        frequencies = np.array([THETA ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)], np.float32)
        column = self.op("Unsqueeze", self.op("Cast", positions, to=TensorProto.FLOAT), self.ints(0, 2))
        angles = self.op("Mul", column, self.store("inv_freq", frequencies))
        doubled = self.op("Concat", angles, angles, axis=-1)
        cos, sin = (self.op("Unsqueeze", self.op(f, doubled), self.ints(1)) for f in ("Cos", "Sin"))
        return cos, sin

    def causal_mask(self, new: str, all_: str) -> str:
        """0 where a key is visible and -inf elsewhere, [1, 1, seq, past + seq]."""
        visible = self.op(
            "LessOrEqual", self.op("Unsqueeze", all_, self.ints(0)), self.op("Unsqueeze", new, self.ints(1))
        )
        mask = self.op("Where", visible, self.scalar("none", 0.0), self.scalar("minus_inf", -np.inf))
        return self.op("Unsqueeze", mask, self.ints(0, 1))

    def rms_norm(self, x: str, gain: str) -> str:
        square = self.op("Pow", x, self.scalar("two", 2.0))
        mean = self.op("ReduceMean", square, self.ints(-1), keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.scalar("epsilon", EPSILON)))
        return self.op("Mul", gain, self.op("Mul", x, self.op("Reciprocal", root)))

    def split_heads(self, x: str, count: int) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, count, HEAD_DIM)), perm=[0, 2, 1, 3])

    def rotate(self, x: str, cos: str, sin: str) -> str:
        half = HEAD_DIM // 2
        first = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(3), self.ints(1))
        second = self.op("Slice", x, self.ints(half), self.ints(2**63 - 1), self.ints(3), self.ints(1))
        turned = self.op("Concat", self.op("Neg", second), first, axis=-1)
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin))

    def repeat_heads(self, x: str) -> str:
        groups = HEADS // KV_HEADS
        batch, length = self.dimension(x, 0), self.dimension(x, 2)
        wide = self.op("Concat", batch, self.ints(KV_HEADS), self.ints(groups), length, self.ints(HEAD_DIM), axis=0)
        spread = self.op("Expand", self.op("Unsqueeze", x, self.ints(2)), wide)
        return self.op(
            "Reshape", spread, self.op("Concat", batch, self.ints(HEADS), length, self.ints(HEAD_DIM), axis=0)
        )

    def attention(self, x: str, layer: int, tables: tuple[str, str], mask: str) -> str:
        prefix = f"layer.{layer}.self_attention"
        wq, wk, wv, wo = (f"{prefix}.{w}" for w in ("wq", "wk", "wv", "wo"))
        kv = KV_HEADS * HEAD_DIM
        for name, rows, columns in ((wq, HIDDEN, HIDDEN), (wk, HIDDEN, kv), (wv, HIDDEN, kv), (wo, HIDDEN, HIDDEN)):
            self.weight(name, rows, columns)
        q = self.rotate(self.split_heads(self.op("MatMul", x, wq), HEADS), *tables)
        k = self.rotate(self.split_heads(self.op("MatMul", x, wk), KV_HEADS), *tables)
        v = self.split_heads(self.op("MatMul", x, wv), KV_HEADS)
        keys = self.op("Concat", f"past_key_values.{layer}.key", k, axis=2, name=f"present.{layer}.key")
        values = self.op("Concat", f"past_key_values.{layer}.value", v, axis=2, name=f"present.{layer}.value")
        turned = self.op("Transpose", self.repeat_heads(keys), perm=[0, 1, 3, 2])
        scores = self.op("Mul", self.op("MatMul", q, turned), self.scalar("scale", HEAD_DIM**-0.5))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=-1)
        context = self.op("Transpose", self.op("MatMul", weights, self.repeat_heads(values)), perm=[0, 2, 1, 3])
        return self.op("MatMul", self.op("Reshape", context, self.ints(0, 0, HIDDEN)), wo)

    def mlp(self, x: str, layer: int) -> str:
        gate, up, down = (f"layer.{layer}.mlp.w_{w}" for w in ("gate", "up", "down"))
        for name, rows, columns in ((gate, HIDDEN, FFN), (up, HIDDEN, FFN), (down, FFN, HIDDEN)):
            self.weight(name, rows, columns)
        gated = self.op("MatMul", x, gate)
        activated = self.op("Mul", gated, self.op("Sigmoid", gated))
        return self.op("MatMul", self.op("Mul", activated, self.op("MatMul", x, up)), down)

    def decoder(self) -> None:
        self.weight("embedding", VOCAB, HIDDEN)
        new, all_ = self.positions()
        tables = self.rotary_tables(new)
        mask = self.causal_mask(new, all_)
        x = self.op("Gather", "embedding", "input_ids")
        for layer in range(LAYERS):
            attention_norm, mlp_norm = (self.gain(f"layer.{layer}.{n}_norm") for n in ("attention", "mlp"))
            x = self.op("Add", x, self.attention(self.rms_norm(x, attention_norm), layer, tables, mask))
            x = self.op("Add", x, self.mlp(self.rms_norm(x, mlp_norm), layer))
        normed = self.rms_norm(x, self.gain("final_norm"))
        self.op("MatMul", normed, self.weight("head", HIDDEN, VOCAB), name="logits")


def build() -> onnx.ModelProto:
    builder = Builder()
    builder.decoder()
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    inputs = [helper.make_tensor_value_info("input_ids", int_, ["batch", "seq"])]
    outputs = [helper.make_tensor_value_info("logits", float_, ["batch", "seq", VOCAB])]
    for layer in range(LAYERS):
        for part in ("key", "value"):
            inputs.append(
                helper.make_tensor_value_info(
                    f"past_key_values.{layer}.{part}", float_, ["batch", KV_HEADS, "past", HEAD_DIM]
                )
            )
            outputs.append(
                helper.make_tensor_value_info(
                    f"present.{layer}.{part}", float_, ["batch", KV_HEADS, "past + seq", HEAD_DIM]
                )
            )
    graph = helper.make_graph(builder.nodes, "tiny-llama", inputs, outputs, builder.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def samples(model: onnx.ModelProto) -> tuple[dict[str, Array], dict[str, Array]]:
    """A prefill of 2 requests of 5 tokens, and the decode step after it, as arrays `in:<name>` and `out:<name>`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    random = np.random.default_rng(21)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = dict(zip(names, session.run(names, dict(feeds)), strict=True))
        return {f"in:{n}": a for n, a in feeds.items()} | {f"out:{n}": np.asarray(a) for n, a in results.items()}

    caches = [i.name for i in session.get_inputs() if i.name.startswith("past")]
    empty = np.zeros((2, KV_HEADS, 0, HEAD_DIM), np.float32)
    prefill = run({"input_ids": random.integers(0, VOCAB, (2, 5))} | dict.fromkeys(caches, empty))
    carried = {name: prefill[f"out:{name.replace('past_key_values', 'present')}"] for name in caches}
    decode = run({"input_ids": random.integers(0, VOCAB, (2, 1))} | carried)
    return prefill, decode


def main() -> None:
    folder = Path(__file__).parent
    model = build()
    onnx.save(model, folder / "tiny-llama.onnx")
    for name, arrays in zip(("prefill", "decode"), samples(model), strict=True):
        np.savez_compressed(folder / f"tiny-llama.{name}.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
