"""Generation: one prefill, then decode steps, the caches carried in the simulated memory from step to step.

One merged graph (sequence and past length symbolic), or a prefill graph and a decode graph. What an input is for is
found from the graph: token ids index the embedding, caches are appended in place, masks are as long as past and new
tokens together, positions as long as the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pimc.driver import Lowered, Options, checked_program, lower_model, read_model, run_passes, spec_for, with_degrees
from pimc.execution import compared, time_program
from pimc.ir import interp
from pimc.ir.blocks import NO_BLOCK, Blocks
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Value
from pimc.ir.op import Array
from pimc.ir.types import Dim, Sym
from pimc.passes.bind import resolve_dims
from pimc.random_inputs import index_bound
from pimc.record import record
from pimc.step_dims import step_dims, token_input

if TYPE_CHECKING:
    from pimc.backends.program import MapEntry, Program
    from pimc.handover import Handover
    from pimc.sim.compare import Comparison
    from pimc.sim.timing import Timing
    from pimc.sim.values import RunState

DEFAULT_PROMPT = 8
"""Tokens of the prompt where the model's sequence length is symbolic and not bound."""

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""


@record
class Roles:
    """What the inputs and outputs of a decoder are for, by name."""

    tokens: str
    positions: tuple[str, ...]
    masks: tuple[str, ...]
    caches: tuple[str, ...]
    presents: tuple[str, ...]
    """the outputs that hold the grown caches, in the order of `caches`"""
    logits: str


@record
class StepResult:
    """One run of the model: a prefill of `new` tokens, or a decode step of one."""

    past: int
    new: int
    timing: Timing
    comparison: Comparison | None = None
    carried: bool = False
    """The caches stayed where they were in the simulated memory, or came there from another machine."""
    program: Program | None = field(default=None, repr=False, compare=False)
    outputs: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
    """what the streams have computed, where values ran"""
    inputs: Mapping[str, Array] = field(default_factory=dict, repr=False, compare=False)
    """tokens, positions and masks that they were given"""


@record
class Generation:
    """The prefill (first) and the decode steps, and the tokens that came out (where values ran), [batch, steps]."""

    model: str
    target: str
    target_hash: str
    batch: int
    steps: tuple[StepResult, ...]
    tokens: Array | None = None
    handover: Handover | None = field(default=None, repr=False)
    """how the caches came to the machine that decodes, if that is another one"""

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
    decoder: Machine | None = None,
) -> Generation:
    """Run a prompt and `count` decode steps. With `values`, on random prompt tokens, compared step by step with the
    interpreter; the next token is the one with the largest logit.

    models: one merged graph, or a prefill and a decode graph. decoder: the machine of the decode steps, if it is not
    the one of the prefill; it goes on with the caches that the prefill has made. Raises CompileError for whatever
    cannot be done.
    """
    if count < 1:
        raise fail(Kind.DIM_BAD, f"cannot generate {count} tokens", help="--generate takes a number of 1 or more")
    run = _Run(models, Machine(target, options), decoder, count, values, wide)
    steps = []
    for index in range(count + 1):
        steps.append(run.step())
        if progress is not None:
            progress(index + 1, count + 1)
    last = run.lowered
    assert last is not None
    names = ", ".join(str(m) for m in models)
    name, tokens = last.machine.spec.name, run.generated()
    return Generation(names, name, run.target_hash, run.batch, tuple(steps), tokens, run.handover)


@record
class Machine:
    """A target, and the options with which a phase is compiled for it."""

    target: str | Path
    options: Options


class _Run:
    """The state of one generation between its steps."""

    def __init__(
        self,
        models: Sequence[str | Path],
        machine: Machine,
        decoder: Machine | None,
        count: int,
        values: bool,
        wide: bool,
    ) -> None:
        self.prefill_model, self.decode_model = models[0], models[-1]
        self.machine, self.decoder, self.count = machine, decoder, count
        self.options = options = machine.options
        self.handover: Handover | None = None
        self.values, self.wide = values, wide
        self.past = 0
        self.lowered: Lowered | None = None
        self.target_hash = ""
        self.state: RunState | None = None
        self.program: Program | None = None
        self.outputs: dict[str, Array] = {}
        self.given: dict[str, Array] = {}
        self.expected_caches: list[Array] = []
        self.banked: frozenset[str] = frozenset()
        graph = read_model(self.prefill_model, options)
        self.batch, self.prompt = _prompt_size(graph, options.dims)
        self.machine = self._spread(machine, decodes=decoder is None)
        self.decoder = None if decoder is None else self._spread(decoder, decodes=True)
        self.tokens: Array | None = None
        self.chosen: list[Array] = []

    def _spread(self, machine: Machine, *, decodes: bool) -> Machine:
        """With degrees of parallelism, for all steps of a machine alike, since caches stay: those of its last one."""
        options = machine.options
        if spec_for(machine.target, options).system.devices == 1:
            return machine
        model = self.decode_model if decodes else self.prefill_model
        new, past = (1, self.prompt + self.count - 1) if decodes else (self.prompt, 0)
        dims = step_dims(read_model(model, options), self.batch, new, past)
        asked = replace(options, dims=dims, cache_tokens=self.prompt + self.count)
        spread = with_degrees(model, machine.target, asked)
        return replace(machine, options=replace(options, parallel=spread.parallel, choice=spread.choice))

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self) -> StepResult:
        first = self.past == 0
        model = self.prefill_model if first else self.decode_model
        new = self.prompt if first else 1
        lowered, roles = self._lower(model, new)
        program = checked_program(lowered)
        self.target_hash = program.target_hash
        timing = time_program(program, self.options.sim_engine)
        if self.decoder is not None and self.past == self.prompt:
            self._hand_over(program, roles)
        comparison, carried = None, False
        if self.values:
            comparison, carried = self._run(lowered, program, roles, new)
        self._presents, self.timing = roles.presents, timing
        result = StepResult(self.past, new, timing, comparison, carried, program, self.outputs, self.given)
        self.past += new
        self.lowered, self.program = lowered, program
        return result

    def _lower(self, model: str | Path, new: int) -> tuple[Lowered, Roles]:
        machine = self.machine if self.decoder is None or not self.past else self.decoder
        graph = read_model(model, machine.options)
        dims = step_dims(graph, self.batch, new, self.past)
        options = replace(
            machine.options, dims=dims, cache_tokens=self.prompt + self.count, banked=self.banked or self._banked(model)
        )
        lowered = lower_model(model, machine.target, options)
        return lowered, roles_of(lowered.graph)

    def _hand_over(self, program: Program, roles: Roles) -> None:
        """The caches go from the machine of the prefill to the one of the decode steps, in values too if these run."""
        from pimc.handover import Cache, hand_over

        assert self.program is not None
        assert self.timing is not None
        assert self.lowered is not None
        owners = {name: value.owner for name, value in self.lowered.graph.outputs}
        caches = [
            Cache(given, owner.name if (owner := owners.get(given)) is not None else "", taken)
            for given, taken in zip(self._presents, roles.caches, strict=True)
        ]
        self.handover = hand_over(self.program, self.timing, program, caches, self.options.sim_engine)
        if self.state is not None:
            self.state = self.handover.carry(self.state)

    def _banked(self, model: str | Path) -> frozenset[str]:
        """Weights that decoding wants in the banks' pattern: the prefill finds them there as well."""
        if self.past or self.prefill_model != self.decode_model or self.decoder is not None:
            return frozenset()
        graph = read_model(model, self.options)
        dims = step_dims(graph, self.batch, 1, self.prompt)
        options = replace(self.options, dims=dims, cache_tokens=self.prompt + self.count)
        decode = lower_model(model, self.machine.target, replace(options, until="layout"))
        self.banked = frozenset(n for plan in decode.machine.plans(decode.graph).values() for n in plan.banked)
        return self.banked

    def _run(self, lowered: Lowered, program: Program, roles: Roles, new: int) -> tuple[Comparison, bool]:
        from pimc.sim.values import execute

        inputs = self.given = self._inputs(lowered.graph, roles, new)
        caches = dict(zip(roles.caches, self.expected_caches, strict=False))
        reference = lowered.reference
        run_passes(reference, Options(dims=lowered.dims, until="fold"), None)
        caches = caches or {n: _empty(_input(reference, n)) for n in roles.caches}
        expected = interp.run(reference, {**inputs, **caches}, wide=self.wide)
        carried = self.state is not None and self._same_place(program, roles)
        if not carried:
            own = [self.outputs[name] for name in self._presents] if self.outputs else list(caches.values())
            inputs = inputs | dict(zip(roles.caches, own, strict=False))
            self.state = None
        self.outputs, self.state = execute(program, inputs, wide=self.wide, state=self.state)
        self.expected_caches = [expected[name] for name in roles.presents]
        self.chosen.append(np.argmax(expected[roles.logits][:, -1], axis=-1).reshape(self.batch, 1))
        return compared(self.outputs, expected, lowered.machine.spec, wide=self.wide), carried

    def _same_place(self, program: Program, roles: Roles) -> bool:
        """Whether the caches lie where the step before has left them."""
        if self.handover is not None and self.past == self.prompt:
            return True
        before = self.program
        if before is None or len(self._presents) != len(roles.caches):
            return False
        pairs = zip(self._presents, roles.caches, strict=True)
        return all(
            (a := before.entry(old)) is not None
            and (b := program.entry(name)) is not None
            and (a.space, a.layout, a.dtype, a.shard) == (b.space, b.layout, b.dtype, b.shard)
            and _goes_on(before, a, program, b)
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
    timing: Timing | None = None


def _prompt_size(graph: Graph, given: Mapping[str, int]) -> tuple[int, int]:
    """Requests and prompt tokens of each: bound by the user, by the model, or the default.

    The first decode step finds the prompt cached: a length of caches is another name for that of the prompt. Raises
    CompileError (DIM_BAD) for names that the model does not have, and for two lengths.
    """
    resolve_dims(graph, {**dict.fromkeys(graph.dims(), 1), **given})
    tokens = token_input(graph)
    known = {**graph.defaults, **given}
    batch_dim, seq_dim = tokens.type.shape
    own = _names(batch_dim) | _names(seq_dim)
    cached = {n: given[n] for n in sorted(_cache_lengths(graph) - own) if n in given}
    bound = [given[n] for n in sorted(_names(seq_dim)) if n in given] if isinstance(seq_dim, Sym) else [seq_dim]
    prompt = (bound or [*cached.values(), DEFAULT_PROMPT])[0]
    for name, size in cached.items():
        if size != prompt:
            raise fail(
                Kind.DIM_BAD,
                f"the first decode step finds {prompt} tokens cached, those of the prompt, and not {name}={size}",
                help=f"leave {name} out: caches grow with the steps",
            )
    batch = next((known[n] for n in sorted(_names(batch_dim)) if n in known), 1)
    return batch if isinstance(batch_dim, Sym) else batch_dim, prompt


def _cache_lengths(graph: Graph) -> set[str]:
    """Names of the lengths of caches."""
    return {n for v in graph.inputs if v.type.dtype.is_float and v.type.rank >= 3 for n in _names(v.type.shape[-2])}


def _names(dim: Dim) -> frozenset[str]:
    return dim.names if isinstance(dim, Sym) else frozenset()


def _goes_on(before: Program, old: MapEntry, program: Program, new: MapEntry) -> bool:
    """Whether a paged cache has the blocks that it had, and maybe more."""
    if old.blocks is None or new.blocks is None:
        return old.blocks is new.blocks
    held, holds = _table(before, old.blocks), _table(program, new.blocks)
    same = old.blocks.window == new.blocks.window and held.shape == holds.shape
    return same and bool(np.all((held == NO_BLOCK) | (held == holds)))


def _table(program: Program, blocks: Blocks) -> Array:
    """The block table of a cache."""
    found = next(e for e in program.memory if e.role == "table" and e.layout.offset == blocks.table)
    assert found.contents is not None
    return found.contents.array()


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
