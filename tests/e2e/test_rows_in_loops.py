"""Products whose rows lie in several loops, as of requests with heads before positions: tiles end where these do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import chains
from tests.e2e.chains import SETTINGS

MODEL = """model requests(rows = 200)
input c: f16[3, 2, rows, 130]
input e: f16[rows, 3, 260]
weight w: f16[260, 96]
output y = reshape(transpose(c, perm = [0, 2, 1, 3]), [3, rows, 260]) @ w
output u = transpose(e, perm = [1, 0, 2]) @ w
"""


@pytest.mark.parametrize("rows", [130, 200, 300])
@pytest.mark.parametrize("overrides", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("target", ["npu", "npu-server", "tpuv3"])
def test_values_are_right(tmp_path: Path, target: str, overrides: list[str], rows: int) -> None:
    chains.check_values(chains.compiled(tmp_path, MODEL, target, overrides=overrides, rows=rows, form="wide"))
