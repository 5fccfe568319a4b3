"""Every small model with outputs of ONNX Runtime, on every machine, in whatever order engines run."""

from __future__ import annotations

import pytest

from pimc.backends.races import check_races
from pimc.driver import Options
from tests.e2e.harness import (
    CHUNK,
    DECODE,
    PREFILL,
    SAMPLES,
    TARGETS,
    TINY,
    Built,
    Sample,
    assert_equal_bits,
    build_sample,
    key,
    tiny,
)

ON_PIM = ("place.only=pim",)
MACHINES = (("npu", ()), ("neupims", ()), ("neupims", ON_PIM), ("newton", ()), ("newton", ON_PIM), ("cent", ()))
"""Targets and options of passes. On `cent` products are on PIM anyway."""
ORDERS: tuple[int | str, ...] = ("reverse", 1, 2)


def _cases() -> list[object]:
    """All samples on all machines; every fourth combination is fast."""
    return [
        pytest.param(
            sample, target, passes,
            id=f"{sample}-{target}{'-on-pim' if passes else ''}",
            marks=[] if (row + column) % 4 == 0 else pytest.mark.slow,
        )
        for row, sample in enumerate(SAMPLES)
        for column, (target, passes) in enumerate(MACHINES)
    ]  # fmt: skip


@pytest.mark.parametrize(("sample", "target", "passes"), _cases())
def test_the_streams_of_an_exported_model(sample: Sample, target: str, passes: tuple[str, ...]) -> None:
    _check(build_sample(sample, target, Options(pass_options=passes)))


def _language_cases() -> list[object]:
    """Every second combination is fast, and no chunk."""
    machines = [machine for machine in MACHINES if machine != ("newton", ())]
    return [
        pytest.param(
            name, target, passes, dims,
            id=f"{name}-{target}{'-on-pim' if passes else ''}-{phase}",
            marks=[] if phase != "chunk" and (i + j + k) % 2 else pytest.mark.slow,
        )
        for i, name in enumerate(TINY)
        for j, (target, passes) in enumerate(machines)
        for k, (phase, dims) in enumerate((("prefill", PREFILL), ("decode", DECODE), ("chunk", CHUNK)))
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "target", "passes", "dims"), _language_cases())
def test_the_streams_of_a_model_in_the_language(
    name: str, target: str, passes: tuple[str, ...], dims: dict[str, int]
) -> None:
    _check(tiny(name, target, key(dims), passes))


def _check(built: Built) -> None:
    outputs = built.run()
    wide = built.compare(outputs)
    assert wide.ok, wide.outputs
    assert {o.name for o in wide.outputs} == set(built.program.outputs)
    for order in ORDERS:
        assert_equal_bits(outputs, built.run(order))
    narrow = built.run(wide=False)
    device = built.compare(narrow, wide=False)
    assert device.ok, device.outputs
    assert device.max_rel_err > 10 * wide.max_rel_err, "the machine's own types do not show"
    assert_equal_bits(narrow, built.run("reverse", wide=False))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_races(target: str) -> None:
    for name, dims in zip(TINY, (DECODE, PREFILL), strict=True):
        check_races(tiny(name, target, key(dims)).program)
