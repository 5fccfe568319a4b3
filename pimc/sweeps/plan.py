"""The axes of a sweep, and which of the combinations of their values are its points.

Axes stand in the order of the file's declaration: models, targets, phases, changes, dimensions, degrees of parallelism,
mappings, options of passes. The last one runs fastest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

from pimc.record import record
from pimc.sweeps.numbers import QUANTITIES, Better
from pimc.sweeps.spec import Setting, SweepSpec

GROUPS = ("model", "target", "phase", "set", "dim", "parallel", "mapping", "pass")
"""What an axis changes."""


@record
class Axis:
    """One thing that changes: an option of `pimc compile`, with the `key` that it takes (`set`: `timing.tRP`)."""

    group: str
    key: str
    values: Sequence[Setting]

    @property
    def name(self) -> str:
        """The column of the tables."""
        return f"{self.group}.{self.key}" if self.key else self.group

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers that grow."""
        numbers = [v for v in self.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len(self.values) and numbers == sorted(numbers)


@record
class Point:
    """A combination of values, one for each axis, by their places there."""

    axes: tuple[Axis, ...]
    places: tuple[int, ...]

    @property
    def values(self) -> tuple[Setting, ...]:
        return tuple(axis.values[place] for axis, place in zip(self.axes, self.places, strict=True))

    def named(self) -> dict[str, Setting]:
        return {axis.name: value for axis, value in zip(self.axes, self.values, strict=True)}

    def of(self, group: str) -> dict[str, Any]:
        """The values of a group by key."""
        return {a.key: v for a, v in zip(self.axes, self.values, strict=True) if a.group == group}

    def only(self, group: str) -> Any:
        """The value of a group that has one axis at most."""
        return self.of(group).get("")


@record
class Objective:
    """A number or an axis that is to be as small or as large as can be."""

    name: str
    better: Better


@record
class Plan:
    """A sweep whose file has no mistakes."""

    spec: SweepSpec

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        spec = self.spec
        found = [
            Axis("model", "", spec.models),
            Axis("target", "", spec.targets),
            Axis("phase", "", spec.phases),
            *(Axis("set", key, values) for key, values in spec.set.items()),
            *(Axis("dim", key, values) for key, values in spec.dims.items()),
            Axis("parallel", "tp", spec.parallel.tp),
            Axis("parallel", "pp", spec.parallel.pp),
            Axis("mapping", "", spec.mappings),
            *(Axis("pass", key, values) for key, values in spec.pass_config.items()),
        ]
        return tuple(axis for axis in found if axis.values)

    @property
    def combinations(self) -> int:
        return prod(len(axis.values) for axis in self.axes)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        given = self.spec.objectives.items()
        return tuple(Objective(n, b or (QUANTITIES[n].better if n in QUANTITIES else "min")) for n, b in given)

    def point(self, number: int) -> Point:
        """The combination of a number, from 0 to `combinations`."""
        places: list[int] = []
        for axis in reversed(self.axes):
            number, place = divmod(number, len(axis.values))
            places.append(place)
        return Point(self.axes, tuple(places[::-1]))

    def points(self) -> Iterator[Point]:
        """All points, of sweeps that know them beforehand."""
        search = self.spec.search
        if search.kind == "grid":
            yield from (self.point(number) for number in range(self.combinations))
        elif search.kind == "random":
            number = min(search.points, self.combinations)
            yield from (self.point(n) for n in random.Random(search.seed).sample(range(self.combinations), number))
        else:
            raise AssertionError(f"points of {search.kind} are asked for one after another")


def setting_text(value: Setting) -> str:
    """A value as options of the command line have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def option_texts(values: Mapping[str, Setting]) -> tuple[str, ...]:
    return tuple(f"{key}={setting_text(value)}" for key, value in values.items())
