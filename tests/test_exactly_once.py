"""What the record store is for: forward passes of whole searches, counted across processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skesm import ESM2Embedder
from skesm.backends import Batch, LocalBackend
from skesm.outputs.spec import OutputSpec


class CountingBackend(LocalBackend):
    """Writes a line to a file for each sequence that goes through the model, in whatever process."""

    def __init__(self, log: str = "", engine: str = "numpy", num_threads: int | None = 1) -> None:
        super().__init__(engine=engine, num_threads=num_threads)
        self.log = log

    def run(
        self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        for batch in super().run(model, sequences, outputs, n_jobs=n_jobs):
            with Path(self.log).open("a") as file:  # one write in append mode: whole lines, also from two processes
                file.write("".join(f"{sequences[i]}\n" for i in batch.indices))
            yield batch


@pytest.fixture(scope="module")
def data() -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    X = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)) for _ in range(100)]
    return X, rng.normal(size=100)


def passes(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_over_alphas_and_folds_costs_one_pass_a_sequence(
    tmp_path: Path, tiny_checkpoint: Path, data: tuple[list[str], np.ndarray], n_jobs: int
) -> None:
    log = tmp_path / "passes.txt"

    def search() -> np.ndarray:
        embedder = ESM2Embedder(tiny_checkpoint, backend=CountingBackend(str(log)), memory=tmp_path / "store")
        grid = GridSearchCV(make_pipeline(embedder, Ridge()), {"ridge__alpha": [0.1, 1, 10, 100]}, cv=5, n_jobs=n_jobs)
        return np.asarray(grid.fit(*data).cv_results_["mean_test_score"])

    cold = search()
    assert sorted(passes(log)) == sorted(data[0])
    np.testing.assert_array_equal(search(), cold)
    assert len(passes(log)) == 100


def test_a_grid_over_layers_and_poolings_costs_one_pass_a_sequence(
    tmp_path: Path, make_checkpoint: Any, data: tuple[list[str], np.ndarray]
) -> None:
    log = tmp_path / "passes.txt"
    embedder = ESM2Embedder(
        make_checkpoint(6, 24, 2),
        backend=CountingBackend(str(log)),
        memory=tmp_path / "store",
        prefetch=("mean@*", "max@*", "cls@*"),
    )
    grid = GridSearchCV(
        make_pipeline(embedder, Ridge()),
        {"esm2embedder__layers": list(range(7)), "esm2embedder__pooling": ["mean", "max", "cls"]},
        cv=3,
        n_jobs=2,
    )
    grid.fit(*data)
    assert sorted(passes(log)) == sorted(data[0])


def test_replay_needs_no_weights_no_torch_and_no_socket(
    tmp_path: Path, make_checkpoint: Any, data: tuple[list[str], np.ndarray]
) -> None:
    """In a fresh process where a socket cannot be opened and the weights are gone."""
    folder = make_checkpoint(1, 24, 2, seed=5)
    expected = ESM2Embedder(folder, memory=tmp_path / "store").transform(data[0])
    (folder / "model.safetensors").unlink()
    code = """
import socket, sys
class Refused(socket.socket):
    def __init__(self, *arguments, **options):
        raise AssertionError("a socket was opened")
socket.socket = Refused
import numpy as np
from skesm import ESM2Embedder
folder, memory, out, *sequences = sys.argv[1:]
np.save(out, ESM2Embedder(folder, memory=memory).transform(sequences))
assert "torch" not in sys.modules
"""
    out = tmp_path / "replayed.npy"
    command = [sys.executable, "-W", "error", "-c", code, str(folder), str(tmp_path / "store"), str(out), *data[0]]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(out), expected)


class SlowBackend(LocalBackend):
    """Its cost is a sleep, so that processes on a busy machine get the same share. Writes who computed what."""

    def __init__(self, log: str = "", engine: str = "numpy", num_threads: int | None = 1) -> None:
        super().__init__(engine=engine, num_threads=num_threads, tokens_per_batch=512)
        self.log = log

    def run(
        self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        for batch in super().run(model, sequences, outputs, n_jobs=n_jobs):
            time.sleep(0.01 * len(batch.indices))
            with Path(self.log).open("a") as file:
                file.write("".join(f"{os.getpid()} {sequences[i]}\n" for i in batch.indices))
            yield batch


def test_two_processes_share_the_sequences_that_both_want(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rng = np.random.default_rng(1)
    X = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 120)) for _ in range(400)]
    log = tmp_path / "log.txt"
    embedder = ESM2Embedder(tiny_checkpoint, backend=SlowBackend(str(log)), memory=tmp_path / "store")
    embedder.transform(X[:1])  # loads the model once, and makes the store
    start, go = os.pipe()
    children = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns if there are other threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                os.read(start, 1)
                embedder.transform(X)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.write(go, b"..")
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(sequence for _, sequence in lines) == sorted(X)
    counts = [sum(pid == str(child) for pid, _ in lines) for child in children]
    assert min(counts) > 100, counts  # half would be 200
