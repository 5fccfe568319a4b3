"""One request on two machines: `-t PREFILL:DECODE`. One prefills, the other decodes on its caches.

Times of serving, as DistServe (Zhong et al., OSDI 2024) and Splitwise (Patel et al., ISCA 2024) have them: the time to
the first token is that of the prefill, which gives it; the transfer of the caches holds up the second one; the time per
token is the mean of the decode steps. By default the caches go once the prefill has ended; with `by_layer` each goes as
soon as it is written, as Splitwise sends them for long prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pimc.backends.program import Program
from pimc.driver import Options, command_of
from pimc.generation import Generation, Machine, Progress, StepResult, generate
from pimc.handover import End, Handover
from pimc.record import record
from pimc.reproduce import place
from pimc.results import joined
from pimc.served import CacheMoved, EnergyByPart, LinkUsed, Served, Transfer
from pimc.sim.energy import energy_of
from pimc.sim.report import Report, build_report
from pimc.sim.timing import Timing
from pimc.target_pair import PHASES, SEPARATOR, is_for, names_phase, own_setting

PS = 1e-12
PARTS = ("prefill", "send", "receive", "decode")
"""What a request consists of, each with a report: the two ends of the transfer work side by side."""


def options_for(options: Options, phase: str) -> Options:
    """What concerns one of the machines: settings that begin with its phase (`decode:timing.tRP=12ns`) are for it
    alone, and those without a phase for both."""
    overrides = [own_setting(o, phase) for o in options.overrides if is_for(o, phase)]
    degrees = {own_setting(k, phase): n for k, n in sorted(options.parallel.items()) if is_for(k, phase)}
    degrees |= {own_setting(k, phase): n for k, n in options.parallel.items() if names_phase(k) and is_for(k, phase)}
    return replace(options, overrides=tuple(overrides), parallel=degrees)


@record
class Request:
    """A prompt on one machine, its caches over the link, and decode steps on another machine."""

    generation: Generation
    targets: tuple[str, str]
    by_layer: bool
    command: str
    form: str

    @property
    def handover(self) -> Handover:
        assert self.generation.handover is not None
        return self.generation.handover

    @property
    def prefill(self) -> StepResult:
        return self.generation.steps[0]

    @property
    def decodes(self) -> Sequence[StepResult]:
        return self.generation.steps[1:]

    @property
    def transfer_seconds(self) -> float:
        """What the transfer adds: from the end of the prefill until all caches are there."""
        return self.handover.exposed_ps(by_layer=self.by_layer) * PS

    @property
    def seconds(self) -> float:
        """From the beginning of the prefill to the last token."""
        return self.transfer_seconds + sum(s.timing.time * PS for s in self.generation.steps)

    @property
    def time_to_second_token(self) -> float:
        return self.generation.time_to_first_token + self.transfer_seconds + self.decodes[0].timing.time * PS

    @property
    def tokens_per_second(self) -> float:
        """Of all tokens of the batch over the whole time."""
        return self.generation.batch * len(self.generation.steps) / self.seconds if self.seconds else 0.0

    def parts(self) -> Iterator[tuple[str, Program, Timing]]:
        """The programs of the request; of the decode steps the first."""
        for name, step in (("prefill", self.prefill), ("decode", self.decodes[0])):
            assert step.program is not None
            if name == "decode":
                yield "send", self.handover.sender.program, self.handover.sender.timing
                yield "receive", self.handover.receiver.program, self.handover.receiver.timing
            yield name, step.program, step.timing

    @cached_property
    def reports(self) -> Mapping[str, Report]:
        """By part of the request."""
        compared = {"prefill": self.prefill.comparison, "decode": self.decodes[0].comparison}
        model = self.generation.model
        return {
            name: replace(
                build_report(program, timing, model=model, comparison=compared.get(name), form=self.form),
                command=self.command,
            )
            for name, program, timing in self.parts()
        }

    @cached_property
    def energy(self) -> Mapping[str, float] | None:
        """Joules of each part, of all decode steps together; None where a target gives no constants. A machine is
        charged for the time in which it works for the request."""
        ends: dict[str, list[End]] = {name: [End(program, timing)] for name, program, timing in self.parts()}
        ends["decode"] = [End(s.program, s.timing) for s in self.decodes if s.program is not None]
        found: dict[str, float] = {}
        for name, each in ends.items():
            joules = [energy_of(end.program, end.timing) for end in each]
            if any(j is None for j in joules):
                return None
            found[name] = float(sum(j.total for j in joules if j is not None))
        return found

    @property
    def ok(self) -> bool:
        return self.generation.ok

    @property
    def told(self) -> Served:
        """What a result tells of the request."""
        made, energy = self.generation, self.energy
        return Served(
            targets={name: self.reports[name].target for name in PHASES},
            batch=made.batch,
            prompt_tokens=self.prefill.new,
            generated_tokens=len(self.decodes),
            time_to_first_token=made.time_to_first_token,
            time_to_second_token=self.time_to_second_token,
            time_per_token=made.time_per_token,
            seconds=self.seconds,
            tokens_per_s=made.tokens_per_second,
            request_tokens_per_s=self.tokens_per_second,
            transfer=transfer_of(self.handover, by_layer=self.by_layer),
            energy=EnergyByPart(sum(energy.values()), dict(energy)) if energy is not None else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The request, its transfer, and the report of each part under `phases`."""
        reports = self.reports
        ends = reports["prefill"], reports["decode"]
        plain = self.generation.to_json(self.form)
        plain["target"] = SEPARATOR.join(r.target for r in ends)
        plain["target_hash"] = SEPARATOR.join(r.target_hash for r in ends)
        plain |= {
            "dims": {n: size for n, size in ends[0].dims.items() if ends[1].dims.get(n) == size},
            "phase": "mixed",
        }
        plain |= asdict(self.told)
        if self.energy is None:
            del plain["energy"]
        whole = joined(plain, list(reports.values()))
        for name in ("devices", "cycles", "bound_seconds", "bound_share", "bytes_moved"):
            plain[name] = getattr(whole, name)
        plain["engines"] = [asdict(engine) for engine in whole.engines]
        plain["ops"] = [asdict(op) for op in whole.ops]
        return plain | {"phases": {name: r.to_json() for name, r in reports.items()}}


def transfer_of(found: Handover, *, by_layer: bool) -> Transfer:
    """What a result tells of a transfer."""
    link = found.crossing.link
    starts = found.schedule(by_layer=by_layer)
    return Transfer(
        when="by-layer" if by_layer else "after",
        seconds=found.whole_ps * PS,
        exposed_seconds=found.exposed_ps(by_layer=by_layer) * PS,
        reading_seconds=found.sender.timing.time * PS,
        wire_seconds=found.wire_ps * PS,
        storing_seconds=found.receiver.timing.time * PS,
        paced_by=found.paced_by,
        bytes=found.bytes,
        link_bytes=found.sent_bytes,
        link=LinkUsed(found.crossing.slower, found.crossing.bandwidth, link.latency * PS, link.transfers),
        caches=[
            CacheMoved(p.source.name, p.target.name, p.layer, p.bytes, ready * PS, start * PS, p.same_order)
            for p, ready, start in zip(found.passages, found.ready_ps, starts, strict=True)
        ],
    )


def serve(
    models: Sequence[str | Path],
    targets: tuple[str, str],
    options: Options,
    count: int,
    *,
    values: bool = False,
    wide: bool = True,
    by_layer: bool = False,
    progress: Progress | None = None,
) -> Request:
    """Prefill on the first target, then `count` decode steps on the second, on the caches that the first has made.

    Raises CompileError for whatever cannot be done.
    """
    machines = [Machine(t, options_for(options, name)) for name, t in zip(PHASES, targets, strict=True)]
    found = generate(
        models,
        targets[0],
        machines[0].options,
        count,
        values=values,
        wide=wide,
        progress=progress,
        decoder=machines[1],
    )
    again = command_of(models, SEPARATOR.join(place(t) for t in targets), options, options.dims)
    again += f" --generate {count}" + " --transfer by-layer" * by_layer if again else ""
    return Request(found, targets, by_layer, again, "wide" if wide else "device")
