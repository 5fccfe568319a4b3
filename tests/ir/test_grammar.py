"""Tables of parsers that lie beside their grammars: they are current, and say what the grammar says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lark
import pytest

from pimc.frontends import dsl_syntax
from pimc.ir.grammar import Grammar
from pimc.ir.text import parser as ir_text

ROOT = Path(__file__).parent.parent.parent
POSTLEX = {dsl_syntax.GRAMMAR: dsl_syntax.Newlines, ir_text.GRAMMAR: lambda: None}
GRAMMARS = pytest.mark.parametrize("grammar", POSTLEX, ids=lambda grammar: grammar.file.name)


@GRAMMARS
def test_tables_are_current(grammar: Grammar, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        grammar.tables_file.write_text(grammar.tables(POSTLEX[grammar]()), "utf-8")
    mark = grammar.tables_file.read_text("utf-8").partition("\n")[0]
    if mark.rpartition(" ")[2] != lark.__version__:
        pytest.skip("the tables are for another version of Lark")
    assert grammar._kept() is not None, "the grammar has changed: run pytest tests/ir/test_grammar.py --update-golden"


TEXTS = {
    dsl_syntax.GRAMMAR: [(ROOT / "models" / f"{name}.pimc").read_text("utf-8") for name in ("bert-base", "tiny-llama")],
    ir_text.GRAMMAR: [
        """graph g(%x: f32[2, n], cache %past: f32[2, n]) {
  %y, %z = split(%x) {axis=1, num_outputs=2, names=["a", "b"], scale=1.5} : f32[2, n]  #phase=decode
  return %y
}
"""
    ],
}


@GRAMMARS
def test_kept_and_made_parsers_agree(grammar: Grammar) -> None:
    """On trees with positions, and on what they expect where a text breaks off."""
    kept, made = grammar.parser(POSTLEX[grammar]()), grammar.made(POSTLEX[grammar]())
    for text in TEXTS[grammar]:
        assert isinstance(_outcome(kept, text, "start")[0], lark.Tree)
        lines = text.splitlines(keepends=True)
        for end in sorted({len(lines), *range(1, len(lines), max(1, len(lines) // 12))}):
            part = "".join(lines[:end])[:-3] if end < len(lines) else text
            assert _outcome(kept, part, "start") == _outcome(made, part, "start")


def _outcome(parser: lark.Lark, text: str, start: str) -> Any:
    try:
        tree = parser.parse(text, start=start)
    except lark.UnexpectedToken as error:
        return error.line, error.column, sorted(error.accepts or error.expected)
    except lark.UnexpectedCharacters as error:
        return error.line, error.column, sorted(error.allowed or ())
    return tree, [(node.meta.line, node.meta.end_column) for node in tree.iter_subtrees() if not node.meta.empty]


@pytest.mark.parametrize("changed", ["grammar", "version", "none"])
def test_tables_of_something_else_are_not_taken(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dsl_syntax.GRAMMAR
    for file in (source.file, source.tables_file):
        shutil.copy(file, tmp_path)
    copy = Grammar(tmp_path / source.file.name, source.start)
    copy.tables_file.write_text(f"{copy._mark()}\n{json.dumps({'data': {}, 'memo': {}})}\n")
    assert copy._kept() is not None
    if changed == "grammar":
        copy.file.write_text(copy.file.read_text("utf-8") + "\n// more\n")
    elif changed == "version":
        monkeypatch.setattr(lark, "__version__", "0.0.0")
    else:
        copy.tables_file.unlink()
    assert copy._kept() is None
    assert copy.parser(dsl_syntax.Newlines()).parse("model m\n", start="start").data == "start"
