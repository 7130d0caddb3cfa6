"""Predicted against measured values, or probabilities of two classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skesm.benchmark._comparison import Comparison
from skesm.benchmark._scores import name_score
from skesm.benchmark.figures.canvas import DARK, LIGHT, RED, Axes, choose_pair, clear_axes, new_axes, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_INCHES = 5.0
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
) -> Figure:
    """Plot out-of-fold predictions against measured values.

    Parameters
    ----------
    comparison : Comparison
        The result of `compare`.
    features, head : str, default=None
        One of the compared pairs. None is the best of the split, by the first score.
    split : str, default=None
        The split. None is the first.
    target : str, default="target"
        Name of the measured quantity with its unit, for the axes.
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
    figure, axes = new_axes(_INCHES, _INCHES)
    chosen = choose_pair(comparison, split, features, head)
    found, scores = (rows_of(table, chosen) for table in (comparison.predictions, comparison.scores))
    if found.empty:
        raise ValueError(f"the comparison has no {chosen['features']} with {chosen['head']} in split {chosen['split']}")
    first_seed = found[found["seed"] == found["seed"].iloc[0]]  # each row once
    measured, predicted = first_seed["measured"].to_numpy(), first_seed["predicted"].to_numpy()
    lines = [title] if title else []
    lines += [f"{chosen['features']} → {chosen['head']}", f"{chosen['split']}, n = {len(measured)}"]
    lines += _mean_score(comparison.main_score, scores)

    axes.set_title("\n".join(lines), fontsize=10)
    if comparison.classes is None:
        _draw_values(axes, measured, predicted, target)
    else:
        _draw_classes(axes, measured, predicted, comparison.classes, target)
    clear_axes(axes)
    return figure


def _mean_score(name: str, scores: DataFrame) -> list[str]:
    values = scores.loc[scores["score"] == name, "value"].to_numpy()
    if np.isnan(values).any():
        return []
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    folds = f"over {len(values)} folds" if len(values) > 1 else "in one fold"
    return [f"{name_score(name)} {np.mean(values):.2f}{spread} {folds}"]


def _draw_classes(
    axes: Axes, measured: np.ndarray, predicted: np.ndarray, classes: tuple[object, object], target: str
) -> None:
    """Histograms of the probability, one for each class."""
    bins = np.linspace(0, 1, 21)
    for number, (name, color) in enumerate(zip(classes, (LIGHT, DARK), strict=True)):
        chosen = predicted[measured == number]
        axes.hist(chosen, bins, color=color, alpha=0.7, label=f"{target}: {name} ({len(chosen)} rows)")
    axes.set(xlabel=f"predicted probability of {classes[1]}, out of fold", ylabel="rows", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)


def _draw_values(axes: Axes, measured: np.ndarray, predicted: np.ndarray, target: str) -> None:
    lowest, highest = np.percentile(predicted, _CENTRAL)
    low, high = min(measured.min(), lowest), max(measured.max(), highest)
    margin = _MARGIN * (high - low) or 1.0
    limits = (low - margin, high + margin)
    shown = np.clip(predicted, *limits)
    beyond = shown != predicted
    axes.plot(limits, limits, color="0.6", linewidth=1, linestyle="--", zorder=1, label="predicted = measured")
    points = {"s": 14, "alpha": _opacity(len(measured)), "linewidths": 0, "zorder": 2}
    axes.scatter(measured[~beyond], predicted[~beyond], color=DARK, **points)
    if beyond.any():
        # Not left out: drawn on the edge, and counted.
        edge = {**points, "s": 40, "alpha": 1, "clip_on": False, "label": f"{beyond.sum()} predicted beyond the axes"}
        axes.scatter(measured[beyond], shown[beyond], color=RED, marker="D", **edge)
    axes.set(xlim=limits, ylim=limits, xlabel=f"measured {target}", ylabel=f"predicted {target}, out of fold")
    axes.set_aspect("equal")
    axes.locator_params(nbins=7)  # more numbers can run into one another
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def _opacity(n_points: int) -> float:
    return float(np.clip(12 / np.sqrt(n_points), 0.15, 0.8))
