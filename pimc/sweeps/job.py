"""What goes to a worker and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any

from pimc.driver import Options
from pimc.ir.diagnostics import Diagnostic
from pimc.record import record
from pimc.sweeps.numbers import Number


@record
class Job:
    """One point to compile and simulate. Files are absolute paths; their digests say what must be in them."""

    key: str
    """the content hash of the point"""
    model: str
    model_digest: str
    target: str
    target_hash: str
    options: Options
    revision: str
    """of the pimc that is asked"""


@record
class Failure:
    """A diagnostic as text."""

    code: str
    message: str
    place: str = ""
    notes: tuple[str, ...] = ()
    help: str = ""

    @staticmethod
    def of(d: Diagnostic) -> Failure:
        return Failure(d.kind.code, d.message, str(d.source) if d.source is not None else "", d.notes, d.help or "")

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Failure:
        return Failure(**{**plain, "notes": tuple(plain["notes"])})


@record
class Answer:
    """What became of a point: its numbers, or why there are none."""

    key: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    """all of the model's"""
    engines: Mapping[str, float] = field(default_factory=dict)
    """seconds at work"""
    failures: tuple[Failure, ...] = ()
    lasting: bool = True
    """whether it would come out the same again"""

    @property
    def is_done(self) -> bool:
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        del plain["lasting"]
        return plain

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> Answer:
        """Raises TypeError, KeyError or AttributeError for what `to_json` does not give."""
        failures = tuple(Failure.from_plain(f) for f in plain["failures"])
        return Answer(str(plain["key"]), dict(plain["numbers"]), dict(plain["dims"]), dict(plain["engines"]), failures)


def lost(job: Job, why: str, help_line: str = "") -> Answer:
    """The answer for a point that no worker has brought to an end; the next run tries it again."""
    return Answer(job.key, failures=(Failure("", why, help=help_line),), lasting=False)
