"""Writes docs/studies/cent.md: CENT's published tables beside what pimc gives for the same models and mappings.

    python docs/studies/cent.py [--jobs 2] [--only SECTION ...]

Every number of pimc's is computed when this runs; the published ones are in cent.yaml. The published means are over
every 128th position; the pipeline mapping is timed at every one besides. Work is shared out among processes, the
positions of a model or a compilation each, which are new ones each time, so that none of them grows.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import field
from functools import cache
from math import prod
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from pimc.driver import Options, compile_model
from pimc.garbage import collect_seldom
from pimc.positions import Positions
from pimc.record import record
from pimc.sim.breakdown import Breakdown
from pimc.sim.report import Report

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models"
PUBLISHED: dict[str, Any] = yaml.safe_load((HERE / "cent.yaml").read_text())
LAYERS = {"llama2-7b": 32, "llama2-13b": 40, "llama2-70b": 80}
LAST, PROMPT = 4096, 512
ALL_CHANNELS = "energy.static.standby.counted=all"
STEP = 128
"""Between the positions of a published mean."""

HEADS = {64: "MHA", 8: "GQA (8)", 1: "MQA"}
"""Key and value heads of models of 70 B parameters."""
VARIANTS = {f"llama2-70b-kv{kv}": kv for kv in HEADS}
ATTENTION = """model llama2-70b-kv{kv}(batch = 1, seq = 1, past = 0)
let layers = 80
let hidden = 8192
let heads = 64
let kv_heads = {kv}
let ffn = {ffn}
let vocab = 32000
include "{blocks}/llama.pimc"
"""


def width(kv: int) -> int:
    """Of the feed-forward layers, which make up for what more or fewer heads of keys and values take."""
    return round((28672 - 2 * (kv - 8) * 128 / 3) / 16) * 16


@contextmanager
def model(name: str) -> Iterator[Path]:
    """The file of a model."""
    if name not in VARIANTS:
        yield MODELS / f"{name}.pimc"
        return
    kv = VARIANTS[name]
    with TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.pimc")
        path.write_text(ATTENTION.format(kv=kv, ffn=width(kv), blocks=MODELS / "blocks"))
        yield path


@cache
def positions(name: str, pp: int, tp: int, *overrides: str) -> Positions:
    devices = PUBLISHED["devices"].get(name, PUBLISHED["devices"]["llama2-70b"])
    options = Options(
        dims={"past": 0}, overrides=(f"system.devices={devices}", *overrides), parallel={"pp": pp, "tp": tp}
    )
    with model(name) as path:
        return Positions(path, "cent-published", options)


def token(name: str, pp: int, tp: int, keys: int, *overrides: str) -> Breakdown:
    asked = name, pp, tp, keys, *overrides
    if asked not in FOUND:
        FOUND[asked] = positions(name, pp, tp, *overrides).at(keys).breakdown
    return FOUND[asked]


def taken(first: int, last: int) -> range:
    """The positions that stand for those up to `last`: every 128th, as published."""
    return range(first - 1 + STEP, last + 1, STEP)


# -- what is computed, by several processes ----------------------------------------------------------------------------

FOUND: dict[tuple[Any, ...], Breakdown] = {}
"""Tokens by model, split, keys and changes."""


@record
class Strict:
    """A decode step of the target `cent` with a query in every stage."""

    tokens_per_s: float
    latency: float
    balance: float
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    """of all blocks: seconds and bound of products with weights, of attention, and of all else"""


COMPILED: dict[tuple[str, int, str], Strict] = {}
"""By model, keys and mapping."""

Task = tuple[str, tuple[Any, ...]]
"""The name of a function of this file, and its arguments."""


def stretch(name: str, pp: int, tp: int, keys: Sequence[int], *overrides: str) -> list[tuple[Any, Breakdown]]:
    return [((name, pp, tp, each, *overrides), token(name, pp, tp, each, *overrides)) for each in keys]


def strict_of(name: str, keys: int, mapping: str) -> list[tuple[tuple[Any, ...], Strict]]:
    return [((name, keys, mapping), strict(name, keys, mapping))]


def strict(name: str, keys: int, mapping: str) -> Strict:
    """A block in each stage."""
    if (name, keys, mapping) in COMPILED:
        return COMPILED[name, keys, mapping]
    report = compiled(MODELS / f"{name}.pimc", PUBLISHED["devices"][name], LAYERS[name], keys, mapping)
    parts: dict[str, tuple[float, float]] = {}
    for op in report.ops:
        kind = kind_of(op.op)
        seconds, bound = parts.get(kind, (0.0, 0.0))
        parts[kind] = seconds + op.seconds, bound + op.bound_seconds
    pipeline = report.pipeline
    assert pipeline is not None
    found = Strict(pipeline.tokens_per_s, pipeline.latency_seconds, pipeline.balance, parts)
    COMPILED[name, keys, mapping] = found
    return found


def compiled(model: Path, devices: int, stages: int, keys: int, mapping: str) -> Report:
    options = Options(
        dims={"past": keys - 1},
        overrides=(f"system.devices={devices}", f"mapping={mapping}"),
        parallel={"pp": stages, "tp": 1},
        shapes_only=True,
    )
    report = compile_model(model, "cent", options).report
    assert report is not None
    return report


class Sizes(NamedTuple):
    """Of a block."""

    hidden: int
    heads: int
    kv: int
    ffn: int


def variant(kv: int) -> Sizes:
    """A block of a model of 70 B parameters."""
    return Sizes(8192, 64, kv, width(kv))


SIZES = {"llama2-7b": Sizes(4096, 32, 32, 11008), "llama2-70b": Sizes(8192, 64, 8, 28672)}
BLOCK = """model block(batch = 1, seq = 1, past = 0)
let hidden = {hidden}
let heads = {heads}
let kv_heads = {kv}
let ffn = {ffn}
include "{blocks}/llama_layer.pimc"
input hidden_states: f16[batch, seq, hidden]
weight attention_norm: f16[hidden] = 1
weight mlp_norm: f16[hidden] = 1
let x = hidden_states + self_attention(rms_norm(hidden_states, attention_norm, epsilon = epsilon), 0)
let y = x + mlp(rms_norm(x, mlp_norm, epsilon = epsilon))
output y
"""
TOGETHER = 16
"""Tokens of a prompt that pass together."""
STEPS = ((1, PROMPT), (1, LAST), (TOGETHER, PROMPT), (TOGETHER, LAST))
"""New tokens, and the keys of the last of them."""
PROMPTS = (4, 16, 64)
"""New tokens of prompts whose weights are looked at."""

Prompt = tuple[Sizes, int, int, str]
"""A block, new tokens, keys of the last of them, and whether rows of weights serve several of them (`share-rows`)"""
BLOCKS: dict[Prompt, dict[str, float]] = {}
"""Microseconds a token on a whole device of `cent`, and the bound of the products with weights."""


def block_of(*prompt: Any) -> list[tuple[Prompt, dict[str, float]]]:
    sizes, new, keys, use = prompt
    return [((sizes, new, keys, use), block(sizes, new, keys, use))]


def block(sizes: Sizes, new: int, keys: int, use: str = "auto") -> dict[str, float]:
    if (sizes, new, keys, use) not in BLOCKS:
        with TemporaryDirectory() as folder:
            path = Path(folder, "block.pimc")
            path.write_text(BLOCK.format(**sizes._asdict(), blocks=MODELS / "blocks"))
            dims = {"seq": new, "past": keys - new}
            options = Options(dims=dims, shapes_only=True, pass_options=(f"share-rows.use={use}",))
            report = compile_model(path, "cent", options).report
        assert report is not None
        found = {**dict.fromkeys(KINDS, 0.0), **{f"{kind} bound": 0.0 for kind in KINDS}}
        for op in report.ops:
            found[kind_of(op.op)] += op.seconds * 1e6 / new
            found[f"{kind_of(op.op)} bound"] += op.bound_seconds * 1e6 / new
        BLOCKS[sizes, new, keys, use] = {**found, "all": report.seconds * 1e6 / new}
    return BLOCKS[sizes, new, keys, use]


KINDS = ("weights", "attention", "rest")


def kind_of(op: str) -> str:
    return "weights" if op == "matmul" else "attention" if "attention" in op else "rest"


def shared() -> Iterator[tuple[Sizes, int, str]]:
    """Blocks, tokens and uses of rows whose weights are compared, but for those that are made anyway."""
    for sizes in SIZES.values():
        for new in (1, *PROMPTS):
            for use in ("never", "auto") if new > 1 else ("auto",):
                if sizes != variant(sizes.kv) or (new, PROMPT) not in STEPS or use != "auto":
                    yield sizes, new, use


MAPPINGS = ("cent-mapping", "default")


def tasks() -> Iterator[Task]:
    """All that takes long, what takes longest at first."""
    for name in reversed(LAYERS):
        longer = [keys for keys, *_ in PUBLISHED["context"]] if name == "llama2-70b" else []
        yield "stretch", (name, LAYERS[name], 1, [*range(1, LAST + 1), *longer])
    for keys in (LAST, PROMPT):
        for name in reversed(LAYERS):
            for mapping in MAPPINGS:
                yield "strict_of", (name, keys, mapping)
    for name in reversed(LAYERS):
        yield "stretch", (name, 1, PUBLISHED["devices"][name], taken(1, LAST))
    for pp, tp, *_ in PUBLISHED["hybrids"]:
        if pp < LAYERS["llama2-70b"] and tp < PUBLISHED["devices"]["llama2-70b"]:
            yield "stretch", ("llama2-70b", pp, tp, taken(1, LAST))
    for name in VARIANTS:
        for split in ((80, 1), (1, 32)):
            yield "stretch", (name, *split, [PROMPT, LAST])
    for name in LAYERS:
        yield "stretch", (name, LAYERS[name], 1, [STEP, LAST], ALL_CHANNELS)
    for kv in HEADS:
        for new, keys in STEPS:
            yield "block_of", (variant(kv), new, keys, "auto")
    for sizes, new, use in shared():
        yield "block_of", (sizes, new, PROMPT, use)


def done(task: Task) -> tuple[str, list[Any], float, int]:
    """What a process is for: its results, CPU seconds and kilobytes."""
    collect_seldom()
    name, arguments = task
    found = globals()[name](*arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return name, found, used.ru_utime + used.ru_stime, used.ru_maxrss


def compute(jobs: int) -> tuple[float, int]:
    """Do all tasks; CPU seconds and the kilobytes of the largest process."""
    cpu, largest = 0.0, 0
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, found, seconds, kilobytes in pool.map(done, tasks()):
            {"strict_of": COMPILED, "block_of": BLOCKS, "stretch": FOUND}[name].update(found)
            cpu, largest = cpu + seconds, max(largest, kilobytes)
    return cpu, largest


# -- tables ------------------------------------------------------------------------------------------------------------


PHASES = {"prefill": (1, PROMPT), "decode": (PROMPT + 1, LAST), "end-to-end": (1, LAST)}


class Mean:
    """A token's mean over positions."""

    def __init__(self, tokens: Sequence[Breakdown]) -> None:
        self.tokens = tokens

    def of(self, column: str) -> float:
        return sum(float(getattr(t, column)) for t in self.tokens) / len(self.tokens)

    @property
    def rate(self) -> float:
        """Tokens a second of all queries in flight: the mean of the rates, as published."""
        return self.of("tokens_per_s")


def mean(name: str, pp: int, tp: int, first: int, last: int, *overrides: str) -> Mean:
    return Mean([token(name, pp, tp, keys, *overrides) for keys in taken(first, last)])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def off(found: float, published: float) -> str:
    """How far a number is from the published one."""
    return f"{(found / published - 1) * 100:+.2f} %"


def throughput() -> Iterator[str]:
    rows = []
    for name, phase, rate, energy, gpu, per_joule in PUBLISHED["throughput"]:
        found = mean(name, LAYERS[name], 1, *PHASES[phase])
        joules = found.of("token_energy_mJ")
        rows.append(
            [f"{name}, {phase}", f"{rate:.2f}", f"{found.rate:.2f}", off(found.rate, rate), f"{energy:.3f}",
             f"{joules:.3f}", off(joules, energy), f"{gpu}", f"{found.rate / gpu:.3f}",
             f"{1000 / joules / per_joule:.3f}"]
        )  # fmt: skip
    yield "A block in each stage, `--parallel pp=<blocks>,tp=1`. Ratios are pimc's against the A100s' (1, 2 and 4)."
    yield ""
    yield from table(
        ("model, phase", "tokens/s", "pimc", "", "mJ/token", "pimc", "", "A100 tokens/s", "ratio", "tokens/J ratio"),
        rows,
    )


def latency() -> Iterator[str]:
    rows = []
    for name, seconds, gpu, decode, prefill, energy in PUBLISHED["latency"]:
        degrees = 1, PUBLISHED["devices"][name]
        whole, late, early = (mean(name, *degrees, *PHASES[p]) for p in ("end-to-end", "decode", "prefill"))
        found = whole.of("token_latency_ms") * LAST / 1000
        rows.append(
            [name, f"{seconds:.5f}", f"{found:.5f}", off(found, seconds), f"{decode:.2f}", f"{late.rate:.2f}",
             f"{prefill:.2f}", f"{early.rate:.2f}", f"{energy:.2f}", f"{whole.of('token_energy_mJ'):.2f}",
             f"{gpu:.3f}", f"{gpu / found:.3f}"]
        )  # fmt: skip
    yield "One query at a time on all devices, `--parallel pp=1,tp=<devices>`; the A100s with batch 1."
    yield ""
    head = (
        "model",
        "s for 4096",
        "pimc",
        "",
        "decode tokens/s",
        "pimc",
        "prefill tokens/s",
        "pimc",
        "mJ/token",
        "pimc",
    )
    yield from table((*head, "A100 s", "ratio"), rows)


def hybrids() -> Iterator[str]:
    rows = []
    for pp, tp, seconds, rate, energy in PUBLISHED["hybrids"]:
        found = mean("llama2-70b", pp, tp, *PHASES["end-to-end"])
        time, joules = found.of("token_latency_ms") * LAST / 1000, found.of("token_energy_mJ")
        rows.append(
            [f"pp={pp}, tp={tp}", f"{seconds:.2f}", f"{time:.2f}", f"{rate:.2f}", f"{found.rate:.2f}",
             off(found.rate, rate), f"{energy:.2f}", f"{joules:.2f}", off(joules, energy)]
        )  # fmt: skip
    yield from table(("Llama 2 70B", "s for 4096", "pimc", "tokens/s", "pimc", "", "mJ/token", "pimc", ""), rows)


def breakdown() -> Iterator[str]:
    rows = []
    for pp, tp, *published in PUBLISHED["breakdown"]:
        found = mean("llama2-70b", pp, tp, *PHASES["end-to-end"])
        blocks = LAYERS["llama2-70b"] * LAST / 60_000
        embedding = found.of("embedding_latency_ms") * LAST / 60_000
        pim = found.of("pim_cycles") / 2e6 * blocks + embedding
        own = (pim, found.of("cxl_latency_ms") * blocks, found.of("acc_latency_ms") * blocks)
        pairs = [text for p, f in zip(published, own, strict=True) for text in (f"{p:.5f}", f"{f:.5f}")]
        rows.append([f"pp={pp}, tp={tp}", *pairs])
    yield "Minutes for 4096 tokens; the host takes 0.01024 of them in every mapping. PIM includes embedding and head."
    yield ""
    yield from table(("Llama 2 70B", "PIM", "pimc", "CXL", "pimc", "PNM", "pimc"), rows)


def context() -> Iterator[str]:
    rows = []
    for keys, rate, gpu in PUBLISHED["context"]:
        found = token("llama2-70b", 80, 1, keys).tokens_per_s
        rows.append(
            [
                f"{keys}",
                f"{rate:.2f}",
                f"{found:.2f}",
                off(found, rate),
                f"{gpu}",
                f"{rate / gpu:.3f}",
                f"{found / gpu:.3f}",
            ]
        )
    yield "Decoding with Llama 2 70B, pp=80, at the mean position of contexts of 4, 8, 16 and 32 Ki tokens."
    yield ""
    yield from table(("position", "tokens/s", "pimc", "", "A100 tokens/s", "ratio", "pimc's"), rows)


def phases() -> Iterator[str]:
    rows = []
    given = [(f"prefill {PROMPT}", 1, PROMPT, *PUBLISHED["phases"]["prefill"])]
    given += [(f"decode {n}", PROMPT + 1, PROMPT + n, cent, gpu) for n, cent, gpu in PUBLISHED["phases"]["decode"]]
    for label, first, last, published, gpu in given:
        found = mean("llama2-70b", 80, 1, first, last).of("token_latency_ms") * (last - first + 1) / 60_000
        rows.append(
            [label, f"{published:.5f}", f"{found:.5f}", off(found, published), f"{gpu:.2f}", f"{gpu / found:.2f}"]
        )
    yield "Minutes for each of 80 queries of Llama 2 70B, pp=80; a prompt goes token by token, as published. Four A100."
    yield ""
    yield from table(("", "minutes", "pimc", "", "A100", "ratio"), rows)


def qos() -> Iterator[str]:
    rows = []
    for pp, tp, rate, minutes in PUBLISHED["qos"]["cent"]:
        found = mean("llama2-70b", pp, tp, *PHASES["end-to-end"])
        own, latency = found.rate * 60 / LAST, found.of("token_latency_ms") * LAST / 60_000
        within = [each for _, each, its in PUBLISHED["qos"]["gpu"] if its <= latency]
        best = max(within, default=0.0)
        rows.append(
            [f"pp={pp}, tp={tp}", f"{minutes:.3f}", f"{latency:.3f}", f"{rate:.2f}", f"{own:.2f}",
             f"{best:.2f}" if within else "none", f"{own / best:.2f}" if within else ""]
        )  # fmt: skip
    batches = "; ".join(f"{batch}: {rate} in {minutes}" for batch, rate, minutes in PUBLISHED["qos"]["gpu"])
    yield "How many queries of 4,096 tokens a minute, and how long each takes: the splits of Llama 2 70B over 32"
    yield "devices. The last two columns are for the largest batch of the four A100 that is done in the same time."
    yield f"Queries a minute and minutes of the A100s by batch, as published: {batches}."
    yield ""
    head = ("", "minutes", "pimc", "queries/min", "pimc", "A100s in that time", "ratio")
    yield from table(head, rows)


def cost() -> Iterator[str]:
    given, hour = PUBLISHED["cost"], PUBLISHED["cost"]["hour"]
    rows, ratios = [], []
    for name, published in given["ratios"].items():
        devices, gpus = PUBLISHED["devices"][name], PUBLISHED["gpus"][name]
        own = mean(name, LAYERS[name], 1, *PHASES["end-to-end"]).rate * 3600
        rates = {(n, phase): gpu for n, phase, _, _, gpu, _ in PUBLISHED["throughput"]}
        its = rates[name, "end-to-end"] * 3600
        dollars, theirs = hour["cent"] * devices / hour["cent_devices"], hour["gpu"] * gpus / hour["gpus"]
        ratios.append(own / dollars / (its / theirs))
        rows.append(
            [name, f"{dollars:.4f}", f"{theirs:.2f}", f"{own / dollars / 1e6:.2f}", f"{its / theirs / 1e6:.2f}",
             f"{published:.3f}", f"{ratios[-1]:.3f}", off(ratios[-1], published)]
        )  # fmt: skip
    mean_published, mean_own = (prod(r) ** (1 / len(r)) for r in (tuple(given["ratios"].values()), tuple(ratios)))
    last = f"{mean_published:.3f}", f"{mean_own:.3f}", off(mean_own, mean_published)
    rows.append(["geometric mean", "", "", "", "", *last])
    machines = f"{hour['cent']} for {hour['cent_devices']} devices, {hour['gpu']} for {hour['gpus']} A100"
    yield f"Dollars of owning the machines for an hour, as published: {machines};"
    yield "less in proportion for fewer. Rates are those from end to end."
    yield ""
    head = ("", "CENT $/h", "A100 $/h", "M tokens/$", "A100 M tokens/$", "ratio, published", "pimc", "")
    yield from table(head, rows)
    part = given["controller"]
    nre, area = sum(part["nre_millions"].values()), sum(part["area_mm2"].values())
    each, units = nre / part["units_millions"], part["units_millions"]
    parts = ", ".join(f"{name} {size}" for name, size in part["area_mm2"].items())
    yield f"A controller of {area:.2f} mm2 ({parts}) costs {part['die']:.2f} dollars for the die and"
    yield f"{part['package']:.2f} for the package. {nre:.2f} million are spent once, {each:.2f} for each of {units}"
    yield f"million; {part['die'] + part['package'] + each:.1f} in all, published {part['total']}."
    yield ""


def standby() -> Iterator[str]:
    rows = []
    for name in LAYERS:
        for keys in (128, LAST):
            published = token(name, LAYERS[name], 1, keys).token_energy_mJ
            right = token(name, LAYERS[name], 1, keys, ALL_CHANNELS).token_energy_mJ
            rows.append([f"{name}, {keys} keys", f"{published:.1f}", f"{right:.1f}", off(right, published)])
    yield f"CENT's script counts stand-by for one channel of 32; `--set {ALL_CHANNELS}` counts all."
    yield ""
    yield from table(("", "mJ/token, as published", "all channels", ""), rows)


def every_position() -> Iterator[str]:
    rows = []
    for name in LAYERS:
        few, all = (
            Mean([token(name, LAYERS[name], 1, keys) for keys in span]) for span in (taken(1, LAST), range(1, LAST + 1))
        )
        rows.append(
            [name, f"{few.rate:.2f}", f"{all.rate:.2f}", off(few.rate, all.rate),
             f"{few.of('token_latency_ms') * LAST / 1000:.2f}", f"{all.of('token_latency_ms') * LAST / 1000:.2f}",
             f"{few.of('token_energy_mJ'):.3f}", f"{all.of('token_energy_mJ'):.3f}",
             off(few.of("token_energy_mJ"), all.of("token_energy_mJ"))]
        )  # fmt: skip
    yield "The published means are over every 128th position, each of which stands for itself and the 127 before it,"
    yield "which are shorter. Over all 4,096 positions, each timed by its own commands:"
    yield ""
    head = ("", "tokens/s, 128th", "all", "", "s for 4096, 128th", "all", "mJ/token, 128th", "all", "")
    yield from table(head, rows)


def strict_rules() -> Iterator[str]:
    rows = []
    for name in LAYERS:
        for keys in (PROMPT, LAST):
            published = token(name, LAYERS[name], 1, keys).tokens_per_s
            same, own = (strict(name, keys, mapping).tokens_per_s for mapping in MAPPINGS)
            rows.append(
                [f"{name}, {keys} keys", f"{published:.1f}", f"{same:.1f}", f"{same / published:.3f}", f"{own:.1f}",
                 f"{own / published:.3f}", f"{own / same:.3f}"]
            )  # fmt: skip
    yield "A block in each stage, a query in each. `cent` has the hardware of `cent-published`, with refresh,"
    yield "controllers that are right, and units that overlap where nothing forbids it; `cent-mapping` is CENT's layout"
    yield "and schedule so far as it can be executed, `default` pimc's own ([CENT](../cent.md))."
    yield ""
    head = ("", "published tokens/s", "cent-mapping", "to published", "default", "to published", "to cent-mapping")
    yield from table(head, rows)


def by_bound() -> Iterator[str]:
    rows = []
    for name in LAYERS:
        for mapping in MAPPINGS:
            found = strict(name, LAST, mapping)
            cells = [
                f"{number / LAYERS[name] * 1e6:.1f}"
                for kind in KINDS
                for number in found.parts[kind]
            ]
            rows.append([f"{name}, {mapping}", *cells])
    yield "Microseconds of a block at 4,096 keys, and what the busiest unit or resource of each op needs for it. A"
    yield "block of `cent-mapping` has a part of a device's channels, and all blocks of the device work at once; one of"
    yield "`default` has the whole device, and takes turns with the other blocks there (4, 2 and 3 a device)."
    yield ""
    yield from table(("", "weights", "bound", "attention", "bound", "rest", "bound"), rows)


def attention() -> Iterator[str]:
    """Key and value heads of a model of 70 B parameters; what they add is taken from the feed-forward layers."""
    rows = []
    for name, kv in VARIANTS.items():
        for keys in (PROMPT, LAST):
            pipelined, alone = token(name, 80, 1, keys), token(name, 1, 32, keys)
            batch, gpu = gpu_bound(kv, width(kv), keys)
            rows.append(
                [f"{HEADS[kv]}, {keys} keys", f"{width(kv)}", f"{pipelined.tokens_per_s:.1f}",
                 f"{alone.tokens_per_s:.1f}", f"{pipelined.token_energy_mJ:.0f}", f"{batch}", f"{gpu:.0f}",
                 f"{pipelined.tokens_per_s / gpu:.3f}"]
            )  # fmt: skip
    yield "Llama 2 70B with 64, 8 and 1 key and value heads, the width of its feed-forward layers changed so that the"
    yield "model has as many parameters. The A100s are a bound: four of them, at the largest batch (up to 512) that"
    yield "their memory holds, as fast as bandwidth and peak allow."
    yield ""
    head = ("", "ffn", "tokens/s, pp=80", "tokens/s, tp=32", "mJ/token, pp=80", "A100 batch", "A100 bound", "ratio")
    yield from table(head, rows)


def gpu_bound(kv: int, ffn: int, keys: int) -> tuple[int, float]:
    """The batch, and tokens a second that four A100 cannot go beyond."""
    gpu, count = PUBLISHED["gpu"], 4
    weights = 80 * (2 * 8192 * 8192 + 2 * 8192 * kv * 128 + 3 * 8192 * ffn) + 2 * 32000 * 8192
    cache = 80 * 2 * kv * 128 * keys
    batch = int(min(512, max(1, (gpu["bytes"] * count - 2 * weights) // (2 * cache))))
    memory = (2 * weights + batch * 2 * cache) / (gpu["bandwidth"] * count)
    work = batch * 2 * (weights + 80 * 2 * 64 * 128 * keys) / (gpu["flops"] * count)
    return batch, batch / max(memory, work)


def heads_strictly() -> Iterator[str]:
    rows = []
    for kv, label in HEADS.items():
        for keys in (PROMPT, LAST):
            found = block(variant(kv), 1, keys)
            columns = "weights", "attention", "attention bound", "rest", "all"
            rows.append([f"{label}, {keys} keys", *(f"{found[column]:.1f}" for column in columns)])
    yield from (
        "A block of the same models under the rules of `cent`: microseconds for a token by itself, on all channels of",
        "a device, with the mapping `default`; for attention also what its busiest unit works. Under MHA and GQA",
        "pairs of a query head and its keys are worked on side by side, each in its part of the channels (8 pairs",
        "under GQA), and attention is bound by the exponent units. Under MQA all channels have the keys of the one",
        "head: a slot of keys is 512 tokens, whose exponentials for one query head take half of a global buffer, so",
        "that query heads go one by one; and values of 128 dims lie in 8 of 32 channels. 64 heads times 8 stretches",
        "of 4,096 keys follow each other, in each of which banks and units wait for each other: no unit is busy for",
        "more than a third of the time. With values of other tokens in the other channels four heads could go at a",
        "time; this mapping does not do that.",
    )
    yield ""
    yield from table(("", "weights", "attention", "bound", "rest", "block"), rows)


def prefill_strictly() -> Iterator[str]:
    rows = []
    for kv, label in HEADS.items():
        for keys in (PROMPT, LAST):
            alone, together = block(variant(kv), 1, keys), block(variant(kv), TOGETHER, keys)
            pairs = [f"{each[kind]:.1f}" for kind in (*KINDS, "all") for each in (alone, together)]
            rows.append([f"{label}, {keys} keys", *pairs, f"{alone['all'] / together['all']:.3f}"])
    yield "Microseconds of a block for each token of a prompt: by itself, as published, and with others, of which"
    yield f"{TOGETHER} pass together. Their attention runs as is cheaper: in parts, with rows of keys opened once for"
    yield "several positions, or whole, position by position. Rows of weights serve several tokens where that is"
    yield "cheaper."
    yield ""
    head = ("", *(text for kind in (*KINDS, "block") for text in (kind, "together")), "gain")
    yield from table(head, rows)


def weights_strictly() -> Iterator[str]:
    rows = []
    for name, sizes in SIZES.items():
        alone = block(sizes, 1, PROMPT)
        for new in PROMPTS:
            one, several = (block(sizes, new, PROMPT, use) for use in ("never", "auto"))
            rows.append(
                [f"{name}, {new} tokens", f"{alone['weights']:.1f}", f"{one['weights']:.1f}",
                 f"{several['weights']:.1f}", f"{several['weights bound']:.1f}",
                 f"{one['weights'] / several['weights']:.3f}", f"{alone['all']:.1f}", f"{several['all']:.1f}",
                 f"{alone['all'] / several['all']:.3f}"]
            )  # fmt: skip
    yield from (
        f"Microseconds a token of a block for the last tokens of a prompt of {PROMPT}. A row of a bank has the weights",
        "of one output, and serves one token: the global buffer holds one vector as long as a row, and to fill it",
        "again takes longer than to open the row again. Or it has parts of two or four outputs, and serves as many",
        "tokens: the buffer has as long a stretch of each, and each pair of output and token an accumulator",
        "([CENT](../cent.md)). The bound is what the multipliers need.",
    )
    yield ""
    head = ("", "weights, token by token", "together, an output a row", "together, several a row", "bound", "gain")
    yield from table((*head, "block, token by token", "together", "gain"), rows)


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "Throughput and energy": throughput,
    "Latency": latency,
    "Hybrids": hybrids,
    "Where the time goes": breakdown,
    "Long context": context,
    "Prefill against decode": phases,
    "Quality of service": qos,
    "Cost": cost,
    "Stand-by": standby,
    "Every position": every_position,
    "Strict rules": strict_rules,
    "Where a block's time goes under strict rules": by_bound,
    "MHA, GQA and MQA": attention,
    "MHA, GQA and MQA under strict rules": heads_strictly,
    "Prefill under strict rules": prefill_strictly,
    "Weights of prefill under strict rules": weights_strictly,
}


def page(only: Sequence[str] = ()) -> str:
    lines = [
        "# CENT: the published tables, and pimc's",
        "",
        "Written by `python docs/studies/cent.py`; published numbers: `docs/studies/cent.yaml`",
        f"({PUBLISHED['source']}).",
        "pimc's are those of the target `cent-published` ([CENT](../cent.md)), whose clocks come from the commands of",
        "each block. A published mean is over every 128th position, and so is pimc's here.",
        "",
    ]
    for title, section in SECTIONS.items():
        if not only or title in only:
            lines += [f"## {title}", "", *section()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="*", default=(), choices=list(SECTIONS))
    given = parser.parse_args()
    if given.only:
        print(page(given.only), end="")
        return
    began = time.perf_counter()
    cpu, largest = compute(given.jobs)
    (HERE / "cent.md").write_text(page())
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu, largest = cpu + used.ru_utime + used.ru_stime, max(largest, used.ru_maxrss)
    seconds = time.perf_counter() - began
    print(f"{seconds:.0f} s with {given.jobs} processes, {cpu:.0f} CPU seconds, at most {largest >> 10} MiB in each")


if __name__ == "__main__":
    main()
