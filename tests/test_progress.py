"""When progress bars appear: real terminals and real files as stderr of processes."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys
import termios
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from skesm import ESM2Embedder
from skesm.backends import LocalBackend

ROOT = Path(__file__).parents[1]

CODE = """
import threading, sys
import skesm._progress
from skesm import ESM2Embedder
from skesm.backends import LocalBackend

class Waiting(LocalBackend):
    def run(self, *args, **kwargs):
        if {slow}:
            for thread in threading.enumerate():
                if isinstance(thread, threading.Timer):
                    thread.join()  # the bar is due
        yield from super().run(*args, **kwargs)

skesm._progress.DELAY = 0.05 if {slow} else 600
{before}
ESM2Embedder({model!r}, backend=Waiting("numpy"){more}).transform(["MKTAYIAK", "GSHMSLF"])
{after}
assert threading.active_count() == 1 or {bar}, threading.enumerate()
"""


def stderr_of(model: Path, tmp_path: Path, *, terminal: bool, slow: bool = True, bar: bool = False, **code: str) -> str:
    """What a process that transforms two sequences writes to its stderr."""
    parts = {"before": "", "after": "", "more": "", **code}
    text = CODE.format(model=str(model), slow=slow, bar=bar, **parts)
    log = tmp_path / "stderr"
    if not terminal:
        with log.open("w") as file:
            subprocess.run([sys.executable, "-c", text], stderr=file, cwd=ROOT, check=True, timeout=120)
        return log.read_text()
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 200))  # a new one has no columns; the bar begins with a long path
    process = subprocess.Popen([sys.executable, "-c", text], stderr=slave, cwd=ROOT)
    os.close(slave)
    written = b""
    try:
        while part := os.read(master, 4096):
            written += part
    except OSError:  # the other end was closed
        pass
    finally:
        os.close(master)
    assert process.wait(timeout=120) == 0, written.decode()
    return written.decode()


def test_a_bar_appears_by_itself_on_a_terminal(tiny_checkpoint: Path, tmp_path: Path) -> None:
    written = stderr_of(tiny_checkpoint, tmp_path, terminal=True, bar=True)
    assert "/2" in written
    assert "seq" in written


@pytest.mark.parametrize(
    ("terminal", "slow", "code"),
    [
        (False, True, {}),  # a log file
        (True, False, {}),  # a quick transform
        (True, True, {"more": ", verbose=False"}),
        (True, True, {"before": "import multiprocessing; multiprocessing.current_process().name = 'LokyProcess-1'"}),
    ],
    ids=["file", "quick", "off", "worker"],
)
def test_no_bar(terminal: bool, slow: bool, code: dict[str, str], tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert stderr_of(tiny_checkpoint, tmp_path, terminal=terminal, slow=slow, **code) == ""


def test_a_notebook_has_bars(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Its stderr is no terminal."""
    notebook = """
import types
class ZMQInteractiveShell: pass
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: ZMQInteractiveShell())
"""
    written = stderr_of(
        tiny_checkpoint, tmp_path, terminal=False, bar=True, before=notebook, after="del sys.modules['IPython']"
    )
    assert "/2" in written


# callbacks of scikit-learn ------------------------------------------------------------------------------------------


class Recorder:
    """A callback of scikit-learn that notes the tasks that it sees."""

    max_propagation_depth = None

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []

    def setup(self, estimator: Any, context: Any) -> None: ...

    def teardown(self, estimator: Any, context: Any) -> None: ...

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.begun.append((context.estimator_name, context.task_name))

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        self.ended.append((context.estimator_name, context.task_name))


def test_callbacks_of_scikit_learn_see_batches(tiny_checkpoint: Path) -> None:
    if importlib.util.find_spec("sklearn.callback") is None:  # before 1.9
        assert not hasattr(ESM2Embedder, "set_callbacks")
        return
    recorder = Recorder()
    backend = LocalBackend(tokens_per_batch=10)
    model = make_pipeline(ESM2Embedder(tiny_checkpoint, backend=backend), Ridge()).set_callbacks(recorder)
    X = ["MKTAYIAKQR", "MKTAYIAKQV", "MKTAYIAKQL"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The estimator Ridge does not support callbacks")
        model.fit(X, [1.0, 2.0, 3.0])
    own = [task for name, task in recorder.begun if name == "ESM2Embedder"]
    assert (own[0], set(own[1:])) == ("fit-transform", {"batch"})
    assert sorted(recorder.begun) == sorted(recorder.ended)
    again = ESM2Embedder(tiny_checkpoint, backend=backend).set_callbacks(recorder)
    np.testing.assert_array_equal(again.fit_transform(X), model[0].transform(X))
    assert repr(clone(again)) == repr(model[0])
