"""The DSL builds the graph that it says: values against ONNX Runtime and numpy, names, dimensions, contents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pimc.frontends.dsl import load_dsl, parse_dsl
from pimc.frontends.onnx_import import import_onnx
from pimc.ir import interp
from pimc.ir.diagnostics import CompileError
from pimc.ir.facts import Placement
from pimc.ir.graph import Graph, Role
from pimc.ir.op import Array
from pimc.ir.text import parse, show
from pimc.ir.types import TensorType
from pimc.ir.verify import verify

MODELS = Path(__file__).parents[2] / "models"
HEAD = "model m(batch = 1, seq = 1, past = 0)\ninput x: f32[batch, seq, 8]\n"


def build(body: str, phase: str | None = None) -> Graph:
    graph = parse_dsl(HEAD + body, "m.pimc", phase=phase)
    verify(graph)
    return graph


def close(actual: Array, expected: Array) -> bool:
    return bool(np.max(np.abs(actual - expected), initial=0) <= 1e-5 * np.max(np.abs(expected), initial=1e-30))


def sample(name: str) -> tuple[dict[str, Array], dict[str, Array]]:
    with np.load(MODELS / f"{name}.npz") as arrays:
        inputs = {k.removeprefix("in:"): arrays[k] for k in arrays if k.startswith("in:")}
        return inputs, {k.removeprefix("out:"): arrays[k] for k in arrays if k.startswith("out:")}


# -- whole models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_tiny_llama_and_its_twin_agree_with_onnxruntime(phase: str) -> None:
    inputs, outputs = sample(f"tiny-llama.{phase}")
    for graph in (load_dsl(MODELS / "tiny-llama.pimc"), import_onnx(MODELS / "tiny-llama.onnx")):
        found = interp.run(graph, inputs)
        assert list(found) == list(outputs)
        assert all(close(found[name], outputs[name]) for name in outputs)


def test_tiny_llama_and_its_twin_have_the_same_interface_and_weights() -> None:
    dsl, twin = load_dsl(MODELS / "tiny-llama.pimc"), import_onnx(MODELS / "tiny-llama.onnx")
    assert [(v.name, v.type) for v in dsl.inputs] == [(v.name, v.type) for v in twin.inputs]
    assert [name for name, _ in dsl.outputs] == [name for name, _ in twin.outputs]
    ours, theirs = ({w.name: w for w in g.weights if w.type.elements >= 64} for g in (dsl, twin))
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        other = theirs[name]
        assert weight.contents is not None
        assert other.contents is not None
        assert (weight.role, weight.contents.describe()) == (other.role, other.contents.describe())


def test_chunked_prefill_equals_one_prefill() -> None:
    graph = load_dsl(MODELS / "tiny-llama.pimc")
    inputs, outputs = sample("tiny-llama.prefill")
    tokens = inputs.pop("input_ids")
    carried: Mapping[str, Array] = inputs
    logits = []
    for part in (tokens[:, :2], tokens[:, 2:]):
        found = interp.run(graph, {"input_ids": part, **carried})
        logits.append(found["logits"])
        carried = {name: found[name.replace("past_key_values", "present")] for name in carried}
    assert close(np.concatenate(logits, 1), outputs["logits"])


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def gpt2_in_numpy(w: Mapping[str, Array], tokens: Array, layers: int = 2, heads: int = 4) -> Array:
    """The logits of tiny-gpt2 for [B, S] tokens without a cache, written down independently."""

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return np.asarray(
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[name + ".gain"] + w[name + ".bias"]
        )

    def linear(x: Array, name: str) -> Array:
        return np.asarray(x @ w[name + ".w"] + w[name + ".bias"])

    batch, seq = tokens.shape
    x = w["token_embedding"][tokens] + w["position_embedding"][:seq]
    for layer in (f"layer.{i}." for i in range(layers)):
        parts = np.split(linear(norm(x, layer + "attention_norm"), layer + "self_attention.qkv"), 3, -1)
        q, k, v = (p.reshape(batch, seq, heads, -1).swapaxes(1, 2) for p in parts)
        scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
        context = softmax(np.where(np.tri(seq, dtype=bool), scores, -np.inf)) @ v
        x = x + linear(context.swapaxes(1, 2).reshape(batch, seq, -1), layer + "self_attention.out")
        up = linear(norm(x, layer + "mlp_norm"), layer + "mlp.up")
        x = x + linear(up / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))), layer + "mlp.down")
    return np.asarray(norm(x, "final_norm") @ w["head"])


def test_tiny_gpt2_agrees_with_numpy() -> None:
    graph = load_dsl(MODELS / "tiny-gpt2.pimc")
    verify(graph)
    weights = {w.name: w.contents.array() for w in graph.weights if w.role is Role.WEIGHT and w.contents}
    tokens = np.random.default_rng(1).integers(0, 256, (2, 7))
    caches = {v.name: np.zeros((2, 4, 0, 16), np.float32) for v in graph.inputs if v.role is Role.CACHE}
    assert close(interp.run(graph, {"input_ids": tokens, **caches})["logits"], gpt2_in_numpy(weights, tokens))


@pytest.mark.parametrize(
    ("name", "layers", "kv_heads", "parameters"),
    [
        ("gpt3-7b", 32, 32, 6.87e9),
        ("gpt3-13b", 40, 40, 13.12e9),
        ("gpt3-30b", 48, 56, 30.35e9),
        ("gpt3-175b", 96, 96, 175.25e9),
        ("llama2-7b", 32, 32, 6.738e9),
        ("llama2-13b", 40, 40, 13.016e9),
        ("llama2-70b", 80, 8, 68.977e9),
    ],
)
def test_published_sizes(name: str, layers: int, kv_heads: int, parameters: float) -> None:
    graph = load_dsl(MODELS / f"{name}.pimc")
    assert graph.name == name
    assert graph.defaults == {"batch": 1, "seq": 1, "past": 0}
    assert sum(w.type.elements for w in graph.weights) == pytest.approx(parameters, rel=1e-3)
    caches = [v for v in graph.inputs if v.role is Role.CACHE]
    assert len(caches) == 2 * layers
    assert {str(v.type) for v in caches} == {f"f16[batch, {kv_heads}, past, 128]"}
    assert [n for n, _ in graph.outputs][:2] == ["logits", "present.0.key"]


def test_models_survive_the_text_form() -> None:
    for name in ("tiny-llama", "llama2-7b"):
        text = show(load_dsl(MODELS / f"{name}.pimc"))
        assert show(parse(text)) == text


# -- the language ---------------------------------------------------------------------------------------------------


def test_per_request_lengths_mask_each_request_alone() -> None:
    graph = build(
        "input lengths: i64[batch]\n"
        "let h = transpose(reshape(x, [batch, seq, 2, 4]), perm = [0, 2, 1, 3])\n"
        "output y = attention(h, h, h, lengths = lengths, scale = 0.5, causal = true)\n"
    )
    x = np.random.default_rng(2).standard_normal((2, 5, 8), np.float32)
    found = interp.run(graph, {"x": x, "lengths": np.array([5, 3])})["y"]
    heads = x.reshape(2, 5, 2, 4).swapaxes(1, 2)
    for request, valid in ((0, 5), (1, 3)):  # the last query sees the valid keys of its own request
        query, keys = heads[request, :, -1:], heads[request, :, :valid]
        expected = softmax(query @ keys.swapaxes(1, 2) * 0.5) @ keys
        assert close(found[request, :, -1:], expected)


def test_dimensions_are_values_once_they_are_bound() -> None:
    graph = parse_dsl(
        "model m(batch, seq = 2, past = 0)\n"
        "let both = range(past, past + seq)\n"  # used before any input has `past`
        "input x: f32[batch, seq, 6]\n"
        "cache k: f32[batch, past, 6]\n"
        "output positions = both\n"
        "output flat = reshape(x, [batch * seq, 6])\n"
        "output turned = reshape(x, [seq, batch, 2, 3])\n"
        "output wide = expand(f32([1]), [seq, batch])\n"
        "output mean = x / f32(2 * seq)\n"
        "output tail = slice(cache_append(k, x, axis = 1), [past], [past + seq], [1])\n"
    )
    verify(graph)
    assert graph.defaults == {"seq": 2, "past": 0}
    assert [str(v.type) for _, v in graph.outputs[:3]] == ["i64[seq]", "f32[batch*seq, 6]", "f32[seq, batch, 2, 3]"]
    x, k = np.arange(36, dtype=np.float32).reshape(3, 2, 6), np.ones((3, 4, 6), np.float32)
    found = interp.run(graph, {"x": x, "k": k})
    assert found["positions"].tolist() == [4, 5]
    assert np.array_equal(found["flat"], x.reshape(6, 6))
    assert np.array_equal(found["turned"], x.reshape(2, 3, 2, 3))
    assert found["wide"].shape == (2, 3)
    assert np.array_equal(found["mean"], x / 4)
    assert np.array_equal(found["tail"], x)
    assert found["k.present"].shape == (3, 6, 6)


def test_numbers_take_the_type_of_the_tensor_beside_them() -> None:
    graph = build(
        "input h: f16[seq]\ninput i: i64[seq]\n"
        "output a = 2 * h - 1\noutput b = i * 2\noutput c = where(i < 1, h, 0)\n"
        "output d = gather(x, [0, 1], axis = 2)\n"
    )
    assert [v.type.dtype.text for _, v in graph.outputs] == ["f16", "i64", "f16", "f32"]
    found = interp.run(
        graph, {"x": np.ones((1, 2, 8), np.float32), "h": np.array([1, 2], np.float16), "i": np.array([0, 3])}
    )
    assert found["a"].tolist() == [1, 3]
    assert found["b"].tolist() == [0, 6]
    assert found["c"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 / 2", 3.5), ("8 / 2", 4), ("7 // 2", 3), ("-2 ** 2", -4), ("2 ** 3 ** 2", 512), ("1 - 2 - 3", -4),
        ("sqrt(16)", 4.0), ("max(3, 4) % 3", 1), ("1e-2 * 100", 1.0), ("(1 + 2) * 3", 9),
    ],
)  # fmt: skip
def test_arithmetic(text: str, value: float) -> None:
    graph = build(f"let a = {text}\noutput y = x + a\n")
    (constant,) = (w for w in graph.weights if w.role is Role.CONSTANT)
    assert constant.contents is not None
    assert constant.contents.array() == np.float32(value)


def test_names_come_from_blocks_functions_and_labels() -> None:
    graph = build(
        "def linear(a, n = 8) {\n    weight w: f32[8, n]\n    let y = a @ w\n    return y\n}\n"
        "let h = x\n"
        "repeat layer in 0..2 {\n"
        "    h = linear(linear(h) as first) as second\n"
        '    weight scale "scale.{layer}": f32[8]\n'
        "    h = h * scale\n"
        "}\n"
        "output h\n"
    )
    assert [w.name for w in graph.weights] == [
        "layer.0.first.w", "layer.0.second.w", "scale.0", "layer.1.first.w", "layer.1.second.w", "scale.1",
    ]  # fmt: skip
    assert graph.value("layer.1.second.y") is not None
    assert [n.source.line for n in graph.order()] == [5, 5, 12, 5, 5, 12]  # type: ignore[union-attr]


def test_phases_and_conditions_choose_statements() -> None:
    body = (
        "let y = x\n"
        "phase decode { y = relu(y) }\n"
        "phase prefill, decode {\n"
        '    when phase == "prefill" and not false { y = exp(y) } else when 1 > 2 { y = sin(y) } else { y = tanh(y) }\n'
        "}\n"
        "output y\n"
    )
    assert [n.op.name for n in build(body).order()] == ["relu", "tanh"]  # the phase named first
    assert [n.op.name for n in build(body, phase="prefill").order()] == ["exp"]
    with pytest.raises(CompileError, match="has no phase 'train'"):
        build(body, phase="train")


def test_engine_annotations_become_placements() -> None:
    graph = build(
        '@engine("pim")\nlet a = relu(x)\n@engine("npu")\nrepeat i in 0..2 {\n    a = a + i\n}\noutput y = exp(a)\n'
    )
    placed = [(n.op.name, n.fact(Placement)) for n in graph.order()]
    assert [(name, p.engine if p else None) for name, p in placed] == [
        ("relu", "pim"), ("add", "npu"), ("add", "npu"), ("exp", None),
    ]  # fmt: skip
    assert placed[0][1] is not None
    assert placed[0][1].reason == "the model asks for it (m.pimc:4:9)"


def test_channels_are_part_of_a_placement_and_survive_as_text() -> None:
    graph = build('@engine("pim", channels = [i for i in 2..5])\nlet a = relu(x)\noutput y = exp(a)\n')
    for each in (graph, parse(show(graph))):
        first, second = (n.fact(Placement) for n in each.order())
        assert first is not None
        assert first.channels == (2, 3, 4)
        assert second is None


def test_results_caches_and_several_outputs() -> None:
    graph = build(
        'cache k "past.k" -> "present.k": f32[batch, 2, past, 2]\n'
        "let a, b = split(x, axis = 2, num_outputs = 2)\n"
        "let keys = cache_append(k, reshape(a, [batch, 2, seq, 2]))\n"
        "a, b = b, a\n"
        "output a\noutput b\n"
    )
    assert [(n, str(v.type)) for n, v in graph.outputs] == [
        ("a", "f32[batch, seq, 4]"), ("b", "f32[batch, seq, 4]"), ("present.k", "f32[batch, 2, past + seq, 2]"),
    ]  # fmt: skip


def test_weights_start_random_filled_or_from_a_file(tmp_path: Path) -> None:
    stored = np.arange(16, dtype=np.float32).reshape(8, 2)
    np.savez(tmp_path / "w.npz", w=stored)
    text = (
        "model m\ninput x: f32[8]\n"
        "weight a: f32[8, 2] = random(0.5)\nweight b: f32[2] = 3\n"
        'weights from "w.npz"\nweight w: f32[8, 2]\noutput y = x @ (a + w) + b\n'
    )
    graph, again = (parse_dsl(text, "m.pimc", folder=tmp_path) for _ in range(2))
    contents = {v.name: v.contents.array() for v in graph.weights if v.contents}
    assert np.array_equal(contents["w"], stored)
    assert contents["b"].tolist() == [3, 3]
    assert 0.1 < contents["a"].std() < 1
    assert [w.contents.describe() for w in graph.weights if w.contents] == [
        w.contents.describe() for w in again.weights if w.contents
    ]
    for wrong, message in (
        ("f32[8, 3]", "declared as f32\\[8, 3\\], but w.npz has f32\\[8, 2\\]"),
        ("f16[8, 2]", "f16"),
    ):
        with pytest.raises(CompileError, match=message):
            parse_dsl(text.replace("weight w: f32[8, 2]", f"weight w: {wrong}"), "m.pimc", folder=tmp_path)
    with pytest.raises(CompileError, match="npz has no weight 'v'"):
        parse_dsl(text.replace("weight w:", "weight v:"), "m.pimc", folder=tmp_path)


def test_includes_are_found_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "f.pimc").write_text('include "g.pimc"\ndef f(a) { return g(a) + size }\n')
    (tmp_path / "parts" / "g.pimc").write_text("def g(a) { return relu(a) }\n")
    (tmp_path / "m.pimc").write_text(
        'model m\nlet size = 2\ninclude "parts/f.pimc"\ninput x: f32[3]\noutput y = f(x)\n'
    )
    graph = load_dsl(tmp_path / "m.pimc")
    assert [n.op.name for n in graph.order()] == ["relu", "add"]
    assert str(graph.order()[0].source) == f"{tmp_path}/parts/g.pimc:1:19"
    (tmp_path / "parts" / "g.pimc").write_text('include "f.pimc"\n')
    with pytest.raises(CompileError, match="includes itself"):
        load_dsl(tmp_path / "m.pimc")


def test_equal_constants_are_one_value_and_names_do_not_collide() -> None:
    graph = build("weight constant_0: f32[8]\noutput y = (x * 2 + 2) * constant_0 - 2.0\n")
    constants = [w for w in graph.weights if w.role is Role.CONSTANT]
    assert len(constants) == 1
    assert graph.value("constant_0") is graph.weights[0]
    later = build("let h = x * 2\nweight constant_0: f32[8]\noutput y = h * constant_0\n")
    assert later.value("constant_0") is later.weights[1]
    assert TensorType(later.weights[1].type.dtype, (8,)) == later.weights[1].type


def test_newlines_inside_brackets_and_after_operators_continue_a_statement() -> None:
    graph = build(
        "let a = max(\n    1,\n    2,\n) +\n    3  # a comment\n\n\nrepeat i in 0..1 { let b = relu(x) }\n"
        "output y = x * a"
    )
    assert [n.op.name for n in graph.order()] == ["relu", "mul"]


def test_the_example_of_the_docs() -> None:
    page = (MODELS.parent / "docs" / "dsl.md").read_text(encoding="utf-8")
    graph = parse_dsl(page.split("```\n")[1])
    assert [w.name for w in graph.weights][:4] == [
        "layer.0.gain", "layer.0.mlp.up", "layer.0.mlp.down", "layer.1.gain",
    ]  # fmt: skip
    assert [(name, str(v.type)) for name, v in graph.outputs] == [("y", "f16[batch, seq, 64]")]
