"""Operands in PIM banks: where each element lies, and that no two lie in one place."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.pim.layouts import Banks, bank_layout, bank_matrix, pattern_of
from pimc.backends.state import DramGeometry
from pimc.backends.target_registry import load_target
from pimc.ir.layout import Layout

AIM = DramGeometry(channels=4, banks=16, rows=64, row_bytes=2048)


def test_outputs_count_banks_then_channels_then_groups() -> None:
    layout = bank_matrix(Banks(AIM, range(AIM.channels), 3), 200, 1500, 2)
    at = layout.addresses()
    assert at[0, 0] == AIM.address(0, 0, 3)
    assert at[17, 5] == AIM.address(1, 1, 3, 10)
    assert at[64, 0] == AIM.address(0, 0, 5), "the next group of outputs lies behind both rows of the first"
    assert at[0, 1024] == AIM.address(0, 0, 4), "k goes on in the next row of the same bank"


def test_few_outputs_take_few_channels() -> None:
    layout = bank_matrix(Banks(AIM, range(AIM.channels), 0), 33, 64, 2)
    assert layout.shape == (48, 64)
    pattern = pattern_of(layout.permuted((1, 0)), AIM)
    assert pattern is not None
    assert pattern.dims[1].channel == (3, 1)


@pytest.mark.parametrize("name", ["cent", "neupims"])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("weight", (1500, 700)),
        ("key", (3, 5, 100, 80)),
        ("value", (3, 5, 100, 80)),
        ("key", (40, 8, 2049, 128)),
        ("value", (2, 40, 1025, 64)),
    ],
)
def test_elements_do_not_share_places_and_stay_in_their_rows(name: str, kind: str, shape: tuple[int, ...]) -> None:
    spec = load_target(name)
    layout, rows = bank_layout(spec, kind, 10, shape)
    assert all(have >= want for have, want in zip(layout.shape, shape, strict=True))
    stride = spec.dram.geometry.stride_row
    low, high = layout.span(2)
    assert 10 * stride <= low
    assert high <= (10 + rows) * stride
    few = Layout(layout.offset, tuple(tuple((min(count, 6), s) for count, s in dim) for dim in layout.dims))
    addresses = few.addresses()
    assert np.unique(addresses).size == addresses.size
    assert pattern_of(layout, spec.dram.geometry) is not None


@pytest.mark.parametrize("name", ["cent", "neupims"])
def test_a_request_of_newton_stays_in_its_channel(name: str) -> None:
    spec = load_target(name)
    geometry = spec.dram.geometry
    channels = {}
    for kind in ("key", "value"):
        layout, _ = bank_layout(spec, kind, 0, (3, 8, 40, 128))
        channel = layout.addresses() // geometry.stride_channel % geometry.channels
        channels[kind] = [len(np.unique(channel[b])) for b in range(3)]
    assert channels["key"] == ([1, 1, 1] if name == "neupims" else [8, 8, 8])


def test_a_cache_that_grows_keeps_its_tokens_where_they_are() -> None:
    spec = load_target("cent")
    whole, _ = bank_layout(spec, "key", 0, (2, 8, 512, 128))
    part = whole.sliced(2, 0, 64)
    assert part is not None
    np.testing.assert_array_equal(part.addresses(), whole.addresses()[:, :, :64])
