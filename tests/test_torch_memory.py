"""Packs that do not fit into memory are computed in halves, with the same features."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.tokenizer import Tokens, tokenize
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import read_parameters
from skesm.exceptions import BackendError
from skesm.outputs.spec import OutputSpec

OUTPUTS = [OutputSpec("mean", 2), OutputSpec("attention_received", 1)]


def load(folder: Path) -> TorchEngine:
    checkpoint = locate(folder)
    return TorchEngine(checkpoint.spec, read_parameters(checkpoint.spec, WeightsFiles(checkpoint.files)))


@pytest.fixture
def pack(proteins: list[str]) -> list[Tokens]:
    return [tokenize(sequence) for sequence in proteins[:12]]


def limited(engine: TorchEngine, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a device with memory for `most` tokens compute; gives the sizes of the packs that it was asked for."""
    compute, asked = engine._compute, []

    def compute_if_it_fits(sequences, *args):
        asked.append(sum(map(len, sequences)))
        if asked[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(sequences, *args)

    monkeypatch.setattr(engine, "_compute", compute_if_it_fits)
    return asked


def test_a_pack_that_does_not_fit_is_halved(
    tiny_checkpoint: Path, pack: list[Tokens], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(tiny_checkpoint)
    expected = engine.forward(pack, OUTPUTS)
    longest, total = max(map(len, pack)), sum(map(len, pack))
    asked = limited(engine, longest, monkeypatch)
    with engine.hold(1):
        records = engine.forward(pack, OUTPUTS)
    assert asked[0] == total
    assert sum(size for size in asked if size <= longest) == total
    for record, other in zip(records, expected, strict=True):
        for output in OUTPUTS:
            np.testing.assert_allclose(record[output], other[output], rtol=0, atol=1e-5)
    assert f"{total} tokens do not fit into the memory of cpu" in caplog.text
    asked.clear()
    engine.forward(pack, OUTPUTS)
    assert max(asked) <= longest, "the next pack is cut before it fails"


def test_a_sequence_that_does_not_fit_is_an_error(
    tiny_checkpoint: Path, pack: list[Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(tiny_checkpoint)
    limited(engine, 5, monkeypatch)
    with pytest.raises(BackendError, match=r"out of memory.*long_sequences='window'"):
        engine.forward(pack, OUTPUTS)


def test_other_errors_are_not_tried_again(
    tiny_checkpoint: Path, pack: list[Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = load(tiny_checkpoint), []

    def fail(*args):
        calls.append(args)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine, "_compute", fail)
    with pytest.raises(BackendError, match="illegal memory access"):
        engine.forward(pack, OUTPUTS)
    assert len(calls) == 1


_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from test_torch_memory import OUTPUTS, load
from skesm.esm2.tokenizer import tokenize
engine, pack = load(Path(sys.argv[1])), [tokenize("MKTAYIAKQR" * 40)] * 120
engine.forward(pack[:2], OUTPUTS)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, resource.RLIM_INFINITY))
records = engine.forward(pack, OUTPUTS)
assert engine._limit.tokens < 48_000, engine._limit.tokens
assert all((record[OUTPUTS[0]] - records[0][OUTPUTS[0]]).max() < 1e-5 for record in records)
print(len(records))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_memory_that_really_runs_out(tiny_checkpoint: Path) -> None:
    """The error of torch's own allocator, or NumPy's."""
    answer = subprocess.run(
        [sys.executable, "-c", _WITH_LITTLE_MEMORY, os.fspath(tiny_checkpoint)],
        env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["120"]
