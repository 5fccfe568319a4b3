"""Layouts: every operation on a layout is the same operation on the array of its addresses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.ir.layout import Layout, pieces

extents = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Dense storage whose digits are dealt out to the dimensions in any order."""
    digits = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    strides = [2]
    for count in reversed(digits):
        strides.insert(0, strides[0] * count)
    pairs = draw(st.permutations([(c, s) for c, s in zip(digits, strides[1:], strict=True)]))
    cut = draw(st.integers(0, len(pairs)))
    dims = (tuple(pairs[:cut]) or ((1, 0),), tuple(pairs[cut:]) or ((1, 0),))
    return Layout(draw(st.integers(0, 64)), dims)


def test_dense_is_row_major() -> None:
    layout = Layout.dense((2, 3), 4, 100)
    assert layout.addresses().tolist() == [[100, 104, 108], [112, 116, 120]]
    assert layout.is_dense(4)
    assert not layout.permuted((1, 0)).is_dense(4)


def test_tokens_over_banks() -> None:
    """Two digits put token t into bank t % 4 (1024 bytes apart), row t // 4 (64 bytes apart)."""
    layout = Layout(0, (((2, 64), (4, 1024)), ((8, 2),)))
    assert layout.shape == (8, 8)
    assert layout.addresses()[5, 0] == 64 + 1024


@given(layouts())
def test_views_are_views_of_the_addresses(layout: Layout) -> None:
    addresses = layout.addresses()
    assert addresses.shape == layout.shape
    assert len(np.unique(addresses)) == addresses.size
    np.testing.assert_array_equal(layout.permuted((1, 0)).addresses(), addresses.T)
    np.testing.assert_array_equal(layout.moved(7).addresses(), addresses + 7)
    low, high = layout.span(2)
    assert (low, high) == (addresses.min(), addresses.max() + 2)
    count = layout.flat_digits()
    flat = Layout(layout.offset, (count or ((1, 0),),))
    np.testing.assert_array_equal(flat.addresses(), addresses.reshape(-1))


@given(layouts(), st.data())
def test_slices(layout: Layout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, 1))
    extent = layout.shape[dim]
    start = data.draw(st.integers(0, extent))
    stop = data.draw(st.integers(start, extent))
    wanted = np.take(layout.addresses(), range(start, stop), axis=dim)
    cut = layout.sliced(dim, start, stop)
    if cut is not None:
        np.testing.assert_array_equal(cut.addresses(), wanted)
    found = [(first, piece.addresses()) for first, piece in pieces(layout, dim, start, stop)]
    if found:
        np.testing.assert_array_equal(np.concatenate([a for _, a in found], axis=dim), wanted)
        assert [first for first, _ in found] == [
            start + n for n in np.cumsum([0] + [a.shape[dim] for _, a in found[:-1]])
        ]
    else:
        assert start == stop


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 12, 3), (11, -1, -1), (10, 2, -4), (3, 3, 1), (2, 3, 5)])
def test_strided_slices_of_dense_storage(start: int, stop: int, step: int) -> None:
    layout = Layout.dense((12, 2), 2)
    cut = layout.sliced(0, start, stop, step)
    assert cut is not None
    np.testing.assert_array_equal(cut.addresses(), layout.addresses()[list(range(start, stop, step))])


@settings(max_examples=200)
@given(layouts(), st.data())
def test_reshape(layout: Layout, data: st.DataObject) -> None:
    elements = layout.elements
    first = data.draw(st.sampled_from([n for n in range(1, elements + 1) if elements % n == 0]))
    other = layout.reshaped((first, elements // first))
    if other is not None:
        np.testing.assert_array_equal(other.addresses(), layout.addresses().reshape(first, -1))


@given(extents, st.data())
def test_dense_storage_takes_any_shape(shape: list[int], data: st.DataObject) -> None:
    layout = Layout.dense(shape, 2)
    count = layout.elements
    first = data.draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0]))
    other = layout.reshaped((first, count // first))
    assert other is not None
    np.testing.assert_array_equal(other.addresses(), layout.addresses().reshape(first, -1))
    with pytest.raises(ValueError, match="cannot reshape"):
        layout.reshaped((count + 1,))


def test_broadcast() -> None:
    layout = Layout.dense((3, 1), 2).broadcast((2, 3, 4))
    np.testing.assert_array_equal(layout.addresses(), np.broadcast_to(np.arange(0, 6, 2).reshape(3, 1), (2, 3, 4)))
    with pytest.raises(ValueError, match="cannot broadcast"):
        Layout.dense((3,), 2).broadcast((4,))
