"""Lines: score against training rows, and against layers."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from skesm.benchmark._scores import name_score
from skesm.benchmark.figures.canvas import COLORS, Axes, clear_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_SIZE = (7.0, 4.5)


def plot_learning_curve(curve: DataFrame, score: str = "spearman", *, title: str = "") -> Figure:
    """Plot the score against the number of training rows.

    Parameters
    ----------
    curve : DataFrame
        The result of `learning_curve`.
    score : str, default="spearman"
        Name of its score, for the axis.
    title : str, default=""
        First line of the title, such as the name of the data.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A line for each pair of features and head. Bars are one standard deviation over the draws.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    figure, axes = new_axes(*_SIZE)
    sizes = sorted(curve["n_train"].unique())
    pairs = curve.dropna(subset="mean").groupby(["features", "head"], sort=False)
    for number, (((features, head), rows), color) in enumerate(zip(pairs, cycle(COLORS), strict=False)):
        shift = 1 + 0.025 * (number - (pairs.ngroups - 1) / 2)  # so that bars do not hide one another
        style = "-" if number < len(COLORS) else "--"
        label = f"{features} → {head}"
        axes.errorbar(
            rows["n_train"] * shift,
            rows["mean"],
            yerr=rows["sd"],
            label=label,
            color=color,
            ls=style,
            marker="o",
            capsize=2,
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="training rows", ylabel=f"{name_score(score)}, mean ± s.d. over draws")
    _finish(figure, axes, title, "Learning curve")
    return figure


def plot_layer_profile(profile: DataFrame, score: str = "spearman", *, title: str = "") -> Figure:
    """Plot the score of every layer and pooling, with its interval.

    Parameters
    ----------
    profile : DataFrame
        The result of `layer_profile`.
    score, title : str
        As in `plot_learning_curve`.

    Returns
    -------
    figure : matplotlib.figure.Figure
        A line for each pooling. Bands are the intervals. Filled points are within noise of the best.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    figure, axes = new_axes(*_SIZE)
    for (pooling, rows), color in zip(profile.groupby("pooling", sort=False), cycle(COLORS), strict=False):
        axes.fill_between(rows["layer"], rows["low"], rows["high"], color=color, alpha=0.15, linewidth=0)
        axes.plot(rows["layer"], rows["mean"], color=color, label=str(pooling))
        for chosen, face in ((rows["within_noise"], color), (~rows["within_noise"], "white")):
            part = rows[chosen]
            axes.plot(part["layer"], part["mean"], "o", color=color, markerfacecolor=face)
    axes.set(xlabel="layer (0 is the embedding of single residues)", ylabel=f"{name_score(score)}, 95 % interval")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(figure, axes, title, "Layers. Filled points are within noise of the best")
    return figure


def _finish(figure: Figure, axes: Axes, title: str, subject: str) -> None:
    clear_axes(axes)
    axes.set_title("\n".join(filter(None, (title, subject))), fontsize=10)
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=2)
