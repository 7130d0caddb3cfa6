"""Sphinx configuration."""

import os

import skesm
from skesm.cli import help_texts

project = "skesm"
author = "The skesm developers"
copyright = "2026, the skesm developers"
version = release = skesm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
autosummary_generate = True
numpydoc_show_class_members = False
html_theme = "furo"
html_title = f"skesm {release}"
nitpicky = False
suppress_warnings = ["myst.xref_missing"]


def fill_help(app, name, source):
    """Put the help of every command where the page on the command line says so: it cannot drift."""
    if name == "command-line":
        os.environ.update(COLUMNS="100", NO_COLOR="1")  # for argparse
        texts = (f"### {command}\n\n```text\n{text}```\n" for command, text in help_texts().items())
        source[0] = source[0].replace("<!-- help of every command -->", "\n".join(texts))


def setup(app):
    app.connect("source-read", fill_help)
