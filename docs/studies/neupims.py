"""What PIM, two row buffers and sub-batches are worth: the tables of neupims.md beside this file.

    python docs/studies/neupims.py            all tables, in at most 5 minutes on two cores
    python docs/studies/neupims.py --quick    one model, one batch, printed
"""

from __future__ import annotations

import argparse
import math
import random
import re
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
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
PUBLISHED = {"NPU": 2.4, "Newton": 1.6}
PUBLISHED_SCHEDULE = ("schedule.order=beats", "schedule.prefetch=false", "sub-batches.split=halves")


@dataclass(frozen=True)
class Point:
    model: Model
    lengths: Lengths
    batch: int


@dataclass(frozen=True)
class Row:
    """Microseconds of one layer."""

    point: Point
    npu: float
    newton: float
    off: float
    on: float
    published_off: float
    published_on: float
    gib: float
    """of the whole model on each device, with the published division"""

    @property
    def best(self) -> float:
        return min(self.off, self.on)


def compiled(point: Point, target: str, layers: int, *passes: str) -> Result:
    past = point.lengths.batch(point.batch)
    requests = [Request(str(i), n, 1, None, i) for i, n in enumerate(past)]
    tp = point.model.tp
    with tempfile.NamedTemporaryFile("w", suffix=".pimc") as file:
        file.write(point.model.source(layers))
        file.flush()
        return pimc.compile(
            file.name, target, requests=requests, parallel={"tp": tp}, overrides=[f"system.devices={tp}"],
            pass_options=list(passes),
        )  # fmt: skip


def spans(found: Result) -> dict[str, tuple[float, float]]:
    """Beginning and end of every op in microseconds."""
    assert found.timing is not None
    ops = found.timing.ops
    return {row.name: (ops[i].start * 1e-6, ops[i].end * 1e-6) for i, row in enumerate(found.program.ops) if i in ops}


def one_layer(found: Result) -> float:
    """All of a single layer."""
    assert found.report is not None
    return found.report.seconds * 1e6


def next_layer(found: Result) -> float:
    """From the attention of one layer to that of the next, the mean of both sub-batches."""
    ends = {name: end for name, (_, end) in spans(found).items() if re.search(r"attention\.context(/\d)?$", name)}
    pairs = [(ends[n], ends[n.replace("layer.0.", "layer.1.")]) for n in ends if n.startswith("layer.0.")]
    return sum(after - before for before, after in pairs) / len(pairs)


def npu_only(point: Point, found: Result) -> float:
    """A layer without PIM, whose attention takes as long as its keys and values take to come from memory.

    found: the layer with PIM; the rest of it is what an NPU does alike.
    """
    at = spans(found)
    name = "layer.0.self_attention.context"
    attention = at[name][1] - at[f"{name}_scores"][0]
    softmax = next(o.seconds for o in found.report.ops if o.name == f"{name}_softmax") * 1e6  # type: ignore[union-attr]
    dram = found.spec.dram
    per_token = 2 * 2 * point.model.hidden // point.model.tp
    size = sum(n + 1 for n in point.lengths.batch(point.batch)) * per_token
    share = 1 - dram.cycles["nRFC"] / dram.cycles["nREFI"]
    return one_layer(found) - attention + softmax + size / (dram.bandwidth * share) * 1e6


def measure(point: Point) -> Row:
    newton = compiled(point, "newton", 1, "assign-requests.balance=round-robin", "sub-batches.use=off")
    off = compiled(point, "neupims", 1, "sub-batches.use=off")
    on = compiled(point, "neupims", 2, "sub-batches.use=on")
    published = [0.0, 0.0]
    if point.batch == DETAILED:
        published[0] = one_layer(compiled(point, "neupims", 1, "sub-batches.use=off", *PUBLISHED_SCHEDULE))
        published[1] = next_layer(compiled(point, "neupims", 2, "sub-batches.use=on", *PUBLISHED_SCHEDULE))
    need = off.program.extent["dram"] * point.model.layers / point.model.pp / 2**30
    return Row(point, npu_only(point, off), one_layer(newton), one_layer(off), next_layer(on), *published, need)


# -- tables -----------------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def layers_table(rows: Sequence[Row]) -> str:
    heads = ["model, lengths, batch", "NPU alone", "Newton", "NeuPIMs", "with sub-batches", "over NPU", "over Newton",
             "GiB a device"]  # fmt: skip
    return table(heads, (
        [
            f"{r.point.model.name}, {r.point.lengths.name}, {r.point.batch}",
            *(f"{v:.0f}" for v in (r.npu, r.newton, r.off, r.on)),
            ratio(r.npu / r.best), ratio(r.newton / r.best),
            f"{r.gib:.0f}" + (" (too many)" if r.gib > 32 else ""),
        ]
        for r in rows
    ))  # fmt: skip


def summary_table(rows: Sequence[Row]) -> str:
    def line(name: str, some: Sequence[Row]) -> list[str]:
        return [name, ratio(geomean([r.npu / r.best for r in some])), ratio(geomean([r.newton / r.best for r in some])),
                ratio(geomean([r.off / r.on for r in some]))]  # fmt: skip

    found = [line("all", rows)]
    found += [line(s.name, [r for r in rows if r.point.lengths == s]) for s in SETS]
    found += [line(f"batch {b}", [r for r in rows if r.point.batch == b]) for b in BATCHES]
    found.append(["published", ratio(PUBLISHED["NPU"]), ratio(PUBLISHED["Newton"]), ""])
    return table(["geometric mean", "over NPU", "over Newton", "what sub-batches are worth"], found)


def schedules_table(rows: Sequence[Row]) -> str:
    heads = [f"batch {DETAILED}", "published, one batch", "published, sub-batches", "ours, one batch",
             "ours, sub-batches", "best over best"]  # fmt: skip
    return table(heads, (
        [
            f"{r.point.model.name}, {r.point.lengths.name}",
            *(f"{v:.0f}" for v in (r.published_off, r.published_on, r.off, r.on)),
            ratio(min(r.published_off, r.published_on) / r.best),
        ]
        for r in rows if r.point.batch == DETAILED
    ))  # fmt: skip


TABLES = {"summary": summary_table, "layers": layers_table, "schedules": schedules_table}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="one model, one batch, printed")
    if arguments.parse_args().quick:
        print(layers_table([measure(Point(MODELS[0], SETS[0], 64))]))
        return
    points = [Point(m, s, b) for m in MODELS for s in SETS for b in BATCHES]
    largest_first = sorted(points, key=lambda p: -p.batch * p.model.heads / p.model.tp)
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(largest_first, pool.map(measure, largest_first), strict=True))
    rows = [found[p] for p in points]
    page = HERE / "neupims.md"
    text = page.read_text()
    for name, make in TABLES.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m: f"{m[1]}\n{make(rows)}\n{m[2]}", text, flags=re.S  # noqa: B023
        )  # fmt: skip
    page.write_text(text)


if __name__ == "__main__":
    main()
