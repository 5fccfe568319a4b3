"""A published mapping at many positions of a model: `token_times.py` for models in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from pimc.backends.cent.machine import CentMachine
from pimc.driver import Options, lower_model
from pimc.ir.diagnostics import Kind, fail
from pimc.token_times import Position, Tokens


class Positions:
    """The positions of a model's tokens on a split of a target whose mapping is CENT's published one."""

    def __init__(self, model: str | Path, target: str | Path, options: Options) -> None:
        lowered = lower_model(model, target, replace(options, until="schedule", observers=()))
        machine = lowered.machine
        if not isinstance(machine, CentMachine):
            raise fail(Kind.UNAVAILABLE, f"'{machine.name}' has no published mapping", help="use -t cent-published")
        self.spec = machine.spec
        self.tokens = Tokens(self.spec, lowered.graph, machine.parallel)
        self.keys = self.tokens.publisher.decoder.positions
        """of the new tokens that the model is bound to"""
        self.dims = lowered.dims

    def moves_to(self, other: Positions, by: int) -> bool:
        """Whether another binding of the same model differs in nothing but in its one new token's position."""
        mine, its = self.tokens.publisher.decoder, other.tokens.publisher.decoder
        same = (mine.sizes, mine.vocabulary, len(mine.blocks)) == (its.sizes, its.vocabulary, len(its.blocks))
        return same and len(self.keys) == len(other.keys) == 1 and other.keys[0] - self.keys[0] == by

    def at(self, keys: int) -> Position:
        """The token that attends to so many keys."""
        return self.tokens.at(keys)

    def over(self, keys: Iterable[int]) -> Iterator[Position]:
        return (self.at(each) for each in keys)
