"""Fences of the core: those that nothing needs are left out, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from pimc.backends.affine import Affine
from pimc.backends.executors import all_executors, executed
from pimc.backends.isa import Command
from pimc.backends.npu.fences import spare_fences
from pimc.backends.npu.isa import ACCUMULATOR_BYTES, Drain, Fence, Matmul, MatmulOs, Preload, Vec
from pimc.backends.npu.timing import NpuTimer
from pimc.backends.program import Item, Loop, Program, Step
from pimc.backends.target_registry import load_target
from pimc.backends.timing import Issued
from pimc.backends.vector import plain
from pimc.driver import Options, compile_model
from pimc.ir.types import DType

F16 = DType.F16


def vector(dst: int, size: int = 256) -> Vec:
    return Vec(function="copy", form="i", rows=1, columns=size // 2, dst=dst, dst_type=F16, dst_row=0, dst_column=2)


def block(src: int) -> Preload:
    return Preload(src=src, dtype=F16, k=128, columns=1, k_stride=2, column_stride=256)


def product(src: int, acc: int = 0) -> Matmul:
    return Matmul(src=src, dtype=F16, rows=1, k=128, row_stride=256, k_stride=2, acc=acc, columns=1, acc_row=4)


def drain(acc: int, dst: int) -> Drain:
    return Drain(acc=acc, rows=1, columns=1, acc_row=4, dst=dst, dst_type=DType.F32, dst_row=4, dst_column=4)


FIRST = (Fence(), block(0x9000))
"""What comes before the first fence is not known, so that it stays."""


def spare(*commands: Command | Item) -> list[int]:
    """Numbers of the commands behind `FIRST`."""
    items = [Step("npu", c) if isinstance(c, Command) else c for c in (*FIRST, *commands)]
    return [number - len(FIRST) for number in sorted(spare_fences(items))]


def test_the_first_fence_stays() -> None:
    assert spare() == []
    assert spare_fences([Step("npu", vector(0)), Step("npu", Fence()), Step("npu", block(0x9000))]) == frozenset()


@pytest.mark.parametrize("of", ["all", "vector"])
def test_arrays_wait_for_what_the_vector_unit_writes(of: str) -> None:
    assert spare(vector(0), Fence(of), block(0)) == []
    assert spare(vector(0), Fence(of), block(512)) == [1]
    assert spare(vector(0), Fence(of), block(0), vector(512), Fence(of), product(0)) == [4]
    assert spare(vector(0), Fence(of), vector(512), Fence(of), product(0)) == [3]
    assert spare(vector(0), vector(512), Fence(of), product(512), vector(512), product(512)) == []


def test_the_vector_unit_waits_for_what_arrays_read() -> None:
    assert spare(block(0), Fence(), vector(0)) == []
    assert spare(block(0), Fence(), vector(512)) == [1]
    assert spare(vector(0x7000), block(0), Fence(), Fence("vector"), block(0x7000), vector(0)) == [3]


def test_a_later_meeting_without_a_fence_hides_no_earlier_one() -> None:
    """Bytes from the first to the last may overlap where none of them is the same."""
    assert spare(vector(0), Fence(), vector(0), block(0)) == []


def test_products_wait_for_the_drains_of_the_tile_before() -> None:
    assert spare(product(0), drain(0, 0x100), Fence(), product(0)) == []
    assert spare(product(0), drain(0, 0x100), Fence(), product(0, 64)) == [2]
    # two tiles before: the accumulators have seen to that
    later = (product(0), drain(0, 0x100), product(0, 64), drain(64, 0x200), Fence(), product(0))
    assert spare(*later) == [4]


def test_loops_are_taken_as_a_whole() -> None:
    turn = Affine(0, ((0, 1024),))
    written = Vec(function="copy", form="i", rows=1, columns=128, dst=turn, dst_type=F16, dst_row=0, dst_column=2)
    loop = Loop(0, 4, (Step("npu", Fence()), Step("npu", written)))
    assert spare(loop, Fence(), block(3 * 1024)) == []
    assert spare(loop, Fence(), block(4 * 1024)) == [1]


def test_other_engines_do_not_matter() -> None:
    assert spare(Step("store", vector(0)), Fence(), block(0)) == [1]


# -- whole programs, by the clock --------------------------------------------------------------------------------------


MODELS = (
    ("models/bert-base.pimc", "npu", {"seq": 32}),
    ("models/tiny-llama.pimc", "npu", {"seq": 17}),
    ("models/tiny-llama.pimc", "npu-server", {"seq": 40, "past": 9}),
    ("models/tiny-gpt2.pimc", "tpuv3", {"seq": 30}),
)


@pytest.mark.parametrize(("model", "target", "dims"), MODELS)
def test_units_never_meet(model: str, target: str, dims: dict[str, int]) -> None:
    program = compile_model(model, target, Options(dims=dims, simulate=False)).program
    assert not list(meetings(program, target))


def test_meetings_are_found_where_all_fences_are_left_out() -> None:
    model, target, dims = MODELS[0]
    program = compile_model(model, target, Options(dims=dims, simulate=False)).program
    assert list(meetings(program, target, fences=False))


def meetings(program: Program, target: str, *, fences: bool = True) -> Iterator[str]:
    """Commands that begin to touch bytes before the other unit is through with them, if nothing else holds them up."""
    npu = load_target(target, ()).npu
    assert npu is not None
    (core,) = (executor for executor in all_executors(program) if executor.engine == "npu")
    timer, ready = NpuTimer(1, npu), 0
    going_on: list[Access] = []
    for step in executed(core.items, core.variables):
        command = step.command
        if command.unit != "npu" or (isinstance(command, Fence) and not fences):
            continue
        issued = timer.issue(command, ready)
        ready = issued.free
        now = list(accesses(command, issued, timer.array.skew))
        for access in now:
            for other in going_on:
                if access.meets(other):
                    yield f"{command} at {access.begin}, but the other unit is at work until {other.end}"
        going_on = [access for access in (*going_on, *now) if access.end > issued.start]


class Access(NamedTuple):
    begin: int
    end: int
    arrays: bool
    space: str
    write: bool
    low: int
    high: int
    words: NDArray[np.int64] | None = None
    """accumulators one by one: those of tiles side by side lie among each other"""

    def meets(self, earlier: Access) -> bool:
        if self.arrays == earlier.arrays or self.space != earlier.space or self.begin >= earlier.end:
            return False
        if not (self.write or earlier.write) or self.low >= earlier.high or earlier.low >= self.high:
            return False
        return self.words is None or earlier.words is None or bool(np.intersect1d(self.words, earlier.words).size)


def accesses(command: Command, issued: Issued, skew: int) -> Iterator[Access]:
    """Of products, those to accumulators come `skew` after their stream; what the array holds was read before."""
    arrays = isinstance(command, Preload | Matmul | MatmulOs)
    for region in command.regions():
        low = plain(region.start)
        own = arrays, region.space, region.write, low, low + region.length
        if region.space == "buffer":
            yield Access(issued.start, issued.done, *own)
        elif isinstance(command, Matmul | Drain):
            rows, columns = np.arange(plain(command.rows)), np.arange(plain(command.columns))
            words = low + rows[:, None] * plain(command.acc_row) + columns * ACCUMULATOR_BYTES
            begin = issued.start + (skew if arrays else 0)
            end = begin if arrays else issued.done  # a DRAIN waits for all products
            yield Access(begin, end, *own, words.ravel())
