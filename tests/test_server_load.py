"""Many requests to `skesm serve` at a time."""

from __future__ import annotations

import json
import random
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from server_process import AMINO_ACIDS, MODEL, PATHS, Local, Server, running, same

from skesm.outputs.spec import OutputSpec

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")


def test_nothing_is_lost_or_crossed(server: Server, local: Local) -> None:
    """16 clients, all dialects, drawing from 60 sequences, so that many are in flight twice."""
    rng = np.random.default_rng(1)
    pool = ["".join(rng.choice(list(AMINO_ACIDS), rng.integers(1, 60))) for _ in range(60)]
    names = ("mean@2", "mean@1", "logits", "logit_means")
    known = dict(zip(pool, local(pool, *names), strict=True))
    mean = OutputSpec("mean", 2), OutputSpec("mean", 1)
    answered_before = server.count("skesm_sequences_total")

    def client(number: int) -> int:
        draw = random.Random(number)
        asked = 0
        for _ in range(40):
            sequences = draw.choices(pool, k=draw.randint(1, 8))
            dialect = draw.choice(list(PATHS))
            include = draw.choice([["mean"], ["mean", "logits"]])
            results = server.encode(dialect, sequences, repr_layers=[2, 1], include=include)
            for sequence, result in zip(sequences, results, strict=True):
                record = known[sequence]
                if dialect == "v1":
                    assert same(result["mean_representations"]["2"], record[mean[0]])
                    assert same(result["logits"], record[OutputSpec("logit_means")])
                    continue
                if dialect == "v2":
                    first, last = result["mean_representations"]["1"], result["mean_representations"]["2"]
                else:
                    first, last = (entry["embedding"] for entry in result["embeddings"])
                assert same(first, record[mean[1]])
                assert same(last, record[mean[0]])
                if "logits" in include:
                    assert same(result["logits"], record[OutputSpec("logits")])
            asked += len(sequences)
        return asked

    with ThreadPoolExecutor(16) as clients:
        asked = sum(clients.map(client, range(16)))
    assert server.count("skesm_sequences_total") - answered_before == asked
    assert server.count("skesm_open_requests") == server.count("skesm_open_residues") == 0
    # Requests did share batches, and sequences did share passes.
    assert server.count("skesm_batch_sequences_count") < asked / 4
    assert server.count("skesm_shared_total") > asked / 20
    assert server.count("skesm_failures_total") == 0


def test_a_full_queue_is_a_429_that_says_when(patient: Server, local: Local) -> None:
    with ThreadPoolExecutor(1) as other:
        first = other.submit(patient.encode, "v3", ["MKTAYIA"])
        patient.wait_until("skesm_open_requests", 1)
        for dialect, key in (("v3", "error"), ("hub", "detail")):
            refused = patient.post(PATHS[dialect].format(MODEL), {"items": [{"sequence": "MKTA"}]})
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert list(refused.json()) == [key]
        fits = patient.encode("v3", ["MKT"])
        (record,) = local(["MKTAYIA"], "mean@2")
        assert same(first.result()[0]["embeddings"][0]["embedding"], record[OutputSpec("mean", 2)])
        assert fits
    # What is larger than the queue is taken when there is nothing else.
    assert patient.encode("v3", ["MKTAYIAKQRQISFVK"])


def test_the_same_sequence_in_flight_is_computed_once(patient: Server) -> None:
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: patient.encode("v3", ["MK"]), range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert patient.count("skesm_computed_total") == 1
    assert patient.count("skesm_shared_total") == 3


def test_sigterm_lets_it_finish_what_it_took(patient: Server, local: Local) -> None:
    (record,) = local(["MKTAYIA"], "mean@2")
    with ThreadPoolExecutor(1) as other:
        taken = other.submit(patient.encode, "v3", ["MKTAYIA"])
        patient.wait_until("skesm_open_requests", 1)
        patient.process.send_signal(signal.SIGTERM)
        (result,) = taken.result()
    assert same(result["embeddings"][0]["embedding"], record[OutputSpec("mean", 2)])
    assert patient.process.wait(timeout=30) == 0
    with pytest.raises(requests.ConnectionError):
        patient.get("/")
    assert "stopped" in [line["message"] for line in patient.log_lines()]


def test_a_client_that_leaves_harms_nobody(patient: Server) -> None:
    body = json.dumps({"items": [{"sequence": "MKT"}]})
    head = f"POST {PATHS['v3'].format(MODEL)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    port = int(patient.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        patient.wait_until("skesm_open_requests", 1)
    with socket.create_connection(("127.0.0.1", port)) as leaving:  # before its body is there
        leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:5]}".encode())
    assert patient.encode("v3", ["MKT"])
    patient.wait_until("skesm_open_requests", 0)


def test_memory_keeps_records_for_the_next_server(tiny_checkpoint: Path, tmp_path: Path, local: Local) -> None:
    sequences = ["MKTAYIAK", "GG"]
    expected = local(sequences, "mean@2")
    for computed, hits in ((2, 0), (0, 2)):
        with running(tiny_checkpoint, tmp_path / "log", "--memory", str(tmp_path / "store")) as server:
            results = server.encode("v3", sequences)
            assert server.count("skesm_computed_total") == computed
            assert server.count("skesm_store_hits_total") == hits
        for result, record in zip(results, expected, strict=True):
            assert same(result["embeddings"][0]["embedding"], record[OutputSpec("mean", 2)])
