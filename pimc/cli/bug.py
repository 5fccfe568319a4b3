"""The report of an internal error: what was run, on what, and the traceback."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from importlib import metadata

from pimc.version import described


def write_report(error: BaseException) -> str:
    """The path of a new file with the report; empty if none could be written."""
    text = "\n".join(
        [
            "pimc internal error report",
            f"command: {' '.join(sys.argv)}",
            f"directory: {os.getcwd()}",
            f"pimc {described()}, Python {platform.python_version()}, {platform.platform()}",
            ", ".join(f"{name} {_version(name)}" for name in ("networkx", "numpy", "onnx", "pydantic")),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    try:
        handle, path = tempfile.mkstemp(prefix="pimc-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return ""
    return path


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
