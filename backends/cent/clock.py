"""Times the traces of a published mapping position by position, without making a program of each.

The commands are those of the program (`Publisher`), on the same model of the memory; what a part of a block makes of
the channels is looked up where it was seen before, since most parts depend on the position in little or in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

from pimc.backends.cent.program import Publisher
from pimc.backends.cent.rows import ceil
from pimc.backends.cent.stream import Writer
from pimc.backends.pim.aim_walk import Part, TraceRun, TraceWalker
from pimc.backends.pim.timing import states_of
from pimc.backends.program import Item


class TraceClock:
    """The traces of one model on one split."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self._walker = TraceWalker(states_of(publisher.spec))
        self._mark = object()
        """makes keys this clock's own"""
        self._items: dict[tuple[object, object], tuple[Item, ...]] = {}
        """of each part that was needed"""

    def block(self, keys: int) -> TraceRun:
        """That of a block on a master, at a number of keys."""
        return self._walker.run(self._parts(keys))

    @cached_property
    def helper(self) -> TraceRun:
        """That of a block on a device that is no master."""
        return self._alone("helper", self.publisher.products_alone)

    @cached_property
    def embedding(self) -> TraceRun:
        """That of embedding and head on a master."""
        return self._alone("embedding", self.publisher.embedding_alone)

    def _alone(self, name: str, write: Callable[[Writer], None]) -> TraceRun:
        return self._walker.run([self._part(name, 0, write)])

    def _parts(self, keys: int) -> Iterator[Part]:
        """The parts of a block, each known by all of the position that its commands depend on."""
        publisher, at = self.publisher, self.publisher.geometry
        spread = ceil(keys, at.banks), ceil(keys, at.column)
        depends = (keys, (keys - 1) // at.row, spread, spread, spread)
        yield self._part("before", 0, publisher.before_keys)
        for number, (part, on) in enumerate(zip(publisher.of_keys(), depends, strict=True)):
            yield self._part(number, on, partial(_at, part, keys))
        yield self._part("after", 0, publisher.after_keys)

    def _part(self, name: object, on: object, write: Callable[[Writer], None]) -> Part:
        return (self._mark, name, on), partial(self._written, (name, on), write)

    def _written(self, part: tuple[object, object], write: Callable[[Writer], None]) -> tuple[Item, ...]:
        found = self._items.get(part)
        if found is None:
            found = self._items[part] = self.publisher.items(write)
        return found


def _at(part: Callable[[Writer, int], None], keys: int, writer: Writer) -> None:
    part(writer, keys)
