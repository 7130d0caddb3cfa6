"""Bars of scores with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skesm.benchmark._comparison import Comparison
from skesm.benchmark._scores import name_score
from skesm.benchmark.figures.canvas import DARK, LIGHT, clear_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SPLITS_IN_ROW = 3  # more are too small to be read on a page


def plot_scores(comparison: Comparison, score: str | None = None) -> Figure:
    """Plot the mean score of every pair of features and head with its interval, one panel for each split.

    Parameters
    ----------
    comparison : Comparison
        The result of `compare`.
    score : str, default=None
        One of the computed scores. None is the first.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Rows within noise of the best of their split are dark.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    score = score or comparison.main_score
    summary = comparison.summary(score)
    splits = list(dict.fromkeys(summary["split"]))
    n_rows = int(summary.groupby("split").size().max())
    wide, high = min(len(splits), _SPLITS_IN_ROW), -(-len(splits) // _SPLITS_IN_ROW)
    figure = new_figure(3.5 + 3 * wide, high * (1 + 0.28 * n_rows))
    panels = figure.subplots(high, wide, sharey=True, squeeze=False).ravel()
    for axes in panels[len(splits) :]:
        axes.set_visible(False)
    for axes, split in zip(panels, splits, strict=False):
        rows = summary[summary["split"] == split]
        places = np.arange(len(rows))
        for chosen, color in ((rows["within_noise"], DARK), (~rows["within_noise"], LIGHT)):
            shown = (chosen & rows["mean"].notna()).to_numpy()
            part = rows[shown]
            errors = np.clip([part["mean"] - part["low"], part["high"] - part["mean"]], 0, None)
            axes.barh(places[shown], part["mean"], xerr=errors, color=color, ecolor="0.3", capsize=2)
        axes.set(title=split, xlabel=name_score(score), yticks=places)
        axes.set_yticklabels(rows["features"] + " → " + rows["head"], fontsize=8)
        clear_axes(axes, "x")
    panels[0].invert_yaxis()
    return figure
