"""Layers that go on as those before them get the commands that lowering would give them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pimc.backends.affine import variable
from pimc.backends.assembly import disassemble
from pimc.backends.dma.isa import Load
from pimc.backends.program import Item, Loop, Step
from pimc.backends.repeats import Further, Repeats, further
from pimc.driver import Options, compile_model
from pimc.ir.types import DType
from tests.e2e.harness import with_layers


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each layer that began was found to go on."""
    found: list[bool] = []
    begin = Repeats.begin

    def noted(self: Repeats, *given: object) -> Further | None:
        again = begin(self, *given)  # type: ignore[arg-type]
        found.append(again is not None)
        return again

    monkeypatch.setattr(Repeats, "begin", noted)
    return found


def text_of(model: Path, target: str, **dims: int) -> str:
    program = compile_model(str(model), target, Options(simulate=False, dims=dims)).program
    assert program is not None
    return disassemble(program)


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize("dims", [{"seq": 6}, {"batch": 2, "past": 9}], ids=["prefill", "decode"])
def test_the_same_as_lowered(
    target: str, dims: dict[str, int], begun: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_layers("tiny-gpt2", 6, tmp_path)
    found = text_of(model, target, **dims)
    assert begun.count(True) >= (0 if target == "cent" else 3)
    monkeypatch.setattr(Repeats, "begin", lambda *_: None)
    assert found == text_of(model, target, **dims)


def layer(number: int, *, count: int = 4, size: int = 64) -> tuple[Item, ...]:
    """Loads in a loop and one by itself, as the layer of a number has them."""
    address = 4096 * number
    load = Load(src=address, dst=0, dtype=DType.F16, counts=(size,), src_strides=(2,), dst_strides=(2,))
    turn = replace(load, src=address + variable(number) * 128)
    return Loop(number, count, (Step("load", turn, number),)), Step("load", load, number)


def test_addresses_loops_and_ops_go_on() -> None:
    assert further(layer(3), layer(5)) == layer(7)
    assert further(layer(3), layer(5), 4) == layer(13)


def test_items_further_on_are_made_without_those_that_are_left_out() -> None:
    assert tuple(Further(layer(3), layer(4), 2)) == layer(6)
    assert tuple(Further(layer(3), layer(4), 2, frozenset({0}))) == layer(6)[1:]


@pytest.mark.parametrize("other", [layer(2, count=5), layer(2, size=32), layer(2)[:1], layer(2)[::-1]])
def test_what_does_not_correspond_is_lowered(other: tuple[Item, ...]) -> None:
    assert further(layer(1), other) is None
