"""Studies are written by their scripts: a part that is made again is what the page has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

STUDIES = Path(__file__).parents[1] / "docs" / "studies"


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


def test_a_section_of_the_cent_study_is_as_it_is_computed() -> None:
    title = "Stand-by"
    command = [sys.executable, str(STUDIES / "cent.py"), "--only", title]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = section((STUDIES / "cent.md").read_text(), title)
    assert written
    assert section(made, title) == written


def test_the_cent_study_agrees_with_what_was_published() -> None:
    """Every difference that the page gives is rounding in the published tables."""
    page = (STUDIES / "cent.md").read_text()
    tables = [section(page, t) for t in ("Throughput and energy", "Latency", "Hybrids", "Long context")]
    given = [cell.strip() for table in tables for cell in table.split("|") if cell.strip().endswith(" %")]
    published = yaml.safe_load((STUDIES / "cent.yaml").read_text())
    assert len(given) >= 2 * len(published["throughput"]) + 2 * len(published["hybrids"])
    assert all(abs(float(text.removesuffix(" %"))) <= 0.1 for text in given)
