"""What the local backend promises beside raw speed: memory, partial passes, many short sequences, many processes.

    python tests/perf/bench_limits.py [memory layers peptides processes] [--threads 2] [--json results.json]

- memory: peak resident memory of a fresh process that embeds sequences of mixed lengths, and what of it is weights.
- layers: time of 3 of the 650M model's 33 layers, as a share of the full pass.
- peptides: residues a second of 100,000 sequences of 5 to 50 residues, beside the mixed case, both engines.
- processes: two processes of one thread each (joblib) on two cores, beside one process of two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import medians, mixed_lengths, random_checkpoint, random_sequences, write_results
from joblib import Parallel, delayed

from skesm import ESM2Embedder
from skesm.backends import LocalBackend

SMALL, LARGE = "esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D"

# VmHWM, not ru_maxrss: the latter starts at what the parent held when it forked
_MEMORY = """
import json, sys
from skesm import ESM2Embedder
from skesm.backends import LocalBackend
checkpoint, options, sequences = json.load(sys.stdin)
if sequences:
    ESM2Embedder(checkpoint, backend=LocalBackend(**options)).transform(sequences)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_memory(checkpoint: Path, sequences: list[str], **options: Any) -> float:
    """MB that a fresh process held at most."""
    job = json.dumps([str(checkpoint), options, sequences])
    answer = subprocess.run([sys.executable, "-c", _MEMORY], input=job, capture_output=True, text=True, check=True)
    return round(int(answer.stdout) * 1024 / 1e6)


def measure_memory(folder: Path, threads: int, rounds: int, scale: float) -> dict[str, Any]:
    results: dict[str, Any] = {"imports_mb": peak_memory(folder, [])}
    for model, count in ((SMALL, 256), (LARGE, max(1, round(32 * scale)))):
        checkpoint = random_checkpoint(folder, model)
        weights = round((checkpoint / "model.safetensors").stat().st_size / 1e6)
        lengths = sorted(mixed_lengths(256))[:: -256 // count]  # the longest, and then evenly
        results[model] = {"sequences": len(lengths), "weights_mb": weights} | {
            name: peak_memory(checkpoint, random_sequences(lengths), num_threads=threads, **options)
            for name, options in {
                "numpy_peak_mb": {"engine": "numpy"},
                "torch_peak_mb": {"engine": "torch", "device": "cpu"},
                "torch_bf16_peak_mb": {"engine": "torch", "device": "cpu", "dtype": "bfloat16"},
            }.items()
        }
    return results


def measure_layers(folder: Path, threads: int, rounds: int, scale: float) -> dict[str, Any]:
    checkpoint = random_checkpoint(folder, LARGE)
    sequences = random_sequences([237] * max(threads, round(4 * scale)))

    def run(engine: str, layer: int) -> Callable[[], object]:
        backend = LocalBackend(engine=engine, device="cpu", num_threads=threads)
        embedder = ESM2Embedder(checkpoint, layers=layer, backend=backend)
        return lambda: embedder.transform(sequences)

    results = {}
    for engine in ("numpy", "torch"):
        seconds = medians({"3": run(engine, 3), "33": run(engine, 33)}, rounds=rounds)
        results[engine] = {"share_of_full_pass": round(seconds["3"] / seconds["33"], 3)}
    return results


def measure_peptides(folder: Path, threads: int, rounds: int, scale: float) -> dict[str, Any]:
    """One pass of all peptides, the mixed case before and after it."""
    checkpoint = random_checkpoint(folder, SMALL)
    lengths = np.random.default_rng(0).integers(5, 51, round(100_000 * scale))
    peptides, mixed = random_sequences(lengths), random_sequences(mixed_lengths(128))
    results = {}
    for engine in ("numpy", "torch"):
        embedder = ESM2Embedder(checkpoint, backend=LocalBackend(engine=engine, device="cpu", num_threads=threads))

        def speed(sequences: list[str], embedder: ESM2Embedder = embedder) -> float:
            start = time.perf_counter()
            embedder.transform(sequences)
            return sum(map(len, sequences)) / (time.perf_counter() - start)

        speed(mixed)
        before, many, after = speed(mixed), speed(peptides), speed(mixed)
        results[engine] = {
            "peptides": len(peptides),
            "residues_per_s": round(many),
            "mixed_before_and_after": [round(before), round(after)],
            "times_mixed": round(2 * many / (before + after), 2),
        }
    return results


def measure_processes(folder: Path, threads: int, rounds: int, scale: float) -> dict[str, Any]:
    """In a child on two cores, so that the default number of threads is found as on such a machine."""
    checkpoint = random_checkpoint(folder, SMALL)
    cores = sorted(os.sched_getaffinity(0))[:2]
    job = [sys.executable, __file__, "--on-two-cores", str(checkpoint), "--rounds", str(rounds)]
    child = subprocess.run(
        job, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    return json.loads(child.stdout)


def compare_processes(checkpoint: str, rounds: int) -> None:
    sequences = random_sequences(mixed_lengths(128))
    results = {}
    for engine in ("numpy", "torch"):
        embedder = ESM2Embedder(checkpoint, backend=LocalBackend(engine=engine, device="cpu"))
        seconds = medians(
            {
                "threads": lambda e=embedder: e.transform(sequences),
                "processes": lambda e=embedder: Parallel(n_jobs=2)(
                    delayed(e.transform)(sequences[i::2]) for i in range(2)
                ),
            },
            rounds=rounds,
        )
        results[engine] = {"2_processes_times_2_threads": round(seconds["threads"] / seconds["processes"], 2)}
    print(json.dumps(results))


MEASURES: dict[str, Callable[[Path, int, int, float], dict[str, Any]]] = {
    "memory": measure_memory,
    "layers": measure_layers,
    "peptides": measure_peptides,
    "processes": measure_processes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(MEASURES)}; all by default")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the default number of sequences")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--on-two-cores", metavar="CHECKPOINT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.on_two_cores:
        compare_processes(args.on_two_cores, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {
            name: MEASURES[name](Path(folder), args.threads, args.rounds, args.scale) for name in args.what or MEASURES
        }
    write_results(args.json, {"threads": args.threads, "rounds": args.rounds, **results})


if __name__ == "__main__":
    main()
