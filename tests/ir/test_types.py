"""Symbolic dimensions are polynomials, and types print as they are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.types import Dim, DType, Sym, TensorType, parse_dim, parse_type

BATCH, SEQ, PAST = Sym.named("batch"), Sym.named("seq"), Sym.named("past")


def test_arithmetic_collects_terms() -> None:
    assert SEQ + PAST == PAST + SEQ
    assert SEQ + SEQ == 2 * SEQ
    assert (SEQ + 1) * (SEQ - 1) == SEQ * SEQ - 1
    assert SEQ * BATCH == BATCH * SEQ


def test_a_dimension_without_names_is_a_number() -> None:
    difference = (PAST + 3) - PAST
    assert difference == 3
    assert isinstance(difference, int)
    assert SEQ - SEQ == 0
    assert 7 - (SEQ - SEQ) == 7


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (PAST + SEQ, "past + seq"),
        (SEQ * 2 + 1, "2*seq + 1"),
        (PAST - 1, "past - 1"),
        (BATCH * SEQ * 4 - PAST, None),
        (-1 * SEQ, None),
        (5, "5"),
        (Sym.named("a.b_1"), "a.b_1"),
    ],
)
def test_dimensions_print_as_they_are_read(dim: Dim, text: str | None) -> None:
    assert text is None or str(dim) == text
    assert parse_dim(str(dim)) == dim


@pytest.mark.parametrize("text", ["", "+", "a +", "2 3", "a b", "a/2", "*a", "a**b", "(a)"])
def test_what_is_no_dimension_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a dimension"):
        parse_dim(text)


def test_exact_division() -> None:
    eight, two = parse_dim("4*seq + 8"), parse_dim("4*seq + 2")
    assert isinstance(eight, Sym)
    assert isinstance(two, Sym)
    assert eight.divided(4) == SEQ + 2
    assert two.divided(4) is None
    assert SEQ.divided(0) is None


numbers = st.integers(-5, 5)


@given(numbers, numbers, numbers, st.integers(0, 9), st.integers(0, 9))
def test_binding_is_evaluation(a: int, b: int, c: int, seq: int, past: int) -> None:
    dim = SEQ * a + PAST * b * SEQ + c
    value = a * seq + b * past * seq + c
    assert (dim if isinstance(dim, int) else dim.bind({"seq": seq, "past": past})) == value
    partly = dim if isinstance(dim, int) else dim.bind({"seq": seq})
    assert (partly if isinstance(partly, int) else partly.bind({"past": past})) == value


@pytest.mark.parametrize("text", ["f16[batch, 2*seq, 64]", "bool[]", "u4[3]", "bf16[past + seq]"])
def test_types_print_as_they_are_read(text: str) -> None:
    assert str(parse_type(text)) == text


@pytest.mark.parametrize("text", ["f16", "f17[2]", "f16[2", "f16[?]"])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|unknown element"):
        parse_type(text)


def test_sizes() -> None:
    assert TensorType(DType.F16, (3, 4)).bytes == 24
    assert TensorType(DType.U4, (3,)).bytes == 2
    assert TensorType(DType.F32, ()).elements == 1


def test_unbound_dimensions_are_named() -> None:
    with pytest.raises(CompileError) as caught:
        TensorType(DType.F32, (BATCH, PAST + SEQ)).static_shape  # noqa: B018
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.kind is Kind.DIM_UNBOUND
    assert "batch, past, seq" in diagnostic.message
    assert "--dim batch=" in (diagnostic.help or "")


def test_contents_are_no_part_of_equality() -> None:
    assert TensorType(DType.I64, (1,), np.array([3])) == TensorType(DType.I64, (1,))


@pytest.mark.parametrize("dtype", DType)
def test_every_element_type_has_a_numpy_type(dtype: DType) -> None:
    assert DType.parse(dtype.text) is dtype
    if dtype not in (DType.I4, DType.U4):
        assert DType.of(np.zeros(1, dtype.numpy)) is dtype
        assert dtype.numpy.itemsize * 8 == dtype.bits
