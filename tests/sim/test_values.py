"""The value runner: memory map, orders, exchanges, carried state, and what it says of bad inputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from pimc.backends.affine import variable
from pimc.backends.isa import Signal, Wait
from pimc.backends.program import Item, Loop, MapEntry, Program, Step
from pimc.backends.synchronize import split_streams
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.ir.weights import Inline, Missing, Sharded
from pimc.sim.compare import compare
from pimc.sim.values import execute
from tests.fakes import BUFFER_BYTES, platform, program, work
from tests.sim.test_time import items

WHOLE = MapEntry("all", "input", "buffer", DType.I32, Layout.dense((BUFFER_BYTES // 4,), 4), DType.I32)


def adding() -> Program:
    """y[i] = x[i] + w[i]"""
    i = variable(0) * 4
    body = (Loop(0, 4, (work("a", 1, i, i + 64), work("b", 1, i + 64, i + 128))),)
    weight = np.arange(4, dtype=np.int64) * 10
    entries = (
        MapEntry("x", "input", "buffer", DType.I32, Layout.dense((2, 2), 4), DType.I32),
        MapEntry("w", "weight", "buffer", DType.I32, Layout.dense((4,), 4, 64), DType.I64, contents=Inline(weight)),
        MapEntry("y", "output", "buffer", DType.I32, Layout.dense((4,), 4, 128), DType.I32),
    )
    return dataclasses.replace(program(split_streams(body)), memory=entries, inputs=("x",), outputs=("y",))


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["forward", "reverse", 1, 2])
def test_a_program_computes(wide: bool, order: int | str) -> None:
    x = np.array([[1, 2], [3, 4]], np.int32)
    outputs, state = execute(adding(), {"x": x}, wide=wide, order=order, platform=platform())
    np.testing.assert_array_equal(outputs["y"], [1, 12, 23, 34])
    again, _ = execute(adding(), {}, wide=wide, state=state, platform=platform())
    np.testing.assert_array_equal(again["y"], np.array([1, 12, 23, 34]) * 2 + [1, 2, 3, 4])


def test_given_weights_take_the_place_of_the_own() -> None:
    program = adding()
    entries = tuple(dataclasses.replace(e, contents=Missing("w")) if e.name == "w" else e for e in program.memory)
    program = dataclasses.replace(program, memory=entries)
    x = np.zeros((2, 2), np.int32)
    with pytest.raises(CompileError) as caught:
        execute(program, {"x": x}, wide=True, platform=platform())
    assert caught.value.diagnostics[0].kind is Kind.WEIGHT_MISSING
    outputs, _ = execute(program, {"x": x}, wide=True, weights={"w": np.arange(4)}, platform=platform())
    np.testing.assert_array_equal(outputs["y"], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "input 'x' (i32[2, 2]) is not given"),
        ({"x": np.zeros((2, 3), np.int32)}, "has shape [2, 3]"),
        ({"x": np.zeros((2, 2), np.float32)}, "has elements of type float32"),
        ({"x": np.zeros((2, 2), np.int32), "z": np.zeros(1)}, "the program has no input 'z'"),
        ({"x": np.array([["a", "b"], ["c", "d"]])}, "has elements of type <U1"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs: dict[str, np.ndarray], says: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(CompileError) as caught:
        execute(adding(), inputs, wide=True, platform=platform())
    assert any(says in d.message and d.kind is Kind.INPUT_BAD for d in caught.value.diagnostics)


def test_a_blocked_program_is_a_deadlock() -> None:
    streams: dict[str, tuple[Item, ...]] = {"a": (Step("a", Wait(0)),), "b": (Step("b", Wait(1)), Step("b", Signal(0)))}
    with pytest.raises(CompileError) as caught:
        execute(program(streams), {}, wide=True, platform=platform())
    assert caught.value.diagnostics[0].kind is Kind.DEADLOCK


def test_shards_go_to_their_devices_and_come_back() -> None:
    sharded = Sharded(Inline(np.arange(8, dtype=np.int32)), 0, 2)
    layout = Layout.dense((4,), 4)
    entries = (
        MapEntry("w", "weight", "buffer", DType.I32, layout, DType.I32, (0, 1), (0, 2), sharded),
        MapEntry("y", "output", "buffer", DType.I32, layout, DType.I32, (0, 1), (0, 2)),
    )
    copy = Loop(0, 4, (work("a", 1, variable(0) * 4, variable(0) * 4),))
    made = dataclasses.replace(program({"a": (copy,)}, devices=2), memory=entries, outputs=("y",))
    outputs, _ = execute(made, {}, wide=False, platform=platform())
    np.testing.assert_array_equal(outputs["y"], np.arange(8) * 2)


@settings(max_examples=60, deadline=None)
@given(items())
def test_every_order_gives_the_same(sequential: tuple[Item, ...]) -> None:
    made = dataclasses.replace(program(split_streams(sequential)), memory=(WHOLE,), inputs=("all",), outputs=("all",))
    start = {"all": np.arange(BUFFER_BYTES // 4, dtype=np.int32)}
    orders: tuple[int | str, ...] = ("forward", "reverse", 7)
    found = [execute(made, start, wide=False, order=order, platform=platform())[0]["all"] for order in orders]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_errors_are_relative_to_the_largest_expected_value() -> None:
    result = compare({"y": np.array([1.0, 2.0, 4.0004])}, {"y": np.array([1.0, 2.0, 4.0])}, 1e-3)
    assert result.ok
    assert result.max_rel_err == pytest.approx(1e-4)
    assert not compare({"y": np.array([np.nan])}, {"y": np.array([1.0])}).ok
    assert compare({"y": np.array([np.nan, -np.inf])}, {"y": np.array([np.nan, -np.inf])}).ok
    assert not compare({"y": np.array([1])}, {"y": np.array([2])}).ok
    assert not compare({}, {"y": np.array([2])}).ok
    assert compare({"y": np.zeros((2, 0))}, {"y": np.zeros((2, 0))}).ok
    assert not compare({"y": np.zeros(2)}, {"y": np.zeros((2, 1))}).ok
