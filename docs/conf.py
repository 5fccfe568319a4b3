"""Sphinx: `make docs` builds these pages as HTML into docs/_build."""

project = "pimc"
author = "The pimc authors"
extensions = ["myst_parser"]
html_theme = "furo"
master_doc = "index"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links to files outside of docs/
    "toc.not_included",  # the index is a page to read
]
