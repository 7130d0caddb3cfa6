"""Draw what grows with the number of sequences, for docs/clusters.md, from figures that were measured.

    python docs/growth.py

reads docs/growth.json, which holds results of tests/perf/bench_embed.py, and writes docs/images/growth.png. Crosses are
measured. Lines continue them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "growth.json"
PICTURE = ROOT / "docs" / "images" / "growth.png"
LARGEST = 10**9


def draw(figures: dict[str, Any]) -> None:
    """Bytes above, hours of our own share below."""
    rows = np.logspace(4, np.log10(LARGEST), 100)
    size, time = plt.subplots(2, figsize=(5.2, 8.4), layout="constrained")[1]

    def measured(key: str) -> list[tuple[int, float]]:
        return [(run["rows"], run[key]) for run in figures["runs"] if key in run]

    for colour, key, label in (
        ("C1", "store_bytes_a_sequence", "record store"),
        ("C0", "output_bytes_a_sequence", "output (twice that while it is made)"),
    ):
        found = measured(key)
        size.loglog(rows, rows * found[-1][1], color=colour, label=label)
        size.plot([n for n, _ in found], [n * each for n, each in found], "x", color=colour)
    memory = measured("peak_mb")
    most = max(each for _, each in memory) * 1e6
    size.loglog(rows, np.full_like(rows, most), color="C2", label="memory of one job")
    size.loglog(rows, most + rows * 8, ":", color="C2", label="memory with --shard")
    size.plot([n for n, _ in memory], [each * 1e6 for _, each in memory], "x", color="C2")
    size.set(title="bytes (320 features)", xlabel="sequences", ylim=(1e7, 1e13))
    timed = figures["timed"]
    for colour, kind in (("C1", "store, cold"), ("C2", "store, warm"), ("C0", "no store")):
        time.loglog(rows, rows * timed[kind] / 3.6e9, color=colour, label=f"{kind}: {timed[kind]} µs a sequence")
        time.plot(timed["rows"], timed["rows"] * timed[kind] / 3.6e9, "x", color=colour)
    time.set(title="hours without the model (50 residues)", xlabel="sequences")
    for axes in (size, time):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    plt.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    draw(json.loads(FIGURES.read_text(encoding="utf-8")))
