"""How tests run the command line: in this process, with what it prints and its exit status."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pimc.cli import main

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
TINY = str(MODELS / "tiny-llama.pimc")
GEMV = str(MODELS / "bench/gemv.pimc")
TINY_ONNX = str(MODELS / "tiny-llama.onnx")
DECODE = str(MODELS / "tiny-llama.decode.npz")


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """What went wrong, as text; with --json it is told as an object."""
        if not self.err.startswith("{"):
            return self.err
        found = json.loads(self.err)
        assert found["status"] == self.status
        heads = [f"error[{e['code']}]" if e["code"] else "error" for e in found["errors"]]
        pairs = zip(heads, found["errors"], strict=True)
        return "\n".join("\n".join((f"{head}: {e['message']}", *e["notes"], e["help"] or "")) for head, e in pairs)


class CommandLine:
    """`run("compile", "m.onnx", ...)` in an own folder."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder, self._capture, self._patch = folder, capture, patch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = self._capture.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, printed.out, printed.err)

    def done(self, *arguments: str) -> str:
        """What a command prints that must succeed."""
        outcome = self(*arguments)
        assert (outcome.status, outcome.err) == (0, "")
        return outcome.out
