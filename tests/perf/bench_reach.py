"""Our engines beside transformers on two kinds of processors, in one run: the table of docs/performance.md.

    python tests/perf/bench_reach.py [--threads 2] [--scale 0.5] [--rounds 5] [--json reach.json]

Runs `bench_local.py` once as this processor is, and once, on a processor with AVX-512, as if it had AVX2 only:
OpenBLAS, NumPy, torch, oneDNN and MKL are told so by their environment variables, for both sides. Prints Markdown.
Peptides are compared with transformers in the best of its batch sizes, all others in padded batches of 8 sorted by
length.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import write_results

AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
KINDS: dict[str, dict[str, str]] = {"as it is": {}, "AVX2, imitated": AVX2}
BASE = "transformers sdpa"
BATCHES = (BASE, f"{BASE}, batches of 32", f"{BASE}, batches of 128")
OURS = ("skesm numpy", "skesm compiled", "skesm torch")
#: Models, their sets of sequences, and the share of `--scale` that they get.
ROWS = (
    ("esm2_t6_8M_UR50D", ("equal", "mixed", "peptides"), 1.0),
    ("esm2_t30_150M_UR50D", ("mixed",), 1.0),
    ("esm2_t33_650M_UR50D", ("mixed",), 1.0),
)


def measure(model: str, sets: tuple[str, ...], scale: float, environment: dict[str, str], args: Any) -> dict[str, Any]:
    names = [*OURS, *(BATCHES if "peptides" in sets else BATCHES[:1])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("bench_local.py"))]
        command += ["--models", model, "--sets", *sets, "--only", *names, "--json", str(path)]
        command += ["--threads", str(args.threads), "--scale", str(scale * args.scale), "--rounds", str(args.rounds)]
        subprocess.run(command, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())["models"][model]


def ratios(found: dict[str, dict[str, Any]], kind: str) -> dict[str, float]:
    """Speed of each of ours as a multiple of transformers'."""
    speed = {name: entry["residues_per_s"] for name, entry in found.items()}
    base = max(speed[name] for name in BATCHES if name in speed) if kind == "peptides" else speed[BASE]
    return {name: round(speed[name] / base, 2) for name in OURS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[model for model, _, _ in ROWS[:2]])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--sets", nargs="+", default=list(ROWS[0][1]), choices=list(ROWS[0][1]))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    table = []
    for model, sets, scale in ROWS:
        if model not in args.models:
            continue
        sets = tuple(name for name in sets if name in args.sets)
        found = {kind: measure(model, sets, scale, KINDS[kind], args) for kind in args.kinds}
        results[model] = found
        for name in sets:
            cells = []
            for kind in args.kinds:
                of_kind = ratios(found[kind][name], name)
                cells.append(" / ".join(f"{of_kind[ours]:.2f}" for ours in OURS))
            table.append(f"| {model.split('_')[2]}, {name} | " + " | ".join(cells) + " |")
    write_results(args.json, {"threads": args.threads, "rounds": args.rounds, "results": results})
    print(
        f"\n| NumPy / compiled / torch, times transformers | {' | '.join(args.kinds)} |",
        "|---" * (1 + len(args.kinds)) + "|",
        *table,
        sep="\n",
    )


if __name__ == "__main__":
    main()
