"""What exporters write, through the whole front of the pipeline: same values, canonical ops, right phases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pimc.frontends.onnx_import import import_onnx
from pimc.ir.facts import Layer, Nature, Phase, Work
from pimc.ir.graph import Graph, Role
from pimc.ir.interp import run
from pimc.passes.bind import dims_from_arrays
from pimc.passes.manager import PassContext, PassManager
from pimc.passes.pipeline import FRONT, default_pipeline
from pimc.passes.tag_phase import graph_phase
from pimc.passes.unrecognised import unrecognised

DATA = Path(__file__).parents[1] / "data" / "onnx"

SAMPLES = {
    "bert-encoder-optimum": (Phase.ENCODE, 0, 0),
    "gpt2-decode-dynamo": (Phase.DECODE, 0, 4),
    "gpt2-decode-dynamo-static": (Phase.DECODE, 0, 4),
    "gpt2-prefill-hf-ortcpu": (Phase.PREFILL, 0, 0),
    "llama-decode-optimum": (Phase.DECODE, 4, 4),
    "llama-prefill-dynamo-fixed": (Phase.PREFILL, 4, 0),
    "llamagqa-decode-dynamo": (Phase.DECODE, 4, 4),
    "llamagqa-decode-dynamo-op23": (Phase.DECODE, 4, 4),
    "llamagqa-decode-hf-ortcpu": (Phase.DECODE, 4, 4),
    "llamagqa-merged-genai.decode": (Phase.DECODE, 4, 4),
    "llamagqa-merged-genai.prefill": (Phase.PREFILL, 4, 4),
    "llamagqa-prefill-ts": (Phase.PREFILL, 4, 0),
}
"""Phase, number of rotary ops and number of caches; all have two layers."""


def compiled(sample: str) -> tuple[Graph, float]:
    """The graph after the front passes, and its largest error against the stored outputs, as a share of their scale."""
    arrays = np.load(DATA / f"{sample}.npz")
    inputs = {n[3:]: arrays[n] for n in arrays.files if n.startswith("in:")}
    outputs = {n[4:]: arrays[n] for n in arrays.files if n.startswith("out:")}
    graph = import_onnx(DATA / f"{sample.removesuffix('.decode').removesuffix('.prefill')}.onnx")
    context = PassContext(dims=dims_from_arrays(graph, inputs))
    PassManager().run(default_pipeline(names=FRONT), graph, context)
    found = run(graph, inputs)
    return graph, max(float(np.abs(found[n] - want).max() / np.abs(want).max()) for n, want in outputs.items())


@pytest.mark.parametrize("sample", SAMPLES)
def test_exported_decoders_become_canonical(sample: str) -> None:
    phase, rotaries, caches = SAMPLES[sample]
    graph, error = compiled(sample)
    assert error <= 1e-6
    count = {op: sum(n.op.name == op for n in graph.order()) for op in ("attention", "rotary")}
    assert count == {"attention": 2, "rotary": rotaries}
    assert sum(n.op.name == ("cache_write" if "static" in sample else "cache_append") for n in graph.order()) == caches
    assert sum(n.op.name in ("rms_norm", "layer_norm") for n in graph.order()) == 5
    assert sum(n.op.name in ("silu", "gelu") for n in graph.order()) == 2
    assert sum(v.role is Role.CACHE for v in graph.inputs) == caches
    assert graph_phase(graph) is phase
    assert not {"softmax", "reduce_mean", "sigmoid", "tanh", "erf", "is_nan", "neg"} & {
        n.op.name for n in graph.order()
    }


OTHERS = {
    "bloom-prefill-ts": (Phase.PREFILL, {"attention": 2, "layer_norm": 6, "gelu": 2}),
    "deepseekv2-decode-hf": (
        Phase.DECODE,
        {"attention": 2, "rotary": 4, "cache_append": 4, "rms_norm": 9, "silu": 3, "expert_matmul": 3},
    ),
    "deepseekv3-decode-dynamo": (
        Phase.DECODE,
        {"attention": 2, "rotary": 4, "cache_append": 4, "rms_norm": 9, "silu": 3, "expert_matmul": 3},
    ),
    "gemma-decode-ts": (Phase.DECODE, {"attention": 2, "rotary": 4, "cache_append": 4, "rms_norm": 5, "gelu": 2}),
    "gptj-decode-ts": (Phase.DECODE, {"attention": 2, "rotary": 4, "cache_append": 4, "layer_norm": 3, "gelu": 2}),
    "mixtral-decode-dynamo": (
        Phase.DECODE,
        {"attention": 2, "rotary": 4, "cache_append": 4, "rms_norm": 5, "silu": 2, "expert_matmul": 6},
    ),
}
"""Phase and canonical ops of architectures that write things differently."""
CANONICAL = frozenset(
    {"attention", "rotary", "cache_append", "rms_norm", "layer_norm", "silu", "gelu", "expert_matmul", "reduce_mean"}
)


@pytest.mark.parametrize("sample", OTHERS)
def test_other_architectures_become_canonical(sample: str) -> None:
    phase, wanted = OTHERS[sample]
    graph, error = compiled(sample)
    assert error <= 5e-6
    assert {k: v for k, v in Counter(n.op.name for n in graph.order()).items() if k in CANONICAL} == wanted
    assert {n.fact(Phase) for n in graph.order()} == {phase}
    assert unrecognised(graph) == []


def test_experts_and_latent_attention_have_their_natures() -> None:
    graph, _ = compiled("deepseekv3-decode-dynamo")
    experts, products = (
        [w for n in graph.order() if n.op.name == op and (w := n.fact(Work))] for op in ("expert_matmul", "matmul")
    )
    assert {(w.nature, w.m, w.count, w.why) for w in experts} == {
        (Nature.GEMV, 1, 4, "each of 2 tokens picks 2 of 4 experts by itself")
    }
    # keys and values of all 13 positions of both requests are projected from what the cache holds of them
    assert sum(w.nature is Nature.GEMM and w.m == 26 for w in products) == 2


@pytest.mark.parametrize("sample", SAMPLES)
def test_both_layers_are_identical(sample: str) -> None:
    graph, _ = compiled(sample)
    layers = [n.fact(Layer) for n in graph.order() if n.op.name == "attention"]
    assert layers == [Layer(0, 0), Layer(0, 1)]


ONE_HEAD = "one query of one head uses its K and V once"


@pytest.mark.parametrize(
    ("sample", "weights", "attention"),
    [
        ("llamagqa-decode-dynamo", ("batch of 2 shares the weight", 2), ("2 query heads share K and V", 2)),
        ("gpt2-decode-dynamo-static", ("one row uses the weight once", 1), (ONE_HEAD, 1)),
        (
            "llamagqa-prefill-ts",
            ("batch of 2 x 12 tokens share the weight", 24),
            ("2 query heads x 12 queries share K and V", 24),
        ),
    ],
)
def test_natures_say_what_is_shared(sample: str, weights: tuple[str, int], attention: tuple[str, int]) -> None:
    graph, _ = compiled(sample)
    works = {n.op.name: w for n in graph.order() if (w := n.fact(Work)) is not None}
    assert (works["matmul"].why, works["matmul"].m) == weights
    assert (works["attention"].why, works["attention"].m) == attention
    assert (works["matmul"].nature is Nature.GEMV) == (weights[1] == 1)
