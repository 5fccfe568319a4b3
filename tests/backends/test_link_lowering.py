"""Collectives on several devices in step, from any place to any place, compared with numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import pimc.backends.link.lower  # noqa: F401  (registers the rules)
from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.link.isa import Exchange, Party, meet
from pimc.backends.lowering import RULES, Lowering, Tensor
from pimc.backends.program import count, unrolled
from pimc.backends.target_registry import load_target
from pimc.ir.graph import Value
from pimc.ir.op import Array, Attribute
from tests.backends.kernel_harness import BUFFER_BYTES, Machine, floats, node_of

PLACES = ["dram", "buffer", "dram:turned", "dram:digits", "buffer:padded"]


def run(
    op: str, arrays: Sequence[Array], attributes: dict[str, Attribute], places: tuple[str, str], scratch: int = 1 << 14
) -> tuple[list[Array], int]:
    """Results of every device, and how many commands each executed."""
    node = node_of(op, [arrays[0]], attributes, ())
    (operand,) = node.inputs()
    machines = [Machine(load_target("npu"), "npu") for _ in arrays]
    homes: dict[Value, Tensor] = {}
    for rank, (machine, array) in enumerate(zip(machines, arrays, strict=True)):
        machine.state.rank = rank
        homes = {
            value: machine.place(value.type.static_shape, value.type.dtype, place)
            for value, place in zip((operand, node.result), places, strict=True)
        }
        machine.write(homes[operand], array)
    emit = Emitter()
    at = Lowering(machines[0].spec, emit, Scratch(BUFFER_BYTES - scratch, scratch), homes)
    RULES["link", op](node, at)
    items = emit.take()
    for step in unrolled(items):
        if isinstance(step.command, Exchange):
            meet([Party(step.command, m.state) for m in machines])
        else:
            for m in machines:
                step.command.execute(m.state)
    return [m.read(homes[node.result], node.result.type.static_shape) for m in machines], count(items)


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("target", PLACES)
def test_all_reduce(source: str, target: str) -> None:
    arrays = [floats(6, 40, seed=r) for r in range(4)]
    results, _ = run("all_reduce", arrays, {"group": 4}, (source, target))
    for result in results:
        np.testing.assert_allclose(result, sum(arrays), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("places", [("dram", "dram:turned"), ("buffer", "buffer"), ("dram:digits", "buffer:padded")])
def test_all_gather_and_reduce_scatter(axis: int, places: tuple[str, str]) -> None:
    arrays = [floats(4, 6, 10, seed=r) for r in range(2)]
    results, _ = run("all_gather", arrays, {"group": 2, "axis": axis}, places)
    for result in results:
        np.testing.assert_array_equal(result, np.concatenate(arrays, axis))
    results, _ = run("reduce_scatter", arrays, {"group": 2, "axis": axis}, places)
    for result, part in zip(results, np.split(arrays[0] + arrays[1], 2, axis), strict=True):
        np.testing.assert_allclose(result, part, rtol=1e-6, atol=1e-6)


def test_what_does_not_fit_goes_in_pieces() -> None:
    arrays = [floats(3, 5000, seed=r) for r in range(2)]
    results, commands = run("all_reduce", arrays, {"group": 2}, ("dram", "dram"), scratch=1 << 13)
    np.testing.assert_allclose(results[1], arrays[0] + arrays[1], rtol=1e-6, atol=1e-6)
    assert commands > 20
    for axis in (0, 1):
        results, _ = run("all_gather", arrays, {"group": 2, "axis": axis}, ("dram", "dram"), scratch=1 << 13)
        np.testing.assert_array_equal(results[0], np.concatenate(arrays, axis))


def test_a_tensor_on_chip_is_reduced_where_it_lies() -> None:
    node = node_of("all_reduce", [floats(4, 8)], {"group": 2}, ())
    machine = Machine(load_target("npu"), "npu")
    home = machine.place((4, 8), node.result.type.dtype, "buffer")
    emit = Emitter()
    homes = {next(node.inputs()): home, node.result: home}
    RULES["link", "all_reduce"](node, Lowering(machine.spec, emit, Scratch(1 << 16, 1 << 12), homes))
    assert count(emit.take()) == 1
