"""What the commands of Newton-style PIM do to values, by hand-written streams."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.state import DeviceState
from pimc.ir.op import Array
from pimc.ir.types import DType
from tests.backends.pim_harness import floats, new_state, small


@pytest.fixture
def state() -> DeviceState:
    return new_state(small("neupims", 2))


def fill(state: DeviceState) -> tuple[Array, Array]:
    """A vector in bank 3, row 7 of channel 1, and a matrix in row 9 of all its banks."""
    geometry = state.geometry
    x, matrix = floats(64).astype(np.float16).astype(np.float32), floats(32, 64).astype(np.float16).astype(np.float32)
    state.spaces["dram"].write(geometry.address(1, 3, 7, 32), ((64, 2),), DType.F16, x)
    digits = ((32, geometry.stride_bank), (64, 2))
    state.spaces["dram"].write(geometry.address(1, 0, 9, 64), digits, DType.F16, matrix)
    state.channel = 1
    GlobalWrite(3, 7, 4, 1, 2).execute(state)
    return x, matrix


def results(state: DeviceState, address: int) -> Array:
    return state.spaces["buffer"].read(address, ((32, 2),), DType.F16)


def test_composite_command(state: DeviceState) -> None:
    x, matrix = fill(state)
    for command in (Header(9, 4, 2), CompsReadResult(9, 3, 2, 2, 128), CompsReadResult(9, 1, 5, 5, 256)):
        command.execute(state)
    np.testing.assert_allclose(results(state, 128), matrix[:, :48] @ x[:48], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(results(state, 256), matrix[:, 48:] @ x[48:], rtol=1e-4, atol=1e-4)


def test_single_commands_add_up_until_the_result_is_read(state: DeviceState) -> None:
    x, matrix = fill(state)
    for command in (Comp(9, 3, 2, 2), Comp(9, 1, 5, 5), ReadResult(128), Comp(9, 1, 2, 2), ReadResult(256)):
        command.execute(state)
    np.testing.assert_allclose(results(state, 128), matrix @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(results(state, 256), matrix[:, :16] @ x[:16], rtol=1e-4, atol=1e-4)


def test_channels_have_global_buffers_of_their_own(state: DeviceState) -> None:
    fill(state)
    state.channel = 0
    CompsReadResult(9, 3, 2, 2, 128).execute(state)
    assert not results(state, 128).any()
