"""Products with what is computed on their tiles, compiled for machines that cut them otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pimc
from pimc.driver import Result

SETTINGS = {
    "plain": [],
    "small": ["buffer.bytes=1MiB"],
    "cores": ["npu.cores=4"],
    "weights": ["npu.array.dataflow=ws"],
    "inputs": ["npu.array.dataflow=is"],
    "sums": ["npu.array.dataflow=os", "buffer.bytes=2MiB", "npu.cores=4"],
}
BOTH = ["fuse-epilogues.use=on", "fuse-prologues.use=on"]


def compiled(
    path: Path, text: str, target: str, options: Sequence[str] = (), overrides: Sequence[str] = (),
    rows: int | None = None, form: str | None = None,
) -> Result:  # fmt: skip
    """A model's text, compiled with options of passes; form: of the random values that it is run on."""
    model = path / "model.pimc"
    model.write_text(text)
    return pimc.compile(
        model, target=target, dims={} if rows is None else {"rows": rows}, overrides=overrides,
        pass_options=options, values="random" if form else None, form="device" if form == "device" else "wide",
    )  # fmt: skip


def run(
    fusing: str, path: Path, text: str, target: str, use: str, overrides: Sequence[str] = (), rows: int | None = None,
    form: str | None = None,
) -> Result:  # fmt: skip
    """The same with the pass `fusing` in use or not."""
    return compiled(path, text, target, [f"{fusing}.use={use}"], overrides, rows, form)


def check_values(found: Result) -> None:
    """What the streams compute is what the model says."""
    assert found.comparison is not None
    assert found.comparison.ok, found.comparison.max_rel_err
