"""Type rules on symbolic dimensions, what they reject, and the meanings of the canonical composite ops."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from pimc.ir.op import REGISTRY, Array, Attribute, OpClass, TypeRuleError, UnknownContents, lookup
from pimc.ir.types import DType, TensorType, parse_type

RNG = np.random.default_rng(11)


def f32(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def typed(x: Array | None) -> TensorType | None:
    return None if x is None else TensorType(DType.of(x), x.shape, x)


# -- symbolic dimensions ---------------------------------------------------------------------------------------------


def inferred(name: str, operands: Sequence[str | list[int] | None], attributes: Mapping[str, Attribute]) -> str:
    """Result types for operand types in text; a list is an i64 operand with known contents."""
    types = [
        None if o is None else parse_type(o) if isinstance(o, str) else typed(np.array(o, np.int64)) for o in operands
    ]
    return "; ".join(str(t) for t in lookup(name).infer(types, attributes))


@pytest.mark.parametrize(
    ("result", "arguments"),
    [
        ("f32[n, 3]", ("add", "f32[n, 1]", "f32[3]")),
        ("f32[n, 3]", ("add", "f32[n, m]", "f32[1, 3]")),
        ("bool[n]", ("less", "i64[n]", "i64[]")),
        ("f32[b, s, 4, 16]", ("reshape", "f32[b, s, 64]", [0, 0, 4, 16])),
        ("f32[b, s, 64]", ("reshape", "f32[b, s, 4, 16]", [0, 0, -1])),
        ("f32[b*s, 64]", ("reshape", "f32[b, s, 64]", [-1, 64])),
        ("f32[4, s, 16]", ("reshape", "f32[s, 64]", [4, -1, 16])),
        ("f32[b, 2*s + 2]", ("reshape", "f32[b, 2, s + 1]", [0, -1])),
        ("f32[n, 4]", ("slice", "f32[n, 9]", [5], [99], [1])),
        ("f32[n - 1]", ("slice", "f32[n]", [0], [-1])),
        ("f32[n - 2]", ("slice", "f32[n]", [2], [2**62])),
        ("f32[3]", ("slice", "f32[n]", [-3], [2**62])),
        ("f32[n]", ("slice", "f32[2*n]", [0], [2**62], [0], [2])),
        ("f32[n]", ("slice", "f32[n]", [-1], [-(2**62)], [0], [-1])),
        ("f32[b, n]", ("gather", "f32[v, n]", "i64[b]")),
        ("f32[b, 1, n]", ("unsqueeze", "f32[b, n]", [1])),
        ("f32[b, n]", ("squeeze", "f32[b, 1, n]", [1])),
        ("f32[b, 4, n]", ("expand", "f32[b, 1, n]", [1, 4, 1])),
        ("f32[6*n]", ("tile", "f32[2*n]", [3])),
        ("f32[b, n, v]", ("matmul", "f32[b, n, h]", "f32[h, v]")),
        ("f32[b*n, 4]", ("flatten", "f32[b, n, 4]", ), ),
        ("i64[2]", ("shape", "f32[b, n]")),
        ("f32[b, 2, n + p, 8]", ("cache_append", "f32[b, 2, p, 8]", "f32[b, 2, n, 8]")),
        ("f32[b, 2, c, 8]", ("cache_write", "f32[b, 2, c, 8]", "f32[b, 2, n, 8]", "i64[n]")),
        ("f32[t, 2, n]", ("expert_matmul", "f32[t, 1, k]", "f32[e, n, k]", "i64[t, 2]")),
        ("f32[b, 4, s, 6]", ("attention", "f32[b, 4, s, 8]", "f32[b, 2, t, 8]", "f32[b, 2, t, 6]", "f32[1, 1, s, t]")),
        ("f32[b, 4, s, t]", ("attention_scores", "f32[b, 4, s, 8]", "f32[b, 2, t, 8]")),
    ],
)  # fmt: skip
def test_symbolic_dimensions_flow(result: str, arguments: tuple[Any, ...]) -> None:
    attributes: dict[str, Attribute] = {"scale": 1.0} if arguments[0] in ("attention", "attention_scores") else {}
    if arguments[0] == "flatten":
        attributes = {"axis": 2}
    assert inferred(arguments[0], arguments[1:], attributes) == result


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "f32[n]", "f32[m]"),
        ("reshape", "f32[n, 3]", [2, -1]),
        ("reshape", "f32[4]", "i64[1]"),
        ("slice", "f32[n]", [0], [5]),
        ("matmul", "f32[2, n]", "f32[3, 2]"),
        ("squeeze", "f32[n]"),
        ("range", [0], "i64[1]", [1]),
    ],
)
def test_what_is_not_known_yet_is_no_mistake(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UnknownContents):
        inferred(arguments[0], arguments[1:], {})


@pytest.mark.parametrize(
    ("message", "arguments", "attributes"),
    [
        ("dimensions 2 and 3 do not broadcast", ("add", "f32[2]", "f32[3]"), {}),
        ("different element types: f32 and i64", ("add", "f32[2]", "i64[2]"), {}),
        ("cannot reshape [2, 3] to [4, -1]: 6 is not divisible by 4", ("reshape", "f32[2, 3]", [4, -1]), {}),
        ("more than one -1", ("reshape", "f32[2, 3]", [-1, -1]), {}),
        ("cannot reshape [n, 3] to [0, 4]", ("reshape", "f32[n, 3]", [0, 4]), {}),
        ("axis 2 is out of range for rank 2", ("softmax", "f32[2, 3]"), {"axis": 2}),
        ("operand must be of a float type, but is i64[2]", ("softmax", "i64[2]"), {}),
        ("perm [0, 0] is not a permutation", ("transpose", "f32[2, 3]"), {"perm": (0, 0)}),
        ("dimension 0 of operand 1: 2 does not match 4", ("concat", "f32[2, 3]", "f32[4, 3]"), {"axis": 1}),
        ("the contracted dimensions: n + 1 does not match n", ("matmul", "f32[2, n + 1]", "f32[n, 2]"), {}),
        ("3 query heads do not share 2", ("attention_scores", "f32[1, 3, 1, 8]", "f32[1, 2, 5, 8]"), {"scale": 1.0}),
        ("unknown element type 'f31'", ("cast", "f32[2]"), {"to": "f31"}),
        ("no attribute 'axes'; did you mean 'axis'?", ("softmax", "f32[2]"), {"axes": 1}),
        ("lacks attribute to", ("cast", "f32[2]"), {}),
        ("takes 2 operands, not 1", ("add", "f32[2]"), {}),
        ("k is 4, but dimension -1 has only 3", ("top_k", "f32[3]", [4]), {}),
        ("negative dimension", ("constant_of_shape", [2, -1]), {}),
        ("out of range", ("gather", [2, 1], [5]), {}),
        ("experts a token of x and ids: 3", ("expert_matmul", "f32[4, 3, 8]", "f32[5, 6, 8]", "i64[4, 2]"), {}),
        ("the columns of x and the weight: 8 does", ("expert_matmul", "f32[4, 1, 8]", "f32[5, 8, 6]", "i64[4, 2]"), {}),
        ("number of positions: 2 does", ("cache_write", "f32[1, 2, 9, 8]", "f32[1, 2, 3, 8]", "i64[2]"), {}),
        ("the parts: 6 does not match 5", ("split", "f32[5]", [2, 4]), {}),
    ],
)
def test_misfits_are_rejected(message: str, arguments: tuple[Any, ...], attributes: dict[str, Attribute]) -> None:
    with pytest.raises(TypeRuleError, match=re.escape(message)):
        inferred(arguments[0], arguments[1:], attributes)


def test_every_op_is_documented_and_has_a_meaning() -> None:
    lookup("add")
    for definition in REGISTRY.values():
        assert definition.doc, definition
        assert (definition.meaning is None) == (definition.cls is OpClass.COLLECTIVE), definition


# -- canonical composite ops -----------------------------------------------------------------------------------------


def evaluate(name: str, *arrays: Array | None, **attributes: Attribute) -> Array:
    types = lookup(name).infer([typed(a) for a in arrays], attributes)
    (result,) = lookup(name).evaluate(arrays, attributes)
    assert (DType.of(result), result.shape) == (types[0].dtype, types[0].shape)
    return result


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("masked", ["none", "float", "bool"])
def test_attention_is_onnx_attention_and_its_own_parts(causal: bool, window: int, softcap: float, masked: str) -> None:
    past, new = 4, 3
    q, k, v = f32(2, 4, new, 8), f32(2, 2, past + new, 8), f32(2, 2, past + new, 6)
    mask = {"none": None, "float": f32(1, new, past + new), "bool": f32(2, 1, new, past + new) > -0.5}[masked]
    options: dict[str, Attribute] = {"causal": causal, "window": window, "softcap": softcap}
    whole = evaluate("attention", q, k, v, mask, scale=0.3, **options)
    scores = evaluate("attention_scores", q, k, scale=0.3)
    parts = evaluate("attention_context", evaluate("attention_softmax", scores, mask, **options), v)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)
    onnx_mask = mask
    if window:  # ONNX's own window has no exporter yet; say it by the mask
        at = np.arange(new)[:, None] + past
        near = np.arange(past + new) > at - window
        onnx_mask = near if mask is None else mask & near if mask.dtype == np.bool_ else np.where(near, mask, -np.inf)
    expected = lookup("onnx_attention").evaluate(
        [q, k[:, :, past:], v[:, :, past:], onnx_mask, k[:, :, :past], v[:, :, :past]],
        {"is_causal": int(causal), "scale": 0.3, "softcap": softcap},
    )
    np.testing.assert_allclose(whole, expected[0], rtol=0, atol=1e-6)


def test_lengths_hide_the_keys_behind_them() -> None:
    q, k, v = f32(2, 4, 2, 8), f32(2, 2, 7, 8), f32(2, 2, 7, 8)
    lengths = np.array([7, 4])
    both = evaluate("attention", q, k, v, None, lengths, scale=0.3, causal=True)
    for i, n in enumerate(lengths):
        alone = evaluate("attention", q[i : i + 1], k[i : i + 1, :, :n], v[i : i + 1, :, :n], scale=0.3, causal=True)
        np.testing.assert_allclose(both[i : i + 1], alone, rtol=0, atol=1e-6)


def test_a_query_without_keys_gives_zero() -> None:
    q, k, v = f32(1, 1, 2, 4), f32(1, 1, 3, 4), f32(1, 1, 3, 4)
    nothing = np.array([[True, True, False], [False] * 3])
    out = evaluate("attention", q, k, v, nothing, scale=1.0)
    assert np.isfinite(out).all()
    assert not out[0, 0, 1].any()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_is_rotary_embedding(interleaved: bool) -> None:
    x, cos, sin = f32(2, 4, 3, 8), f32(2, 3, 2), f32(2, 3, 2)
    (expected,) = lookup("rotary_embedding").evaluate(
        [x, cos, sin], {"interleaved": int(interleaved), "rotary_embedding_dim": 4}
    )
    np.testing.assert_array_equal(evaluate("rotary", x, cos, sin, interleaved=interleaved), expected)
    np.testing.assert_array_equal(expected[..., 4:], x[..., 4:])


def test_halves_are_computed_in_float32() -> None:
    x = (f32(2, 512) * 30).astype(np.float16)
    exact = evaluate("rms_norm", x.astype(np.float32), np.ones(512, np.float32), epsilon=1e-6)
    half = evaluate("rms_norm", x, np.ones(512, np.float16), epsilon=1e-6)
    np.testing.assert_allclose(half, exact, rtol=1e-3)
    assert half.dtype == np.float16


def test_work_of_contractions() -> None:
    def work(name: str, *operands: str, **attributes: Attribute) -> int:
        types = [parse_type(o) for o in operands]
        return lookup(name).work(types, lookup(name).infer(types, attributes), attributes)

    assert work("matmul", "f16[8, 1, 64]", "f16[64, 32]") == 2 * 8 * 64 * 32
    assert work("gemm", "f16[64, 8]", "f16[64, 32]", transA=1) == 2 * 8 * 64 * 32
    assert work("attention_scores", "f16[2, 4, 1, 16]", "f16[2, 2, 9, 16]", scale=1.0) == 2 * 2 * 4 * 9 * 16
    assert work("expert_matmul", "f16[3, 1, 8]", "f16[4, 5, 8]", "i64[3, 2]") == 2 * 3 * 2 * 5 * 8
    assert work("transpose", "f16[8, 8]") == 0
    assert work("reduce_sum", "f16[8, 8]") == 64


def test_experts_are_products_with_the_matrices_chosen() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 2, 8)).astype(np.float32), rng.standard_normal((4, 5, 8)).astype(np.float32)
    ids = np.array([[0, 3], [3, 1], [-1, 0]])
    (y,) = lookup("expert_matmul").evaluate([x, w, ids], {})
    np.testing.assert_allclose(y, np.einsum("tjnk,tjk->tjn", w[ids], x), rtol=1e-5, atol=1e-6)
    (shared,) = lookup("expert_matmul").evaluate([x[:, :1], w, ids], {})
    np.testing.assert_allclose(shared, np.einsum("tjnk,tk->tjn", w[ids], x[:, 0]), rtol=1e-5, atol=1e-6)
    with pytest.raises(IndexError, match="expert 4 is chosen, but there are 4"):
        lookup("expert_matmul").evaluate([x, w, ids + 1], {})
