"""How near the client comes to what a service allows: ``python tests/perf/bench_remote.py [--json FILE]``.

The service is the tests' own: 200 ms for each request, eight at a time. It is run twice: once it lets further requests
wait, as a gateway with a queue does, and once it refuses them with 429. The ideal is that eight requests are always in
flight. One-at-a-time posting, the notebook's way, is timed for a part and scaled.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import requests

from skesm.backends.biolm import BioLMBackend
from skesm.outputs.spec import OutputSpec

LATENCY, CAP, N_SEQUENCES, BATCH = 0.2, 8, 1000, 8
OUTPUTS = [OutputSpec("mean", 6)]


def make_sequences() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=237)) for _ in range(N_SEQUENCES)]


def script(url: str, **settings: object) -> None:
    requests.put(f"{url}/_script", json={"settings": {"latency": LATENCY, **settings}}, timeout=5).raise_for_status()


def time_client(url: str, sequences: list[str], batch_size: int) -> dict[str, object]:
    backend = BioLMBackend(url, batch_size=batch_size)
    begun = time.perf_counter()
    answered = sum(len(batch.indices) for batch in backend.run("esm2-8m", sequences, OUTPUTS))
    took = time.perf_counter() - begun
    posts = [event for event in requests.get(f"{url}/_log", timeout=5).json() if event["method"] == "POST"]
    ideal = math.ceil(len(sequences) / batch_size / CAP) * LATENCY
    return {
        "batch_size": batch_size,
        "sequences": len(sequences),
        "answered": answered,
        "requests": len(posts),
        "refused_429": sum(event["status"] == 429 for event in posts),
        "most_in_flight": max(event["in_flight"] for event in posts),
        "seconds": round(took, 3),
        "ideal_seconds": round(ideal, 3),
        "share_of_ideal": round(ideal / took, 3),
    }


def time_one_at_a_time(url: str, sequences: list[str]) -> float:
    """Seconds for all sequences, one in each POST, from a part of them."""
    part = sequences[:25]
    begun = time.perf_counter()
    for sequence in part:
        body = {"params": {"repr_layers": [6], "include": ["mean"]}, "items": [{"sequence": sequence}]}
        requests.post(f"{url}/api/v3/esm2-8m/encode/", json=body, timeout=30).raise_for_status()
    return (time.perf_counter() - begun) / len(part) * len(sequences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    server = Path(__file__).resolve().parents[1] / "faulty_server.py"
    sequences = make_sequences()
    with subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        runs = {}
        for name, settings in [("queues", {"slots": CAP}), ("refuses", {"cap": CAP})]:
            for batch_size in (BATCH, 1):
                script(url, schema_max_items=BATCH, **settings)
                runs[f"{name}, batches of {batch_size}"] = time_client(url, sequences, batch_size)
        script(url)
        alone = time_one_at_a_time(url, sequences)
        child.stdin.close()
    figures = {
        "latency_s": LATENCY,
        "cap": CAP,
        "runs": runs,
        "one_at_a_time_s": round(alone, 1),
        "times_faster_than_one_at_a_time": {name: round(alone / run["seconds"], 1) for name, run in runs.items()},
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
