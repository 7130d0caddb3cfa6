"""The compiled engine beside the NumPy engine: one thread, one process, passes in turn; neither torch nor peers.

    python tests/perf/bench_compiled.py [--model skesm-mini] [--rounds 7]

The least time of each counts, so that other programs on the machine disturb little. `bench_reach.py` has its AVX2 for
a processor with AVX-512.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import random_sequences

from skesm.backends import LocalBackend
from skesm.outputs.spec import OutputSpec

#: Lengths, and how many sequences.
SETS = {"237": (237, 4), "60": (60, 16), "5 to 50": (None, 40)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="skesm-mini")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    backends = {engine: LocalBackend(engine, num_threads=1) for engine in ("numpy", "compiled")}
    output = [OutputSpec("mean", backends["numpy"].spec(args.model).n_layers)]
    for name, (length, count) in SETS.items():
        lengths = [length] * count if length else np.random.default_rng(0).integers(5, 51, count)
        sequences = random_sequences(lengths)
        best = dict.fromkeys(backends, float("inf"))
        for round_ in range(args.rounds + 1):
            for engine, backend in backends.items():
                start = time.perf_counter()
                list(backend.run(args.model, sequences, output))
                if round_:  # the first one loads
                    best[engine] = min(best[engine], time.perf_counter() - start)
        speeds = {engine: sum(map(len, sequences)) / seconds for engine, seconds in best.items()}
        print(f"{name:8} numpy {speeds['numpy']:,.0f} residues/s, compiled {speeds['compiled']:,.0f}", end="")
        print(f", {speeds['compiled'] / speeds['numpy']:.2f} times", flush=True)


if __name__ == "__main__":
    main()
