"""Pages of reports in a real browser: nothing overlaps or is cut, at the width of a screen, a telephone and on paper.

Needs `pip install pimc[browser]` and Chromium, or the browser that CHROMIUM names; run with `pytest -m browser`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pimc.report.page import page_of, page_of_request
from pimc.results import Result
from tests.report.pages import (
    HOSTILE,
    TARGETS,
    beats_of,
    page,
    pipeline_of,
    report_of,
    request_of,
    stored,
    with_names,
)

pytestmark = pytest.mark.browser

WIDTHS = (1280, 400)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

OVERLAPS = """
() => {
  const shown = (e) => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
  const wrong = [];
  for (const svg of document.querySelectorAll('svg')) {
    if (!shown(svg)) continue;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter(shown).map((t) => [t, t.getBoundingClientRect()]);
    for (const [t, r] of texts)
      if (r.left < -1 || r.right > innerWidth + 1 || r.top < frame.top - 14 || r.bottom > frame.bottom + 6)
        wrong.push('outside: ' + t.textContent);
    for (let i = 0; i < texts.length; i++)
      for (let j = i + 1; j < texts.length; j++) {
        const [a, b] = [texts[i][1], texts[j][1]];
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && tall > 4)
          wrong.push(svg.getAttribute('aria-label') + ': ' + texts[i][0].textContent + ' | ' + texts[j][0].textContent);
      }
  }
  return wrong;
}
"""
CUT = """
() => [...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)
  .map((e) => e.querySelector('table').dataset.name)
"""
"""Tables that are wider than the page, and have to be scrolled."""
ORDER = "() => [...document.querySelectorAll('table.ops tbody tr')].map((r) => Number(r.cells[COLUMN].dataset.v))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="needs pimc[browser]")
    path = os.environ.get("CHROMIUM") or next((p for n in NAMES if (p := shutil.which(n))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is there, and CHROMIUM names none")
    with sync.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


class Shown:
    """A page in the browser, with what its console said and what it asked the network for."""

    def __init__(
        self, browser: Any, text: str, folder: Path, width: int, *, dark: bool = False, media: str = ""
    ) -> None:
        file = folder / "report.html"
        file.write_text(text, encoding="utf-8")
        scheme = "dark" if dark else "light"
        self.tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        if media:
            self.tab.emulate_media(media=media)
        self.tab.goto(file.as_uri())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_overlaps_or_is_cut(browser: Any, target: str, width: int, dark: bool, tmp_path: Path) -> None:
    shown = Shown(browser, page(target, "npu" if target != "npu" else "cent"), tmp_path, width, dark=dark)
    assert shown.said == []
    assert len(shown.asked) == 1  # the page itself
    assert shown.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.tab.evaluate(OVERLAPS) == []
    if width == 1280:
        assert shown.tab.evaluate(CUT) == []
    for section in shown.tab.query_selector_all("section"):
        box = section.bounding_box()
        assert box["height"] > 60
    pixels = shown.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert pixels == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


SPECIAL = {
    "request": lambda: page_of_request(request_of()),
    "request, layer by layer": lambda: page_of_request(request_of("system.link.bandwidth=10MB/s")),
    "beats": lambda: page_of(stored(beats_of())),
    "pipeline": lambda: page_of(stored(pipeline_of())),
}


@pytest.mark.parametrize("where", ["1280", "400", "dark", "print"])
@pytest.mark.parametrize("name", SPECIAL)
def test_nothing_overlaps_in_sections_that_few_results_have(
    browser: Any, name: str, where: str, tmp_path: Path
) -> None:
    width = int(where) if where.isdigit() else 794 if where == "print" else 1280
    media = "print" if where == "print" else ""
    shown = Shown(browser, SPECIAL[name](), tmp_path, width, dark=where == "dark", media=media)
    assert shown.said == []
    assert shown.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.tab.evaluate(OVERLAPS) == []


def test_an_overlap_would_be_seen(browser: Any, tmp_path: Path) -> None:
    """The check of the test above finds a text on another, and one that leaves the page."""
    shown = Shown(browser, page("npu"), tmp_path, 1280)
    spoil = "const t = document.querySelector('.wide svg text'); t.parentNode.append(t.cloneNode(true));"
    shown.tab.evaluate(f"() => {{ {spoil} }}")
    assert len(shown.tab.evaluate(OVERLAPS)) == 1
    shown.tab.evaluate("document.querySelector('.wide svg text').setAttribute('x', '-300')")
    assert any("outside" in fault for fault in shown.tab.evaluate(OVERLAPS))


def test_on_paper_everything_is_there(browser: Any, tmp_path: Path) -> None:
    shown = Shown(browser, page("cent", "neupims"), tmp_path, 794, media="print")
    assert shown.tab.evaluate("document.documentElement.scrollWidth") <= 794
    assert shown.tab.evaluate(OVERLAPS) == []
    assert not shown.tab.locator("nav").is_visible()
    assert shown.tab.locator("svg:visible").count() == shown.tab.locator(".wide svg").count()
    assert shown.tab.pdf(format="A4").startswith(b"%PDF")


def test_titles_sort_and_tables_are_saved(browser: Any, tmp_path: Path) -> None:
    shown = Shown(browser, page("neupims"), tmp_path, 1280)
    titles = shown.tab.locator("table.ops th").all_text_contents()
    column = titles.index("bytes")
    order = ORDER.replace("COLUMN", str(column))
    title = shown.tab.locator("table.ops th").nth(column)
    title.click()
    falling = shown.tab.evaluate(order)
    assert falling == sorted(falling, reverse=True) != sorted(falling)
    title.click()
    assert shown.tab.evaluate(order) == sorted(falling)
    title.press("Enter")
    assert shown.tab.evaluate(order) == falling
    with shown.tab.expect_download() as download:
        shown.tab.locator("section#ops .save").click()
    assert download.value.suggested_filename == "ops.csv"
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == 1 + shown.tab.locator("table.ops tbody tr").count()
    assert lines[0].startswith('"#","op","nature","engine","time"')
    assert shown.said == []


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    text = page_of(Result("x", with_names(report_of("neupims"), HOSTILE)))
    shown = Shown(browser, text, tmp_path, 1280)
    assert shown.said == []
    assert shown.tab.locator("img").count() == 0
    assert "onerror" in shown.tab.locator("h1").text_content()
