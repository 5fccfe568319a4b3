"""Exchanges between devices: what they leave in the buffers, and how long they take."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.affine import variable
from pimc.backends.isa import Command
from pimc.backends.link.isa import AllGather, AllReduce, Exchange, Party, Receive, ReduceScatter, Send, meet
from pimc.backends.link.timing import LinkTimer, Port, exchange_ps, make_timer
from pimc.backends.state import DeviceState, DramGeometry, Space, ValueFormat
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.ir.diagnostics import InternalError
from pimc.ir.op import Array
from pimc.ir.types import DType

F16 = DType.F16


def devices(count: int, *, wide: bool = True) -> list[DeviceState]:
    form = ValueFormat(wide)
    geometry = DramGeometry(1, 1, 1, 64)
    return [DeviceState(r, {"buffer": Space("buffer", 4096, form)}, form, geometry) for r in range(count)]


def put(state: DeviceState, address: int, values: Array, stride: int = 0) -> None:
    rows, columns = np.atleast_2d(values).shape
    state.spaces["buffer"].write(address, ((rows, stride), (columns, 2)), F16, np.atleast_2d(values))


def get(state: DeviceState, address: int, rows: int, columns: int, stride: int = 0) -> Array:
    return state.spaces["buffer"].read(address, ((rows, stride), (columns, 2)), F16)


def run(command: Exchange, states: list[DeviceState]) -> None:
    meet([Party(command, s) for s in reversed(states)])


def test_all_reduce_sums_on_every_device() -> None:
    states = devices(4)
    command = AllReduce(address=64, count=10, dtype=F16, group=4)
    for s in states:
        put(s, 64, np.arange(10, dtype=np.float32) * (s.rank + 1))
    run(command, states)
    for s in states:
        np.testing.assert_array_equal(get(s, 64, 1, 10)[0], np.arange(10) * 10)


def test_all_reduce_rounds_to_storage_once() -> None:
    states = devices(3, wide=False)
    for s, value in zip(states, (2048.0, 1.0, 1.0), strict=True):
        put(s, 0, np.array([value], np.float32))
    run(AllReduce(address=0, count=1, dtype=F16, group=3), states)
    assert [get(s, 0, 1, 1)[0, 0] for s in states] == [2050.0] * 3


def test_all_gather_and_reduce_scatter() -> None:
    states = devices(2)
    for s in states:
        put(s, 0, np.full((3, 4), s.rank + 1.0, np.float32), 8)
    gather = AllGather(src=0, dst=256, rows=3, columns=4, src_row=8, dst_row=32, dtype=F16, group=2)
    run(gather, states)
    whole = np.repeat(np.array([[1.0, 2.0]]), 4, axis=1).repeat(3, axis=0)
    for s in states:
        np.testing.assert_array_equal(get(s, 256, 3, 8, 32), whole)
    scatter = ReduceScatter(src=256, dst=1024, rows=3, columns=4, src_row=32, dst_row=8, dtype=F16, group=2)
    run(scatter, states)
    for s in states:
        np.testing.assert_array_equal(get(s, 1024, 3, 4, 8), np.full((3, 4), 2 * (s.rank + 1.0)))


def test_send_and_receive() -> None:
    states = devices(4)
    put(states[1], 0, np.arange(8, dtype=np.float32))
    send = Send(src=0, count=8, dtype=F16, to=3)
    receive = Receive(dst=128, count=8, dtype=F16, origin=1)
    assert send.meeting(1) == receive.meeting(3)
    assert send.meeting(1).ranks == (1, 3)
    meet([Party(receive, states[3]), Party(send, states[1])])
    np.testing.assert_array_equal(get(states[3], 128, 1, 8)[0], np.arange(8))
    with pytest.raises(InternalError, match="8 elements meets a RECEIVE of 9"):
        meet([Party(send, states[1]), Party(Receive(dst=0, count=9, dtype=F16, origin=1), states[3])])


def test_groups_are_ranks_in_a_row() -> None:
    command = AllReduce(address=0, count=1, dtype=F16, group=4)
    assert command.meeting(6).ranks == (4, 5, 6, 7)
    assert command.meeting(6) == command.meeting(4) != command.meeting(3)


def test_a_group_of_one_needs_nobody() -> None:
    (state,) = devices(1)
    put(state, 0, np.arange(4, dtype=np.float32))
    AllGather(src=0, dst=64, rows=1, columns=4, src_row=0, dst_row=0, dtype=F16, group=1).execute(state)
    np.testing.assert_array_equal(get(state, 64, 1, 4)[0], np.arange(4))
    with pytest.raises(InternalError, match="without the 1 devices"):
        AllReduce(address=0, count=4, dtype=F16, group=2).execute(state)


def test_regions_follow_the_operands() -> None:
    send = Send(src=variable(0) * 16, count=8, dtype=F16, to=1)
    (region,) = send.regions()
    assert (region.length, region.write) == (16, False)
    read, write = AllGather(src=0, dst=256, rows=3, columns=4, src_row=8, dst_row=32, dtype=F16, group=2).regions()
    assert (read.start, read.length, write.start, write.length) == (0, 24, 256, 80)


# Time


def port(spec: TargetSpec) -> Port:
    return Port(spec.system.link, spec.system.link_bandwidth)


def test_ring_all_reduce() -> None:
    """2(g-1) steps, each a hop and a g-th of the values."""
    own = port(load_target("npu", ["system.devices=4", "system.link.bandwidth=100GB/s", "system.link.latency=1us"]))
    command = AllReduce(address=0, count=2000, dtype=F16, group=4)
    assert exchange_ps(command, own) == 6 * (1_000_000 + 10_000)
    gather = AllGather(src=0, dst=0, rows=1, columns=500, src_row=0, dst_row=0, dtype=F16, group=4)
    assert exchange_ps(gather, own) == 3 * (1_000_000 + 10_000)
    assert exchange_ps(AllReduce(address=0, count=2000, dtype=F16, group=1), own) == 0


@pytest.mark.parametrize(("devices", "dim", "ns"), [(8, 4096, 322.4), (20, 5120, 639.8), (32, 8192, 1461.5)])
def test_cent_transfers_one_vector(devices: int, dim: int, ns: float) -> None:
    """CENT's own CXL times of a pipeline stage for Llama 2 7B, 13B and 70B."""
    own = port(load_target("cent", [f"system.devices={devices}"]))
    command = Send(src=0, count=dim, dtype=DType.BF16, to=1)
    assert exchange_ps(command, own) / 1000 == pytest.approx(ns, abs=0.05)


def test_cent_gathers_through_the_switch() -> None:
    """ceil(2N/d/64/3) * (d-1) flits behind one hop of 180 ns."""
    own = port(load_target("cent", ["system.devices=32"]))
    command = AllGather(src=0, dst=0, rows=1, columns=256, src_row=0, dst_row=0, dtype=DType.BF16, group=32)
    flits = 3 * 31
    assert exchange_ps(command, own) == 180_000 + -(-flits * 256 * 10**12 // (4 * 4 * 2**30))


def test_the_port_serves_one_exchange_at_a_time() -> None:
    spec = load_target("npu", ["system.devices=2", "system.link.bandwidth=100GB/s", "system.link.latency=1us"])
    timer = make_timer(spec, next(e for e in spec.engines() if e.name == "link"), {})
    assert isinstance(timer, LinkTimer)
    first = timer.issue(Send(src=0, count=500, dtype=F16, to=1), 0)
    assert (first.start, first.free, first.done, first.busy) == (0, 10_000, 10_000, 10_000)
    second = timer.issue(Receive(dst=0, count=500, dtype=F16, origin=1), 5_000)
    assert (second.start, second.done, second.cause) == (10_000, 1_020_000, "link")
    assert timer.counters["link bytes"] == 1000
    assert timer.relative(20_000) == 1_000_000
    timer.shift(5, 0)
    assert timer.free_at == 1_020_005
    with pytest.raises(InternalError):
        timer.issue(Command(), 0)
