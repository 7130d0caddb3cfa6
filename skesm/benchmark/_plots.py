"""Plot of predicted against measured values."""

from __future__ import annotations

from typing import Any

import numpy as np

from skesm._optional import import_optional
from skesm.benchmark._compare import Comparison, ComparisonRow

_INCHES, _DPI = 5.0, 150
_MARGIN = 0.04  # of the axes' range, on each side
_CENTRAL = (0.5, 99.5)  # percentiles of the predictions that the axes must hold, so that one wild one cannot rule them


def plot_predictions(
    comparison: Comparison, row: ComparisonRow | None = None, *, target: str = "target", title: str = ""
) -> Any:
    """Plot out-of-fold predictions against measured values.

    Parameters
    ----------
    comparison : Comparison
        What `compare` returned.
    row : ComparisonRow, default=None
        One of `comparison.rows`; by default that of the highest mean Spearman correlation.
    target : str, default="target"
        Name of the measured quantity, with its unit; for the axes.
    title : str, default=""
        First line of the title, such as the name of the data.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Save it with ``figure.savefig(path)``.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    matplotlib_figure = import_optional("matplotlib.figure", "demo")
    agg = import_optional("matplotlib.backends.backend_agg", "demo")
    row = comparison.best() if row is None else row
    measured, predicted = comparison.y, comparison.predictions[row.features, row.model]

    # No pyplot: a figure of its own leaves the user's backend and open figures alone.
    figure = matplotlib_figure.Figure(figsize=(_INCHES, _INCHES), dpi=_DPI, layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest, highest = np.percentile(predicted, _CENTRAL)
    low, high = min(measured.min(), lowest), max(measured.max(), highest)
    margin = _MARGIN * (high - low) or 1.0
    limits = (low - margin, high + margin)
    shown = np.clip(predicted, *limits)
    beyond = shown != predicted
    axes.plot(limits, limits, color="0.6", linewidth=1, linestyle="--", zorder=1, label="predicted = measured")
    points = {"s": 14, "alpha": _opacity(len(measured)), "linewidths": 0, "zorder": 2}
    axes.scatter(measured[~beyond], predicted[~beyond], color="#1f5fa8", **points)
    if beyond.any():
        # Not left out: drawn on the edge, and counted.
        edge = {**points, "s": 40, "alpha": 1, "clip_on": False, "label": f"{beyond.sum()} predicted beyond the axes"}
        axes.scatter(measured[beyond], shown[beyond], color="#c0392b", marker="D", **edge)
    axes.set(xlim=limits, ylim=limits, xlabel=f"measured {target}", ylabel=f"predicted {target}, out of fold")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    scores = f"{row.features} → {row.model}, n = {len(measured)}"
    if not np.isnan(row.spearman).any():
        scores += f"\nSpearman {np.mean(row.spearman):.2f} ± {np.std(row.spearman, ddof=1):.2f}"
        scores += f" over {len(row.spearman)} folds"
    axes.set_title(f"{title}\n{scores}" if title else scores, fontsize=10)
    return figure


def _opacity(n_points: int) -> float:
    return float(np.clip(12 / np.sqrt(n_points), 0.15, 0.8))
