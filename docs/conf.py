"""Sphinx configuration: pages in MyST, a page for each public name, and a gallery that runs."""

import os
import re
import shutil
import sys
import textwrap
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpydoc.xref
import reference
from sphinx.application import Sphinx

import skesm
from skesm.cli import help_texts
from skesm.exceptions import DemoModelWarning

warnings.filterwarnings("ignore", category=DemoModelWarning)  # the pages say it in words

project = "skesm"
author = "The skesm developers"
copyright = "2026, the skesm developers"
version = release = skesm.__version__

#: Columns of code that fit beside the navigation at 1440 pixels.
MOST_COLUMNS = 88

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/**/*.ipynb"]
templates_path = ["_templates"]
default_role = "py:obj"

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = True
autosummary_context = {"public_members": reference.members()}
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"
numpydoc.xref.DEFAULT_LINKS.clear()  # Python's own names: their site is not read in a build
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    "RunInfo": "skesm.backends.RunInfo",
    "TransformPlan": "skesm.backends.TransformPlan",
    "Backend": "skesm.backends.Backend",
}

nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r"[a-z_]\w*(=.*)?|X|DESCR|\".*\"|[a-z]+\.rows"),  # parameters and attributes stand in backticks too
    ("py:obj", r"skesm-mini|skesm\.fetch\.\w+"),
    ("py:obj", r"(Standard|Group|Grid|Leave|Feature|K)\w+"),  # scikit-learn's; its site is not read in a build
    ("py:.*", r"(numpy|np|pandas|polars|sklearn|scipy|joblib|torch|huggingface_hub|concurrent|collections)\..*"),
]

# The gallery runs beside its scripts: in a copy, so that its record store does not lie among them.
EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = Path(__file__).parent / "_build" / "examples"
SCRIPTS.mkdir(parents=True, exist_ok=True)
for path in [*EXAMPLES.glob("plot_*.py"), EXAMPLES / "GALLERY_HEADER.rst"]:
    shutil.copy2(path, SCRIPTS)

sphinx_gallery_conf = {
    "examples_dirs": str(SCRIPTS),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,  # its page reads scripts of other sites
    "within_subsection_order": "gallery.ByNumber",
    "plot_gallery": "True",
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skesm {release}"
html_static_path = ["_static"]
html_css_files = ["skesm.css"]
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "logo": {"text": "skesm"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc", "sg_download_links"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "icon_links": [],
}
html_sidebars = {"index": [], "getting-started": [], "changelog": []}
html_show_sourcelink = False


def without_foreign_references(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep the text of references that only scikit-learn's own site can follow, and write its formulas as text.

    Formulas would be drawn by a script from another site, and this one works without a network.
    """
    lines[:] = [re.sub(r":(?:ref|term|class|meth|func):`~?\.?([^`<]+?)(?: *<[^`]*>)?`", r"\1", line) for line in lines]
    lines[:] = [re.sub(r"sphx_glr_[\w.]+", "scikit-learn's gallery", line) for line in lines]
    lines[:] = [re.sub(r":math:`([^`]+)`", lambda match: plain(match[1]), line) for line in lines]


def plain(formula: str) -> str:
    return re.sub(r"\\frac\{(\w+)\}\{(\w+)\}", r"\1 / \2", formula).replace("^2", "²")


def wrapped(text: str) -> str:
    """The text with its long lines cut: examples, which argparse leaves as they are. They can still be copied."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(
            line,
            MOST_COLUMNS - 2,
            subsequent_indent=f"{indent}    ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        lines += [" \\\n".join(parts)] if len(line) > MOST_COLUMNS and " skesm " in line else [line]
    return "".join(f"{line}\n" for line in lines)


def fill_help(app: Sphinx, name: str, source: list[str]) -> None:
    """Put the help of every command where the page on the command line says so: it cannot drift."""
    if name == "command-line":
        app.env.note_reread()  # the page changes with the program
        os.environ.update(COLUMNS="80", NO_COLOR="1")  # for argparse
        texts = (f"### {command}\n\n```text\n{wrapped(text)}```\n" for command, text in help_texts().items())
        source[0] = source[0].replace("<!-- help of every command -->", "\n".join(texts))


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_help)
    app.connect("config-inited", lambda app, config: reference.write_pages(Path(app.srcdir)))
    app.connect("autodoc-process-docstring", without_foreign_references)
    app.connect("missing-reference", reference.resolve)
