"""Sphinx: `make docs` builds these pages as HTML into docs/_build.

`pip install pimc[docs]` brings what is needed; nothing is asked of a network. Reference pages hold a line
`<!-- declared: NAME -->`, in whose place comes what `declared.py` writes out of the declarations.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from declared import filled

from pimc import __version__

project = "pimc"
author = "The pimc authors"
version = release = __version__
extensions = ["myst_parser"]
html_theme = "furo"
html_title = f"pimc {release}"
master_doc = "index"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build"]
smartquotes = False  # two hyphens are an option
myst_heading_anchors = 3


def setup(app: Sphinx) -> None:
    app.connect("source-read", _fill)


def _fill(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = filled(source[0])
