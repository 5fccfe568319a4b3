"""What PIM, two row buffers and sub-batches are worth: the tables of neupims.md beside this file.

    python docs/studies/neupims.py            all tables, in at most 5 minutes on two cores
    python docs/studies/neupims.py --quick    one model, one batch, printed
"""

from __future__ import annotations

import argparse
import math
import pickle
import random
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pimc
from pimc.driver import Result
from pimc.garbage import collect_seldom
from pimc.ir.requests import Request
from pimc.record import record
from pimc.sim.timing import EngineTiming

HERE = Path(__file__).parent
BLOCK = HERE.parents[1] / "models/blocks/gpt3_layers.pimc"
LONGEST = 2048


@record
class Model:
    """A GPT-3 as NeuPIMs sizes and divides it."""

    name: str
    layers: int
    hidden: int
    heads: int
    tp: int
    pp: int

    def source(self, layers: int) -> str:
        sizes = f"let layers = {layers}\nlet hidden = {self.hidden}\nlet heads = {self.heads}\n"
        return f'model layers(batch = 1, seq = 1, past = 0)\n{sizes}include "{BLOCK}"\n'


@record
class Lengths:
    """Prompts and answers of a data set (means in tokens): a request is somewhere in its answer."""

    name: str
    prompt: float
    answer: float

    def batch(self, size: int) -> list[int]:
        """Cached tokens of each request."""
        draw = random.Random(f"{self.name} {size}")
        return [
            max(1, min(LONGEST - 1, round(draw.expovariate(1 / self.prompt) + draw.random() * answer)))
            for answer in (draw.expovariate(1 / self.answer) * 2 for _ in range(size))
        ]


MODELS = (
    Model("7B", 32, 4096, 32, 4, 1),
    Model("13B", 40, 5120, 40, 4, 1),
    Model("30B", 48, 7168, 56, 4, 2),
    Model("175B", 96, 12288, 96, 8, 4),
)
SETS = (Lengths("ShareGPT", 80.0, 295.7), Lengths("Alpaca", 12.1, 55.8))
BATCHES = (64, 128, 256, 512)
DETAILED = 256
"""the batch for which schedules are compared"""
CAPACITY = 32.0
PUBLISHED = {"NPU": 2.4, "Newton": 1.6}
REFERENCE = {"NPU": 3_012_741, "NeuPIMs": 325_507, "with sub-batches": 293_604}
"""cycles a layer of the published simulators for a batch of 256 requests of ShareGPT's lengths, 7B"""
PUBLISHED_SCHEDULE = (
    "schedule.order=beats", "schedule.prefetch=false", "sub-batches.split=halves", "split-reductions.pieces=1",
    "sub-batches.hold=0",
)  # fmt: skip
FREE_LINK = ("link.transfers=free",)
ROUND_ROBIN = ("assign-requests.balance=round-robin", "sub-batches.use=off")
LAYERS = 3
"""with sub-batches, so that two of them follow on others"""
LANES = ((MODELS[0], MODELS[3]), (MODELS[1], MODELS[2]))
"""models that one process works on: what it has found out about single ops holds for all batches of a model"""
NEW_OBJECTS = 2_000_000
"""A fifth of the time goes into looking for garbage after 100,000 of them, as commands do, which have less memory."""
OFF, ON = "sub-batches.use=off", "sub-batches.use=on"


@record
class Point:
    model: Model
    lengths: Lengths
    batch: int


@record
class Layer:
    """Microseconds of one layer, and for how long of it each part was at work."""

    time: float
    arrays: float = 0.0
    pim: float = 0.0
    """the fullest channel"""
    bus: float = 0.0
    link: float = 0.0

    @property
    def bound(self) -> str:
        """The part that was at work longest, and its share."""
        parts = {"NPU": self.arrays, "PIM": self.pim, "memory bus": self.bus, "link": self.link}
        name = max(parts, key=lambda n: parts[n])
        return f"{name} {100 * parts[name] / self.time:.0f} %"


@record
class Row:
    """A point under the strict profiles."""

    point: Point
    npu: float
    """the NPU alone, whose attention takes as long as its keys and values take to come from memory"""
    newton: Layer
    off: Layer
    on: Layer
    published_off: float | None
    published_on: float | None
    npu_commands: float
    """the NPU alone with attention by its own commands"""
    gib: float
    """of the whole model on each device, with the published division"""

    @property
    def ours(self) -> Layer:
        return min(self.off, self.on, key=lambda layer: layer.time)

    @property
    def published(self) -> float:
        return min(time for time in (self.published_off, self.published_on) if time is not None)

    @property
    def best(self) -> float:
        return self.ours.time

    @property
    def stages(self) -> int:
        """The least multiple of the published number of pipeline stages with which a stage fits its devices."""
        pp = self.point.model.pp
        return pp * math.ceil(self.gib / CAPACITY)


@record
class Step:
    """A point under so many of the published assumptions."""

    point: Point
    number: int


@record
class Rung:
    """The same three machines under one more of the published assumptions."""

    name: str
    npu: float
    npu_commands: float
    newton: float
    off: float
    on: float


def compiled(point: Point, target: str, layers: int, *passes: str, overrides: Sequence[str] = ()) -> Result:
    past = point.lengths.batch(point.batch)
    requests = [Request(str(i), n, 1, None, i) for i, n in enumerate(past)]
    tp = point.model.tp
    with tempfile.NamedTemporaryFile("w", suffix=".pimc") as file:
        file.write(point.model.source(layers))
        file.flush()
        return pimc.compile(
            file.name, target, requests=requests, parallel={"tp": tp},
            overrides=[f"system.devices={tp}", *overrides], pass_options=list(passes),
        )  # fmt: skip


def spans(found: Result) -> dict[str, tuple[float, float]]:
    """Beginning and end of every op in microseconds."""
    assert found.timing is not None
    ops = found.timing.ops
    return {row.name: (ops[i].start * 1e-6, ops[i].end * 1e-6) for i, row in enumerate(found.program.ops) if i in ops}


Window = tuple[float, float]
"""Beginning and end in microseconds."""


def one_layer(found: Result) -> Layer:
    """All of a single layer."""
    assert found.report is not None
    return layer(found, [(0.0, found.report.seconds * 1e6)])


def next_layer(found: Result) -> Layer:
    """From the attention of the last layer but one to that of the last, the mean of both sub-batches. By then the
    first layer does not tell any more, to which nothing was at work beside."""
    layers = 1 + max(int(name.split(".")[1]) for name in spans(found) if name.startswith("layer."))
    ends = {name: end for name, (_, end) in spans(found).items() if re.search(r"attention\.context(/\d)?$", name)}
    before, last = f"layer.{layers - 2}.", f"layer.{layers - 1}."
    return layer(found, [(end, ends[n.replace(before, last)]) for n, end in ends.items() if n.startswith(before)])


def beats_time(found: Result) -> float:
    """Two beats in the middle, each as long as both engines need: what each layer takes where beats end for all."""
    assert found.report is not None
    beats = {beat.name: beat.seconds for beat in found.report.beats}
    return (beats["C"] + beats["D"]) * 1e6


def layer(found: Result, windows: Sequence[Window]) -> Layer:
    """Means over windows: how long they are, and for how long of them each part was at work."""
    assert found.timing is not None
    engines, rows = found.timing.engines, len(found.program.ops)

    def busiest(name: str, kind: str) -> float:
        parts = [busy_by_op(e, windows, rows).sum() for e in engines if name in ("", e.name) and e.kind == kind]
        return float(max(parts, default=0.0))

    # what of an op's accesses lies in the windows, as its transfers do
    moving = [e for e in engines if e.kind == "dma"]
    inside = sum(busy_by_op(e, windows, rows) for e in moving)
    moved = sum(busy_by_op(e, [(0.0, found.timing.time * 1e-6)], rows) for e in moving)
    share = inside / np.maximum(moved, 1e-9)
    buses = [r for r in found.timing.resources if r.name == "dram.bus"]
    bus = max(float(sum(busy * 1e-6 * share[op] for op, busy in r.by_op.items())) for r in buses)
    parts = busiest("npu", "npu"), busiest("", "pim"), bus, busiest("", "link")
    return Layer(sum(end - begin for begin, end in windows) / len(windows), *(part / len(windows) for part in parts))


def busy_by_op(engine: EngineTiming, windows: Sequence[Window], rows: int) -> NDArray[np.float64]:
    """Microseconds of windows for which an engine was at work, by op."""
    op, start, end, busy = engine.segments.T
    found = np.zeros(rows)
    for first, last in windows:
        inside = (np.minimum(end, last * 1e6) - np.maximum(start, first * 1e6)).clip(0) / np.maximum(1, end - start)
        found += np.bincount(op, busy * inside * 1e-6, rows)
    return found


def bandwidth_bound(point: Point, found: Result) -> float:
    """The layer of an NPU alone, its two products of attention as long as their bytes need, refresh included."""
    at = spans(found)
    products = (at[f"layer.0.self_attention.{name}"] for name in ("context_scores", "context"))
    took = sum(end - start for start, end in products)
    dram = found.spec.dram
    per_token = 2 * 2 * point.model.hidden // point.model.tp
    size = sum(n + 1 for n in point.lengths.batch(point.batch)) * per_token
    share = 1 - dram.cycles["nRFC"] / dram.cycles["nREFI"]
    return one_layer(found).time - took + size / (dram.bandwidth * share) * 1e6


def measure(point: Point) -> Row:
    bound, commands = alone(point, (), ())
    newton = compiled(point, "newton", 1, *ROUND_ROBIN)
    off = compiled(point, "neupims", 1, OFF)
    on = compiled(point, "neupims", LAYERS, ON)
    published_off, published_on = published(point, "neupims", ()) if point.batch == DETAILED else (None, None)
    need = off.program.extent["dram"] * point.model.layers / point.model.pp / 2**30
    return Row(
        point, bound, one_layer(newton), one_layer(off), next_layer(on), published_off, published_on, commands, need,
    )  # fmt: skip


ASSUMED = (
    ("the published schedule", ("newton", "neupims"), PUBLISHED_SCHEDULE, ()),
    ("devices exchange for nothing", ("newton", "neupims"), PUBLISHED_SCHEDULE, FREE_LINK),
    ("new keys and values, and vectors on their way into PIM, take no time", ("newton", "neupims"), PUBLISHED_SCHEDULE,
     (*FREE_LINK, "mapping=newtonsim")),
    ("rows close under their MACs; the published NPU", ("newton-faithful", "neupims-faithful"), PUBLISHED_SCHEDULE, ()),
)  # fmt: skip
"""One after the other: each keeps what those before it have, as targets, passes and overrides."""
CLIMBED = [Point(m, SETS[0], DETAILED) for m in MODELS]
"""where causes are measured"""


def climb(step: Step) -> Rung:
    """A rung of the ladder from our machine to the published one."""
    point = step.point
    name, (newton, neupims), passes, overrides = ASSUMED[step.number]
    one = one_layer(compiled(point, newton, 1, *ROUND_ROBIN, *passes, overrides=overrides))
    off, on = published(point, neupims, overrides)
    bound, commands = alone(point, passes, FREE_LINK if step.number else ())
    return Rung(name, bound, commands, one.time, off, on)


@cache
def published(point: Point, target: str, overrides: tuple[str, ...]) -> tuple[float, float]:
    """A layer under the published schedule: one batch, and with sub-batches."""
    off = compiled(point, target, 1, OFF, *PUBLISHED_SCHEDULE, overrides=overrides)
    on = compiled(point, target, 2, ON, *PUBLISHED_SCHEDULE, overrides=overrides)
    return one_layer(off).time, beats_time(on)


@cache
def alone(point: Point, passes: tuple[str, ...], overrides: tuple[str, ...]) -> tuple[float, float]:
    """The layer of an NPU alone: bound by bandwidth, and by its commands."""
    found = compiled(point, "npu", 1, *passes, overrides=overrides)
    return bandwidth_bound(point, found), one_layer(found).time


# -- tables -----------------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def layers_table(rows: Sequence[Row]) -> str:
    heads = ["model, lengths, batch", "NPU alone", "by its commands", "Newton", "NeuPIMs", "with sub-batches",
             "over NPU", "over Newton", "busiest part", "GiB a device"]  # fmt: skip
    return table(heads, (
        [
            f"{r.point.model.name}, {r.point.lengths.name}, {r.point.batch}",
            f"{r.npu:.0f}", f"{r.npu_commands:.0f}", *(f"{v.time:.0f}" for v in (r.newton, r.off, r.on)),
            ratio(r.npu / r.best), ratio(r.newton.time / r.best), r.ours.bound,
            f"{r.gib:.0f}" + (f" (too many: pp={r.stages})" if r.stages > r.point.model.pp else ""),
        ]
        for r in rows
    ))  # fmt: skip


def summary_table(rows: Sequence[Row]) -> str:
    def line(name: str, some: Sequence[Row]) -> list[str]:
        return [name, ratio(geomean([r.npu / r.best for r in some])),
                ratio(geomean([r.newton.time / r.best for r in some])),
                ratio(geomean([r.off.time / r.on.time for r in some]))]  # fmt: skip

    every = len(MODELS) * len(SETS) * len(BATCHES)
    found = [line("all points" if len(rows) == every else f"points run so far ({len(rows)} of {every})", rows)]
    groups = {s.name: [r for r in rows if r.point.lengths == s] for s in SETS}
    groups |= {m.name: [r for r in rows if r.point.model == m] for m in MODELS}
    groups |= {f"batch {b}": [r for r in rows if r.point.batch == b] for b in BATCHES}
    found += [line(name, some) for name, some in groups.items() if some]
    found.append(["published", ratio(PUBLISHED["NPU"]), ratio(PUBLISHED["Newton"]), ""])
    return table(["geometric mean", "over NPU", "over Newton", "what sub-batches are worth"], found)


def schedules_table(rows: Sequence[Row]) -> str:
    heads = [f"batch {DETAILED}", "published, one batch", "published, sub-batches", "ours, one batch",
             "ours, sub-batches", "best over best", "NPU", "PIM", "memory bus", "link"]  # fmt: skip
    return table(heads, (
        [
            f"{r.point.model.name}, {r.point.lengths.name}",
            *(f"{v:.0f}" for v in (r.published_off, r.published_on, r.off.time, r.on.time) if v is not None),
            ratio(r.published / r.best),
            *(f"{100 * v / r.best:.0f} %" for v in (r.ours.arrays, r.ours.pim, r.ours.bus, r.ours.link)),
        ]
        for r in rows if r.point.batch == DETAILED
    ))  # fmt: skip


def causes_table(rows: Sequence[Row], rungs: Mapping[Step, Rung]) -> str:
    heads = ["each line keeps those above", "NPU alone", "by its commands", "Newton", "NeuPIMs", "with sub-batches",
             "over NPU", "over its commands", "over Newton"]  # fmt: skip
    lines: list[list[str]] = []
    for row in rows:
        name = f"**{row.point.model.name}** strict, our schedule"
        ours = Rung(name, row.npu, row.npu_commands, row.newton.time, row.off.time, row.on.time)
        for r in (ours, *(rungs[Step(row.point, i)] for i in range(len(ASSUMED)))):
            best = min(r.off, r.on)
            times = (r.npu, r.npu_commands, r.newton, r.off, r.on)
            ratios = (r.npu / best, r.npu_commands / best, r.newton / best)
            lines.append([r.name, *(f"{v:.0f}" for v in times), *(ratio(v) for v in ratios)])
    cycles = {name: f"{count / 1000:.0f}" for name, count in REFERENCE.items()}
    over = ratio(REFERENCE["NPU"] / min(REFERENCE["NeuPIMs"], REFERENCE["with sub-batches"]))
    lines.append(["7B, measured with the published simulators, another such batch", "", cycles["NPU"], "",
                  cycles["NeuPIMs"], cycles["with sub-batches"], "", over, ""])  # fmt: skip
    return table(heads, lines)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="one model, one batch, printed")
    arguments.add_argument("--kept", type=Path, help="file in which results are kept as they come, and looked up")
    given = arguments.parse_args()
    if given.quick:
        print(layers_table([measure(Point(MODELS[0], SETS[0], 64))]))
        return
    begun = time.monotonic()
    found = results(given.kept)
    write(found)
    print(f"{len(found)} results in {time.monotonic() - begun:.0f} s")


Wanted = Point | Step


def wanted(models: Sequence[Model]) -> list[Wanted]:
    """All that is asked of models: what is looked at closely first, then from small batches to large ones."""
    points = [Point(m, lengths, batch) for batch in BATCHES for m in models for lengths in SETS]
    steps = [Step(p, i) for p in points if p in CLIMBED for i in range(len(ASSUMED))]
    closely = [p for p in points if p.batch == DETAILED]
    return [*closely, *steps, *(p for p in points if p not in closely)]


def result(of: Wanted) -> Row | Rung:
    return climb(of) if isinstance(of, Step) else measure(of)


def results(kept: Path | None) -> dict[Wanted, Row | Rung]:
    """Rows of points and rungs of ladders. Whoever interrupts the script gets those that are there."""
    found: dict[Wanted, Row | Rung] = {}
    if kept is not None and kept.exists():
        found = pickle.loads(kept.read_bytes())
    pools = [ProcessPoolExecutor(1, initializer=collect_seldom, initargs=(NEW_OBJECTS,)) for _ in LANES]
    lanes = [(pool, of) for pool, models in zip(pools, LANES, strict=True) for of in wanted(models)]
    jobs = {pool.submit(result, of): of for pool, of in lanes if of not in found}
    try:
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            if kept is not None:
                kept.write_bytes(pickle.dumps(found))
    except KeyboardInterrupt:
        pass
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def write(found: Mapping[Wanted, Row | Rung]) -> None:
    """The tables of what was found, into the page."""
    points = [Point(m, s, b) for m in MODELS for s in SETS for b in BATCHES]
    rows = [row for point in points if isinstance(row := found.get(point), Row)]
    rungs = {step: rung for step, rung in found.items() if isinstance(step, Step) and isinstance(rung, Rung)}
    climbed = [r for r in rows if r.point in CLIMBED and all(Step(r.point, i) in rungs for i in range(len(ASSUMED)))]
    tables = {"summary": summary_table(rows), "layers": layers_table(rows), "schedules": schedules_table(rows)}
    if climbed:
        tables["causes"] = causes_table(climbed, rungs)
    page = HERE / "neupims.md"
    text = page.read_text()
    for name, made in tables.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m: f"{m[1]}\n{made}\n{m[2]}", text, flags=re.S  # noqa: B023
        )  # fmt: skip
    page.write_text(text)


if __name__ == "__main__":
    main()
