"""Single nodes of ONNX Runtime's own domain, and of ONNX where its node tests say little, with operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pimc.frontends.onnx_model import OnnxFile
from pimc.ir.op import Array

MICROSOFT = "com.microsoft"
RANDOM = np.random.default_rng(3)
HEADS, KV_HEADS, SIZE = 4, 2, 16


@dataclass(frozen=True)
class Case:
    """One node. Operands named with a leading `w_` are weights, the others inputs; None: left out."""

    name: str
    op: str
    operands: Sequence[tuple[str, Array] | None]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    domain: str = MICROSOFT
    opset: int = 20
    tolerance: float = 2e-4
    known_to_runtime: bool = True
    """ONNX Runtime's CPU provider can execute it"""

    def __str__(self) -> str:
        return self.name

    @property
    def inputs(self) -> dict[str, Array]:
        return {n: np.asarray(a) for n, a in filter(None, self.operands) if not n.startswith("w_")}

    @property
    def file(self) -> OnnxFile:
        given = dict(filter(None, self.operands))
        names = [operand[0] if operand else "" for operand in self.operands]
        node = helper.make_node(self.op, names, list(self.outputs), domain=self.domain, **self.attributes)
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in self.inputs.items()
        ]
        weights = [numpy_helper.from_array(a, n) for n, a in given.items() if n not in self.inputs]
        results = [onnx.ValueInfoProto(name=n) for n in self.outputs if n]
        graph = helper.make_graph([node], "single", infos, results, weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return OnnxFile(self.name, Path(), helper.make_model(graph, opset_imports=opsets, ir_version=10))


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def levels(*shape: int, signed: bool = False) -> Array:
    return RANDOM.integers(0, 256, shape).astype(np.uint8).view(np.int8 if signed else np.uint8)


def scales(*shape: int) -> Array:
    return (np.abs(RANDOM.standard_normal(shape)) / 10 + 0.01).astype(np.float32)


def one(value: float) -> Array:
    return np.asarray(value, np.float32)


def byte(value: int) -> Array:
    return np.asarray(value, np.uint8)


def tables(positions: int, half: int) -> tuple[Array, Array]:
    angles = np.arange(positions)[:, None] / 10 ** (2 * np.arange(half) / half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


COS, SIN = tables(32, SIZE // 2)


def _group_query(name: str, new: int, cached: int, extra: Mapping[str, Array] | None = None, packed: bool = True,
                 **attributes: Any) -> Case:  # fmt: skip
    """`extra`: position_ids, attention_bias, w_head_sink."""
    batch, total = 2, cached + new
    widths = [HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE]
    heads = [floats(batch, new, width) for width in ([sum(widths)] if packed else widths)]
    past = [floats(batch, KV_HEADS, cached, SIZE) for _ in range(2)]
    rotary = bool(attributes.get("do_rotary"))
    operands = [
        *zip(("query", "key", "value"), heads, strict=False), *[None] * (3 - len(heads)),
        ("past_key", past[0]), ("past_value", past[1]),
        ("seqlens_k", np.full(batch, total - 1, np.int32)), ("w_total", np.asarray(total, np.int32)),
        ("w_cos", COS) if rotary else None, ("w_sin", SIN) if rotary else None,
        *((key, (extra or {})[key]) if key in (extra or {}) else None
          for key in ("position_ids", "attention_bias", "w_head_sink")),
    ]  # fmt: skip
    while operands[-1] is None:
        operands.pop()
    attributes |= {"num_heads": HEADS, "kv_num_heads": KV_HEADS}
    return Case(f"gqa-{name}", "GroupQueryAttention", operands, ["y", "present_key", "present_value"], attributes)


GROUP_QUERY = [
    _group_query("decode", 1, 5, do_rotary=1),
    _group_query("prefill", 4, 0, packed=False, do_rotary=1),
    _group_query("position-ids", 1, 5, {"position_ids": np.array([[5], [5]], np.int64)}, do_rotary=1),
    _group_query("bias-of-all-heads", 1, 5, {"attention_bias": floats(1, 1, 1, 6)}),
    _group_query("bias", 1, 5, {"attention_bias": floats(2, HEADS, 1, 6)}),
    _group_query("sink", 1, 5, {"w_head_sink": floats(HEADS)}),
    _group_query("sink-window", 4, 0, {"w_head_sink": floats(HEADS)}, local_window_size=2),
    _group_query("sink-softcap", 1, 5, {"w_head_sink": floats(HEADS)}, softcap=3.0),
    _group_query("smooth-softmax", 1, 5, smooth_softmax=1),
    _group_query("softcap-scale", 1, 6, softcap=5.0, scale=0.5),
    _group_query("window", 1, 9, packed=False, local_window_size=4),
]


def _multi_head(name: str, shapes: Sequence[tuple[int, ...]], *more: tuple[str, Array] | None, runtime: bool = True,
                outputs: Sequence[str] = ("y",), **attributes: Any) -> Case:  # fmt: skip
    operands = [*((n, floats(*s)) for n, s in zip(("query", "key", "value"), shapes, strict=False)), *more]
    attributes["num_heads"] = HEADS
    return Case(f"mha-{name}", "MultiHeadAttention", operands, outputs, attributes, known_to_runtime=runtime)


_Q, _KV, _KV4 = (2, 3, 64), (2, 5, 64), (2, 4, 5, 16)
MULTI_HEAD = [
    _multi_head("plain", [_Q, _KV, _KV]),
    _multi_head("bias", [_Q, _KV, _KV], ("bias", floats(192))),
    _multi_head("flags", [_Q, _KV, _KV], None, ("m", np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32))),
    _multi_head("lengths", [_Q, _KV, _KV], None, ("m", np.array([4, 2], np.int32))),
    _multi_head("attention-bias", [_Q, _KV, _KV], None, None, ("b", floats(2, HEADS, 3, 5)), scale=0.3),
    _multi_head("shared-bias", [_Q, _KV, _KV], None, None, ("b", floats(1, 1, 3, 5))),
    _multi_head("heads-apart", [_Q, _KV4, _KV4]),
    _multi_head("causal", [_Q, _Q, _Q], unidirectional=1),
    _multi_head("past", [_Q, _Q, _Q], None, None, None, ("pk", floats(*_KV4)), ("pv", floats(*_KV4)),
                outputs=("y", "pk2", "pv2")),
    _multi_head("packed", [(2, 3, HEADS, 3, 16)], runtime=False),
    _multi_head("packed-keys", [_Q, (2, 5, HEADS, 2, 16)], runtime=False),
]  # fmt: skip

_POSITIONS = ("p", np.array([[1, 2, 3], [4, 5, 6]], np.int64))


def _rotary(name: str, shape: tuple[int, ...], positions: tuple[str, Array], **attributes: Any) -> Case:
    operands = [("x", floats(*shape)), positions, ("w_cos", COS), ("w_sin", SIN)]
    return Case(f"rotary-{name}", "RotaryEmbedding", operands, ["y"], attributes)


ROTARY = [
    _rotary("rows", (2, 3, 64), _POSITIONS),
    _rotary("interleaved", (2, 3, 64), _POSITIONS, interleaved=1),
    _rotary("first-position", (2, 4, 3, 16), ("p", np.array([2], np.int64))),
    _rotary("part-of-head", (2, 3, 128), _POSITIONS, num_heads=4, rotary_embedding_dim=16),
]


def _norm(name: str, op: str, *shapes: tuple[int, ...], outputs: Sequence[str] = ("y",), **attributes: Any) -> Case:
    names = ("x", "skip", "gamma", "beta", "bias")
    return Case(name, op, [(n, floats(*s)) for n, s in zip(names, shapes, strict=False)], outputs, attributes)


_X, _V = (2, 3, 8), (8,)
_SUM = ("y", "", "", "sum")
NORMS = [
    _norm("skip-layer-norm", "SkipLayerNormalization", _X, _X, _V, _V, _V, outputs=_SUM),
    _norm("skip-layer-norm-plain", "SkipLayerNormalization", _X, _X, _V, epsilon=1e-5),
    _norm("skip-rms-norm", "SkipSimplifiedLayerNormalization", _X, _X, _V, outputs=_SUM, epsilon=1e-5),
    _norm("skip-rms-norm-bias", "SkipSimplifiedLayerNormalization", _X, _X, _V, _V, epsilon=1e-5),
    _norm("skip-rms-norm-shared", "SkipSimplifiedLayerNormalization", _X, (1, 3, 8), _V, epsilon=1e-5),
    Case("rms-norm", "SimplifiedLayerNormalization", [("x", floats(*_X)), ("g", floats(8))], ["y"],
         {"epsilon": 1e-5, "axis": -1}, domain=""),
    Case("layer-norm-f16", "LayerNormalization", [(n, floats(*s).astype(np.float16)) for n, s in
         (("x", (3, 8)), ("s", _V), ("b", _V))], ["y"], {}, domain="", tolerance=2e-3),
]  # fmt: skip

ELEMENTWISE = [
    Case("gelu", "Gelu", [("x", floats(3, 8))], ["y"], {}),
    Case("bias-gelu", "BiasGelu", [("x", floats(3, 8)), ("b", floats(8))], ["y"], {}),
    Case("fast-gelu", "FastGelu", [("x", floats(3, 8))], ["y"], {}),
    Case("fast-gelu-bias", "FastGelu", [("x", floats(3, 8)), ("b", floats(8))], ["y"], {}),
    Case("quick-gelu", "QuickGelu", [("x", floats(3, 8))], ["y"], {}),
    Case("quick-gelu-alpha", "QuickGelu", [("x", floats(3, 8))], ["y"], {"alpha": 1.3}),
]

HALFWAY = 1.0
"""Of levels: a value halfway between two may go either way."""


def _matmul_nbits(bits: int, block: int, zeros: str) -> Case:
    depth, width = 48, 6
    blocks = -(-depth // block)
    operands = [
        ("x", floats(2, 3, depth)), ("w_levels", levels(width, blocks, block * bits // 8)),
        ("w_scales", scales(width * blocks)),
    ]  # fmt: skip
    if zeros:
        packed = zeros == "packed"
        operands.append(("w_zeros", levels(width * ((blocks * bits + 7) // 8)) if packed else floats(width * blocks)))
    attributes = {"K": depth, "N": width, "bits": bits, "block_size": block}
    return Case(f"matmul-nbits-{bits}-{block}-{zeros or 'symmetric'}", "MatMulNBits", operands, ["y"], attributes)


QUANTIZED = [
    _matmul_nbits(4, 16, ""), _matmul_nbits(4, 32, "packed"), _matmul_nbits(8, 16, ""), _matmul_nbits(4, 16, "float"),
    Case("matmul-integer-to-float", "MatMulIntegerToFloat",
         [("a", levels(3, 8)), ("w_b", levels(8, 4, signed=True)), ("sa", one(0.1)), ("sb", scales(4)),
          ("za", byte(120)), ("zb", levels(4, signed=True)), ("bias", floats(4))], ["y"], {}),
    Case("dynamic-quantize-matmul", "DynamicQuantizeMatMul",
         [("a", floats(3, 8)), ("w_b", levels(8, 4, signed=True)), ("w_sb", scales(4)), None, ("bias", floats(4))],
         ["y"], {}),
    Case("quantize", "QuantizeLinear", [("x", floats(3, 8)), ("s", one(0.1)), ("z", byte(128))], ["y"], {},
         tolerance=HALFWAY),
    Case("dequantize", "DequantizeLinear", [("x", levels(3, 8)), ("s", one(0.1)), ("z", byte(128))], ["y"],
         {}),
    Case("quantize-channels", "QuantizeLinear", [("x", floats(3, 8)), ("s", scales(8)), ("z", levels(8))], ["y"],
         {"axis": 1}, domain="", opset=21, tolerance=HALFWAY),
    Case("dequantize-blocks", "DequantizeLinear", [("x", levels(3, 8, signed=True)), ("s", scales(3, 2))], ["y"],
         {"axis": 1, "block_size": 4}, domain="", opset=21),
    Case("dynamic-quantize", "DynamicQuantizeLinear", [("x", floats(3, 8))], ["y", "scale", "zero"], {}, domain="",
         tolerance=HALFWAY),
    Case("matmul-integer-columns", "MatMulInteger",
         [("a", levels(3, 8)), ("w_b", levels(8, 4, signed=True)), ("za", byte(9)), ("zb", levels(4, signed=True))],
         ["y"], {}, domain=""),
    Case("matmul-integer-rows", "MatMulInteger", [("a", levels(3, 8)), ("w_b", levels(8, 4, signed=True)),
         ("za", levels(3))], ["y"], {}, domain="", known_to_runtime=False),
]  # fmt: skip

FUSED = [
    Case(f"fused-matmul-{ta}{tb}", "FusedMatMul",
         [("a", floats(2, 5, 3) if ta else floats(2, 3, 5)), ("b", floats(2, 4, 5) if tb else floats(2, 5, 4))], ["y"],
         {"transA": ta, "transB": tb, "alpha": 0.5})
    for ta in (0, 1) for tb in (0, 1)
] + [Case("fused-matmul-batch", "FusedMatMul", [("a", floats(3, 2, 5)), ("b", floats(2, 5, 4))], ["y"],
          {"transBatchA": 1})]  # fmt: skip


def _einsum(equation: str, *shapes: tuple[int, ...], runtime: bool = True) -> Case:
    operands = [(f"x{i}", floats(*shape)) for i, shape in enumerate(shapes)]
    return Case(equation, "Einsum", operands, ["y"], {"equation": equation}, domain="", known_to_runtime=runtime)


EINSUM = [
    _einsum("ij,jk->ik", (3, 4), (4, 5)),
    _einsum("ij->ji", (3, 4)),
    _einsum("ij->", (3, 4)),
    _einsum("i,j->ij", (3,), (4,)),
    _einsum("abc,abc->ab", (2, 3, 4), (2, 3, 4)),
    _einsum("abcd,cd->ab", (2, 3, 4, 5), (4, 5)),
    _einsum("bij,bjk,bk->bi", (2, 3, 4), (2, 4, 5), (2, 5)),
    _einsum("bhsd,bhtd->bhst", (2, 3, 4, 5), (2, 3, 6, 5)),
    _einsum("bqhd,bkhd->bhqk", (2, 3, 4, 5), (2, 6, 4, 5)),
    _einsum("bhqk,bkhd->bqhd", (2, 4, 3, 6), (2, 6, 4, 5)),
    _einsum("bsd,hde->bhse", (2, 3, 4), (5, 4, 6)),
    _einsum("...d,de->...e", (2, 3, 4), (4, 5)),
    _einsum("...ij,...jk", (2, 3, 4), (4, 5), runtime=False),
    _einsum("iij->ij", (3, 3, 4)),
]

CASES = [*GROUP_QUERY, *MULTI_HEAD, *ROTARY, *NORMS, *ELEMENTWISE, *QUANTIZED, *FUSED, *EINSUM]
