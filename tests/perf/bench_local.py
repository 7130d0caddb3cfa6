"""Residues a second of the local engines, beside every peer that is installed, on the same sequences in turn.

    python tests/perf/bench_local.py [--models esm2_t6_8M_UR50D esm2_t30_150M_UR50D] [--threads 2]
        [--esm-cpp OTHER_ENVIRONMENT/bin/python] [--json results.json] [--plot results.png]

Random weights of the published shape; mean pooling of the last layer. Each runs in a process of its own, as it does for
its users: what one leaves behind in the allocator can make another a third faster. Peers run batches of 8 padded
sequences, without the language-model head, sorted by length but for one that takes them as they come. Prints medians,
ratios and the largest difference of a feature from transformers'.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import peers
from common import medians, mixed_lengths, random_checkpoint, random_sequences, write_results
from peers import Features

from skesm import ESM2Embedder
from skesm.backends import LocalBackend
from skesm.esm2.spec import REGISTRY

BASE = "transformers sdpa"

#: What suits transformers better where sequences are short.
LARGER_BATCHES = (32, 128)

#: Sequences of each set for the 8M model, and the share of them that larger ones get.
SEQUENCES = {"equal": 64, "mixed": 128, "short": 128, "peptides": 600}
SHARES = {"esm2_t6_8M_UR50D": 1.0, "esm2_t12_35M_UR50D": 0.5, "esm2_t30_150M_UR50D": 0.1875}
LEAST_SHARE = 0.0625


def sequence_sets(share: float) -> dict[str, list[str]]:
    n = {name: max(1, round(share * count)) for name, count in SEQUENCES.items()}
    return {
        "equal": random_sequences([237] * n["equal"]),
        "mixed": random_sequences(mixed_lengths(n["mixed"])),
        "short": random_sequences(np.random.default_rng(0).integers(20, 251, n["short"])),
        "peptides": random_sequences(np.random.default_rng(0).integers(5, 51, n["peptides"])),
    }


def engines(
    threads: int, stack: ExitStack, model: str, checkpoint: Path, esm_cpp: Path | None
) -> dict[str, Callable[[], Features]]:
    """How to load each of those that can run here."""

    def ours(**options: Any) -> Features:
        return ESM2Embedder(checkpoint, backend=LocalBackend(num_threads=threads, **options)).transform

    known: dict[str, Callable[[], Features]] = {
        "skesm numpy": lambda: ours(engine="numpy"),
        "skesm compiled": lambda: ours(engine="compiled"),
        "skesm torch": lambda: ours(engine="torch", device="cpu"),
        "skesm torch bf16": lambda: ours(engine="torch", device="cpu", dtype="bfloat16"),
        BASE: lambda: peers.transformers(checkpoint, "sdpa"),
        "transformers eager": lambda: peers.transformers(checkpoint, "eager"),
        "transformers sdpa bf16": lambda: peers.transformers(checkpoint, "sdpa", "bfloat16"),
        "transformers sdpa, unsorted": lambda: peers.transformers(checkpoint, "sdpa", by_length=False),
    }
    for size in LARGER_BATCHES:
        known[f"{BASE}, batches of {size}"] = lambda size=size: peers.transformers(checkpoint, "sdpa", size=size)
    if find_spec("esm") is not None:
        known["fair-esm"] = lambda: peers.fair_esm(checkpoint, model)
    if esm_cpp is not None:
        known["esm-cpp"] = lambda: peers.esm_cpp(checkpoint, model, esm_cpp, threads, stack)
        known["esm-cpp int8"] = lambda: peers.esm_cpp(checkpoint, model, esm_cpp, threads, stack, "int8")
    return known


def answer(connection: Connection, name: str, threads: int, *place: Any) -> None:
    """Load one of the engines and answer lists of sequences with features, until None comes."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        features = engines(threads, stack, *place)[name]()
        while (sequences := connection.recv()) is not None:
            connection.send(features(sequences))


def start(name: str, threads: int, stack: ExitStack, *place: Any) -> Features:
    """One of the engines in a process of its own, which ends with `stack`."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=answer, args=(far, name, threads, *place))
    process.start()
    far.close()
    stack.callback(process.join)
    stack.callback(near.send, None)

    def features(sequences: list[str]) -> np.ndarray:
        near.send(sequences)
        return near.recv()

    return features


def compare(competitors: Mapping[str, Features], sequences: list[str], rounds: int) -> dict[str, Any]:
    """Residues a second of each, times `BASE`, and the largest difference from it."""
    features: dict[str, np.ndarray] = {}

    def timed(name: str) -> Callable[[], None]:
        return lambda: features.update({name: competitors[name](sequences)})

    seconds = medians({name: timed(name) for name in competitors}, rounds=rounds)
    residues = sum(map(len, sequences))
    return {
        name: {
            "residues_per_s": round(residues / value),
            "times_transformers_sdpa": round(seconds[BASE] / value, 2),
            "max_difference": float(f"{np.abs(features[name] - features[BASE]).max():.1e}"),
        }
        for name, value in seconds.items()
    }


def plot(path: Path, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """One panel for each model and set: bars of speed as a multiple of transformers' sdpa."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [
        (model, name, bars) for model, sets in results.items() for name, bars in sets.items() if name != "peptides"
    ]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(1.2 + 2.4 * len(panels), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (model, name, bars) in zip(axes[0], panels, strict=True):
        labels = list(bars)[::-1]
        values = [bars[label]["times_transformers_sdpa"] for label in labels]
        colours = ["#2a6f97" if label.startswith("skesm") else "#b8b8b8" for label in labels]
        axis.bar_label(axis.barh(labels, values, color=colours), fmt="%.2f", padding=2, fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlim(0, 1.2 * max(values))
        axis.set_title(f"{model.split('_')[2]}, {name} lengths", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("speed, times transformers sdpa in float32", fontsize=9)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["esm2_t6_8M_UR50D"], choices=sorted(REGISTRY), metavar="MODEL")
    parser.add_argument("--only", nargs="+", help=f"names of competitors; {BASE!r} always runs")
    parser.add_argument("--sets", nargs="+", default=list(SEQUENCES), choices=list(SEQUENCES))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the default number of sequences")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--esm-cpp", type=Path, help="interpreter of an environment that has esm-cpp")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()

    results: dict[str, dict[str, Any]] = {}
    for model in args.models:
        sets = sequence_sets(args.scale * SHARES.get(model, LEAST_SHARE))
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            place = (model, random_checkpoint(Path(folder), model), args.esm_cpp)
            known = engines(args.threads, stack, *place)  # not loaded here
            names = [name for name in known if name in (args.only or known) or name == BASE]
            chosen = {name: start(name, args.threads, stack, *place) for name in names}
            results[model] = {name: compare(chosen, sets[name], args.rounds) for name in args.sets}
    write_results(args.json, {"threads": args.threads, "rounds": args.rounds, "models": results})
    if args.plot is not None:
        plot(args.plot, results)


if __name__ == "__main__":
    main()
