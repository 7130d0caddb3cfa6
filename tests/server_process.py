"""`skesm serve` as a process of its own, spoken to over real sockets: what the tests of the server share."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import requests

from skesm.outputs.spec import OutputSpec, Record

MODEL = "tiny"
N_LAYERS, WIDTH = 2, 40
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
CANARY_SEQUENCE = "WCWCWCHHHMMMWCWCWCQQQKKK"
CANARY_TOKEN = "canary-token-5f1e"
CANARY_PASSWORD = "canary-password-77aa"
PATHS = {
    "v1": "/api/v1/models/{}/transform/",
    "v2": "/api/v2/{}/encode/",
    "v3": "/api/v3/{}/encode/",
    "hub": "/api/v1/{}/encode",
}
PROTOCOL = ("v2", "v3", "hub")
COMMAND = (sys.executable, "-m", "skesm", "serve")


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=60, **options)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=60)

    def encode(self, dialect: str, sequences: Sequence[str], **params: Any) -> list[dict[str, Any]]:
        """The results of a request that must succeed."""
        if dialect == "v1":
            body: dict[str, Any] = {"instances": [{"data": {"text": s}} for s in sequences]}
        else:
            body = {"params": params, "items": [{"sequence": s} for s in sequences]}
        response = self.post(PATHS[dialect].format(MODEL), body)
        assert response.status_code == 200, response.text
        (results,) = response.json().values()
        assert len(results) == len(sequences)
        return list(results)

    def count(self, metric: str) -> float:
        (value,) = re.findall(rf"^{metric} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(value)

    def wait_until(self, metric: str, value: float) -> None:
        end = time.monotonic() + 30
        while self.count(metric) != value:
            assert time.monotonic() < end, f"{metric} never became {value}"
            time.sleep(0.005)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def running(
    folder: Path,
    log: Path,
    *arguments: str,
    environ: Mapping[str, str] = MappingProxyType({}),
    before: Callable[[], object] | None = None,
    status: int = 0,
) -> Iterator[Server]:
    """A server. At the end it gets SIGTERM, and must leave with this status."""
    command = [
        *COMMAND,
        "--model",
        f"{MODEL}={folder}",
        "--port",
        "0",
        "--threads",
        "1",
        *arguments,
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environ},
            preexec_fn=before,
        )
        assert process.stdout is not None
        with process.stdout:
            try:
                url = process.stdout.readline().strip()
                assert url, log.read_text()
                yield Server(url, process, log)
                process.send_signal(signal.SIGTERM)  # nothing happens if it has ended
                assert process.wait(timeout=60) == status
            finally:
                process.kill()
                process.wait()


Local = Callable[..., list[Record]]


def float32(value: Any) -> np.ndarray:
    return np.array(value, dtype=np.float64).astype(np.float32)


def same(value: Any, expected: np.ndarray) -> bool:
    """To the last bit: JSON carries every float32 exactly, and the NumPy engine does not depend on company."""
    return float32(value).shape == expected.shape and np.array_equal(float32(value), expected)


def received(record: Record) -> np.ndarray:
    """Attention that each residue is given, layers as rows."""
    return np.stack([record[OutputSpec("attention_received", layer)] for layer in range(1, N_LAYERS + 1)])


def includable(server: Server, dialect: str) -> list[str]:
    """What the schema says of `include`."""
    schema = server.get(f"/api/{dialect}/schema/{MODEL}/encode/").json()
    return list(schema["properties"]["params"]["properties"]["include"]["items"]["enum"])
