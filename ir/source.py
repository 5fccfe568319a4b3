"""Where a thing came from: a span of text, a node of a model file, or a pass that made it from others."""

from __future__ import annotations

from pimc.record import record


@record
class TextSpan:
    """A stretch of one line of a text file; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    text: str = ""
    length: int = 1

    def to_json(self) -> dict[str, object]:
        return {"file": self.file, "line": self.line, "column": self.column, "length": self.length, "text": self.text}

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@record
class NodeSource:
    """A node (or input, or initializer) of a model file, named as the file names it."""

    model: str
    node: str
    op_type: str = ""

    def to_json(self) -> dict[str, object]:
        return {"model": self.model, "node": self.node, "op_type": self.op_type}

    def __str__(self) -> str:
        kind = f" ({self.op_type})" if self.op_type else ""
        return f'{self.model}: node "{self.node}"{kind}'


@record
class Derived:
    """Made by a pass out of things that came from `origins`."""

    pass_name: str
    origins: tuple[Source, ...]

    def __str__(self) -> str:
        return f"{self.pass_name}({', '.join(str(o) for o in self.origins[:4])})"


Source = TextSpan | NodeSource | Derived


def roots(source: Source | None) -> tuple[TextSpan | NodeSource, ...]:
    """The places in the user's own files that `source` goes back to, without repetition."""
    match source:
        case None:
            return ()
        case Derived(origins=origins):
            return tuple(dict.fromkeys(root for origin in origins for root in roots(origin)))
        case _:
            return (source,)
