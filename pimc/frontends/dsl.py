"""The DSL frontend: .pimc files to graphs. The language is described in docs/dsl.md.

`dsl_syntax.py` turns text into a tree, `dsl_elaborate.py` runs the tree, which builds the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pimc.frontends.dsl_elaborate import Elaboration
from pimc.frontends.dsl_syntax import parse_library, parse_model
from pimc.frontends.dsl_tree import Include, Statement
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph
from pimc.ir.reading import read_text
from pimc.ir.source import TextSpan


def load_dsl(path: str | Path, *, phase: str | None = None) -> Graph:
    """Read a .pimc file (`-`: stdin) and build its graph, with symbolic dimensions and their defaults.

    phase: which `phase` blocks to take; by default those of the phase that the file names first.
    Raises CompileError, with the place in the file.
    """
    name = str(path)
    try:
        text = read_text(path)
    except OSError as error:
        raise fail(Kind.FILE_MISSING, f"cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise fail(Kind.SYNTAX, f"{name} is not text in UTF-8 (byte {error.start})") from None
    return parse_dsl(text, name, phase=phase, folder=Path.cwd() if name == "-" else Path(path).parent)


def parse_dsl(text: str, file: str = "<text>", *, phase: str | None = None, folder: Path | None = None) -> Graph:
    """Build the graph of a model given as text; `folder` is where the files it names are looked for."""
    try:
        model = parse_model(text, file)
        base = folder or Path()
        return Elaboration.of(replace(model, body=_included(model.body, base, ())), phase, base).run()
    except RecursionError:
        raise fail(
            Kind.SYNTAX, "the model is nested too deeply", TextSpan(file, 1, 1, text.partition("\n")[0])
        ) from None


def _included(body: Sequence[Statement], folder: Path, including: tuple[Path, ...]) -> tuple[Statement, ...]:
    """The statements with every `include` replaced by what it includes."""
    statements: list[Statement] = []
    for statement in body:
        if not isinstance(include := statement.plain, Include):
            statements.append(statement)
            continue
        path = folder / "".join(include.path.parts)
        if path.resolve() in including:
            raise fail(Kind.SYNTAX, f"{path} includes itself", include.span)
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            why = "it is no text" if isinstance(error, UnicodeDecodeError) else error.strerror
            help = "the path is relative to the file that includes it"
            raise fail(Kind.FILE_MISSING, f"cannot read {path}: {why}", include.span, help=help) from None
        inner = parse_library(text, str(path))
        statements += _included(inner, path.parent, (*including, path.resolve()))
    return tuple(statements)
