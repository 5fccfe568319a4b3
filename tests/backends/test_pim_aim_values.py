"""What GDDR6-AiM's commands do to values, by hand-written streams on two channels."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.backends.pim import aim_isa as aim
from pimc.backends.pim.isa import COMMANDS_BY_STYLE
from pimc.backends.state import DeviceState
from pimc.ir.diagnostics import CompileError
from pimc.ir.op import Array
from pimc.ir.types import DType
from tests.backends.pim_harness import floats, new_state, small

BOTH, SECOND = 0b11, 0b10


@pytest.fixture
def state() -> DeviceState:
    return new_state(small("cent", 2))


def put(state: DeviceState, address: int, values: Array) -> None:
    state.spaces["buffer"].write(address, ((values.size, 2),), DType.BF16, values.reshape(-1))


def get(state: DeviceState, address: int, count: int) -> Array:
    return state.spaces["buffer"].read(address, ((count, 2),), DType.BF16)


def set_row(state: DeviceState, row: int, values: Array, byte: int = 0) -> None:
    """values[channel, bank, element] into a row."""
    geometry = state.geometry
    digits = ((2, geometry.stride_channel), (16, geometry.stride_bank), (values.shape[2], 2))
    state.spaces["dram"].write(geometry.address(0, 0, row, byte), digits, DType.BF16, values)


def get_row(state: DeviceState, row: int, elements: int) -> Array:
    geometry = state.geometry
    digits = ((2, geometry.stride_channel), (16, geometry.stride_bank), (elements, 2))
    return state.spaces["dram"].read(geometry.address(0, 0, row), digits, DType.BF16)


def execute(state: DeviceState, *commands: aim.AimCommand) -> None:
    for command in commands:
        assert list(command.regions())
        command.execute(state)


def test_gemv_of_one_row(state: DeviceState) -> None:
    matrix, x = floats(2, 16, 48), floats(48)
    set_row(state, 5, matrix, byte=64)
    put(state, 0, x)
    bias = floats(32)
    put(state, 256, bias)
    execute(
        state,
        aim.WriteGlobalBuffer(3, 0, BOTH, 4),
        aim.WriteBias(7, BOTH, "no", 256),
        aim.MacAllBanks(3, BOTH, 5, 7, 2, 4),
        aim.ReadMac(7, BOTH, 512),
    )
    np.testing.assert_allclose(get(state, 512, 32), (matrix @ x).reshape(-1) + bias, rtol=1e-4, atol=1e-4)


def test_macs_add_up_and_masks_leave_other_channels_alone(state: DeviceState) -> None:
    set_row(state, 0, np.ones((2, 16, 16), np.float32))
    put(state, 0, np.ones(16, np.float32))
    execute(state, aim.WriteGlobalBuffer(1, 0, BOTH), aim.WriteBias(0, BOTH, "yes"))
    execute(state, aim.MacAllBanks(1, BOTH, 0), aim.MacAllBanks(1, SECOND, 0), aim.ReadMac(0, BOTH, 64))
    np.testing.assert_array_equal(get(state, 64, 32), [16.0] * 16 + [32.0] * 16)


def test_channels_can_have_vectors_and_results_of_their_own(state: DeviceState) -> None:
    set_row(state, 0, np.ones((2, 16, 16), np.float32))
    put(state, 0, np.ones(16, np.float32))
    put(state, 1024, np.full(16, 3, np.float32))
    execute(state, aim.WriteGlobalBuffer(1, 0, BOTH, stride=1024), aim.WriteBias(0, BOTH, "yes"))
    execute(state, aim.MacAllBanks(1, BOTH, 0), aim.ReadMac(0, BOTH, 64, stride=512))
    np.testing.assert_array_equal(get(state, 64, 16), [16.0] * 16)
    np.testing.assert_array_equal(get(state, 64 + 512, 16), [48.0] * 16)


def test_neighbour_banks_multiply_each_other(state: DeviceState) -> None:
    rows = floats(2, 16, 32)
    set_row(state, 1, rows)
    execute(state, aim.WriteBias(0, BOTH, "yes"), aim.MacAllBanks(2, BOTH, 1, other="bank"), aim.ReadMac(0, BOTH, 0))
    want = (rows * rows[:, np.arange(16) ^ 1]).sum(-1)
    np.testing.assert_allclose(get(state, 0, 32), want.reshape(-1), rtol=1e-4, atol=1e-4)


def test_one_bank_alone(state: DeviceState) -> None:
    rows, x = floats(2, 16, 16), floats(16)
    set_row(state, 1, rows)
    put(state, 0, x)
    execute(state, aim.WriteGlobalBuffer(1, 0, BOTH), aim.WriteBias(0, BOTH, "yes"))
    execute(state, aim.MacOneBank(1, SECOND, 9, 1), aim.ReadMac(0, BOTH, 64))
    want = np.zeros((2, 16), np.float32)
    want[1, 9] = rows[1, 9] @ x
    np.testing.assert_allclose(get(state, 64, 32), want.reshape(-1), rtol=1e-5)


@pytest.mark.parametrize("function", list(aim.ACTIVATIONS))
def test_activation_of_an_accumulator(state: DeviceState, function: str) -> None:
    x = floats(32)
    put(state, 0, x)
    execute(state, aim.WriteBias(3, BOTH, "no", 0), aim.Activate(function, BOTH, 3), aim.ReadActivated(BOTH, 64))
    np.testing.assert_allclose(get(state, 64, 32), aim.ACTIVATIONS[function](x), rtol=1e-5)


def test_moving_rows(state: DeviceState) -> None:
    x = floats(32)
    put(state, 0, x)
    execute(state, aim.WriteBank(2, SECOND, 3, 8, 1, 0), aim.ReadBank(2, SECOND, 3, 8, 1, 128))
    np.testing.assert_array_equal(get(state, 128, 32), x)
    execute(state, aim.CopyBankToBuffer(2, SECOND, 3, 8, 1, 5), aim.CopyBufferToBank(2, SECOND, 6, 9, 0, 5))
    np.testing.assert_array_equal(get_row(state, 9, 32)[1, 6], x)
    assert not get_row(state, 9, 32)[0].any()


def test_one_element_of_every_bank(state: DeviceState) -> None:
    x = floats(32)
    put(state, 0, x)
    execute(state, aim.WriteAllBanks(BOTH, 4, 21, 0))
    np.testing.assert_array_equal(get_row(state, 4, 32)[:, :, 21], x.reshape(2, 16))


def test_products_of_banks(state: DeviceState) -> None:
    rows = floats(2, 16, 16)
    set_row(state, 2, rows)
    execute(state, aim.MultiplyBanks(1, BOTH, 2))
    after = get_row(state, 2, 16)
    np.testing.assert_allclose(after[:, 2::4], rows[:, 0::4] * rows[:, 1::4], rtol=1e-6)
    np.testing.assert_array_equal(after[:, 3::4], rows[:, 3::4])


def test_adding_in_the_buffer(state: DeviceState) -> None:
    x, y = floats(32), floats(32, seed=1)
    put(state, 0, x)
    put(state, 64, y)
    execute(state, aim.AddBuffers(2, 0, 64))
    np.testing.assert_allclose(get(state, 0, 32), x + y, rtol=1e-6)


def test_narrow_accumulators_round_after_every_column() -> None:
    state = new_state(small("cent", 2), wide=False)
    ones = np.ones((2, 16, 64), np.float32)
    ones[:, :, 16:] = 0.0625
    set_row(state, 0, ones)
    put(state, 0, np.full(64, 16, np.float32))
    execute(state, aim.WriteGlobalBuffer(4, 0, BOTH), aim.WriteBias(0, BOTH, "yes"))
    execute(state, aim.MacAllBanks(4, BOTH, 0), aim.ReadMac(0, BOTH, 256))
    total = np.float32(0)
    for products in (256.0, 16.0, 16.0, 16.0):
        total = np.float32(DType.BF16.numpy.type(total + np.float32(products)))
    assert get(state, 256, 1)[0] == total
    runs, single = (new_state(small("cent", 2), wide=False) for _ in range(2))
    for other, commands in (
        (runs, [aim.MacAllBanks(4, BOTH, 0)]),
        (single, [aim.MacAllBanks(1, BOTH, 0, 0, i, i) for i in range(4)]),
    ):
        set_row(other, 0, floats(2, 16, 64))
        put(other, 0, floats(64, seed=1))
        execute(other, aim.WriteGlobalBuffer(4, 0, BOTH), aim.WriteBias(0, BOTH, "yes"), *commands)
        execute(other, aim.ReadMac(0, BOTH, 256))
    np.testing.assert_array_equal(get(runs, 256, 32), get(single, 256, 32))


@pytest.mark.parametrize(
    "command",
    [
        aim.MacAllBanks(4, BOTH, 0, 0, 62, 0),
        aim.MacAllBanks(4, BOTH, 0, 0, 0, 61),
        aim.WriteGlobalBuffer(1, 0, BOTH, share=3),
    ],
)
def test_columns_and_channels_that_are_not_there_are_refused(state: DeviceState, command: aim.AimCommand) -> None:
    with pytest.raises(CompileError, match="P0802"):
        command.execute(state)


def test_every_command_is_listed() -> None:
    names = [c.mnemonic for c in COMMANDS_BY_STYLE["aim"]]
    assert len(set(names)) == len(names) == 19
