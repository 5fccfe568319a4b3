"""Which axis of a grid vector commands take as their columns."""

from __future__ import annotations

import pytest

from pimc.backends.emitter import Emitter
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.npu.vector_unit import NPU
from pimc.backends.program import Loop, steps
from pimc.backends.vector import Elementwise, plain
from pimc.ir.types import DType


@pytest.mark.parametrize(
    ("counts", "lanes", "taken"),
    [
        ((64, 512), 128, (64, 512)),  # either fills them: rows stay rows
        ((128, 16), 128, (16, 128)),
        ((130, 120), 128, (130, 120)),  # 130 would take two passes each time
        ((300, 140), 128, (140, 300)),
        ((2048, 576), 128, (2048, 576)),  # nine tenths of the passes are not clearly fewer
        ((2048, 128), 128, (2048, 128)),
        ((2048, 128), 4096, (128, 2048)),
    ],
)
def test_the_axis_that_fills_the_lanes_best(counts: tuple[int, int], lanes: int, taken: tuple[int, int]) -> None:
    """Of rows less a number of each."""
    _, columns = counts
    emit = Emitter(lanes={"npu": lanes})
    grid, of_rows = Ref(0, DType.F32, (4 * columns, 4)), Ref(1 << 24, DType.F32, (4, 0))
    Lanes(emit, NPU, None, counts)("sub", grid, of_rows, out=grid)
    (command,) = (step.command for step in steps(emit.take()))
    assert isinstance(command, Elementwise)
    assert (plain(command.rows), plain(command.columns)) == taken


def test_the_longest_other_axis_is_the_rows() -> None:
    """Of a number for each of the rows in the middle: one command for each column of three, and not for each row."""
    emit = Emitter(lanes={"npu": 128})
    grid, of_rows = Ref(0, DType.F32, (12000, 12, 4)), Ref(1 << 24, DType.F32, (0, 4, 0))
    Lanes(emit, NPU, None, (128, 1000, 3))("add", grid, of_rows, out=grid)
    (loop,) = emit.take()
    assert isinstance(loop, Loop)
    (command,) = (step.command for step in steps(loop.body))
    assert isinstance(command, Elementwise)
    assert (loop.count, plain(command.rows), plain(command.columns)) == (3, 1000, 128)
