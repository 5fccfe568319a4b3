"""What goes to the screen: lines of styled text, coloured on a terminal only.

A line is a list of `(text, style)`; styles are those of rich. Piped output has no colours and imports no rich. A reader
that closes the pipe early (`| head`) is no error. Names come from files of anywhere: what a terminal would obey is
written as an escape. With `--json`, what goes wrong is told as JSON too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

Span = tuple[str, str]
Line = list[Span]

_ASCII = str.maketrans(
    {"█": "#", "▒": "-", "░": ".", "\N{MULTIPLICATION SIGN}": "x", "…": "~", "·": "-", "→": ">", "µ": "u"}
)


def line(text: str = "", style: str = "") -> Line:
    return [(text, style)] if text else []


def visible(text: str) -> str:
    """The text with control characters, and others that cannot be seen, as escapes such as `\\x1b`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plain(page: Iterable[Line]) -> str:
    """The text without its styles."""
    return "".join(visible("".join(text for text, _ in each).rstrip()) + "\n" for each in page)


def write_page(page: Iterable[Line]) -> None:
    _write(list(page), sys.stdout)


def stderr_page(page: Iterable[Line]) -> None:
    _write(list(page), sys.stderr)


def write_answer(plain: Callable[[], object], page: Iterable[Line], *, as_json: bool, quiet: bool = False) -> None:
    """What a command has to say: one JSON object, a page, or nothing."""
    if as_json:
        import json

        write_text(json.dumps(plain(), indent=2, ensure_ascii=False) + "\n")
    elif not quiet:
        write_page(page)


def write_text(text: str) -> None:
    """Put text on stdout as it is."""
    _put(text, sys.stdout)


def write_error(text: str) -> None:
    _put(text, sys.stderr)


def write_bytes(data: bytes) -> None:
    """Put bytes on stdout."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go(sys.stdout)


def is_coloured(stream: TextIO) -> bool:
    """Whether a stream gets colours: terminals do; NO_COLOR (no) and FORCE_COLOR (yes, piped as well) overrule that,
    in this order."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def _write(page: list[Line], stream: TextIO) -> None:
    if not is_coloured(stream):
        _put(plain(page), stream)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True, force_terminal=True)
    with console.capture() as captured:
        for each in page:
            console.print(Text.assemble(*((visible(text), style) for text, style in each)))
    _put(captured.get(), stream)


def _put(text: str, stream: TextIO) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _let_go(stream)


def _let_go(stream: TextIO) -> None:
    """Nobody reads any more: let everything further go nowhere, so that the interpreter can end in peace."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
