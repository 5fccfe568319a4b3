"""Parsers of the languages that `.lark` files define.

Lark takes 0.1 s to make the tables of a parser, many times what parsing a model with them takes. Tables therefore lie
beside their grammar (`dsl.lark`, `dsl.tables.json`), marked with what they were made from: the grammar, its start
symbols, and the version of Lark. With any other, they are made anew and nothing but that time is lost.
`pytest tests/ir/test_grammar.py --update-golden` writes them.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.lark import PostLex

from pimc.record import record


@record
class Grammar:
    """A language."""

    file: Path
    start: tuple[str, ...] = ("start",)

    @property
    def tables_file(self) -> Path:
        return self.file.with_suffix(".tables.json")

    def parser(self, postlex: PostLex | None = None) -> Lark:
        """An LALR parser whose trees have positions."""
        kept = self._kept()
        if kept is None:
            return self.made(postlex)
        for table, key in ((kept, "memo"), (kept["data"]["parser"]["parser"], "states")):
            table[key] = {int(number): each for number, each in table[key].items()}  # JSON has no numbers for keys
        loaded: Lark = Lark._load_from_dict(kept["data"], kept["memo"], postlex=postlex)  # type: ignore[no-untyped-call]
        return loaded

    def made(self, postlex: PostLex | None = None) -> Lark:
        """The same from the grammar itself."""
        return Lark(
            self.file.read_text("utf-8"),
            start=list(self.start),
            parser="lalr",
            propagate_positions=True,
            maybe_placeholders=True,
            postlex=postlex,
        )

    def _kept(self) -> dict[str, Any] | None:
        """Lark's own serialised form of the parser; None where there is none of this grammar and version."""
        try:
            mark, _, tables = self.tables_file.read_text("utf-8").partition("\n")
        except OSError:
            return None
        found: dict[str, Any] | None = json.loads(tables) if mark == self._mark() else None
        return found

    def tables(self, postlex: PostLex | None = None) -> str:
        """The text of the tables' file."""
        saved = io.BytesIO()
        self.made(postlex).save(saved, exclude_options=("postlex",))
        return f"{self._mark()}\n{json.dumps(pickle.loads(saved.getvalue()), separators=(',', ':'))}\n"

    def _mark(self) -> str:
        """What tables are made from, in one line."""
        text = "\0".join((self.file.read_text("utf-8"), *self.start))
        return f"{self.file.name} {hashlib.sha256(text.encode()).hexdigest()} lark {lark.__version__}"
