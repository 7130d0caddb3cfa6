"""Time and memory of contacts and attention weights, beside a mean embedding of the same sequence.

    python tests/perf/bench_attention.py [--model esm2_t33_650M_UR50D] [--length 1022] [--json results.json]

One random sequence at a time, in a fresh process for each output and engine. Memory is the peak of the process (VmHWM,
Linux) less the size of the checkpoint; the Python process with its libraries is part of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import random_checkpoint, random_sequences, write_results

from skesm.esm2.spec import REGISTRY

RUN = """
import sys, time
from skesm.outputs.spec import parse_outputs
from skesm.backends import LocalBackend
folder, engine, threads, name, *sequences = sys.argv[1:]
backend = LocalBackend(engine=engine, device="cpu", num_threads=int(threads))
outputs = parse_outputs([name], backend.spec(folder).n_layers)
begun = time.perf_counter()
for batch in backend.run(folder, sequences, outputs):
    del batch
status = open("/proc/self/status").read()
print(time.perf_counter() - begun, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""

OUTPUTS = ("mean@-1", "contacts", "attention_received@*", "attention_heads@*", "attentions@*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="esm2_t33_650M_UR50D", choices=sorted(REGISTRY))
    parser.add_argument("--length", type=int, default=1022)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sequences = random_sequences([args.length] * args.sequences)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder), args.model)
        weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        for output in OUTPUTS:
            for engine in ("numpy", "torch"):
                command = [sys.executable, "-c", RUN, str(checkpoint), engine, str(args.threads), output, *sequences]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds, peak = map(float, answer.split())
                figures = {"seconds": round(seconds, 2), "gib_beyond_weights": round((peak - weights) / 2**30, 2)}
                results[f"{output}, {engine}"] = figures
    write_results(args.json, {"model": args.model, "length": args.length, "sequences": args.sequences, **results})


if __name__ == "__main__":
    main()
