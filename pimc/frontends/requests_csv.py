"""Lists of requests as CSV files: `id,past,new,channel`, or `seq_len,ch_idx` as NeuPIMs' traces have them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail, file_missing
from pimc.ir.reading import read_text
from pimc.ir.requests import Request
from pimc.ir.source import TextSpan

MOST_REQUESTS = 65536
LARGEST = 2**31 - 1
"""No number of a request reaches this; one above it is a slip."""
OWN = ("id", "past", "new", "channel")
TRACE = ("seq_len", "ch_idx")
"""`seq_len` counts the token that the run adds: attention goes over so many keys."""
_NEEDED = "past", "seq_len"


def read_requests(path: str) -> tuple[Request, ...]:
    """The requests of a file, in its order; `-` is stdin. Raises CompileError (FILE_MISSING, REQUESTS_BAD) with all
    mistakes, each with its line."""
    try:
        text = read_text(path, "utf-8-sig")
    except OSError as error:
        raise file_missing(path, f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise fail(Kind.REQUESTS_BAD, f"{path} is not text: {error}") from None
    return _Reader(path, text).requests()


class _Reader:
    def __init__(self, path: str, text: str) -> None:
        self.path, self.lines = path, text.splitlines()
        self.wrong: list[Diagnostic] = []
        self.count = 0

    def requests(self) -> tuple[Request, ...]:
        rows = self._rows()
        line, header = next(rows, (0, []))
        if not header:
            help = "the first line names columns: id,past,new"
            raise fail(Kind.REQUESTS_BAD, "the file is empty", TextSpan(self.path, 1, 1), help=help)
        columns = self._columns(line, header)
        self._stop()
        found = [r for number, row in rows if (r := self._request(number, columns, row)) is not None]
        self._same_ids(found)
        if not found and not self.wrong:
            self._note(line, "there is no request", help="one line a request")
        if len(found) > MOST_REQUESTS:
            self._note(line, f"{len(found)} requests are more than {MOST_REQUESTS}")
        self._stop()
        return tuple(found)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of each line that holds anything."""
        for number, line in enumerate(self.lines, 1):
            try:
                fields = next(csv.reader(io.StringIO(line), strict=True), [])
            except csv.Error as error:
                self._note(number, f"the line is not CSV: {error}")
                continue
            if any(f.strip() for f in fields):
                yield number, [f.strip() for f in fields]

    def _columns(self, line: int, header: Sequence[str]) -> list[str]:
        names = [h.lower() for h in header]
        known = TRACE if "seq_len" in names else OWN
        for name in dict.fromkeys(names):
            if name not in known:
                self._note(line, f"there is no column '{name}'", name, help=did_you_mean(name, [*OWN, *TRACE]))
            elif names.count(name) > 1:
                self._note(line, f"column '{name}' stands there {names.count(name)} times", name)
        if not set(_NEEDED) & set(names):
            self._note(line, "the column 'past' is missing", help="the first line names columns: id,past,new,channel")
        return names

    def _request(self, line: int, columns: Sequence[str], row: Sequence[str]) -> Request | None:
        if len(row) != len(columns):
            self._note(line, f"the line has {len(row)} fields, but there are {len(columns)} columns")
            return None
        given = dict(zip(columns, row, strict=True))
        before = len(self.wrong)
        if "seq_len" in given:
            past, new = self._number(line, given, "seq_len", 1) - 1, 1
            channel = self._number(line, given, "ch_idx", 0) if given.get("ch_idx") else None
        else:
            past = self._number(line, given, "past", 0)
            new = self._number(line, given, "new", 1) if "new" in given else 1
            channel = self._number(line, given, "channel", 0) if given.get("channel") else None
        if "id" in given and not given["id"]:
            self._note(line, "the request has no id")
        if len(self.wrong) > before:
            return None
        number = self.count
        self.count += 1
        return Request(given.get("id", str(number)), past, new, channel, number, self._span(line))

    def _number(self, line: int, given: dict[str, str], column: str, least: int) -> int:
        text = given[column]
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
        if not least <= number <= LARGEST:
            said = f"'{text}' is no whole number from {least} to {LARGEST}" if text else "there is no number"
            self._note(line, f"column '{column}': {said}", text)
        return number

    def _same_ids(self, requests: Sequence[Request]) -> None:
        first: dict[str, Request] = {}
        for r in requests:
            other = first.setdefault(r.id, r)
            if other is not r and r.source is not None and other.source is not None:
                self._note(r.source.line, f"request '{r.id}' stands in line {other.source.line} already", r.id)

    def _span(self, line: int, text: str = "") -> TextSpan:
        whole = self.lines[line - 1]
        column = whole.lower().find(text.lower()) + 1 if text else 1
        return TextSpan(self.path, line, max(1, column), whole, max(1, len(text)))

    def _note(self, line: int, message: str, text: str = "", help: str | None = None) -> None:
        self.wrong.append(Diagnostic(Kind.REQUESTS_BAD, message, self._span(line, text), help=help))

    def _stop(self) -> None:
        if self.wrong:
            raise CompileError(self.wrong)
