"""A pass ends between two layers when nobody waits for it any more."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import locate
from skesm.esm2.machine import stopping
from skesm.esm2.tokenizer import tokenize
from skesm.outputs.spec import OutputSpec

MEAN = OutputSpec("mean", 2)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_both_engines_look_for_the_stop_at_each_layer(tiny_checkpoint: Path, kind: str) -> None:
    engine = LocalBackend(engine=kind, device="cpu")._load(locate(tiny_checkpoint)).engine
    tokens = [tokenize("MKTAYIAK")]
    stop = threading.Event()
    with ThreadPoolExecutor(1, initializer=stopping.obey, initargs=(stop,)) as pool:
        assert len(pool.submit(engine.forward, tokens, [MEAN]).result()) == 1
        stop.set()
        with pytest.raises(stopping.Stopped):
            pool.submit(engine.forward, tokens, [MEAN]).result()
    assert len(engine.forward(tokens, [MEAN])) == 1  # other threads go on


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_run_that_is_closed_ends_its_passes_and_the_next_run_is_whole(tiny_checkpoint: Path, kind: str) -> None:
    backend = LocalBackend(engine=kind, device="cpu", tokens_per_batch=64, num_threads=2)
    sequences = ["MKTAYIAK" * n for n in range(1, 40)]
    batches = backend.run(str(tiny_checkpoint), sequences, [MEAN])
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skesm")]
    done = [index for batch in backend.run(str(tiny_checkpoint), sequences, [MEAN]) for index in batch.indices]
    assert sorted(done) == list(range(39))
