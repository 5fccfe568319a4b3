"""Several devices: the parts that they compute, and what they exchange, give what one device gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.backends.races import check_races
from pimc.driver import Options, compile_model
from pimc.ir.diagnostics import CompileError
from tests.e2e.harness import DECODE, PREFILL, TINY, all_steps, assert_equal_bits, key, tiny

DEGREES = {"tp": {"tp": 2}, "pp": {"pp": 2}, "both": {"tp": 2, "pp": 2}}
EXCHANGES = {"tp": {"ALLREDUCE", "ALLGATHER"}, "pp": {"SEND", "RECEIVE"}}
EXCHANGES["both"] = EXCHANGES["tp"] | EXCHANGES["pp"]


def _cases() -> list[object]:
    """All combinations; every second one is fast."""
    return [
        pytest.param(name, target, how, dims, id=f"{name[5:-5]}-{target}-{how}-{phase}", marks=marks)
        for i, name in enumerate(TINY)
        for j, target in enumerate(("npu", "neupims", "cent"))
        for k, how in enumerate(DEGREES)
        for m, (phase, dims) in enumerate((("prefill", PREFILL), ("decode", DECODE)))
        if (marks := [] if (i + j + k + m) % 2 else [pytest.mark.slow]) is not None
    ]


@pytest.mark.parametrize(("name", "target", "how", "dims"), _cases())
def test_devices_compute_together(name: str, target: str, how: str, dims: dict[str, int]) -> None:
    built = tiny(name, target, key(dims), (), key(DEGREES[how]))
    program = built.program
    assert program.devices == (4 if how == "both" else 2)
    assert {s.command.mnemonic for s in all_steps(program) if s.command.unit == "link"} == EXCHANGES[how]
    outputs = built.run()
    comparison = built.compare(outputs)
    assert comparison.ok, comparison.outputs
    for order in ("reverse", 1):
        assert_equal_bits(outputs, built.run(order))
    device = built.compare(built.run(wide=False), wide=False)
    assert device.ok, device.outputs


def test_what_is_read_whole_is_not_cut(tmp_path: Path) -> None:
    """A residual is an input that a norm reads, too."""
    model = tmp_path / "residual.pimc"
    model.write_text(
        "model residual(rows = 3)\ninput x: f32[rows, 32]\n"
        "weight gain: f32[32] = random(1)\nweight w: f32[32, 32] = random(0.1)\n"
        "output y = x + rms_norm(x, gain, epsilon = 1e-5) @ w\n"
    )
    options = Options(parallel={"tp": 2}, overrides=("system.devices=2",), simulate=False)
    comparison = compile_model(model, "npu", options, values="random").comparison
    assert comparison is not None
    assert comparison.ok, comparison.outputs


@pytest.mark.parametrize("how", DEGREES)
def test_each_device_holds_its_part(how: str) -> None:
    """Weights and caches of a device take about a half, or a quarter, of what one device needs."""
    one = tiny("tiny-llama.pimc", "npu", key(DECODE)).program
    many = tiny("tiny-llama.pimc", "npu", key(DECODE), (), key(DEGREES[how])).program

    def held(program: object, rank: int) -> int:
        return sum(e.layout.elements for e in program.memory if e.role in ("weight", "input") and rank in e.devices)  # type: ignore[attr-defined]

    whole = held(one, 0)
    for rank in range(many.devices):
        assert held(many, rank) < whole * (0.7 if many.devices == 2 else 0.45)


def test_devices_do_not_race() -> None:
    for how in DEGREES:
        check_races(tiny("tiny-llama.pimc", "neupims", key(DECODE), (), key(DEGREES[how])).program)


@pytest.mark.parametrize("degrees", [{"tp": 3}, {"tp": 8}, {"pp": 3}], ids=str)
def test_degrees_that_do_not_divide_the_model(degrees: dict[str, int]) -> None:
    """Three devices cannot share four heads, and three stages not two layers: computed right, or refused."""
    try:
        built = tiny("tiny-gpt2.pimc", "npu", key(DECODE), (), key(degrees))
    except CompileError as error:
        assert str(next(iter(degrees.values()))) in error.diagnostics[0].message
    else:
        assert built.compare(built.run()).ok
