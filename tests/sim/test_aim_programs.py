"""Fast equals plain on random streams for AiM: loops, moving rows, masks, signals between engines, refresh."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pimc.backends.affine import Scalar, variable
from pimc.backends.dma.isa import Load, Store
from pimc.backends.isa import Command
from pimc.backends.pim import aim_isa as aim
from pimc.backends.program import Item, Loop, OpRow, Program, Step, Stream
from pimc.backends.synchronize import split_streams
from pimc.backends.target import TargetSpec, describe
from pimc.backends.target_registry import load_target
from pimc.ir.types import DType
from pimc.sim.time import simulate

Draw = st.DrawFn
CHANNELS = 2
MACHINES = {
    "cent": ("cent",),
    "cent, refreshed often": ("cent", "timing.tREFI=301ns"),
    "cent, several lines a clock": ("cent", "pim.switches.lines_per_clock=4", "pim.switches.stall=channel"),
    "aim-pinned": ("aim-pinned",),
    "aim-head": ("aim-head",),
    "aim-pinned, refreshed": ("aim-pinned", "dram.refresh=true", "timing.tREFI=1us"),
}


@cache
def machine(name: str) -> TargetSpec:
    target, *overrides = MACHINES[name]
    return load_target(target, (f"dram.channels={CHANNELS}", *overrides))


class Kernels:
    """Draws commands that belong together, inside `depth` loops."""

    def __init__(self, draw: Draw, depth: int) -> None:
        self.draw, self.depth = draw, depth
        self.mask = draw(st.integers(1, (1 << CHANNELS) - 1))
        self.count = draw(st.sampled_from([1, 2, 16, 34]))
        self.bank = draw(st.sampled_from([0, 1, 5, 15]))

    def moving(self, base: int, step: int) -> Scalar:
        """A number that moves with one of the loops."""
        if not self.depth:
            return base
        return variable(self.draw(st.integers(0, self.depth - 1))) * step + base

    @property
    def row(self) -> Scalar:
        return self.moving(self.draw(st.integers(0, 2)), self.draw(st.sampled_from([0, 0, 1, 3])))

    def product(self) -> Iterator[Command]:
        draw = self.draw
        if draw(st.booleans()):
            yield aim.WriteGlobalBuffer(self.count, 0, self.mask)
        if draw(st.booleans()):
            yield aim.WriteBias(0, self.mask)
        for _ in range(draw(st.integers(1, 2))):
            yield aim.MacAllBanks(self.count, self.mask, self.row)
        if draw(st.booleans()):
            yield aim.Activate(draw(st.sampled_from(["silu", "exp"])), self.mask)
            yield aim.ReadActivated(self.mask, 8192)
        if draw(st.booleans()):
            yield aim.ReadMac(0, self.mask, 8192)

    def banks(self) -> Iterator[Command]:
        kinds = (aim.CopyBankToBuffer, aim.CopyBufferToBank, aim.MacOneBank)
        yield self.draw(st.sampled_from(kinds))(self.count, self.mask, self.bank, self.row)

    def plain(self) -> Iterator[Command]:
        for _ in range(self.draw(st.integers(1, 2))):
            kind = self.draw(st.sampled_from([aim.ReadBank, aim.WriteBank]))
            yield kind(min(self.count, 34), self.mask, self.bank, self.row)

    def others(self) -> Iterator[Command]:
        one = self.mask & -self.mask
        row = self.row
        yield self.draw(
            st.sampled_from(
                [
                    aim.MultiplyBanks(self.count, self.mask, row),
                    aim.WriteAllBanks(one, row, 5, 0),
                    aim.AddBuffers(4, 0, 128),
                    aim.ReadMac(0, self.mask, 8192),
                ]
            )
        )

    def traffic(self) -> Iterator[Command]:
        """Normal transfers, which share the memory."""
        if self.draw(st.booleans()):
            yield Load(0, self.moving(0, 512), DType.BF16, (3, 128), (256, 2), (256, 2))
        else:
            yield Store(8192, self.moving(1 << 20, 512), DType.BF16, (256,), (2,), (2,))


UNITS: dict[type[Command], str] = {Load: "load", Store: "store"}


@st.composite
def items(draw: Draw, engines: frozenset[str], depth: int = 0) -> tuple[Item, ...]:
    out: list[Item] = []
    for _ in range(draw(st.integers(1, 2))):
        if depth < 2 and draw(st.integers(0, 2)):
            times = draw(st.sampled_from([2, 5] if depth else [3, 9, 20]))
            out.append(Loop(depth, times, draw(items(engines, depth + 1))))
            continue
        kernels = Kernels(draw, depth)
        ways = [kernels.product, kernels.product, kernels.banks, kernels.plain, kernels.others]
        if "load" in engines:
            ways.append(kernels.traffic)
        op = draw(st.integers(0, 1))
        out += [Step(UNITS.get(type(c), "pim"), c, op) for c in draw(st.sampled_from(ways))()]
    return tuple(out)


def program_of(drawn: tuple[Item, ...], spec: TargetSpec) -> Program:
    instances = {e.name: tuple(range(e.instances)) for e in spec.engines()}
    row = OpRow("op", "matmul", "", (), "decode", "gemm", "pim", "", 0, 0)
    return Program(
        graph="random",
        dims={},
        phase="decode",
        target=describe(spec),
        target_name=spec.name,
        target_hash="",
        devices=1,
        streams=tuple(Stream(engine, (0,), instances[engine], own) for engine, own in split_streams(drawn).items()),
        memory=(),
        ops=(row, row),
    )


def compare(data: st.DataObject) -> None:
    spec = machine(data.draw(st.sampled_from(list(MACHINES)), "machine"))
    engines = frozenset(engine.name for engine in spec.engines())
    program = program_of(data.draw(items(engines), "items"), spec)
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.time == plain.time
    assert fast.engines == plain.engines
    assert fast.resources == plain.resources
    assert fast.ops == plain.ops


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_fast_equals_plain(data: st.DataObject) -> None:
    compare(data)


@pytest.mark.slow
@settings(
    max_examples=1000, deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip
@given(data=st.data())
def test_fast_equals_plain_often(data: st.DataObject) -> None:
    compare(data)


def test_a_period_in_which_rows_met_is_none() -> None:
    """Row 3 is open when the third turn begins with it, and never again are two turns' rows the same."""
    rows = variable(0) + 1, variable(0) * 3
    first, second = (Step("pim", aim.MacAllBanks(count=1, mask=1, row=row), 0) for row in rows)
    read = Step("pim", aim.ReadMac(register=0, mask=1, address=8192, stride=32, share=1), 0)
    for turns in (9, 50):
        program = program_of((Loop(0, turns, (Loop(1, 5, (first, second, read)),)),), machine("cent"))
        fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
        assert fast.time == plain.time


def test_loops_of_one_command_are_known_by_whether_their_row_moves() -> None:
    """The same command from the same state: on one row, then on another one in every turn, and the first again."""
    spec = machine("cent")
    for row in (70, variable(0) + 70, variable(0) * -2 + 70, 70):
        mac = Step("pim", aim.MacAllBanks(count=16, mask=3, row=row), 0)
        program = program_of((Loop(0, 6, (mac,)),), spec)
        fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
        assert fast.time == plain.time
        assert fast.engines == plain.engines


def test_channels_at_rest_keep_their_own_time_in_lines_that_were_seen_before() -> None:
    """Rows of channel 1 stay open while channel 0 does again and again what it did before."""
    macs = [Step("pim", aim.MacAllBanks(count=1, mask=mask, row=0), 0) for mask in (2, 1)]
    copy = Step("pim", aim.CopyBankToBuffer(1, 1, 0, 0), 0)
    read = Step("pim", aim.ReadBank(16, 1, 0, 0), 0)
    first = Loop(0, 3, (Loop(1, 2, (macs[0],)), macs[1]))
    program = program_of((first, Loop(0, 3, (Loop(1, 2, (copy, read)),))), machine("aim-pinned"))
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.engines == plain.engines


def test_rows_that_stay_open_at_rest_are_open_in_turns_that_are_skipped() -> None:
    """Two channels take turns; how long the one has been at rest when turns begin to be skipped makes no difference."""
    macs, kernels = {mask: aim.MacAllBanks(34, mask, 0) for mask in (1, 2)}, {}
    for mask, mac in macs.items():
        own = (mac, aim.Activate("silu", mask), aim.ReadActivated(mask, 8192))
        kernels[mask] = tuple(Step("pim", command, 0) for command in own)
    inner = Loop(1, 5, (Step("pim", aim.MacAllBanks(1, 2, 0), 0), *kernels[2]))
    program = program_of((Loop(0, 20, (inner, *kernels[1])),), machine("cent"))
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.engines == plain.engines


def test_work_that_is_taken_up_before_what_came_first_is_over_is_one_stretch_of_its_op() -> None:
    """A channel that is free begins while the other one is behind; turns of the outer loop are skipped in between."""
    first, second = (Step("pim", aim.MacAllBanks(1, mask, 0), 0) for mask in (2, 2))
    both = (aim.MacAllBanks(1, 3, variable(1)), aim.MacAllBanks(1, 3, 2))
    inner = Loop(1, 5, (first, second, *(Step("pim", mac, 1) for mac in both)))
    copy = Step("pim", aim.CopyBankToBuffer(1, 1, 0, 2), 1)
    program = program_of((Loop(0, 9, (copy, inner)),), machine("aim-head"))
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.ops == plain.ops


def test_refresh_closes_rows_of_channels_at_rest_before_periods_that_are_known() -> None:
    """A row of channel 1 is open up to the first refresh, while channel 0 does what it does after it, too."""
    opened = Step("pim", aim.CopyBankToBuffer(1, 2, 0, 0), 0)
    copies = Loop(0, 20, (Loop(1, 5, (Step("pim", aim.CopyBankToBuffer(16, 1, 0, variable(0)), 0),)),))
    program = program_of((opened, copies), machine("cent"))
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.engines == plain.engines
