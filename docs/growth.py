"""Draw what grows with the number of sequences, for docs/clusters.md, from figures that were measured.

    python docs/growth.py

reads docs/growth.json, which holds the results of tests/perf/bench_embed.py, and writes docs/images/growth.png. Crosses
are measured; lines go on from them, because nothing else was found to grow.
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
    """Bytes on the left, hours on the right."""
    rows = np.logspace(4, np.log10(LARGEST), 100)
    size, time = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")[1]
    large = figures["runs"][-1]
    store = large["store, cold"]["store_bytes_a_sequence"]
    output = large["no store"]["output_bytes_a_sequence"]
    size.loglog(rows, rows * store, color="C1", label="record store")
    size.loglog(rows, rows * output, color="C0", label="output, and as much beside it until it is complete")
    memory = [max(run[kind]["peak_mb"] for kind in run if kind != "rows") for run in figures["runs"]]
    size.loglog(rows, np.full_like(rows, max(memory) * 1e6), color="C2", label="memory of one job")
    size.loglog(rows, max(memory) * 1e6 + rows * 8, color="C2", ls=":", label="memory with --shard")
    measured = [run["rows"] for run in figures["runs"]]
    size.plot(measured, [each * 1e6 for each in memory], "x", color="C2")
    for name, kind, colour in (("output", "no store", "C0"), ("store", "store, cold", "C1")):
        key = f"{name}_bytes_a_sequence"
        size.plot(measured, [run["rows"] * run[kind][key] for run in figures["runs"]], "x", color=colour)
    size.set(title="bytes (320 features)", xlabel="sequences", ylim=(1e7, 1e13))
    time.loglog(rows, rows * 50 / figures["model_residues_per_s"] / 3600, "k", label=f"model: {figures['model']}")
    for colour, kind in zip(("C1", "C2", "C0"), ("store, cold", "store, warm", "no store"), strict=True):
        per_sequence = figures["timed"][kind]["processor_microseconds_a_sequence"]
        label = f"our own share, {kind}: {per_sequence:.0f} µs a sequence"
        time.loglog(rows, rows * per_sequence / 3.6e9, color=colour, label=label)
        time.plot(figures["timed"]["rows"], figures["timed"]["rows"] * per_sequence / 3.6e9, "x", color=colour)
    time.set(title="hours on one machine of two cores (50 residues each)", xlabel="sequences")
    for axes in (size, time):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    plt.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    draw(json.loads(FIGURES.read_text(encoding="utf-8")))
