"""Batches on other processes: loky's, and those of a real Dask cluster, which are killed while they work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from distributed import Client
from joblib import parallel_config, register_parallel_backend
from joblib.parallel import MultiprocessingBackend
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skesm import ESM2Embedder
from skesm.backends import Backend, LocalBackend, ParallelBackend
from skesm.exceptions import BackendError, CheckpointNotFoundError, PartialResultError

# Workers cannot import this module: they get its classes with the tasks.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Watched(LocalBackend):
    """Writes down what it computes and where; dies or waits if a sequence asks for it."""

    def __init__(self, log: str, deadly: str = "none", slow: float = 0.0, num_threads: int = 1) -> None:
        super().__init__(engine="numpy", num_threads=num_threads)
        self.log = log
        self.deadly = deadly
        self.slow = slow

    def run(self, model: Any, sequences: Sequence[str], outputs: Any, *, n_jobs: int | None = None) -> Any:
        if any(self.deadly in sequence for sequence in sequences):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow)
        yield from super().run(model, sequences, outputs, n_jobs=n_jobs)
        with open(self.log, "a") as log:
            log.write("".join(f"{os.getpid()} {sequence}\n" for sequence in sequences))

    def passes(self) -> Counter[str]:
        lines = Path(self.log).read_text().splitlines() if Path(self.log).exists() else []
        return Counter(line.split()[1] for line in lines)


def proteins(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["M" + "".join(rng.choice(list("ACDEFGHIKLNPQRSTVY"), size=rng.integers(5, 60))) for _ in range(n)]


@pytest.fixture
def expected(tiny_checkpoint: Path) -> Any:
    return lambda X: ESM2Embedder(tiny_checkpoint, backend="numpy").transform(X)


# loky -----------------------------------------------------------------------------------------------------------------


def test_processes_give_the_same_bits(tiny_checkpoint: Path, tmp_path: Path, expected: Any) -> None:
    X = proteins(60)
    inner = Watched(str(tmp_path / "log"))
    embedder = ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(inner, batch_tokens=200, n_jobs=2))
    np.testing.assert_array_equal(embedder.transform(X), expected(X))
    pids = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert str(os.getpid()) not in pids
    assert len(pids) == 2
    assert inner.passes() == Counter(X)


def test_records_of_workers_are_stored_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    X = proteins(100, seed=1)
    inner = Watched(str(tmp_path / "log"))
    backend = ParallelBackend(inner, batch_tokens=400, n_jobs=2)
    embedder = ESM2Embedder(tiny_checkpoint, backend=backend, memory=str(tmp_path / "memory"))
    search = GridSearchCV(make_pipeline(embedder, Ridge()), {"ridge__alpha": [1, 2, 3, 4]}, cv=5, error_score="raise")
    search.fit(X, np.arange(100.0))
    assert inner.passes() == Counter(X)
    alone = ESM2Embedder(tiny_checkpoint, backend="numpy", memory=str(tmp_path / "memory"))
    alone.transform(X)
    info = alone.cache_info()
    assert info is not None
    assert (info.hits, info.computed) == (100, 0)


def test_a_sequence_that_kills_its_worker_fails_alone(tiny_checkpoint: Path, tmp_path: Path, expected: Any) -> None:
    X = proteins(40, seed=2)
    X[17] = "MKWWWWK"
    backend = ParallelBackend(Watched(str(tmp_path / "log"), deadly="WWWW"), batch_tokens=150, n_jobs=2)
    embedder = ESM2Embedder(tiny_checkpoint, backend=backend, memory=str(tmp_path / "memory"))
    with pytest.raises(PartialResultError, match="row 17") as caught:
        embedder.transform(X)
    assert caught.value.rows == (17,)
    assert "died twice" in str(caught.value)
    assert "WWWW" not in str(caught.value)
    others = [i for i in range(40) if i != 17]
    np.testing.assert_array_equal(caught.value.results[others], expected([X[i] for i in others]))
    assert np.isnan(caught.value.results[17]).all()
    again = ESM2Embedder(tiny_checkpoint, backend="numpy", memory=str(tmp_path / "memory"))
    again.transform(X)
    info = again.cache_info()
    assert info is not None
    assert (info.hits, info.computed) == (39, 1)


class Failing(LocalBackend):
    """Cannot answer sequences that begin with MKK."""

    def run(self, model: Any, sequences: Sequence[str], outputs: Any, *, n_jobs: int | None = None) -> Any:
        bad = {i: BackendError("no answer") for i, s in enumerate(sequences) if s.startswith("MKK")}
        good = [i for i in range(len(sequences)) if i not in bad]
        for batch in super().run(model, [sequences[i] for i in good], outputs, n_jobs=n_jobs):
            yield type(batch)([good[i] for i in batch.indices], batch.records)
        if bad:
            raise PartialResultError("some failed", bad)


def test_failures_in_workers_keep_their_rows(tiny_checkpoint: Path, expected: Any) -> None:
    X = proteins(30, seed=3)
    X[4], X[21] = "MKKA", "MKKC"
    backend = ParallelBackend(Failing(engine="numpy", num_threads=1), batch_tokens=100, n_jobs=2)
    with pytest.raises(PartialResultError) as caught:
        ESM2Embedder(tiny_checkpoint, backend=backend).transform(X)
    assert caught.value.rows == (4, 21)
    others = [i for i in range(30) if i not in (4, 21)]
    np.testing.assert_array_equal(caught.value.results[others], expected([X[i] for i in others]))


class Elsewhere(LocalBackend):
    """Sees other weights, or none, when it is not in the process that made it."""

    def __init__(self, home: int, error: bool) -> None:
        super().__init__(engine="numpy", num_threads=1)
        self.home = home
        self.error = error

    def namespace(self, model: Any) -> Any:
        namespace = super().namespace(model)
        if os.getpid() == self.home:
            return namespace
        if self.error:
            raise CheckpointNotFoundError("there is no checkpoint")
        return type(namespace)(namespace.model, "0" * 32, namespace.numerics)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [(False, BackendError, "has other weights"), (True, CheckpointNotFoundError, "cannot use the model")],
)
def test_a_worker_without_these_weights_names_its_host(
    tiny_checkpoint: Path, error: bool, kind: type[Exception], message: str
) -> None:
    backend = ParallelBackend(Elsewhere(os.getpid(), error), n_jobs=2)
    with pytest.raises(kind, match=f"the worker on host {os.uname().nodename} {message}"):
        ESM2Embedder(tiny_checkpoint, backend=backend).transform(["MKT", "MRT"])


def test_a_consumer_that_leaves_cancels_what_is_queued(tiny_checkpoint: Path, tmp_path: Path) -> None:
    X = proteins(200, seed=4)
    inner = Watched(str(tmp_path / "log"), slow=0.05)
    backend = ParallelBackend(inner, batch_tokens=100, n_jobs=2)
    from skesm.outputs.spec import OutputSpec

    batches = backend.run(os.fspath(tiny_checkpoint), X, [OutputSpec("mean", 1)])
    next(batches)
    batches.close()
    time.sleep(1)
    assert sum(inner.passes().values()) < 100


def test_parameters_can_be_set_and_searched(tiny_checkpoint: Path) -> None:
    backend: Backend = ParallelBackend(LocalBackend(), n_jobs=2)
    assert backend.get_params()["backend__engine"] == "auto"
    assert backend.plan(os.fspath(tiny_checkpoint), ["MKT"], []) is None
    with pytest.raises(ValueError, match="batch_tokens"):
        ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(batch_tokens=0)).transform(["MKT"])


def test_dask_without_a_client_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="connect to a cluster first"):
        ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(executor="dask")).transform(["MKT"])


class RayBackend(MultiprocessingBackend):
    """As the one of Ray is made: it gives no results one by one."""

    supports_return_generator = False


def test_a_cluster_that_gives_no_results_one_by_one_is_refused(tiny_checkpoint: Path) -> None:
    register_parallel_backend("like-ray", RayBackend)
    embedder = ESM2Embedder(tiny_checkpoint, backend=ParallelBackend())
    with (
        parallel_config(backend="like-ray", n_jobs=2),
        pytest.raises(ValueError, match=r"RayBackend is the active backend.*returns all results at the end"),
    ):
        embedder.transform(["MKT"])


# Dask -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Client, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers, each a process of its own."""
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}

    def start(command: str, *options: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", f"distributed.cli.dask_{command}", "--scheduler-file", str(file), *options]
        return subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    workers = [start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(2)]
    try:
        with Client(scheduler_file=str(file), timeout="60s") as client:
            client.wait_for_workers(2, timeout=60)
            yield client, workers
    finally:
        for process in [*workers, scheduler]:
            process.kill()
            process.wait()


def test_dask_gives_the_same_bits(tiny_checkpoint: Path, tmp_path: Path, expected: Any, cluster: Any) -> None:
    X = proteins(60, seed=6)
    inner = Watched(str(tmp_path / "log"))
    with parallel_config(backend="dask"):
        features = ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(inner, batch_tokens=200)).transform(X)
    np.testing.assert_array_equal(features, expected(X))
    assert inner.passes() == Counter(X)


def test_a_dask_worker_is_killed_during_a_grid(tiny_checkpoint: Path, tmp_path: Path, cluster: Any) -> None:
    """The grid of 4 x 5 over 100 sequences: every sequence is stored from one pass, and only lost ones run again."""
    _, workers = cluster
    X = proteins(100, seed=7)
    inner = Watched(str(tmp_path / "log"), slow=0.2)
    backend = ParallelBackend(inner, batch_tokens=150, executor="dask")
    embedder = ESM2Embedder(tiny_checkpoint, backend=backend, memory=str(tmp_path / "memory"))
    search = GridSearchCV(make_pipeline(embedder, Ridge()), {"ridge__alpha": [1, 2, 3, 4]}, cv=5, error_score="raise")

    def kill_when_it_works() -> None:
        while len(inner.passes()) < 20:
            time.sleep(0.02)
        workers[0].kill()

    killer = threading.Thread(target=kill_when_it_works)
    killer.start()
    search.fit(X, np.arange(100.0))
    killer.join()
    assert workers[0].poll() is not None
    passes = inner.passes()
    assert set(passes) == set(X)
    # The worker had a batch or two that it had finished, and not yet sent.
    assert sum(passes.values()) <= 100 + 20
    embedder.transform(X)
    info = embedder.cache_info()
    assert info is not None
    assert (info.hits, info.computed) == (100, 0)


def test_a_cluster_that_has_lost_all_workers_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    _, workers = cluster
    for worker in workers:
        worker.kill()
        worker.wait()
    monkeypatch.setattr("skesm.backends.parallel._PATIENCE", 0.2)
    embedder = ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(executor="dask"))
    with pytest.raises(UserWarning, match="no workers"):  # the suite turns warnings into errors, so it does not wait
        embedder.transform(proteins(4, seed=10))


def test_a_grid_that_runs_on_the_cluster_computes_in_place(tiny_checkpoint: Path, tmp_path: Path, cluster: Any) -> None:
    X = proteins(40, seed=9)
    inner = Watched(str(tmp_path / "log"))
    embedder = ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(inner), memory=str(tmp_path / "memory"))
    search = GridSearchCV(make_pipeline(embedder, Ridge()), {"ridge__alpha": [1, 2]}, cv=4, error_score="raise")
    with parallel_config(backend="dask"):
        search.fit(X, np.arange(40.0))
    assert inner.passes() == Counter(X)


def test_a_sequence_that_kills_dask_workers_fails_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With a nanny, as clusters have, a worker that died is replaced."""
    import dask
    from distributed import LocalCluster

    X = proteins(12, seed=8)
    X[5] = "MKWWWWK"
    inner = Watched(str(tmp_path / "log"), deadly="WWWW")
    embedder = ESM2Embedder(tiny_checkpoint, backend=ParallelBackend(inner, batch_tokens=100), on_error="nan")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0", silence_logs=60) as local,
        Client(local),
        parallel_config(backend="dask"),
        pytest.warns(UserWarning, match="row 5"),
    ):
        features = embedder.transform(X)
    assert np.isnan(features[5]).all()
    assert np.isfinite(np.delete(features, 5, axis=0)).all()
