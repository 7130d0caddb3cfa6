"""Plot of predicted against measured values."""

from __future__ import annotations

from typing import Any

import numpy as np

from skesm._optional import import_optional
from skesm.benchmark._comparison import Comparison

_INCHES, _DPI = 5.0, 150
_MARGIN = 0.04  # of the axes' range, on each side
_CENTRAL = (0.5, 99.5)  # percentiles of the predictions that the axes must hold, so that one wild one cannot rule them


def plot_predictions(
    comparison: Comparison,
    features: str | None = None,
    head: str | None = None,
    *,
    split: str | None = None,
    target: str = "target",
    title: str = "",
) -> Any:
    """Plot out-of-fold predictions against measured values.

    Parameters
    ----------
    comparison : Comparison
        What `compare` returned.
    features, head : str, default=None
        One of the compared pairs; by default that of the highest mean Spearman correlation.
    split : str, default=None
        The split; the first by default.
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
    matplotlib_figure = import_optional("matplotlib.figure", "benchmark")
    agg = import_optional("matplotlib.backends.backend_agg", "benchmark")
    split = comparison.scores["split"].iloc[0] if split is None else split
    best_features, best_head = comparison.best(split)
    chosen = {"split": split, "features": features or best_features, "head": head or best_head}
    found, scores = (_rows(table, chosen) for table in (comparison.predictions, comparison.scores))
    if found.empty:
        raise ValueError(f"the comparison has no {chosen['features']} with {chosen['head']} in split {split}")
    first_seed = found[found["seed"] == found["seed"].iloc[0]]  # each row once
    measured, predicted = first_seed["measured"].to_numpy(), first_seed["predicted"].to_numpy()

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
    lines = [title] if title else []
    lines.append(f"{chosen['features']} → {chosen['head']}, {split}, n = {len(measured)}")
    spearman = scores.loc[scores["score"] == "spearman", "value"].to_numpy()
    if len(spearman) and not np.isnan(spearman).any():
        spread = f" ± {np.std(spearman, ddof=1):.2f}" if len(spearman) > 1 else ""
        lines.append(f"Spearman {np.mean(spearman):.2f}{spread} over {len(spearman)} folds")
    axes.set_title("\n".join(lines), fontsize=10)
    return figure


def plot_scores(comparison: Comparison, score: str = "spearman") -> Any:
    """Plot the mean score of every pair of features and head with its interval, one panel for each split.

    Parameters
    ----------
    comparison : Comparison
        What `compare` returned.
    score : str, default="spearman"
        One of the scores that were computed.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Rows within noise of the best of their split are dark.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    matplotlib_figure = import_optional("matplotlib.figure", "benchmark")
    agg = import_optional("matplotlib.backends.backend_agg", "benchmark")
    summary = comparison.summary(score)
    splits = list(dict.fromkeys(summary["split"]))
    n_rows = int(summary.groupby("split").size().max())
    size = (3.5 + 3 * len(splits), 1 + 0.28 * n_rows)
    figure = matplotlib_figure.Figure(figsize=size, dpi=_DPI, layout="constrained")
    agg.FigureCanvasAgg(figure)
    for axes, split in zip(figure.subplots(1, len(splits), sharey=True, squeeze=False)[0], splits, strict=True):
        rows = summary[summary["split"] == split]
        places = np.arange(len(rows))
        for chosen, color in ((rows["within_noise"], "#1f5fa8"), (~rows["within_noise"], "#a9c4e4")):
            shown = (chosen & rows["mean"].notna()).to_numpy()
            part = rows[shown]
            errors = [(part["mean"] - part["low"]).clip(lower=0), (part["high"] - part["mean"]).clip(lower=0)]
            axes.barh(places[shown], part["mean"], xerr=errors, color=color, ecolor="0.3", capsize=2)
        axes.set(title=split, xlabel=score, yticks=places)
        axes.set_yticklabels(rows["features"] + " → " + rows["head"], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
    axes.invert_yaxis()
    return figure


def _rows(table: Any, values: dict[str, str]) -> Any:
    return table[np.logical_and.reduce([table[name] == value for name, value in values.items()])]


def _opacity(n_points: int) -> float:
    return float(np.clip(12 / np.sqrt(n_points), 0.15, 0.8))
