"""Fast equals plain on random programs of the machines' own commands, with refresh, open rows and shared buses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pimc.backends.affine import Scalar, variable
from pimc.backends.dma.isa import Load, Store
from pimc.backends.isa import Command
from pimc.backends.npu.isa import Drain, Matmul, Preload
from pimc.backends.pim.aim_isa import MacAllBanks, ReadMac, WriteGlobalBuffer
from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.program import Item, Loop, OpRow, Program, Step, Stream
from pimc.backends.synchronize import split_streams
from pimc.backends.target import TargetSpec, describe
from pimc.backends.target_registry import load_target
from pimc.ir.types import DType
from pimc.sim.time import simulate
from tests.timings import engines_of

Draw = st.DrawFn
Kernel = Callable[[Draw, Callable[[int, int], Scalar]], list[tuple[str, Command]]]
"""A few commands that belong together, with operands base + step * counter."""


def _load(draw: Draw, moving: Callable[[int, int], Scalar]) -> list[tuple[str, Command]]:
    rows = draw(st.sampled_from([1, 3, 64]))
    at = moving(draw(st.sampled_from([0, 4096])), draw(st.sampled_from([0, 512])))
    return [("load", Load(moving(0, 32768), at, DType.F16, (rows, 128), (256, 2), (256, 2)))]


def _store(draw: Draw, moving: Callable[[int, int], Scalar]) -> list[tuple[str, Command]]:
    return [("store", Store(draw(st.sampled_from([0, 4096])), moving(1 << 22, 512), DType.F16, (256,), (2,), (2,)))]


def _product(draw: Draw, moving: Callable[[int, int], Scalar]) -> list[tuple[str, Command]]:
    rows = draw(st.sampled_from([1, 8, 200]))
    return [
        ("npu", Preload(moving(0, 512), DType.F16, 64, 64, 128, 2)),
        ("npu", Matmul(4096, DType.F16, rows, 64, 128, 2, 0, 64, 256)),
        ("npu", Drain(0, rows, 64, 256, 65536, DType.F16, 128, 2)),
    ]


def _aim(draw: Draw, moving: Callable[[int, int], Scalar]) -> list[tuple[str, Command]]:
    mask = draw(st.sampled_from([0x1, 0x2, 0x3]))
    row = moving(draw(st.integers(0, 3)), draw(st.sampled_from([0, 1])))
    count = draw(st.sampled_from([1, 16, 64]))
    return [
        ("pim", WriteGlobalBuffer(count, 0, mask)),
        ("pim", MacAllBanks(count, mask, row)),
        ("pim", ReadMac(0, mask, 8192)),
    ]


def _dual(draw: Draw, moving: Callable[[int, int], Scalar]) -> list[tuple[str, Command]]:
    row = moving(draw(st.integers(0, 3)), draw(st.sampled_from([0, 1])))
    return [
        ("pim", GlobalWrite(draw(st.integers(0, 3)), 9, 8)),
        ("pim", Header(row, 16, 1)),
        ("pim", CompsReadResult(row, 16)),
    ]


def _single(draw: Draw, moving: Callable[[int, int], Scalar]) -> list[tuple[str, Command]]:
    row = moving(draw(st.integers(0, 3)), draw(st.sampled_from([0, 1])))
    return [("pim", Header(row, 16, 1)), ("pim", Comp(row, 16)), ("pim", ReadResult(0))]


KERNELS: dict[str, tuple[Kernel, ...]] = {
    "npu": (_load, _store, _product),
    "cent": (_load, _store, _aim),
    "neupims": (_load, _store, _product, _dual),
    "newton": (_load, _product, _single),
}


OVERRIDES = {"cent": ("dram.channels=2",)}
TURNS = {"cent": ((3, 9, 20), (2, 5))}
"""Of outer and inner loops; AiM channels are stepped through clock by clock (and more in `test_aim_programs.py`)."""
MANY_TURNS = ((3, 12, 60), (2, 7, 40))


@st.composite
def items(draw: Draw, target: str, depth: int = 0) -> tuple[Item, ...]:
    out: list[Item] = []
    for _ in range(draw(st.integers(1, 2))):
        if depth < 2 and draw(st.integers(0, 2)):
            count = draw(st.sampled_from(TURNS.get(target, MANY_TURNS)[depth]))
            out.append(Loop(depth, count, draw(items(target, depth + 1))))
            continue

        def moving(base: int, step: int) -> Scalar:
            return variable(draw(st.integers(0, depth - 1))) * step + base if depth else base

        kernel = draw(st.sampled_from(KERNELS[target]))
        op = draw(st.integers(0, 1))
        out += [Step(engine, command, op) for engine, command in kernel(draw, moving)]
    return tuple(out)


@cache
def spec(target: str) -> TargetSpec:
    return load_target(target, OVERRIDES.get(target, ()))


@pytest.mark.parametrize("target", KERNELS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_fast_equals_plain(target: str, data: st.DataObject) -> None:
    machine = spec(target)
    instances = {e.name: tuple(range(e.instances)) for e in machine.engines()}
    streams = split_streams(data.draw(items(target)))
    row = OpRow("op", "matmul", "", (), "decode", "gemm", "npu", "", 0, 0)
    program = Program(
        graph="random",
        dims={},
        phase="decode",
        target=describe(machine),
        target_name=target,
        target_hash="",
        devices=1,
        streams=tuple(Stream(engine, (0,), instances[engine], own) for engine, own in streams.items()),
        memory=(),
        ops=(row, row),
    )
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.time == plain.time
    assert engines_of(fast) == engines_of(plain)
    assert fast.resources == plain.resources
    assert fast.ops == plain.ops
