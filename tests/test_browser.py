"""Python in a browser, imitated: no thread starts, sockets are refused, and no process is started.

Older versions of Pyodide have no locks on files. Version 314 has them, and SQLite's journal.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from skesm import ESM2Embedder
from skesm.esm2.machine.workers import InlineExecutor

SEQUENCES = ["MKTAYIAKQR", "GSHMSLFDFF", "MKT"]

BROWSER = """
import os, socket, sys, threading, warnings

def refuse(*arguments, **options):
    raise RuntimeError("can't start new thread")

def no_socket(*arguments, **options):
    raise OSError("no sockets here")

for name in ("_start_new_thread", "_start_joinable_thread"):  # the second one since Python 3.13
    if hasattr(threading, name):
        setattr(threading, name, refuse)
def no_process():
    raise OSError(52, "Function not implemented")

socket.socket.connect = socket.socket.bind = no_socket
os.fork = no_process
locks, folder, *sequences = sys.argv[1:]
if locks == "none":
    sys.modules["fcntl"] = sys.modules["msvcrt"] = None

import numpy as np
from skesm import ESM2Embedder

features = ESM2Embedder("skesm-mini").transform(sequences)
assert (ESM2Embedder("skesm-mini", n_jobs=2).transform(sequences) == features).all()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert (ESM2Embedder("skesm-mini", memory=folder).transform(sequences) == features).all()
print([str(warning.message) for warning in caught])
again = ESM2Embedder("skesm-mini", memory=folder)
assert (again.transform(sequences) == features).all()
print("hits", again.cache_info().hits)
np.save(folder + "/features.npy", features)
"""


@pytest.mark.parametrize(
    ("locks", "hits", "warning"), [("none", 0, "memory is not available here"), ("some", len(SEQUENCES), None)]
)
def test_a_browser_computes_inline_and_stores_where_it_has_locks(
    locks: str, hits: int, warning: str | None, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BROWSER, locks, str(tmp_path), *SEQUENCES],
        capture_output=True,
        text=True,
        timeout=300,  # without locks on files, a lock once waited for ever
    )
    assert done.returncode == 0, done.stderr
    assert f"hits {hits}\n" in done.stdout
    assert (warning or "[]") in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), ESM2Embedder("skesm-mini").transform(SEQUENCES))


def test_an_inline_executor_keeps_the_error_for_whom_it_concerns() -> None:
    with InlineExecutor() as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
        future: Future[int] = pool.submit(int, "no number")
    with pytest.raises(ValueError, match="no number"):
        future.result()
