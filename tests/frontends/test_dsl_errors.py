"""Every mistake in a .pimc file points at its place and says what was expected. The messages are golden.

`dsl_errors.txt` holds the cases: a name, the text of the model, and what is said. `pytest --update-golden` rewrites it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.frontends import dsl_calls
from pimc.frontends.dsl import load_dsl, parse_dsl
from pimc.ir.diagnostics import CompileError, Diagnostic
from pimc.ir.source import TextSpan

GOLDEN = Path(__file__).with_name("dsl_errors.txt")


def read_cases() -> dict[str, tuple[str, str]]:
    """Each case of the golden file by name: text and message."""
    cases = {}
    for block in GOLDEN.read_text(encoding="utf-8").split("\n=== ")[1:]:
        title, _, rest = block.partition("\n")
        text, _, message = rest.partition("\n--- \n")
        cases[title] = text, message.rstrip("\n")
    return cases


def rendered(text: str, folder: Path) -> str:
    with pytest.raises(CompileError) as caught:
        parse_dsl(text, "m.pimc", folder=folder)
    lines = []
    for diagnostic in caught.value.diagnostics:
        source = diagnostic.source
        assert isinstance(source, TextSpan)
        lines += [str(diagnostic), f"  {source.text}", "  " + " " * (source.column - 1) + "^" * source.length]
        lines += [f"  note: {note}" for note in diagnostic.notes]
        lines += [f"  help: {diagnostic.help}"] if diagnostic.help else []
    return "\n".join(line.rstrip() for line in lines)


CASES = read_cases()


@pytest.mark.parametrize("name", CASES)
def test_message(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK")
    text, expected = CASES[name]
    said = rendered(text, tmp_path).replace(str(tmp_path), "DIR")
    if request.config.getoption("--update-golden", default=False):
        CASES[name] = text, said
        head = GOLDEN.read_text(encoding="utf-8").partition("\n=== ")[0]
        blocks = [f"\n=== {n}\n{t}\n--- \n{m}\n" for n, (t, m) in CASES.items()]
        GOLDEN.write_text(head + "".join(blocks), encoding="utf-8")
    else:
        assert said == expected


def test_the_caret_stands_under_the_mistake() -> None:
    with pytest.raises(CompileError) as caught:
        parse_dsl("model m(n = 1)\n\n  let y = 1 +  hiden\n", "m.pimc")
    source = caught.value.diagnostics[0].source
    assert isinstance(source, TextSpan)
    assert source.text[source.column - 1 : source.column - 1 + source.length] == "hiden"
    assert (source.line, source.column) == (3, 16)


def diagnosed(text: str) -> tuple[Diagnostic, ...]:
    """What is said of a text; nothing if it is a model. Any other exception is a failure."""
    try:
        parse_dsl(text, "m.pimc")
    except CompileError as error:
        return error.diagnostics
    return ()


@pytest.mark.parametrize("nested", ["(" * 20000 + "1" + ")" * 20000, "1" + " + 1" * 20000, "-" * 20000 + "1"])
def test_deep_nesting_is_no_crash(nested: str) -> None:
    found = diagnosed(f"model m\nlet x = {nested}\ninput y: f32[2]\noutput y\n")
    assert all("nested too deeply" in d.message for d in found)


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsl_calls, "NODE_LIMIT", 50)
    text = "model m\ninput x: f32[2]\nlet y = x\nrepeat i in 0..60 {\n    y = relu(y)\n}\noutput y\n"
    (found,) = diagnosed(text)
    assert str(found) == "m.pimc:5:9: error[P0403]: the model has more than 50 nodes"


def test_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"P0101.*cannot read .*no.pimc"):
        load_dsl(tmp_path / "no.pimc")
    (tmp_path / "m.pimc").write_bytes(b"model m\xff\n")
    with pytest.raises(CompileError, match="not text in UTF-8"):
        load_dsl(tmp_path / "m.pimc")


def test_truncations_and_edits_never_crash() -> None:
    text = (Path(__file__).parents[2] / "models" / "tiny-gpt2.pimc").read_text(encoding="utf-8")
    marks = '{}()[]",=.@*0 \nx'
    for i in range(0, len(text), 37):
        for broken in (text[:i], text[:i] + text[i + 1 :], text[:i] + marks[i % len(marks)] + text[i + 1 :]):
            assert all(isinstance(d.source, TextSpan) for d in diagnosed(broken))
