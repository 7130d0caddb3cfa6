"""`skesm embed` on many sequences: memory, kills, and our own time for a sequence.

    python tests/perf/bench_embed.py [--only kill own] [--rows 20000] [--length 50] [--layers -1] [--json results.json]

`kill`: generated sequences with skesm-mini in processes of their own: peak memory, and that after a quarter of the
rows; then SIGKILL half-way, a second run, and whether its bytes are those of a run that was not killed.
`own`: sequences through a backend that answers at once, to Parquet, with a record store and without: microseconds for
a sequence and peak memory. `--own-rows` says how many.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import AMINO_ACIDS, write_results

_OWN = """
import sys, time
import numpy as np
from skesm import ESM2Embedder
from skesm.backends import Backend, Batch, ModelSpec, Namespace
from skesm.io import transform_file

class Instant(Backend):
    numerics = "fp32"
    def spec(self, model):
        return ModelSpec(model, n_layers=6, width=320, n_heads=20, ffn_width=1280)
    def namespace(self, model):
        return Namespace(model, "instant", self.numerics)
    def run(self, model, sequences, outputs, *, n_jobs=None):
        values = np.random.default_rng(0).random((len(sequences), 320), dtype=np.float32)
        for start in range(0, len(sequences), 160):
            places = range(start, min(start + 160, len(sequences)))
            yield Batch(places, [{output: values[i] for output in outputs} for i in places])

memory = sys.argv[3] if len(sys.argv) > 3 else None
start = time.perf_counter()
report = transform_file(ESM2Embedder("instant", backend=Instant(), memory=memory), sys.argv[1], sys.argv[2])
print(time.perf_counter() - start, time.process_time())
"""


def write_sequences(path: Path, rows: int, length: int) -> Path:
    rng = np.random.default_rng(0)
    alphabet = np.frombuffer(AMINO_ACIDS.encode(), dtype=np.uint8)
    with path.open("wb") as file:
        for start in range(0, rows, 10_000):
            letters = alphabet[rng.integers(0, 20, (min(10_000, rows - start), length))]
            for i, row in enumerate(letters):
                file.write(b">s%d\n%s\n" % (start + i, row.tobytes()))
    return path


def resident(pid: int) -> float:
    """Megabytes now."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(command: list[str], parts: Path, chunks: int, kill_at: int | None = None) -> dict[str, Any]:
    """Run a command; memory after a quarter of the chunks and at most, and seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    quarter = peak = 0.0
    while process.poll() is None:
        done = len(list(parts.glob("*/*.npz")))
        now = resident(process.pid)
        peak = max(peak, now)
        if not quarter and done >= chunks // 4:
            quarter = peak
        if kill_at is not None and done >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return {"chunks_when_killed": done}
        time.sleep(0.2)
    return {
        "status": process.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(peak),
        "peak_mb_after_a_quarter": round(quarter),
    }


def kill(folder: Path, rows: int, length: int, layers: str) -> dict[str, Any]:
    path = write_sequences(folder / "rows.fasta", rows, length)
    chunks = -(-rows // (32768 // length))
    results: dict[str, Any] = {"rows": rows, "length": length, "layers": layers, "chunks": chunks}

    def command(output: Path) -> list[str]:
        options = ["--model", "skesm-mini", "--layers", layers, "--quiet"]
        return [sys.executable, "-m", "skesm", "embed", str(path), str(output), *options]

    whole, output = folder / "whole.parquet", folder / "out.parquet"
    results["whole"] = watch(command(whole), Path(f"{whole}.parts"), chunks)
    results["killed"] = watch(command(output), Path(f"{output}.parts"), chunks, kill_at=chunks // 2)
    results["output_after_the_kill"] = output.exists()
    results["again"] = watch(command(output), Path(f"{output}.parts"), chunks)
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (whole, output)}
    results["same_bytes"] = len(digests) == 1
    return results


def own(folder: Path, rows: int) -> dict[str, Any]:
    path = write_sequences(folder / "own.fasta", rows, 50)
    results: dict[str, Any] = {"rows": rows}
    store = [str(folder / "store")]
    for name, more in (("no store", []), ("store, cold", store), ("store, warm", store)):
        output = folder / f"{name.replace(', ', '-').replace(' ', '-')}.parquet"
        process = subprocess.Popen(
            [sys.executable, "-c", _OWN, str(path), str(output), *more], stdout=subprocess.PIPE, text=True
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.05)
        assert process.stdout is not None
        seconds, of_processor = map(float, process.stdout.read().split())
        results[name] = {
            "microseconds_a_sequence": round(1e6 * seconds / rows, 1),
            "processor_microseconds_a_sequence": round(1e6 * of_processor / rows, 1),  # with the start of Python
            "peak_mb": round(peak),
            "output_bytes_a_sequence": round(output.stat().st_size / rows, 1),
        }
        if more:
            stored = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
            results[name]["store_bytes_a_sequence"] = round(stored / rows, 1)
        output.unlink()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("kill", "own"), default=("kill", "own"))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--layers", default="-1", help="of the model; 1 takes a sixth of the time of -1")
    parser.add_argument("--own-rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "kill" in args.only:
            results["kill"] = kill(Path(folder), args.rows, args.length, args.layers)
        if "own" in args.only:
            results["own"] = own(Path(folder), args.own_rows)
    write_results(args.json, results)


if __name__ == "__main__":
    main()
