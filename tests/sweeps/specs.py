"""Small sweeps, and a pass that ends the process that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.harness import MODELS

GEMV = MODELS / "bench/gemv.pimc"

DEADLY = '''
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pimc import Graph, GraphStage, Pass, PassContext, Rewriter


@dataclass(frozen=True)
class Deadly(Pass):
    """Ends its process while `marker` has fewer bytes than `times`, for graphs whose first input has `columns`."""

    name: ClassVar[str] = "deadly"
    before: ClassVar[GraphStage] = GraphStage.TAGGED
    after: ClassVar[GraphStage | None] = None

    marker: str = ""
    times: int = 1
    columns: int = 0

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        marker = Path(self.marker)
        if self.columns in graph.inputs[0].type.shape and marker.stat().st_size < self.times:
            with marker.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
'''


def gemv(**more: Any) -> dict[str, Any]:
    """Six points of one vector times one matrix."""
    dims = {"K": [64, 128, 256], "N": [16, 32]}
    return {"models": str(GEMV), "targets": "aim-pinned", "dims": dims, **more}


def deadly(folder: Path, times: int) -> dict[str, Any]:
    """The same; the points of K=128 end their workers, `times` in all."""
    (folder / "deadly.py").write_text(DEADLY)
    marker = folder / "marker"
    marker.write_text("")
    options = {"deadly.marker": str(marker), "deadly.times": times, "deadly.columns": 128}
    return gemv(load=str(folder / "deadly.py"), pass_config=options)
