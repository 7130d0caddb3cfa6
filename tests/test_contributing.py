"""The guides of CONTRIBUTING.md, applied to a copy of the package."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import PageRunner

ROOT = Path(__file__).resolve().parents[1]
GUIDES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: Warnings are errors in the changed package too, but for the one that the demo model gives.
WARNINGS = "error,ignore:skesm-mini is a small demo model"
#: What each guide adds is as short as it promises.
MOST_LINES = {"Add an output": 30, "Add an estimator": 40}


def blocks(language: str, guides: str = GUIDES) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", guides, re.MULTILINE | re.DOTALL)


def guide(title: str) -> str:
    return GUIDES.split(f"## {title}\n")[1].split("\n## ")[0]


def apply_diff(diff: str, root: Path) -> None:
    """Apply a diff without line numbers: the lines of each hunk that are not new occur once in its file."""
    for change in diff.split("--- ")[1:]:
        name, *hunks = re.split(r"\n@@\n", change)
        path = root / name
        text = path.read_text(encoding="utf-8")
        for hunk in hunks:
            lines = hunk.rstrip("\n").split("\n")
            old = "\n".join(line[1:] for line in lines if line[:1] != "+")
            new = "\n".join(line[1:] for line in lines if line[:1] != "-")
            assert text.count(old) == 1, f"{name} does not hold once: {old}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which somebody followed every guide."""
    root = tmp_path_factory.mktemp("changed")
    shutil.copytree(ROOT / "skesm", root / "skesm", ignore=shutil.ignore_patterns("__pycache__"))
    for diff in blocks("diff"):
        apply_diff(diff, root)
    for code in blocks("python"):
        first, _, rest = code.partition("\n")
        (root / first.removeprefix("# ")).write_text(rest, encoding="utf-8")
    data = root / "skesm" / "datasets" / "data"
    (data / "lab_melting.csv").write_text("sequence,melting\nMKT,51.5\nMRT,48\n", encoding="utf-8")
    (data / "lab_melting.rst").write_text("Melting temperatures in °C.\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run(changed: Path) -> Iterator[Callable[[str], str]]:
    """Runs code on the changed package, and gives what it prints. Each code runs in a fork of one process."""
    environ = {**os.environ, "PYTHONPATH": str(changed), "PYTHONWARNINGS": WARNINGS, "BIOLM_TOKEN": "token"}
    runner = PageRunner(environ, ["skesm"])

    def run_code(code: str) -> str:
        answer = runner.run(changed, [{"language": "python", "code": code, "place": "guide"}])
        assert answer["error"] is None, answer["error"]
        return str(answer["printed"][0])

    yield run_code
    runner.close()


@pytest.mark.parametrize("title", MOST_LINES)
def test_guides_are_short(title: str) -> None:
    text = guide(title)
    added = [line for diff in blocks("diff", text) for line in diff.splitlines() if line[:1] == "+"]
    classes = [
        node for code in blocks("python", text) for node in ast.parse(code).body if isinstance(node, ast.ClassDef)
    ]
    lines = [*added, *(line for node in classes for line in ast.unparse(node).splitlines())]
    assert 0 < len(lines) <= MOST_LINES[title]


def test_a_pooling(run: Callable[[str], str], tmp_path: Path) -> None:
    code = f"""
import numpy as np
from skesm import ESM2Embedder, compute_outputs
model, X = "skesm-mini", ["MKTAYIAKQR" * 2, "MKT"]
expected = [r["residues@6"].min(axis=0) for r in compute_outputs(X, "residues@6", model)]
for backend in ("numpy", "torch"):
    features = ESM2Embedder(model, pooling="min", backend=backend).transform(X)
    np.testing.assert_allclose(features, expected, atol=1e-5)
cut = dict(long_sequences="window", max_length=8, window_overlap=2)
expected = [r["residues@6"].min(axis=0) for r in compute_outputs(X, "residues@6", model, **cut)]
np.testing.assert_array_equal(ESM2Embedder(model, pooling="min", **cut).transform(X), expected)
memory = {str(tmp_path)!r}
ESM2Embedder(model, memory=memory, prefetch="min@-1").transform(X)
stored = ESM2Embedder(model, memory=memory, pooling="min")
print(stored.plan(X).to_compute, stored.get_feature_names_out()[0])
"""
    assert run(code) == "0 min_l6_0\n"


def test_an_estimator(run: Callable[[str], str]) -> None:
    code = """
import numpy as np
from sklearn.base import clone
from skesm import ESM2Embedder, ESM2NormEmbedder
model, X = "skesm-mini", ["MKTAYIAKQR", "MKT", "MKT"]
estimator = clone(ESM2NormEmbedder(model)).set_output(transform="pandas")
means = ESM2Embedder(model).transform(X)
np.testing.assert_allclose(estimator.fit_transform(X)["norm"], np.linalg.norm(means, axis=1), rtol=1e-6)
print(estimator.plan(X).to_compute, "unknown_residues : " in ESM2NormEmbedder.__doc__)
"""
    assert run(code) == "2 True\n"


def test_a_backend(run: Callable[[str], str]) -> None:
    code = """
from skesm import ESM2Embedder
print(ESM2Embedder("any", backend="lengths").transform(["MKT", "MKTAY"]).tolist())
"""
    assert run(code) == "[[3.0, 3.0], [5.0, 5.0]]\n"


def test_the_additions_fit_into_the_house(changed: Path) -> None:
    for name in ("pyproject.toml", "tests/test_architecture.py"):
        (changed / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, changed / name)
    architecture = runpy.run_path(str(changed / "tests" / "test_architecture.py"))
    architecture["test_imports_inside_a_folder_have_no_circle"]()
    architecture["test_modules_are_short"]()
    architecture["test_folders_are_small"]()
    for path in architecture["MODULES"]:
        architecture["test_floors"](path)


def test_a_data_set(run: Callable[[str], str]) -> None:
    code = """
from skesm.datasets._lab import load_lab_melting
data = load_lab_melting()
print(data.data.tolist(), data.target.tolist(), data.target_names, data.DESCR.strip().isascii())
"""
    assert run(code) == "['MKT', 'MRT'] [51.5, 48.0] ['melting'] False\n"


def test_a_dialect(run: Callable[[str], str]) -> None:
    """The client against a service that speaks the new dialect."""
    code = """
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import numpy as np
from skesm import ESM2Embedder, compute_outputs
from skesm.backends.biolm import BioLMBackend
from skesm.outputs.spec import OutputSpec
from skesm.protocol.answers import encode_answer

model, X, paths = "skesm-mini", ["MKTAYIAKQR", "MKT"], []

class Service(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def do_POST(self):
        paths.append(self.path)
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        records = compute_outputs([item["sequence"] for item in items], "mean@-1", model)
        answer = encode_answer("lab", [{OutputSpec("mean", 6): record["mean@6"]} for record in records])
        content = json.dumps(answer, default=lambda array: array.tolist()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass

with HTTPServer(("127.0.0.1", 0), Service) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = BioLMBackend(f"http://127.0.0.1:{server.server_port}/lab")
    there = ESM2Embedder(model, backend=backend).transform(X)
    server.shutdown()
np.testing.assert_allclose(there, ESM2Embedder(model).transform(X), atol=1e-5)
print(*set(paths))
"""
    assert run(code) == "/lab/skesm-mini/encode/\n"
