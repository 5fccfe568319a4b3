"""The same op of identical layers, as one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from pimc.record import record
from pimc.sim.common_name import common_name as common_name
from pimc.sim.report import OpReport


@record
class OpGroup:
    """The same op of identical layers."""

    name: str
    ops: tuple[OpReport, ...]

    @property
    def seconds(self) -> float:
        return sum(o.seconds for o in self.ops)

    @property
    def bound(self) -> float:
        return sum(o.bound_seconds for o in self.ops)

    @property
    def bound_by(self) -> str:
        """What bounds most of them."""
        return Counter(o.bound_by for o in self.ops).most_common(1)[0][0]


def group_ops(ops: Sequence[OpReport]) -> list[OpGroup]:
    """Ops in the same place of identical layers together; the longest first."""
    members: dict[tuple[object, ...], list[OpReport]] = defaultdict(list)
    places: Counter[int] = Counter()
    for number, o in enumerate(ops):
        place = places[o.layer] if o.layer >= 0 else -1 - number
        places[o.layer] += 1
        members[place, o.op, o.phase, o.nature, o.engine, o.flops, o.bytes].append(o)
    groups = [OpGroup(_label(found), tuple(found)) for found in members.values()]
    return sorted(groups, key=lambda g: -g.seconds)


def _label(ops: Sequence[OpReport]) -> str:
    """The common name; where the model's author gave none, its weight or its place in the text say more than a number.
    """
    name, first = common_name([o.name for o in ops]), ops[0]
    if not re.fullmatch(rf"(val|{re.escape(first.op)})_[\d*]+(\.[\d*]+)?", name):
        return name
    if first.weight:
        return f"{name} {common_name([o.weight for o in ops])}"
    place = first.source.partition("; ")[0].replace("\\", "/").rpartition("/")[2]
    return f"{name} {place}" if re.fullmatch(r"[^ ]+:\d+:\d+", place) else name
