"""Error against distance to training."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from skesm.benchmark._comparison import Comparison
from skesm.benchmark.figures.canvas import COLORS, clear_axes, new_axes, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_GROUPS = 8
_LEAST_ROWS = 10  # of a group


def plot_errors(comparison: Comparison, *, target: str = "target", title: str = "") -> Figure:
    """Plot how the error of each split's best pair grows with the distance to the nearest training sequence.

    Parameters
    ----------
    comparison : Comparison
        The result of `compare`.
    target, title : str
        As in `plot_predictions`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Median and quartiles of the absolute error for each distance. Far distances are put together until a group has
        10 rows.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    figure, axes = new_axes(7.0, 4.5)
    splits = list(dict.fromkeys(comparison.predictions["split"]))
    for number, (split, color) in enumerate(zip(splits, cycle(COLORS), strict=False)):
        features, head = comparison.best(split)
        rows = rows_of(comparison.predictions, {"split": split, "features": features, "head": head})
        errors = (rows["measured"] - rows["predicted"]).abs().to_numpy()
        distances = rows["distance"].to_numpy()
        groups = _groups(distances)
        places = np.array([distances[group].mean() for group in groups]) + 0.04 * (number - (len(splits) - 1) / 2)
        low, middle, high = (np.array([np.quantile(errors[g], q) for g in groups]) for q in (0.25, 0.5, 0.75))
        label = f"{split}: {features} → {head}"
        bars = [middle - low, high - middle]
        axes.errorbar(places, middle, yerr=bars, label=label, color=color, marker="o", capsize=2, linewidth=1)
    axes.set(
        xlabel="substitutions, insertions and deletions to the nearest training sequence",
        ylabel=f"absolute error\n{target}, median and quartiles",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    clear_axes(axes)
    axes.set_title("\n".join(filter(None, (title, "Error and distance to training"))), fontsize=10)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _groups(distances: np.ndarray) -> list[np.ndarray]:
    """Masks of rows of one distance, or of neighbouring ones, each of 10 rows or more where there are as many."""
    values = np.unique(distances)
    parts = (
        np.array_split(values, _MOST_GROUPS)
        if len(values) > _MOST_GROUPS
        else [values[i : i + 1] for i in range(len(values))]
    )
    groups: list[np.ndarray] = []
    for part in parts:
        mask = np.isin(distances, part)
        if groups and (mask.sum() < _LEAST_ROWS or groups[-1].sum() < _LEAST_ROWS):
            groups[-1] = groups[-1] | mask
        else:
            groups.append(mask)
    return groups
