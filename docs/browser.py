"""Add a page to the built site on which the examples run in the reader's browser.

Run as ``python docs/browser.py HTML`` after ``sphinx-build``. It needs ``build``, ``jupyterlab-server``,
``jupyterlite-core`` and ``jupyterlite-pyodide-kernel``. The page holds JupyterLite, a wheel of this repository and the
notebooks of the gallery. Python itself and the compiled packages (NumPy, SciPy, scikit-learn) come from the server of
Pyodide when a reader opens the page.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Examples that start a server cannot run in a browser.
LEFT_OUT = {"plot_13_remote"}
INSTALL = "%pip install -q skesm matplotlib mapie"
#: The sentence of docs/try-it.md that is true until this script has run, and the one that is true afterwards.
WITHOUT = "This copy of the site was built without it."
WITH = '<a href="lite/lab/index.html">Open the notebooks.</a>'


def notebooks(source: Path, folder: Path) -> int:
    """Copy the notebooks of the gallery, with a first cell that installs skesm."""
    chosen = [path for path in sorted(source.rglob("plot_*.ipynb")) if path.stem not in LEFT_OUT]
    for path in chosen:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": [INSTALL]}
        notebook["cells"].insert(0, cell)
        (folder / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    return len(chosen)


def build(html: Path) -> int:
    with tempfile.TemporaryDirectory() as work:
        wheels, contents = Path(work, "pypi"), Path(work, "contents")
        contents.mkdir()
        run = [sys.executable, "-m"]
        subprocess.run([*run, "build", "--wheel", "--outdir", str(wheels), str(ROOT)], check=True)
        number = notebooks(html / "_downloads", contents)
        # the wheels in the folder `pypi` are found without an option
        options = ["--contents", str(contents), "--output-dir", str(html / "lite")]
        subprocess.run([*run, "jupyter", "lite", "build", "--lite-dir", work, *options], check=True, cwd=work)
    page = html / "try-it.html"
    text = page.read_text(encoding="utf-8")
    if WITHOUT not in text and WITH not in text:
        raise SystemExit(f"try-it.html does not hold the sentence {WITHOUT!r}")
    page.write_text(text.replace(WITHOUT, WITH), encoding="utf-8")
    return number


if __name__ == "__main__":
    print(build(Path(sys.argv[1]).resolve()), "notebooks")
