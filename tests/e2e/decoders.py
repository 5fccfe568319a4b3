"""Decoders of any shape, in the model language, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

TEXT = """\
model decoder(batch = 1, seq = 1, past = 0)
let layers = {layers}
let hidden = {hidden}
let heads = {heads}
let kv = {kv_heads}
let size = {head_size}
let ffn = {ffn}
let vocab = 50
{lengths}
def norm(x) {{
    weight gain: f32[hidden] = random(1)
    weight shift: f32[hidden] = random(0.1)
    return {norm}
}}
def linear(x, rows, columns) {{
    weight w: f32[rows, columns] = random(1 / sqrt(rows))
    weight bias: f32[columns] = random(0.1)
    return {linear}
}}
def split_heads(x, count) {{ return transpose(reshape(x, [batch, seq, count, size]), perm = [0, 2, 1, 3]) }}
def self_attention(x, layer) {{
    cache past_key "past.{{layer}}.key" -> "present.{{layer}}.key": f32[batch, kv, past, size]
    cache past_value "past.{{layer}}.value" -> "present.{{layer}}.value": f32[batch, kv, past, size]
    let q = split_heads(linear(x, hidden, heads * size) as query, heads)
    let k = split_heads(linear(x, hidden, kv * size) as key, kv)
    let v = split_heads(linear(x, hidden, kv * size) as value, kv)
    let keys = cache_append(past_key, {key})
    let values = cache_append(past_value, v)
    let context = attention({query}, keys, values, {attention})
    let joined = reshape(transpose(context, perm = [0, 2, 1, 3]), [batch, seq, heads * size])
    return linear(joined, heads * size, hidden) as out
}}
def mlp(x) {{ return linear({activation}, ffn, hidden) as down }}
input tokens "input_ids": i64[batch, seq]
weight embedding: f32[vocab, hidden] = random(1)
let angles = unsqueeze(f32(range(past, past + seq)), [0, 2]) * f32([100.0 ** (-i / {turned}) for i in 0..{turned}])
let cosines = cos(angles)
let sines = sin(angles)
let x = gather(embedding, tokens)
repeat layer in 0..layers {{
    x = x + self_attention(norm(x) as attention_norm, layer)
    x = x + mlp(norm(x) as mlp_norm)
}}
weight head: f32[hidden, vocab] = random(1 / sqrt(hidden))
output logits = norm(x) as final_norm @ head
"""
NORMS = ("rms_norm(x, gain, epsilon = 1e-5)", "layer_norm(x, gain, shift, epsilon = 1e-5)")
LINEARS = ("x @ w", "x @ w + bias")
ACTIVATIONS = (
    "silu(linear(x, hidden, ffn) as gate) * (linear(x, hidden, ffn) as up)",
    'gelu(linear(x, hidden, ffn) as up, approximate = "tanh")',
    "gelu(linear(x, hidden, ffn) as up)",
    "relu(linear(x, hidden, ffn) as up)",
)


@dataclass(frozen=True)
class Decoder:
    """A decoder, the machine that it is compiled for, and how."""

    target: str = "neupims"
    dims: Mapping[str, int] = field(default_factory=dict)
    layers: int = 2
    hidden: int = 64
    kv_heads: int = 2
    group: int = 2
    """query heads that share a head of keys and values"""
    head_size: int = 16
    ffn: int = 96
    norm: str = NORMS[0]
    linear: str = LINEARS[0]
    activation: str = ACTIVATIONS[0]
    rotary: int = 0
    """pairs of a head that are rotated"""
    interleaved: bool = False
    lengths: bool = False
    attention: tuple[str, ...] = ("causal = true",)
    passes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    parallel: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        turn = f"rotary({{}}, cosines, sines, interleaved = {str(self.interleaved).lower()})" if self.rotary else "{}"
        lengths = ("lengths = lengths",) if self.lengths else ()
        return TEXT.format(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.kv_heads * self.group,
            kv_heads=self.kv_heads,
            head_size=self.head_size,
            ffn=self.ffn,
            lengths="input lengths: i64[batch]" if self.lengths else "",
            norm=self.norm,
            linear=self.linear,
            key=turn.format("k"),
            query=turn.format("q"),
            attention=", ".join((*lengths, "scale = 1 / sqrt(size)", *self.attention)),
            activation=self.activation,
            turned=max(1, self.rotary),
        )

    @property
    def devices(self) -> int:
        return self.parallel.get("tp", 1) * self.parallel.get("pp", 1)


def drawn(seed: int) -> Decoder:
    """A decoder at random: extents that divide nothing, caches of few and many rows, small buffers, few channels."""
    r = random.Random(seed)
    target = r.choice(["npu", "neupims", "newton", "cent"])
    size, layers = r.choice([8, 16, 24, 32, 40, 64, 128]), r.choice([1, 2, 3])
    kv_heads = r.choice([1, 2, 3, 4, 5, 6, 7])
    overrides = [f"dram.channels={r.choice([1, 2, 4, 8])}"] if r.random() < 0.3 else []
    if target != "cent" and r.random() < 0.3:
        overrides.append(f"buffer.bytes={r.choice(['256KiB', '1MiB'])}")
    degrees = {
        "tp": r.choice([n for n in (1, 2, 3, 5) if kv_heads % n == 0]),
        "pp": r.choice([n for n in (1, 2, 3) if layers % n == 0]),
    }
    return Decoder(
        target=target,
        dims=_dims(r),
        layers=layers,
        hidden=r.choice([16, 48, 72, 96, 100, 128, 200, 520]),
        kv_heads=kv_heads,
        group=r.choice([1, 1, 2, 3, 4]),
        head_size=size,
        ffn=r.choice([8, 30, 37, 64, 300]),
        norm=r.choice(NORMS),
        linear=r.choice(LINEARS),
        activation=r.choice(ACTIVATIONS),
        rotary=r.choice([0, size // 2, size // 4]),
        interleaved=r.random() < 0.3,
        lengths=r.random() < 0.25,
        attention=tuple(
            text
            for text, share in (
                ("causal = true", 0.85),
                ("softcap = 20.0", 0.2),
                (f"window = {r.choice([1, 3, 17])}", 0.2),
            )
            if r.random() < share
        ),
        passes=("place.only=pim",) if target in ("neupims", "newton") and r.random() < 0.6 else (),
        overrides=tuple(overrides),
        parallel={name: n for name, n in degrees.items() if n > 1 and r.random() < 0.4},
    )


def _dims(r: random.Random) -> dict[str, int]:
    batch = r.choice([1, 1, 2, 3, 4, 5, 8, 17, 33])
    match r.choice(["decode", "decode", "prefill", "chunk"]):
        case "decode":
            past = r.choice([0, 1, 2, 7, 15, 16, 31, 33, 63, 127, 128, 255, 511, 600])
            return {"batch": batch, "seq": 1, "past": past}
        case "prefill":
            return {"batch": min(batch, 3), "seq": r.choice([2, 3, 15, 16, 17, 33, 64]), "past": 0}
    return {"batch": min(batch, 3), "seq": r.choice([2, 3, 7, 16, 20]), "past": r.choice([1, 5, 16, 40, 130])}
