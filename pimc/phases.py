"""Prefill and decode of one model in one go: `pimc compile --phase both`.

The prefill takes a prompt with empty caches, the decode step one token behind what is cached. Weights that decoding
wants in the banks' pattern, or by their values, lie so for the prefill too, as in a generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pimc.driver import Options, Result, command_of, compile_model, lower_model, read_model, with_degrees
from pimc.execution import Values
from pimc.generation import DEFAULT_PROMPT
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph
from pimc.ir.types import Dim, Sym
from pimc.passes.bind import resolve_dims
from pimc.record import record
from pimc.sim.report import Report
from pimc.step_dims import step_dims, token_input

NAMES = ("prefill", "decode")


@record
class Phases:
    """The results of both phases, each with its report."""

    prefill: Result
    decode: Result

    def items(self) -> Sequence[tuple[str, Result]]:
        return tuple(zip(NAMES, (self.prefill, self.decode), strict=True))

    @property
    def ok(self) -> bool:
        """Whether the values of both are right, as far as they were computed."""
        return all(r.comparison is None or r.comparison.ok for _, r in self.items())

    def to_json(self, form: str) -> dict[str, Any]:
        """What one prefill and one decode step take together, and the report of each under `phases`."""
        reports = [_report(result) for _, result in self.items()]
        first = reports[0]
        seconds, bound = sum(r.seconds for r in reports), sum(r.bound_seconds for r in reports)
        found: dict[str, Any] = {
            "model": first.model,
            "target": first.target,
            "target_hash": first.target_hash,
            "dims": {name: size for name, size in first.dims.items() if reports[1].dims.get(name) == size},
            "phase": "mixed",
            "devices": first.devices,
            "cycles": sum(r.cycles for r in reports),
            "seconds": seconds,
            "bound_seconds": bound,
            "bound_share": bound / seconds if seconds else 1.0,
            "engines": _engines(reports),
            "ops": [op for r in reports for op in r.to_json()["ops"]],
            "bytes_moved": dict(sorted(sum((Counter(r.bytes_moved) for r in reports), Counter()).items())),
            "phases": {name: _report(result).to_json() for name, result in self.items()},
        }
        compared = [r.comparison for _, r in self.items() if r.comparison is not None]
        if compared:
            found["values"] = {
                "ok": self.ok,
                "format": form,
                "max_abs_err": max(c.max_abs_err for c in compared),
                "max_rel_err": max(c.max_rel_err for c in compared),
            }
        return found


def _report(result: Result) -> Report:
    assert result.report is not None
    return result.report


def _engines(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Engines by name, their times and counts added up."""
    total: dict[str, dict[str, Any]] = {}
    for engine in (e for r in reports for e in r.engines):
        plain = asdict(engine)
        before = total.setdefault(engine.name, {**plain, **dict.fromkeys(_ADDED, 0), "stalled": {}, "counters": {}})
        for key in _ADDED:
            before[key] += plain[key]
        for key in ("stalled", "counters"):
            before[key] = {k: before[key].get(k, 0) + plain[key].get(k, 0) for k in sorted({*before[key], *plain[key]})}
    return list(total.values())


_ADDED = ("cycles", "commands", "busy", "idle")


def compile_phases(
    models: Sequence[str | Path],
    target: str | Path,
    options: Options,
    *,
    values: Values | None = None,
    wide: bool = True,
) -> Phases:
    """Compile, simulate and (with values) check the prefill and a decode step of a model.

    models: one that does both, its sequence and cache lengths symbolic, or two. The prompt is as long as the sequence
    dimension is bound (else 8 tokens), the decode step finds as much cached as the cache dimension is bound (else the
    prompt); an encoder whose length is not bound has read 8 tokens. Raises CompileError for whatever cannot be done.
    """
    pair = tuple(zip(NAMES, (models[0], models[-1]), strict=True))
    sizes = {name: _dims(_graph(model, options, name), options.dims, name) for name, model in pair}
    command = command_of(tuple(dict.fromkeys(models)), target, replace(options, phase="both"), options.dims)
    room = max(sizes["prefill"].new, sizes["decode"].past) + 1
    shared = replace(options, cache_tokens=room, simulate=True, command=command)
    chosen = {name: _for_phase(shared, model, name, sizes[name].dims) for name, model in pair}
    spread = with_degrees(models[-1], target, chosen["decode"])
    chosen = {n: replace(each, parallel=spread.parallel, choice=spread.choice) for n, each in chosen.items()}
    if models[0] == models[-1]:
        layout = lower_model(models[-1], target, replace(chosen["decode"], until="layout", observers=()))
        banked = frozenset(n for plan in layout.machine.plans(layout.graph).values() for n in plan.banked)
        chosen = {name: replace(each, banked=banked) for name, each in chosen.items()}
    made = [compile_model(model, target, chosen[name], values=values, wide=wide) for name, model in pair]
    if made[1].program.phase == "prefill":
        raise fail(
            Kind.UNAVAILABLE,
            f"{models[-1]} takes no caches, so that one new token is a prefill too",
            help="--phase both takes a model that both prefills and decodes, or a prefill and a decode model",
        )
    return Phases(*made)


@record
class _Sizes:
    """Numbers for a phase: new tokens, cached tokens, and all dimensions."""

    new: int
    past: int
    dims: Mapping[str, int]


def _graph(model: str | Path, options: Options, name: str) -> Graph:
    return read_model(model, _for_phase(options, model, name, {}))


def _for_phase(options: Options, model: str | Path, name: str, dims: Mapping[str, int]) -> Options:
    """The options of one phase; models in the DSL are asked for the blocks of that phase."""
    asked = name if str(model).endswith(".pimc") else None
    return replace(options, phase=asked, dims=dims)


def _dims(graph: Graph, given: Mapping[str, int], name: str) -> _Sizes:
    """All dimensions of a phase: those of tokens and caches as the phase wants them, the others as given."""
    batch_dim, seq_dim = token_input(graph).type.shape
    lengths = _names(seq_dim)
    spaces = [v.type.shape[-2] for v in graph.inputs if v.type.dtype.is_float and v.type.rank >= 3]
    spaced = {n for dim in spaces for n in _names(dim)} - _names(batch_dim) - lengths
    caches = _growing(graph) & spaced or spaced
    batch = next((given[n] for n in _names(batch_dim) if n in given), graph.defaults.get(str(batch_dim), 1))
    bound = [given[n] for n in sorted(lengths) if n in given] if isinstance(seq_dim, Sym) else [seq_dim]
    prompt = bound[0] if bound else DEFAULT_PROMPT
    cached = [given[n] for n in sorted(caches) if n in given] + [d for d in spaces if isinstance(d, int)]
    new, past = (prompt, 0) if name == "prefill" else (1, cached[0] if cached else prompt)
    own = {n: size for n, size in given.items() if n not in lengths | caches | _names(batch_dim)}
    own = {**dict.fromkeys(sorted(spaced - caches), DEFAULT_PROMPT), **own}  # read-only caches of an encoder
    dims = step_dims(graph, batch if isinstance(batch_dim, Sym) else batch_dim, new, past, own)
    resolve_dims(graph, dims)
    return _Sizes(new, past, dims)


def _growing(graph: Graph) -> set[str]:
    """Lengths to which something is added on the way to an output: those of caches that are appended to."""
    sums = [d for _, v in graph.outputs for d in v.type.shape if isinstance(d, Sym) and len(d.terms) > 1]
    return {n for d in sums for n in d.names}


def _names(dim: Dim) -> frozenset[str]:
    return dim.names if isinstance(dim, Sym) else frozenset()
