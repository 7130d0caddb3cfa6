"""Draw the figures of the guide. Run as ``python docs/figures.py``.

Pages show these files, and not those of the gallery, so that they can be read in the repository too.
"""

from __future__ import annotations

import contextlib
import runpy
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

IMAGES = Path(__file__).parent / "images"
BLUE, ORANGE, GREEN, GREY = "#cfe0f3", "#fbdcc0", "#d5ecd4", "#e8e8e8"
#: Letters stay text, and nothing depends on the time or the machine.
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "skesm", "font.family": "sans-serif", "font.size": 11}


def canvas(width: float, height: float) -> Axes:
    """Axes of so many units, half an inch each, without a frame."""
    figure = plt.figure(figsize=(width / 2, height / 2), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str = "", colour: str = BLUE) -> None:
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="#555555"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1.4})


def layers() -> None:
    """From residues to one row: layers across, pooling down."""
    axes = canvas(15, 8)
    for place, letter in enumerate("MKTAY"):
        box(axes, 0.5 + 1.2 * place, 0.4, 1, 0.8, letter, GREY)
        for layer in range(4):
            name = ("0", "1", "…", "last")[layer]
            box(axes, 0.5 + 1.2 * place, 2 + 1.4 * layer, 1, 1, "", BLUE if name == "last" else GREY)
    for layer, name in enumerate(("layer 0", "layer 1", "…", "last layer (-1)")):
        axes.text(6.7, 2.5 + 1.4 * layer, name, va="center")
    arrow(axes, (9.3, 6.7), (10.4, 6.7))
    box(axes, 10.5, 6.2, 4.1, 1, "one row of d columns")
    axes.text(9.9, 5.6, "pooling", ha="center")
    axes.text(6.7, 0.8, "a vector of d numbers for each residue and layer", va="center", fontsize=9)


def windows() -> None:
    """A long protein in windows that overlap, and the weight of each residue."""
    axes = canvas(14, 6.5)
    box(axes, 0.5, 5, 13, 0.9, "a protein of 2,500 residues", GREY)
    spans = [(0.5, 5.3), (4.35, 5.3), (8.2, 5.3)]
    for number, (x, width) in enumerate(spans, start=1):
        box(axes, x, 3.3 if number % 2 else 2.9, width, 0.8, f"window {number}", BLUE if number % 2 else ORANGE)
        left, right = x, x + width
        rise = left if number == 1 else left + 1.45
        fall = right if number == len(spans) else right - 1.45
        height = [2 if number == 1 else 0.6, 2, 2, 2 if number == len(spans) else 0.6]
        axes.plot([left, rise, fall, right], height, color="#1f5fa8" if number % 2 else "#c4661f", lw=2)
    axes.text(0.5, 0.15, "weight of a residue: falls linearly where two windows overlap", fontsize=10)


def chains() -> None:
    """Two columns of sequences, embedded each on its own."""
    axes = canvas(14, 5)
    for y, name, colour in ((3, "heavy", BLUE), (0.8, "light", ORANGE)):
        box(axes, 0.4, y, 3, 1.2, f"column “{name}”", colour)
        arrow(axes, (3.5, y + 0.6), (4.8, y + 0.6))
        box(axes, 4.9, y, 3, 1.2, "ESM2Embedder", GREY)
        arrow(axes, (8, y + 0.6), (9.3, y + 0.6))
    box(axes, 9.4, 1.9, 2.1, 1.2, "192", BLUE)
    box(axes, 11.5, 1.9, 2.1, 1.2, "192", ORANGE)
    axes.text(11.5, 1.3, "one row: 384 columns", ha="center")


def once() -> None:
    """What happens to the rows of X when memory is set."""
    axes = canvas(15, 6)
    box(axes, 0.3, 2.2, 2.7, 2, "rows of X\n150", GREY)
    box(axes, 4.2, 2.2, 2.9, 2, "different\nsequences\n150", GREY)
    box(axes, 8.3, 4.2, 3, 1.5, "stored\n100", GREEN)
    box(axes, 8.3, 0.5, 3, 1.5, "to compute\n50", ORANGE)
    box(axes, 12.4, 2.2, 2.3, 2, "features", BLUE)
    arrow(axes, (3.1, 3.2), (4.1, 3.2))
    arrow(axes, (7.2, 3.6), (8.2, 4.8))
    arrow(axes, (7.2, 2.8), (8.2, 1.4))
    arrow(axes, (11.4, 4.8), (12.3, 3.7))
    arrow(axes, (11.4, 1.4), (12.3, 2.7))
    arrow(axes, (9.8, 2.1), (9.8, 4.1))
    axes.text(10, 3, "the model,\nthen the store", va="center", fontsize=9)


def saving() -> None:
    """What the file of a saved pipeline holds, and what it names."""
    axes = canvas(15, 5)
    box(axes, 0.4, 0.5, 5.6, 4, "", GREY)
    axes.text(3.2, 4, "model.joblib, some kB", ha="center", va="center")
    box(axes, 0.8, 2.5, 4.8, 1, "embedder: its parameters", BLUE)
    box(axes, 0.8, 1, 4.8, 1, "scaler, regressor: as fitted", GREEN)
    box(axes, 9.4, 2.8, 5.2, 1.3, "weights of ESM-2\n(not in the file)", ORANGE)
    box(axes, 9.4, 0.8, 5.2, 1.3, "memory: the record store\n(not in the file)", ORANGE)
    arrow(axes, (5.7, 3.1), (9.3, 3.4))
    arrow(axes, (5.7, 2.9), (9.3, 1.5))
    axes.text(7.4, 3.6, "by name", ha="center", fontsize=9)


def remote() -> None:
    """Where the parts run with a remote backend."""
    axes = canvas(15, 5)
    box(axes, 0.4, 0.5, 7, 4, "", GREY)
    axes.text(3.9, 4, "your machine", ha="center", va="center")
    box(axes, 0.8, 2.2, 6.2, 1.1, "pipeline: embedder, scaler, regressor", BLUE)
    box(axes, 0.8, 0.8, 6.2, 1.1, "memory: the record store", GREEN)
    box(axes, 11, 1.5, 3.6, 2, "service\nwith a GPU", ORANGE)
    arrow(axes, (7.1, 3), (10.9, 3))
    arrow(axes, (10.9, 1.9), (7.1, 1.4))
    axes.text(9.2, 3.3, "new sequences", ha="center", fontsize=9)
    axes.text(9.2, 1.1, "vectors", ha="center", fontsize=9)


def features() -> None:
    """The first table of docs/which-feature.md."""
    rows = {
        "one-hot of the sequence": (0.54, None),
        "one-hot of the position": (0.54, 0.03),
        "position + substitution": (0.70, 0.34),
        "mean": (0.69, 0.45),
        "mutated": (0.72, 0.27),
        "mean + mutated": (0.74, 0.37),
        "all of these": (0.76, 0.43),
    }
    _, axes = plt.subplots(figsize=(7, 3.6), facecolor="white", layout="constrained")
    places = np.arange(len(rows))
    for shift, column, colour, label in ((-0.2, 0, "#7aa6d6", "random folds"), (0.2, 1, "#f0a35e", "unseen positions")):
        axes.barh(places + shift, [values[column] or 0 for values in rows.values()], 0.38, color=colour, label=label)
    axes.set_yticks(places, rows)
    axes.invert_yaxis()
    axes.set_xlabel("Spearman's correlation, GB1, ridge")
    axes.set_xlim(0, 1.05)
    axes.legend(loc="upper right")


FIGURES: dict[str, Callable[[], None]] = {
    "layers": layers,
    "windows": windows,
    "chains": chains,
    "once": once,
    "saving": saving,
    "remote": remote,
    "features": features,
}


#: Figures of the gallery that pages show.
EXAMPLES = {
    "first-model": "plot_1_first_model.py",
    "residues": "plot_6_residues.py",
    "logits": "plot_10_logits.py",
    "intervals": "plot_12_intervals.py",
}


def draw() -> None:
    with matplotlib.rc_context(SETTINGS):
        for name, figure in FIGURES.items():
            figure()
            plt.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
            plt.close()


def run_examples() -> None:
    plt.switch_backend("agg")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, script in EXAMPLES.items():
            plt.show = lambda name=name: plt.savefig(IMAGES / f"{name}.png", dpi=100, metadata={"Software": None})
            runpy.run_path(str(IMAGES.parents[1] / "examples" / script))
            plt.close()


if __name__ == "__main__":
    draw()
    run_examples()
