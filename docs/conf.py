"""Sphinx configuration."""

import skesm

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
