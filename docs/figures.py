"""Draw the figures of the guide. Run as ``python docs/figures.py``.

Pages show these files, and not those of the gallery, so that they can be read in the repository too. With the names of
figures, only these are drawn: ``python docs/figures.py layers datasets``.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt
from diagrams import DIAGRAMS
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from skesm import ESM2Embedder
from skesm.backends import LocalBackend
from skesm.datasets import load_gb1_stability, load_gfp_fluorescence
from skesm.exceptions import DemoModelWarning

IMAGES = Path(__file__).parent / "images"
#: Letters stay text, and nothing depends on the time or the machine.
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "skesm", "font.family": "sans-serif", "font.size": 11}
LIGHT_BLUE, LIGHT_ORANGE = "#7aa6d6", "#f0a35e"


def features() -> None:
    """The first table of docs/which-feature.md."""
    rows = {
        "one-hot, sequence": (0.54, None),
        "one-hot, position": (0.54, 0.03),
        "position + subst.": (0.70, 0.34),
        "mean": (0.69, 0.45),
        "mutated": (0.72, 0.27),
        "mean + mutated": (0.74, 0.37),
        "all of these": (0.76, 0.43),
    }
    _, axes = plt.subplots(figsize=(4.75, 4.4), facecolor="white", layout="constrained")
    places = np.arange(len(rows))
    splits = ((-0.2, 0, LIGHT_BLUE, "random folds"), (0.2, 1, LIGHT_ORANGE, "unseen positions"))
    for shift, column, colour, label in splits:
        axes.barh(places + shift, [values[column] or 0 for values in rows.values()], 0.38, color=colour, label=label)
    axes.set_yticks(places, rows)
    axes.invert_yaxis()
    axes.set_xlabel("Spearman's correlation, GB1, ridge")
    axes.figure.legend(loc="outside upper center", ncols=2, frameon=False)


def datasets() -> None:
    """The measured values of the two bundled sets."""
    _, (above, below) = plt.subplots(2, figsize=(4.75, 5.2), facecolor="white", layout="constrained")
    gb1, gfp = load_gb1_stability(), load_gfp_fluorescence()
    above.hist(gb1.target, 30, color=LIGHT_BLUE)
    above.axvline(0, color="#555555", linestyle="--", linewidth=1)
    above.set(xlabel="ΔΔG (kcal/mol)", ylabel="mutants", title=f"GB1: {len(gb1.target)} single mutants")
    above.annotate("wild type", (0, 105), (1.2, 105), va="center", arrowprops={"arrowstyle": "->", "color": "#555555"})
    above.set_ylim(0, 125)
    below.hist(gfp.target, 30, color=LIGHT_ORANGE)
    below.set(xlabel="log10 of fluorescence", ylabel="variants", title=f"GFP: {len(gfp.target)} variants")
    below.text(1.45, 42, "dark")
    below.text(2.75, 42, "bright")


def heads() -> None:
    """Regressors on the mean embedding, with and without a scaler."""
    gb1 = load_gb1_stability()
    X = ESM2Embedder("skesm-mini", verbose=False).transform(gb1.data)
    rank = make_scorer(lambda y, predicted: spearmanr(y, predicted).statistic)
    folds = KFold(5, shuffle=True, random_state=0)
    regressors = {
        "ridge, penalties\n0.001 to 100,000": RidgeCV(np.logspace(-3, 5, 9)),
        "ridge, penalties\n0.1 to 10": RidgeCV([0.1, 1, 10]),
        "support vector\nmachine, C = 1": SVR(C=1),
    }
    _, axes = plt.subplots(figsize=(4.75, 3.6), facecolor="white", layout="constrained")
    for place, (name, regressor) in enumerate(regressors.items()):
        for shift, colour, label in ((-0.2, LIGHT_ORANGE, "no scaler"), (0.2, LIGHT_BLUE, "StandardScaler")):
            model = make_pipeline(StandardScaler(), regressor) if shift > 0 else regressor
            score = cross_val_score(model, X, gb1.target, cv=folds, scoring=rank).mean()
            print(f"{name!r} {label} {score:.2f}")
            axes.barh(place + shift, score, 0.38, color=colour, label=None if place else label)
            axes.text(score + 0.01, place + shift, f"{score:.2f}", va="center")
    axes.set_yticks(range(len(regressors)), regressors)
    axes.invert_yaxis()
    axes.set(xlim=(0, 0.65), xlabel="Spearman's correlation, random folds")
    axes.figure.legend(loc="outside upper center", ncols=2, frameon=False)


def guarantees() -> None:
    """How far features differ, in the scale of the last layer. Needs the extras torch and fast."""
    X = load_gb1_stability().data[::20]

    def compute(rows, backend, n_jobs=1):
        return ESM2Embedder("skesm-mini", backend=backend, n_jobs=n_jobs, verbose=False).transform(rows)

    numpy = LocalBackend("numpy")
    base = compute(X, numpy)
    scale = np.abs(base).max()
    others = {
        "other rows and order": compute([*reversed(X)], numpy)[::-1],
        "one row alone": np.vstack([compute([sequence], numpy) for sequence in X[:5]]),
        "two threads": compute(X, numpy, n_jobs=2),
        "batches of 64 tokens": compute(X, LocalBackend("numpy", tokens_per_batch=64)),
        "compiled engine": compute(X, LocalBackend("compiled")),
        "torch, float32": compute(X, LocalBackend("torch", "cpu")),
        "torch, bfloat16": compute(X, LocalBackend("torch", "cpu", "bfloat16")),
    }
    least = 1e-8
    _, axes = plt.subplots(figsize=(4.75, 3.9), facecolor="white", layout="constrained")
    for place, (name, values) in enumerate(others.items()):
        difference = np.abs(values - base[: len(values)]).max() / scale
        print(f"{name:24} {difference:.1e}")
        if difference:
            axes.barh(place, difference - least, 0.6, left=least, color=LIGHT_BLUE)
        else:
            axes.text(least * 1.3, place, "no bit differs", va="center")
    axes.axvline(1e-5, color="#c4661f", linestyle="--")
    axes.set(xscale="log", xlim=(least, 0.3), xlabel="largest difference / scale of the layer")
    axes.set_yticks(range(len(others)), others)
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_title("dashed: what the tests allow in float32", fontsize=10)


FIGURES: dict[str, Callable[[], None]] = {
    **DIAGRAMS,
    "features": features,
    "datasets": datasets,
    "heads": heads,
    "guarantees": guarantees,
}


#: Figures of the gallery that pages show.
EXAMPLES = {
    "first-model": "plot_1_first_model.py",
    "random-and-unseen": "plot_2_random_and_unseen.py",
    "residues": "plot_6_residues.py",
    "next-round": "plot_9_next_round.py",
    "logits": "plot_10_logits.py",
    "intervals": "plot_12_intervals.py",
}


def draw(names: Collection[str]) -> None:
    with matplotlib.rc_context(SETTINGS):
        for name, figure in FIGURES.items():
            if not names or name in names:
                figure()
                plt.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
                plt.close()


def run_examples(names: Collection[str]) -> None:
    plt.switch_backend("agg")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, script in EXAMPLES.items():
            if not names or name in names:
                plt.show = lambda name=name: plt.savefig(IMAGES / f"{name}.png", dpi=100, metadata={"Software": None})
                runpy.run_path(str(IMAGES.parents[1] / "examples" / script))
                plt.close()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DemoModelWarning)
    draw(sys.argv[1:])
    run_examples(sys.argv[1:])
