"""The BioLM client and a service that misbehaves as it is told: what the tests of the client share."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import requests
from faulty_server import expected

from skesm.backends.biolm import BioLMBackend
from skesm.backends.biolm.throttle import Timing
from skesm.exceptions import BackendError
from skesm.outputs.spec import OutputSpec

HERE = Path(__file__).parent
MODEL, LAYER, WIDTH = "esm2-8m", 6, 320
MEAN = OutputSpec("mean", LAYER)
DIALECTS = ("v1", "v2", "v3", "hub")
CANARY_TOKEN = "canary-5eCrEt-tOkEn"
CANARY_SEQUENCE = "MCANARYSEQWENCEACDEFGHIK"


class FastBackend(BioLMBackend):
    """The client with its waits shortened, and its logic as it is."""

    _timing = Timing(backoff_base=0.02, backoff_cap=0.2, poll_interval=0.02, interrupt_grace=0.5, failure_grace=1.0)


class Service:
    def __init__(self, url):
        self.url = url

    def script(self, *rules, **settings):
        requests.put(f"{self.url}/_script", json={"settings": settings, "rules": list(rules)}, timeout=5)

    def open_gate(self):
        requests.put(f"{self.url}/_open", json={}, timeout=5)

    @property
    def log(self):
        return requests.get(f"{self.url}/_log", timeout=5).json()

    @property
    def posts(self):
        return [event for event in self.log if event["method"] == "POST" and "/auth/" not in event["path"]]

    def wait_for_posts(self, n):
        deadline = time.monotonic() + 20
        while len(self.posts) < n:
            assert time.monotonic() < deadline, f"{len(self.posts)} of {n} requests came"
            time.sleep(0.01)


@contextlib.contextmanager
def running_service(*certificate):
    command = [sys.executable, str(HERE / "faulty_server.py"), *certificate]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            yield Service(f"{'https' if certificate else 'http'}://127.0.0.1:{port}")
        finally:
            process.stdin.close()


def make_sequences(n, *, seed=0, shortest=8, longest=30):
    rng = random.Random(seed)
    made = {"".join(rng.choices("ACDEFGHIKLMNPQRSTVY", k=rng.randint(shortest, longest))): None for _ in range(2 * n)}
    return list(made)[:n]


def collect(backend, sequences, outputs=(MEAN,), model=MODEL):
    """Records by place, however far the run got, and the error that ended it."""
    records = {}
    try:
        for batch in backend.run(model, sequences, list(outputs)):
            assert not set(batch.indices) & set(records)
            records.update(zip(batch.indices, batch.records, strict=True))
    except BackendError as error:
        return records, error
    return records, None


def assert_right(records, sequences):
    for place, record in records.items():
        np.testing.assert_array_equal(record[MEAN], expected(sequences[place], "mean", LAYER, WIDTH))
