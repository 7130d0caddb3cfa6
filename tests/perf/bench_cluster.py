"""Two workers beside two threads: what `ParallelBackend` costs, on loky and on a real Dask scheduler.

    python tests/perf/bench_cluster.py [--sequences 256] [--rounds 5] [--json results.json]

Sequences of mixed lengths through the 8M shape, in turn: two threads of one process, two processes of loky, two Dask
workers of one thread each, which are processes of their own on loopback. An efficiency of 1 is that of the threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import medians, mixed_lengths, random_checkpoint, random_sequences, write_results
from distributed import Client

from skesm import ESM2Embedder
from skesm.backends import LocalBackend, ParallelBackend


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[Client]:
    file = folder / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}

    def start(command: str, *options: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", f"distributed.cli.dask_{command}", "--scheduler-file", str(file), *options]
        return subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.DEVNULL)

    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    processes += [start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(workers)]
    try:
        with Client(scheduler_file=str(file), timeout="60s") as client:
            client.wait_for_workers(workers, timeout=60)
            yield client
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=("auto", "numpy", "torch"), default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, cluster(Path(name), 2):
        checkpoint = random_checkpoint(Path(name), "esm2_t6_8M_UR50D")
        sequences = random_sequences(mixed_lengths(args.sequences))
        inner = LocalBackend(engine=args.engine, device="cpu", num_threads=2)

        def run(backend: Any) -> Any:
            return lambda: ESM2Embedder(checkpoint, backend=backend).transform(sequences)

        seconds = medians(
            {
                "threads": run(inner),
                "loky": run(ParallelBackend(inner, n_jobs=2)),
                "dask": run(ParallelBackend(inner, executor="dask")),
            },
            rounds=args.rounds,
        )
    residues = sum(map(len, sequences))
    results = {"sequences": len(sequences), "residues": residues, "rounds": args.rounds, "engine": args.engine}
    results |= {f"{name}_residues_per_s": round(residues / each) for name, each in seconds.items()}
    results |= {f"{name}_efficiency": round(seconds["threads"] / seconds[name], 3) for name in ("loky", "dask")}
    write_results(args.json, results)


if __name__ == "__main__":
    main()
