"""Check everything that was issued against everything that a part asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pimc.backends.pim.issues import TRAFFIC
from pimc.record import record
from pimc.sim.check.contents import crowded_cycles, empty_sources, wrong_modes
from pimc.sim.check.deadlines import missed_refreshes
from pimc.sim.check.distances import too_soon
from pimc.sim.check.issued import Issued, Lane
from pimc.sim.check.part import Part
from pimc.sim.check.rows import wrong_rows
from pimc.sim.check.violation import KINDS, Finding, Rule, Tally, Violation

Check = Callable[[Lane, Part, Mapping[str, int]], Iterator[Finding]]

CHECKS: tuple[tuple[Check, tuple[str, ...]], ...] = (
    (crowded_cycles, ("bus",)),
    (too_soon, ("timing",)),
    (wrong_rows, ("row",)),
    (wrong_modes, ("mode",)),
    (empty_sources, ("contents",)),
    (missed_refreshes, ("refresh",)),
)
"""What is checked, and the kinds of violations that it finds."""


@record
class Verdict:
    """What came out of a check. Violations that several channels share count once for each of them."""

    part: Part
    issued: Issued
    counts: Mapping[Rule, int]
    """violations of each rule; rules that were kept are absent"""
    violations: tuple[Violation, ...]
    """the first ones"""

    @property
    def ok(self) -> bool:
        return not self.counts

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def commands(self) -> int:
        """How many commands were checked, over all channels."""
        names = self.issued.names
        other = names.index(TRAFFIC) if TRAFFIC in names else len(names)
        return sum(int((lane.command != other).sum()) * len(lane.channels) for lane in self.issued.lanes)

    @property
    def by_kind(self) -> dict[str, int]:
        """Violations of each kind that there are."""
        found: Counter[str] = Counter()
        for rule, count in self.counts.items():
            found[rule.kind] += count
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.part.name,
            "commands": self.commands,
            "channels": self.issued.channels,
            "last_cycle": self.issued.last_cycle,
            "ok": self.ok,
            "count": self.total,
            "kinds": self.by_kind,
            "rules": [{**rule.to_json(), "count": count} for rule, count in self.counts.items()],
            "violations": [violation.to_json() for violation in self.violations],
        }


def check(issued: Issued, part: Part, *, kinds: Collection[str] = tuple(KINDS), limit: int | None = None) -> Verdict:
    """All violations of some kinds, counted; the first `limit` of them one by one (None: all)."""
    tally = Tally(issued, limit)
    number = {name: n for n, name in enumerate(issued.names)}
    for lane in issued.lanes:
        for find, found in CHECKS:
            if set(found) & set(kinds):
                for finding in find(lane, part, number):
                    tally.add(lane, finding)
    first = sorted(tally.first, key=lambda v: (v.command.cycle, v.channels, v.rule))
    counts = dict(sorted(tally.counts.items(), key=lambda item: (list(KINDS).index(item[0].kind), -item[1], item[0])))
    return Verdict(part, issued, counts, tuple(first if limit is None else first[:limit]))
