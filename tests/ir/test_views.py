"""Views: an op that moves no data gives each result the addresses that numpy would read."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.ir.interp import evaluate
from pimc.ir.layout import Layout
from pimc.ir.text import parse
from pimc.ir.views import views

DENSE = Layout.dense((4, 6), 2, 100)
BANKS = Layout(64, (((2, 1000), (2, 10)), ((6, 2),)))

CASES = {
    "reshape": "constant %s: i64[3] = [2, 2, 6]  %y = reshape(%x, %s)",
    "transpose": "%y = transpose(%x) {perm=[1, 0]}",
    "expand": "constant %s: i64[3] = [3, 4, 6]  %y = expand(%x, %s)",
    "slice": "constant %a: i64[1] = [1]  constant %b: i64[1] = [4]  constant %c: i64[1] = [1]"
    "  constant %d: i64[1] = [2]  %y = slice(%x, %a, %b, %c, %d)",
    "backwards": "constant %a: i64[1] = [-1]  constant %b: i64[1] = [-100]  constant %c: i64[1] = [1]"
    "  constant %d: i64[1] = [-1]  %y = slice(%x, %a, %b, %c, %d)",
    "unsqueeze": "constant %a: i64[1] = [1]  %y = unsqueeze(%x, %a)",
    "identity": "%y = identity(%x)",
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [DENSE, BANKS], ids=["dense", "banks"])
def test_a_view_has_the_addresses_of_its_elements(case: str, layout: Layout) -> None:
    graph = parse(f"graph g(%x: i64[4, 6]) {{ {CASES[case]} return %y }}")
    node = graph.order()[-1]
    (found,) = views(node, layout)
    assert found is not None
    constants = [v.type.array for v in node.operands[1:] if v is not None]
    (expected,) = evaluate(node, [layout.addresses(), *constants])
    assert np.array_equal(np.broadcast_to(found.addresses(), expected.shape), expected)


def test_split_gives_each_part_its_own_place() -> None:
    text = "constant %p: i64[2] = [2, 4] %a, %b = split(%x, %p) {axis=1} return %a, %b"
    graph = parse(f"graph g(%x: i64[4, 6]) {{ {text} }}")
    node = graph.order()[-1]
    parts = views(node, DENSE)
    whole = DENSE.addresses()
    for found, expected in zip(parts, (whole[:, :2], whole[:, 2:]), strict=True):
        assert found is not None
        assert np.array_equal(found.addresses(), expected)


def test_what_must_move_is_no_view() -> None:
    text = "constant %s: i64[2] = [8, 3]  %t = transpose(%x) %y = reshape(%t, %s) return %y"
    graph = parse(f"graph g(%x: i64[4, 6]) {{ {text} }}")
    transpose, reshape = graph.order()
    (turned,) = views(transpose, DENSE)
    assert turned is not None
    assert views(reshape, turned) == (None,)


def test_room_to_spare_is_only_looked_through_where_that_is_sound() -> None:
    roomy = Layout.dense((8, 6), 2)
    reshape = parse(f"graph g(%x: i64[4, 6]) {{ {CASES['reshape']} return %y }}").order()[-1]
    assert views(reshape, roomy) == (None,)
    transpose = parse(f"graph g(%x: i64[4, 6]) {{ {CASES['transpose']} return %y }}").order()[-1]
    (turned,) = views(transpose, roomy)
    assert turned is not None
    assert turned.shape == (6, 8)
