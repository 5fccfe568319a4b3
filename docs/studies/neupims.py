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
from dataclasses import dataclass
from pathlib import Path

import pimc
from pimc.driver import Result
from pimc.ir.requests import Request

HERE = Path(__file__).parent
BLOCK = HERE.parents[1] / "models/blocks/gpt3_layers.pimc"
LONGEST = 2048


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
LADDER = (MODELS[0], SETS[0], DETAILED)
"""the point at which causes are measured"""
CAPACITY = 32.0
PUBLISHED = {"NPU": 2.4, "Newton": 1.6}
REFERENCE = {"NPU": 3_012_741, "NeuPIMs": 325_507, "with sub-batches": 293_604}
"""cycles a layer of the published simulators for one such batch (7B, 256 requests of ShareGPT's lengths)"""
PUBLISHED_SCHEDULE = (
    "schedule.order=beats", "schedule.prefetch=false", "sub-batches.split=halves", "split-reductions.pieces=1",
    "sub-batches.hold=0",
)  # fmt: skip
FREE_LINK = ("link.transfers=free",)
ROUND_ROBIN = ("assign-requests.balance=round-robin", "sub-batches.use=off")
LAYERS = 3
"""with sub-batches, so that two of them follow on others"""
OFF, ON = "sub-batches.use=off", "sub-batches.use=on"


@dataclass(frozen=True)
class Point:
    model: Model
    lengths: Lengths
    batch: int


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Row:
    """A point under the strict profiles."""

    point: Point
    npu: float
    """the NPU alone, whose attention takes as long as its keys and values take to come from memory"""
    newton: Layer
    off: Layer
    on: Layer
    published_off: Layer | None
    published_on: Layer | None
    npu_commands: float
    """the NPU alone with attention by its own commands"""
    gib: float
    """of the whole model on each device, with the published division"""

    @property
    def ours(self) -> Layer:
        return min(self.off, self.on, key=lambda layer: layer.time)

    @property
    def published(self) -> Layer:
        both = [layer for layer in (self.published_off, self.published_on) if layer is not None]
        return min(both, key=lambda layer: layer.time)

    @property
    def best(self) -> float:
        return self.ours.time

    @property
    def stages(self) -> int:
        """The least multiple of the published number of pipeline stages with which a stage fits its devices."""
        pp = self.point.model.pp
        return pp * math.ceil(self.gib / CAPACITY)


@dataclass(frozen=True)
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


def one_layer(found: Result) -> Layer:
    """All of a single layer."""
    assert found.report is not None
    return layer(found, found.report.seconds * 1e6, 1)


def next_layer(found: Result) -> Layer:
    """From the attention of the last layer but one to that of the last, the mean of both sub-batches. By then the
    first layer does not tell any more, to which nothing was at work beside."""
    layers = 1 + max(int(name.split(".")[1]) for name in spans(found) if name.startswith("layer."))
    ends = {name: end for name, (_, end) in spans(found).items() if re.search(r"attention\.context(/\d)?$", name)}
    before, last = f"layer.{layers - 2}.", f"layer.{layers - 1}."
    pairs = [(end, ends[n.replace(before, last)]) for n, end in ends.items() if n.startswith(before)]
    return layer(found, sum(after - begun for begun, after in pairs) / len(pairs), layers)


def layer(found: Result, took: float, layers: int) -> Layer:
    assert found.timing is not None
    busy = {kind: max((e.busy for e in found.timing.engines if e.kind == kind), default=0) for kind in ("pim", "link")}
    arrays = next(e.busy for e in found.timing.engines if e.name == "npu")
    bus = max(r.busy for r in found.timing.resources if r.name == "dram.bus")
    return Layer(took, *(part * 1e-6 / layers for part in (arrays, busy["pim"], bus, busy["link"])))


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
    npu = compiled(point, "npu", 1)
    newton = compiled(point, "newton", 1, *ROUND_ROBIN)
    off = compiled(point, "neupims", 1, OFF)
    on = compiled(point, "neupims", LAYERS, ON)
    published_off = published_on = None
    if point.batch == DETAILED:
        published_off = one_layer(compiled(point, "neupims", 1, OFF, *PUBLISHED_SCHEDULE))
        published_on = next_layer(compiled(point, "neupims", LAYERS, ON, *PUBLISHED_SCHEDULE))
    need = off.program.extent["dram"] * point.model.layers / point.model.pp / 2**30
    return Row(
        point, bandwidth_bound(point, npu), one_layer(newton), one_layer(off), next_layer(on), published_off,
        published_on, one_layer(npu).time, need,
    )  # fmt: skip


def climb(step: int) -> Rung:
    """One rung of the ladder from our machine to the published one; each keeps what those before it have."""
    point = Point(*LADDER)
    name, targets, passes, overrides = (
        ("strict, our schedule", ("newton", "neupims"), (), ()),
        ("the published schedule", ("newton", "neupims"), PUBLISHED_SCHEDULE, ()),
        ("devices exchange for nothing", ("newton", "neupims"), PUBLISHED_SCHEDULE, FREE_LINK),
        ("new keys and values, and vectors on their way into PIM, take no time", ("newton", "neupims"),
         PUBLISHED_SCHEDULE, (*FREE_LINK, "mapping=newtonsim")),
        ("rows close under their MACs; the published NPU", ("newton-faithful", "neupims-faithful"),
         PUBLISHED_SCHEDULE, ()),
    )[step]  # fmt: skip
    newton = one_layer(compiled(point, targets[0], 1, *ROUND_ROBIN, *passes, overrides=overrides))
    off = one_layer(compiled(point, targets[1], 1, OFF, *passes, overrides=overrides))
    on = next_layer(compiled(point, targets[1], LAYERS, ON, *passes, overrides=overrides))
    alone = [o for o in overrides if not o.startswith("mapping")] or (FREE_LINK if step == RUNGS - 1 else ())
    npu = compiled(point, "npu", 1, *passes, overrides=tuple(alone))
    return Rung(name, bandwidth_bound(point, npu), one_layer(npu).time, newton.time, off.time, on.time)


RUNGS = 5


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
            *(f"{v.time:.0f}" for v in (r.published_off, r.published_on, r.off, r.on) if v is not None),
            ratio(r.published.time / r.best),
            *(f"{100 * v / r.best:.0f} %" for v in (r.ours.arrays, r.ours.pim, r.ours.bus, r.ours.link)),
        ]
        for r in rows if r.point.batch == DETAILED
    ))  # fmt: skip


def causes_table(rungs: Sequence[Rung]) -> str:
    heads = ["each line keeps those above", "NPU alone", "by its commands", "Newton", "NeuPIMs", "with sub-batches",
             "over NPU", "over its commands", "over Newton"]  # fmt: skip
    lines: list[list[str]] = []
    for r in rungs:
        best = min(r.off, r.on)
        times = (r.npu, r.npu_commands, r.newton, r.off, r.on)
        ratios = (r.npu / best, r.npu_commands / best, r.newton / best)
        lines.append([r.name, *(f"{v:.0f}" for v in times), *(ratio(v) for v in ratios)])
    cycles = {name: f"{count / 1000:.0f}" for name, count in REFERENCE.items()}
    over = ratio(REFERENCE["NPU"] / min(REFERENCE["NeuPIMs"], REFERENCE["with sub-batches"]))
    lines.append(["measured with the published simulators, another such batch", "", cycles["NPU"], "",
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
    points = [Point(m, s, b) for m in MODELS for s in SETS for b in BATCHES]
    detailed_first = sorted(points, key=lambda p: (p.batch != DETAILED, -p.batch))
    found = results([*range(RUNGS), *detailed_first], given.kept)
    write(found, [p for p in points if p in found])
    print(f"{len(found)} results in {time.monotonic() - begun:.0f} s")


def result(wanted: Point | int) -> Row | Rung:
    return climb(wanted) if isinstance(wanted, int) else measure(wanted)


def results(wanted: Sequence[Point | int], kept: Path | None) -> dict[Point | int, Row | Rung]:
    """Rows of points and rungs of the ladder. Whoever interrupts the script gets those that are there."""
    found: dict[Point | int, Row | Rung] = {}
    if kept is not None and kept.exists():
        found = pickle.loads(kept.read_bytes())
    with ProcessPoolExecutor(2) as pool:
        jobs = {pool.submit(result, w): w for w in wanted if w not in found}
        try:
            for job in as_completed(jobs):
                found[jobs[job]] = job.result()
                if kept is not None:
                    kept.write_bytes(pickle.dumps(found))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def write(found: Mapping[Point | int, Row | Rung], points: Sequence[Point]) -> None:
    """The tables of what was found, into the page."""
    rows = [row for point in points if isinstance(row := found[point], Row)]
    climbed = [rung for step in range(RUNGS) if isinstance(rung := found.get(step), Rung)]
    tables = {
        "summary": summary_table(rows),
        "causes": causes_table(climbed),
        "layers": layers_table(rows),
        "schedules": schedules_table(rows),
    }
    page = HERE / "neupims.md"
    text = page.read_text()
    for name, made in tables.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m: f"{m[1]}\n{made}\n{m[2]}", text, flags=re.S  # noqa: B023
        )  # fmt: skip
    page.write_text(text)


if __name__ == "__main__":
    main()
