"""Generation: one prefill, then decode steps, the caches carried in the simulated memory from step to step.

One merged graph (sequence and past length symbolic), or a prefill graph and a decode graph. What an input is for is
found from the graph: token ids index the embedding, caches are appended in place, masks are as long as past and new
tokens together, positions as long as the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pimc.driver import (
    Lowered,
    Options,
    checked_program,
    compared,
    lower_model,
    read_model,
    run_passes,
    time_program,
    with_degrees,
)
from pimc.ir import interp
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Value
from pimc.ir.op import Array
from pimc.ir.types import Sym
from pimc.random_inputs import index_bound
from pimc.step_dims import step_dims, token_input

if TYPE_CHECKING:
    from pimc.backends.program import Program
    from pimc.sim.compare import Comparison
    from pimc.sim.timing import Timing
    from pimc.sim.values import RunState

DEFAULT_PROMPT = 8
"""Tokens of the prompt where the model's sequence length is symbolic and not bound."""

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""


@dataclass(frozen=True, slots=True)
class Roles:
    """What the inputs and outputs of a decoder are for, by name."""

    tokens: str
    positions: tuple[str, ...]
    masks: tuple[str, ...]
    caches: tuple[str, ...]
    presents: tuple[str, ...]
    """the outputs that hold the grown caches, in the order of `caches`"""
    logits: str


@dataclass(frozen=True)
class StepResult:
    """One run of the model: a prefill of `new` tokens, or a decode step of one."""

    past: int
    new: int
    timing: Timing
    comparison: Comparison | None = None
    carried: bool = False
    """The caches stayed where they were in the simulated memory."""


@dataclass(frozen=True)
class Generation:
    """The prefill (first) and the decode steps, and the tokens that came out (where values ran), [batch, steps]."""

    model: str
    target: str
    target_hash: str
    batch: int
    steps: tuple[StepResult, ...]
    tokens: Array | None = None

    @property
    def time_to_first_token(self) -> float:
        """Seconds of the prefill, which gives the first new token."""
        return self.steps[0].timing.time * 1e-12

    @property
    def time_per_token(self) -> float:
        """Mean seconds of a decode step."""
        later = [s.timing.time * 1e-12 for s in self.steps[1:]]
        return sum(later) / len(later) if later else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of all requests together, while decoding."""
        return self.batch / self.time_per_token if self.time_per_token else 0.0

    @property
    def ok(self) -> bool:
        return all(s.comparison is None or s.comparison.ok for s in self.steps)

    def to_json(self, form: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "model": self.model,
            "target": self.target,
            "target_hash": self.target_hash,
            "batch": self.batch,
            "prompt_tokens": self.steps[0].new,
            "generated_tokens": len(self.steps) - 1,
            "time_to_first_token": self.time_to_first_token,
            "time_per_token": self.time_per_token,
            "tokens_per_s": self.tokens_per_second,
            "steps": [
                {"past": s.past, "new": s.new, "cycles": s.timing.cycles, "seconds": s.timing.time * 1e-12}
                | ({"values": s.comparison.to_json(form), "carried": s.carried} if s.comparison is not None else {})
                for s in self.steps
            ],
        }
        compared_steps = [s.comparison for s in self.steps if s.comparison is not None]
        if compared_steps:
            found["values"] = {
                "ok": self.ok,
                "format": form,
                "max_abs_err": max(c.max_abs_err for c in compared_steps),
                "max_rel_err": max(c.max_rel_err for c in compared_steps),
            }
        if self.tokens is not None:
            found["tokens"] = self.tokens.tolist()
        return found


def generate(
    models: Sequence[str | Path],
    target: str | Path,
    options: Options,
    count: int,
    *,
    values: bool = False,
    wide: bool = True,
    progress: Progress | None = None,
) -> Generation:
    """Run a prompt and `count` decode steps. With `values`, on random prompt tokens, compared step by step with the
    interpreter; the next token is the one with the largest logit.

    models: one merged graph, or a prefill and a decode graph. Raises CompileError for whatever cannot be done.
    """
    if count < 1:
        raise fail(Kind.DIM_BAD, f"cannot generate {count} tokens", help="--generate takes a number of 1 or more")
    run = _Run(models, target, options, count, values, wide)
    steps = []
    for index in range(count + 1):
        steps.append(run.step())
        if progress is not None:
            progress(index + 1, count + 1)
    last = run.lowered
    assert last is not None
    names = ", ".join(str(m) for m in models)
    return Generation(names, last.machine.spec.name, run.target_hash, run.batch, tuple(steps), run.generated())


class _Run:
    """The state of one generation between its steps."""

    def __init__(
        self, models: Sequence[str | Path], target: str | Path, options: Options, count: int, values: bool, wide: bool
    ) -> None:
        self.prefill_model, self.decode_model = models[0], models[-1]
        self.target, self.options, self.count = target, options, count
        self.values, self.wide = values, wide
        self.past = 0
        self.lowered: Lowered | None = None
        self.target_hash = ""
        self.state: RunState | None = None
        self.program: Program | None = None
        self.outputs: dict[str, Array] = {}
        self.expected_caches: list[Array] = []
        self.banked: frozenset[str] = frozenset()
        graph = read_model(self.prefill_model, options)
        self.batch, self.prompt = self._prompt_size(graph)
        self.options = self._spread()
        self.tokens: Array | None = None
        self.chosen: list[Array] = []

    def _spread(self) -> Options:
        """The options with degrees of parallelism: those of the last step for the whole run, since caches stay."""
        graph = read_model(self.decode_model, self.options)
        dims = step_dims(graph, self.batch, 1, self.prompt + self.count - 1)
        spread = with_degrees(
            self.decode_model, self.target, replace(self.options, dims=dims, cache_tokens=self.prompt + self.count)
        )
        return replace(self.options, parallel=spread.parallel, choice=spread.choice)

    def _prompt_size(self, graph: Graph) -> tuple[int, int]:
        """Requests and prompt tokens of each: bound by the user, by the model, or the default."""
        tokens = token_input(graph)
        known = {**graph.defaults, **self.options.dims}
        sizes = []
        for dim, fallback in zip(tokens.type.shape, (1, DEFAULT_PROMPT), strict=True):
            if isinstance(dim, Sym):
                name = sorted(dim.names)[0]
                given = self.options.dims.get(name)
                sizes.append(given if given is not None else (known.get(name, fallback) if fallback == 1 else fallback))
            else:
                sizes.append(dim)
        return sizes[0], sizes[1]

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self) -> StepResult:
        first = self.past == 0
        model = self.prefill_model if first else self.decode_model
        new = self.prompt if first else 1
        lowered, roles = self._lower(model, new)
        program = checked_program(lowered)
        self.target_hash = program.target_hash
        timing = time_program(program, self.options.sim_engine)
        comparison, carried = None, False
        if self.values:
            comparison, carried = self._run(lowered, program, roles, new)
        result = StepResult(self.past, new, timing, comparison, carried)
        self.past += new
        self.lowered, self.program = lowered, program
        return result

    def _lower(self, model: str | Path, new: int) -> tuple[Lowered, Roles]:
        graph = read_model(model, self.options)
        dims = step_dims(graph, self.batch, new, self.past)
        options = replace(
            self.options, dims=dims, cache_tokens=self.prompt + self.count, banked=self.banked or self._banked(model)
        )
        lowered = lower_model(model, self.target, options)
        return lowered, roles_of(lowered.graph)

    def _banked(self, model: str | Path) -> frozenset[str]:
        """Weights that decoding wants in the banks' pattern: the prefill finds them there as well."""
        if self.past or self.prefill_model != self.decode_model:
            return frozenset()
        graph = read_model(model, self.options)
        dims = step_dims(graph, self.batch, 1, self.prompt)
        options = replace(self.options, dims=dims, cache_tokens=self.prompt + self.count)
        decode = lower_model(model, self.target, replace(options, until="layout"))
        self.banked = frozenset(n for plan in decode.machine.plans(decode.graph).values() for n in plan.banked)
        return self.banked

    def _run(self, lowered: Lowered, program: Program, roles: Roles, new: int) -> tuple[Comparison, bool]:
        from pimc.sim.values import execute

        inputs = self._inputs(lowered.graph, roles, new)
        caches = dict(zip(roles.caches, self.expected_caches, strict=False))
        reference = lowered.reference
        run_passes(reference, Options(dims=lowered.dims, until="fold"), None)
        caches = caches or {n: _empty(_input(reference, n)) for n in roles.caches}
        expected = interp.run(reference, {**inputs, **caches})
        carried = self.state is not None and self._same_place(program, roles)
        if not carried:
            own = [self.outputs[name] for name in self._presents] if self.outputs else list(caches.values())
            inputs |= dict(zip(roles.caches, own, strict=False))
            self.state = None
        self.outputs, self.state = execute(program, inputs, wide=self.wide, state=self.state)
        self._presents = roles.presents
        self.expected_caches = [expected[name] for name in roles.presents]
        self.chosen.append(np.argmax(expected[roles.logits][:, -1], axis=-1).reshape(self.batch, 1))
        return compared(self.outputs, expected, lowered.machine.spec, wide=self.wide), carried

    def _same_place(self, program: Program, roles: Roles) -> bool:
        """Whether the caches lie where the step before has left them."""
        before = self.program
        if before is None or len(self._presents) != len(roles.caches):
            return False
        pairs = zip(self._presents, roles.caches, strict=True)
        return all(
            (a := before.entry(old)) is not None
            and (b := program.entry(name)) is not None
            and (a.space, a.layout, a.dtype, a.shard) == (b.space, b.layout, b.dtype, b.shard)
            for old, name in pairs
        )

    def _inputs(self, graph: Graph, roles: Roles, new: int) -> dict[str, Array]:
        """Tokens, positions and masks of a step."""
        inputs = {roles.tokens: self._next_tokens(graph, roles, new)}
        for name in roles.positions:
            value = _input(graph, name)
            positions = np.arange(self.past, self.past + new, dtype=value.type.dtype.numpy)
            inputs[name] = np.broadcast_to(positions, value.type.static_shape).copy()
        for name in roles.masks:
            value = _input(graph, name)
            inputs[name] = np.ones(value.type.static_shape, value.type.dtype.numpy)
        return inputs

    def _next_tokens(self, graph: Graph, roles: Roles, new: int) -> Array:
        value = _input(graph, roles.tokens)
        if self.chosen:
            return self.chosen[-1].astype(value.type.dtype.numpy)
        bound = index_bound(graph, value) or 2
        generator = np.random.Generator(np.random.PCG64(self.options.seed))
        return generator.integers(0, bound, (self.batch, new)).astype(value.type.dtype.numpy)

    def generated(self) -> Array | None:
        return np.concatenate(self.chosen, axis=1) if self.chosen else None

    _presents: tuple[str, ...] = ()


# -- what inputs are for ----------------------------------------------------------------------------------------------


def roles_of(graph: Graph) -> Roles:
    """What inputs and outputs of a bound, fused decoder are for."""
    tokens = token_input(graph)
    appends = [n for n in graph.order() if n.op.name == "cache_append" and graph.is_output(n.result)]
    order = {v.name: i for i, v in enumerate(graph.inputs)}
    pairs = sorted(
        (order[past.name], past.name, graph.output_names(n.result)[0])
        for n in appends
        if (past := n.operands[0]) is not None and past.name in order
    )
    floats = [(name, v) for name, v in graph.outputs if v.type.dtype.is_float]
    presents = tuple(p[2] for p in pairs)
    vocabulary = index_bound(graph, tokens)
    logits = [n for n, v in floats if n not in presents and v.type.shape[-1] == vocabulary] or [
        n for n, v in floats if n not in presents and v.type.rank == 3
    ]
    if not logits:
        raise fail(Kind.UNAVAILABLE, f"'{graph.name}' has no output of logits [batch, seq, vocabulary]")
    if not pairs:  # a prefill graph: whatever else it gives are caches
        presents = tuple(n for n, v in floats if n != logits[0] and v.type.rank >= 3)
    others = [v for v in graph.inputs if v is not tokens and not v.type.dtype.is_float]
    new = tokens.type.static_shape[1]
    masks = tuple(v.name for v in others if v.type.static_shape[-1:] != (new,) or _is_mask(graph, v))
    positions = tuple(v.name for v in others if v.name not in masks)
    return Roles(tokens.name, positions, masks, tuple(p[1] for p in pairs), presents, logits[0])


def _is_mask(graph: Graph, value: Value) -> bool:
    """Whether an input that is as long as the new tokens is a mask all the same: nothing computes with its numbers."""
    compared_with = {"equal", "greater", "less", "and", "not", "where", "cum_sum", "reduce_sum"}
    reached = [value]
    for _ in range(4):
        users = [u for v in reached for u in graph.users(v)]
        if any(u.op.name in compared_with for u in users):
            return True
        if any(u.op.name in ("mul", "gather", "matmul") for u in users):
            return False
        reached = [r for u in users for r in u.results]
    return not graph.users(value)


def _input(graph: Graph, name: str) -> Value:
    return next(v for v in graph.inputs if v.name == name)


def _empty(value: Value) -> Array:
    return np.zeros(value.type.static_shape, value.type.dtype.numpy)
