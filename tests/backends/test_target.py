"""Target files: numbers, inheritance, overrides, and every kind of mistake."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from pimc.backends.quantity import ClockTime, parse_frequency, parse_rate, parse_size, parse_time, rate_text, time_text
from pimc.backends.target import describe, from_description, json_schema, target_hash
from pimc.backends.target_registry import BUILTIN, load_target, target_names
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.source import TextSpan
from pimc.ir.types import DType

REPO = Path(__file__).parents[2]


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def mistakes(target: str | Path, *overrides: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(CompileError) as caught:
        load_target(target, overrides)
    return caught.value.diagnostics


def lines(found: tuple[Diagnostic, ...], folder: Path) -> list[str]:
    """Diagnostics as text, with the folder cut away."""
    texts = [str(d) + (f" [{d.help}]" if d.help else "") for d in found]
    return [t.replace(f"{folder}/", "") for t in texts]


# Quantities


def test_quantities_are_exact() -> None:
    assert parse_time("0.5ns") == 500
    assert parse_size("64KiB") == 65536
    assert parse_rate("614.4GB/s") == 614_400_000_000
    assert parse_frequency("1.2GHz") == 1_200_000_000
    assert parse_time("1e3 ps") == 1000
    for ps in (0, 1, 999, 1500, 1_899_810, 10**12):
        assert parse_time(time_text(ps)) == ps
    assert rate_text(137_438_953_472) == "128GiB/s"


@pytest.mark.parametrize("text", ["1e99999999ns", "1e-99999999s", "2s", "99999999999999999999ns"])
def test_quantities_beyond_all_machines(text: str) -> None:
    with pytest.raises(ValueError, match=r"out of range|too much"):
        parse_time(text)


@pytest.mark.parametrize("text", ["14", "ns", "14 clk", "-1ns", "0.0001ps", "1.2.3ns", "", "nan ns", "14NS"])
def test_wrong_quantities(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)
    with pytest.raises(ValueError, match="needs its unit"):
        parse_time(14)


def test_clocks_round_up() -> None:
    assert ClockTime(14_000, False).clocks(1_000_000_000) == 14
    assert ClockTime(14_001, False).clocks(1_000_000_000) == 15
    assert ClockTime(32, True).clocks(2_000_000_000) == 32


# The targets that come with pimc


@pytest.mark.parametrize("name", target_names())
def test_descriptions_stand_for_themselves(name: str) -> None:
    spec = load_target(name)
    plain = json.loads(json.dumps(describe(spec)))
    again = from_description(plain)
    assert again == spec
    assert describe(again) == describe(spec)
    assert target_hash(again) == target_hash(spec)
    assert spec.name == name


def test_derived_numbers() -> None:
    npu, neupims, newton, cent = (load_target(n) for n in ("npu", "neupims", "newton", "cent"))
    assert npu.dram.bytes == 32 * 2**30
    assert npu.dram.banks == 32
    assert npu.dram.bandwidth == 1_024_000_000_000
    assert npu.cycles["nRC"] == 48
    assert npu.npu is not None
    assert npu.npu.macs_per_cycle == 8 * 128 * 128
    assert npu.dram == neupims.dram == newton.dram
    assert neupims.pim is not None
    assert neupims.pim.style == "newton"
    assert neupims.pim.row_buffers == "dual"
    assert newton.pim is not None
    assert newton.pim.style == "newton"
    assert newton.pim.row_buffers == "single"
    assert neupims.cycles["nGWRITE"] == 96
    assert cent.dram.bytes == 16 * 2**30
    assert cent.dram.channel_bandwidth == 32_000_000_000
    assert cent.dram.geometry.stride_row == 2048 * 32 * 16
    assert {e.name: (e.kind, e.instances) for e in neupims.engines()} == {
        "load": ("dma", 1),
        "store": ("dma", 1),
        "npu": ("npu", 1),
        "pim": ("pim", 32),
        "link": ("link", 1),
        "load-pim": ("dma", 1),
        "store-pim": ("dma", 1),
        "npu-pim": ("npu", 1),
        "load-cache": ("dma", 1),
        "store-cache": ("dma", 1),
        "npu-cache": ("npu", 1),
        "load-held": ("dma", 1),
        "store-held": ("dma", 1),
        "load-link": ("dma", 1),
        "store-link": ("dma", 1),
    }
    assert [e.name for e in cent.engines()] == ["load", "store", "pim", "pnm", "link"]


def test_constraints_follow_timing() -> None:
    pairs = load_target("cent").pair_constraints()
    assert len(pairs) == 198
    assert pairs["bank", "ACT", "RD"] == 36
    assert pairs["channel", "RD", "WR"] == 50
    assert pairs["channel", "RDMAC16", "WR"] == 0
    assert pairs["channel", "WRA16", "ACT16"] == 73
    changed = load_target("cent", ["dram.timing.tRP=40clk"]).pair_constraints()
    assert changed["bank", "PRE", "ACT"] == 40
    assert changed["channel", "WRA16", "ACT16"] == 81
    assert load_target("npu").pair_constraints() == {}


def test_builtins_are_entry_points() -> None:
    declared = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["entry-points"]["pimc.targets"]
    assert declared == dict(BUILTIN)


# Inheritance and overrides


def test_a_target_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path, "base: neupims\nname: mine\ndram:\n  timing: {tRP: 15ns}\npim: null\n")
    spec = load_target(path)
    assert (spec.name, spec.cycles["nRP"], spec.pim) == ("mine", 15, None)
    assert load_target(str(path)) == spec
    child = write(tmp_path, "base: mine.yaml\nname: child\nsystem: {devices: 4}\n", "child.yaml")
    assert load_target(child).system.devices == 4
    assert load_target(child).cycles["nRP"] == 15


def documented(language: str) -> str:
    """The first example of a language in the documentation."""
    page = (REPO / "docs/targets.md").read_text()
    return page.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_the_documented_target(tmp_path: Path) -> None:
    spec = load_target(write(tmp_path, documented("yaml")))
    assert (spec.name, spec.dram.channels, spec.cycles["nRP"]) == ("mine", 16, 12)
    assert spec.dram.bandwidth == load_target("neupims").dram.bandwidth // 2
    assert next(e for e in spec.engines() if e.name == "pim").instances == 16


def test_overrides_come_before_what_is_derived() -> None:
    spec = load_target("npu", ["dram.clock=2GHz", "timing.tRP=12ns", "dram.refresh=false", "system.devices=4"])
    assert spec.cycles["nRP"] == 24
    assert spec.cycles["nCL"] == 14
    assert not spec.dram.refresh
    assert spec.system.devices == 4
    assert spec.system.link_bandwidth == 128 * 2**30
    assert load_target("cent", ["system.devices=8"]).system.link_bandwidth == 18 * 4 * 2**30


def test_targets_that_say_the_same_are_one_machine(tmp_path: Path) -> None:
    """Wherever they say it: what is known of a machine is found by its identity."""
    path = write(tmp_path, "base: npu\nname: mine\n")
    mine = load_target(path)
    assert load_target(path, ["npu.array.rows=128"]) is mine
    assert load_target(path, ["npu.array.rows=64"]) is not mine
    write(tmp_path, "base: npu\nname: mine\nnpu: {array: {rows: 32}}\n")
    changed = load_target(path)
    assert changed.npu is not None
    assert changed.npu.array.rows == 32


def test_the_hash_is_of_the_numbers(tmp_path: Path) -> None:
    plain = target_hash(load_target("npu"))
    assert plain == target_hash(load_target("npu", ["dram.source=elsewhere", "dram.timing.tRP=0.014us"]))
    assert plain != target_hash(load_target("npu", ["dram.timing.tRP=15ns"]))
    assert len({target_hash(load_target(n)) for n in target_names()}) == len(target_names())


# Mistakes


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = """\
base: neupims
name: bad
dram:
  chanels: 16
  row_bytes: 1000B
  clock: 1ns
  timing:
    tRAS: 10ns
    tRCDRD: -3ns
    tRP: 14
    tRP: 14 parsecs
    nRTP: 4
  refresh: perhaps
pim:
  row_buffers: triple
  macs_per_bank: 0
system:
  devices: many
  link: {latency: 1us, lanes: {total: 3}}
passes: {place: {x: [1]}}
"""
    found = mistakes(write(tmp_path, text))
    assert all(d.kind is Kind.TARGET_BAD for d in found)
    assert lines(found, tmp_path) == [
        "mine.yaml:4:3: error[P0602]: unknown key 'dram.chanels' [did you mean 'channels'?]",
        "mine.yaml:5:14: error[P0602]: row_bytes (1000) is not a multiple of access_bytes (64)",
        (
            "mine.yaml:6:10: error[P0602]: 'dram.clock' is wrong: 'ns' is not a unit of frequency "
            "(units: Hz, kHz, MHz, GHz)"
        ),
        (
            "mine.yaml:9:13: error[P0602]: 'dram.timing.tRCDRD' is wrong: a timing value cannot be negative, "
            "but this is -3ns"
        ),
        "mine.yaml:11:5: error[P0602]: 'tRP' is given twice",
        (
            "mine.yaml:11:10: error[P0602]: 'dram.timing.tRP' is wrong: 'parsecs' is not a unit of timing value "
            "(units: ps, ns, us, ms, s, clk)"
        ),
        (
            "mine.yaml:12:5: error[P0602]: unknown key 'dram.timing.nRTP' "
            "[nRTP is derived; give tRTP as a time (16ns) or a count of clocks (32clk)]"
        ),
        "mine.yaml:13:12: error[P0602]: 'dram.refresh' should be true or false, not 'perhaps'",
        "mine.yaml:15:16: error[P0602]: 'pim.row_buffers' should be 'dual' or 'single', not 'triple'",
        "mine.yaml:16:18: error[P0602]: 'pim.macs_per_bank' should be greater than 0, not 0",
        "mine.yaml:18:12: error[P0602]: 'system.devices' should be a whole number, not 'many'",
        "mine.yaml:19:3: error[P0602]: a link has either 'bandwidth' or 'lanes'",
        "mine.yaml:19:24: error[P0602]: 'system.link.lanes' lacks 'bandwidth'",
        "mine.yaml:20:21: error[P0602]: 'passes.place.x' should be a number, a text, true or false",
    ]
    span = found[0].source
    assert isinstance(span, TextSpan)
    assert (span.text, span.length) == ("  chanels: 16", 7)
    assert found[4].notes[0].endswith("mine.yaml:10:5")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dram.timing.tRAS=10ns", "tRAS (10 clocks) cannot be less than tRCDRD (14 clocks)"),
        ("dram.timing.tRC=10clk", "tRC (10 clocks) cannot be less than tRAS (34 clocks)"),
        ("dram.timing.tREFI=100ns", "tREFI (100 clocks) cannot be less than tRFC (260 clocks)"),
        ("dram.timing.tBL=0clk", "tBL cannot be 0"),
        ("dram.access_bytes=48B", "row_bytes (1024) is not a multiple of access_bytes (48)"),
        ("dram.ranks=16", "refreshes of 16 ranks every tREFI/ranks overlap, since each takes tRFC"),
        ("pim.banks_per_activation=5", "32 banks are not a multiple of 5 opened together"),
        ("pim.macs_per_bank=24", "a row of 1024 bytes is not a whole number of 24-element MAC operands"),
    ],
)
def test_impossible_combinations(override: str, message: str) -> None:
    messages = [d.message for d in mistakes("neupims", override)]
    assert message in messages


def test_mistakes_in_overrides_point_at_the_option() -> None:
    found = mistakes("npu", "dram.timing.tRP=14", "dram.chanels=3", "nonsense", "pim.queue=3", "timing.tRPP=1ns")
    assert sorted(str(d) for d in found) == [
        (
            "--set:1:17: error[P0602]: 'dram.timing.tRP' is wrong: a timing value needs its unit, "
            'as in "14ns" or "14clk" (units: ps, ns, us, ms, s, clk)'
        ),
        "--set:1:1: error[P0602]: 'nonsense' is not a change",
        "--set:1:1: error[P0602]: the target has no 'pim'",
        "--set:1:1: error[P0602]: unknown key 'dram.chanels'",
        "--set:1:1: error[P0602]: unknown key 'timing.tRPP'",
    ]
    assert [d.source.text for d in found if isinstance(d.source, TextSpan) and d.source.column > 1] == [
        "dram.timing.tRP=14"
    ]


def test_an_inherited_value_is_blamed_where_it_stands(tmp_path: Path) -> None:
    base = write(tmp_path, "base: npu\nname: base\ndram: {row_bytes: 1000B}\n", "base.yaml")
    child = write(tmp_path, "base: base.yaml\nname: child\n")
    (found,) = mistakes(child)
    assert isinstance(found.source, TextSpan)
    assert found.source.file == str(base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "not valid YAML"),
        ("just text", "a target file is a group"),
        ("", "a target file is a group"),
        ("a: &x [*x]\n", "refers to itself"),
        ("base: mine.yaml\nname: loop\n", "is based on itself"),
        ("base: [npu]\nname: x\n", "'base' is the name or the file"),
        ("base: npu\n", "the target lacks 'name'"),
        ("base: npu\nname: x\ndram: 3\n", "'dram' should be a group of keys, not 3"),
        ("base: npu\nname: x\nstorage: f64\n", "'storage' should be 'f16' or 'bf16', not 'f64'"),
        ("base: npu\nname: x\nnpu: null\n", "main_clock is 'npu', but the machine has no npu"),
        ("base: cent\nname: x\npnm: null\n", "nothing here can run every op"),
        ("base: cent\nname: x\npim: {style: fancy}\n", "'pim.style' should be one of"),
        ("base: npu\nname: x\npim: {queue: 3}\n", "'pim' lacks 'style'"),
        ("base: cent\nname: x\npim: {constraints: !table nowhere.csv}\n", "cannot read the table"),
        ("base: npu\nname: !odd x\n", "'!odd' is not a tag of target files"),
        (
            "base: npu\nname: x\nsystem: {link: {packet: {bytes: 8, payload: 9}}}\n",
            "a packet of 8 bytes cannot carry 9",
        ),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    found = mistakes(write(tmp_path, text))
    assert message in found[0].message or any(message in d.message for d in found)
    assert all(isinstance(d.source, TextSpan) for d in found)


def test_a_table_of_constraints(tmp_path: Path) -> None:
    write(tmp_path, "level,previous,next,formula\nbank,ACT,RD,nRCDRD + nFOO\nbank,ACT,RD,nRCDRD +\n", "pairs.csv")
    found = mistakes(write(tmp_path, "base: cent\nname: x\npim: {constraints: !table pairs.csv}\n"))
    assert [d.message.replace(f"{tmp_path}/", "") for d in found] == [
        "'nFOO' in a constraint (pairs.csv:2:1) is not a timing of this machine",
        "'pim.constraints.1.formula' should be a sum of timing names and whole numbers, not 'nRCDRD +'",
    ]


def test_unknown_targets(tmp_path: Path) -> None:
    (found,) = mistakes("neupim")
    assert (found.kind, found.help) == (Kind.TARGET_UNKNOWN, "did you mean 'neupims'?")
    (found,) = mistakes(tmp_path / "none.yaml")
    assert found.kind is Kind.FILE_MISSING
    (found,) = mistakes(write(tmp_path, "base: npux\nname: x\n"))
    assert (found.kind, found.help) == (Kind.TARGET_UNKNOWN, "did you mean 'npu'?")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(128, 256)))
    assert mistakes(binary)[0].kind is Kind.FILE_MISSING


def test_the_schema_knows_every_key() -> None:
    schema = json_schema()
    assert {"dram", "npu", "pim", "system", "base"} <= set(schema["properties"])
    assert "tRCDRD" in schema["$defs"]["DramTiming"]["properties"]
    assert schema["$defs"]["DramSpec"]["properties"]["row_bytes"]["type"] == "string"


def test_what_a_user_changes_is_not_another_programs_machine() -> None:
    """Descriptions are the reader's own, and copies of a machine find out anew what is kept about it."""
    spec = load_target("npu")
    describe(spec)["dram"]["clock"] = "1 Hz"
    assert describe(spec)["dram"]["clock"] != "1 Hz"
    described = describe(spec)
    assert from_description(described).npu is not None
    described["npu"]["array"]["rows"] = 64
    npu = from_description(described).npu
    assert npu is not None and npu.array.rows == 64
    assert "load" in [engine.name for engine in spec.engines()] and spec.storage_dtype is DType.F16
    copied = spec.model_copy(update={"dma": None, "storage": "bf16"})
    assert "load" not in [engine.name for engine in copied.engines()] and copied.storage_dtype is DType.BF16
