"""What `skesm serve` costs: residues a second under load against the local backend called directly, latency, memory.

Run on a quiet machine, for example::

    python tests/perf/bench_server.py --seconds 600 --check 20000 --output server.json

The model has random weights in the shape of esm2_t6_8M_UR50D. Clients run in processes of their own and take their
share of the cores: let ``--threads``, with which both sides compute, be fewer than there are cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import mixed_lengths, random_checkpoint, random_sequences, write_results

from skesm.backends import LocalBackend
from skesm.outputs.spec import OutputSpec

MODEL = "esm2_t6_8M_UR50D"
MEAN = OutputSpec("mean", 6)
PATH = f"/api/v3/{MODEL}/encode/"
COMMAND = (sys.executable, "-m", "skesm", "serve")


def mixed(n: int, seed: int) -> list[str]:
    return random_sequences(mixed_lengths(n, seed), seed)


def direct_rate(checkpoint: Path, threads: int, seconds: float) -> tuple[float, float]:
    """Residues a second of the local backend, over whole runs of 256 sequences, and residues a CPU second."""
    backend = LocalBackend(engine="numpy", num_threads=threads)
    residues, seed = 0, 1_000_000
    list(backend.run(str(checkpoint), mixed(8, 0), [MEAN]))
    elapsed = cpu = 0.0
    while elapsed < seconds:
        sequences = mixed(256, seed)
        begun, cpu_begun = time.perf_counter(), time.process_time()
        for _ in backend.run(str(checkpoint), sequences, [MEAN]):
            pass
        elapsed += time.perf_counter() - begun
        cpu += time.process_time() - cpu_begun
        residues += sum(map(len, sequences))
        seed += 1
    return residues / elapsed, residues / cpu


@contextmanager
def serving(checkpoint: Path, threads: int) -> Iterator[tuple[str, int]]:
    """(address, process id)."""
    options = ["--model", f"{MODEL}={checkpoint}", "--port", "0", "--engine", "numpy", "--threads", str(threads)]
    command = [*COMMAND, *options, "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().removeprefix("http://"), process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def load_client(address: str, number: int, items: int, end: float, out: multiprocessing.Queue[Any]) -> None:
    """Post one batch after the other until `end`, each of sequences that nobody else sends."""
    connection = http.client.HTTPConnection(address, timeout=300)
    finished = []
    step = 0
    while time.time() < end:
        sequences = mixed(items, number * 10_000_000 + step)
        body = json.dumps({"items": [{"sequence": s} for s in sequences]}).encode()
        begun = time.perf_counter()
        connection.request("POST", PATH, body, {"Content-Type": "application/json", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        response.read()
        status = response.status
        finished.append((time.time(), time.perf_counter() - begun, sum(map(len, sequences)), status))
        if status == 429:
            time.sleep(float(response.headers["Retry-After"]))
        step += 1
    connection.close()
    out.put(finished)


def memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(address: str, pid: int, clients: int, items: int, seconds: float) -> dict[str, Any]:
    """All clients at once; what counts is finished between the first tenth and the end."""
    context = multiprocessing.get_context("spawn")
    out: multiprocessing.Queue[Any] = context.Queue()
    begin = time.time() + 5  # until all have started
    end = begin + seconds
    workers = [context.Process(target=load_client, args=(address, n, items, end, out)) for n in range(clients)]
    for worker in workers:
        worker.start()
    memory, cpu_begun = [], cpu_seconds(pid)
    while time.time() < end:
        time.sleep(min(1.0, max(0.0, end - time.time())))
        if time.time() > begin:
            memory.append(memory_mib(pid))
    finished = [row for _ in workers for row in out.get(timeout=300)]
    for worker in workers:
        worker.join()
    cpu = cpu_seconds(pid) - cpu_begun
    start = begin + seconds / 10
    counted = [row for row in finished if start < row[0] <= end]
    good = [row for row in counted if row[3] == 200]
    if not good:
        raise SystemExit("no request was answered in time: raise --seconds")
    latencies = np.array([row[1] for row in good])
    third = max(1, len(memory) // 3)
    return {
        "requests": len(good),
        "refused_429": sum(row[3] == 429 for row in counted),
        "other_statuses": sum(row[3] not in (200, 429) for row in counted),
        "residues_per_second": sum(row[2] for row in good) / (end - start),
        "residues_per_cpu_second": sum(row[2] for row in finished if row[3] == 200) / cpu,
        "latency_seconds": {f"p{q}": float(np.percentile(latencies, q)) for q in (50, 90, 99)},
        "memory_mib": {
            "first_third": float(np.median(memory[:third])),
            "last_third": float(np.median(memory[-third:])),
            "max": max(memory),
        },
    }


def check(address: str, checkpoint: Path, clients: int, requests: int) -> dict[str, int]:
    """Count answers that are not, to the last bit, those of the local backend for the sequence that was sent."""
    pool = random_sequences(np.random.default_rng(7).integers(5, 60, 400), seed=7)
    known: dict[str, np.ndarray] = {}
    for batch in LocalBackend(engine="numpy", num_threads=1).run(str(checkpoint), pool, [MEAN]):
        known |= {pool[i]: record[MEAN] for i, record in zip(batch.indices, batch.records, strict=True)}
    tickets: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(requests):
        tickets.put(number)
    counts = {"requests": 0, "sequences": 0, "lost": 0, "wrong": 0}
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection(address, timeout=300)
        while True:
            try:
                draw = random.Random(tickets.get_nowait())
            except queue.Empty:
                break
            sequences: Sequence[str] = draw.choices(pool, k=draw.randint(1, 8))
            body = json.dumps({"items": [{"sequence": s} for s in sequences]}).encode()
            connection.request("POST", PATH, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            results = json.loads(response.read()).get("results", [])
            wrong = sum(
                not np.array_equal(np.array(r["embeddings"][0]["embedding"]).astype(np.float32), known[s])
                for r, s in zip(results, sequences, strict=False)
            )
            with lock:
                counts["requests"] += 1
                counts["sequences"] += len(sequences)
                counts["lost"] += len(sequences) - len(results)
                counts["wrong"] += wrong
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of load; the direct runs take as long together")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--items", type=int, default=4, help="sequences in a request")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--check", type=int, default=500, metavar="N", help="requests whose every answer is compared")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), MODEL)
        before = direct_rate(checkpoint, args.threads, args.seconds / 2)
        with serving(checkpoint, args.threads) as (address, pid):
            loaded = load(address, pid, args.clients, args.items, args.seconds)
            checked = check(address, checkpoint, args.clients, args.check)
        after = direct_rate(checkpoint, args.threads, args.seconds / 2)
    result = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "direct_residues_per_second": {"before": before[0], "after": after[0]},
        "direct_residues_per_cpu_second": {"before": before[1], "after": after[1]},
        "server": loaded,
        "server_to_direct": 2 * loaded["residues_per_second"] / (before[0] + after[0]),
        # Says more where other programs run as well.
        "server_to_direct_by_cpu": 2 * loaded["residues_per_cpu_second"] / (before[1] + after[1]),
        "check": checked,
    }
    write_results(args.output, result)


if __name__ == "__main__":
    main()
