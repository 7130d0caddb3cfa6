"""Colours, axes and sizes that all figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from skesm._optional import import_optional
from skesm._typing import Document

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from skesm.benchmark._comparison import Comparison

DARK, LIGHT, RED = "#1f5fa8", "#a9c4e4", "#c0392b"
#: Lines of several pairs of features and heads, told apart by people with any colour vision (Okabe and Ito 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")

_DPI = 150

#: The axes of a figure. matplotlib's own type refuses values that its methods take.
Axes: TypeAlias = Any


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches.

    No pyplot: a figure of its own leaves the user's backend and open figures alone.
    """
    figure: Figure = import_optional("matplotlib.figure", "benchmark").Figure(
        (width, height), dpi=_DPI, layout="constrained"
    )
    import_optional("matplotlib.backends.backend_agg", "benchmark").FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, with one pair of axes."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def clear_axes(axes: Axes, grid: str = "both") -> None:
    """Only two sides, and a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def choose_pair(comparison: Comparison, split: str | None, features: str | None, head: str | None) -> dict[str, str]:
    """The given split and pair by their columns. None is the first split, and the best pair of the split."""
    split = str(comparison.scores["split"].iloc[0]) if split is None else split
    best_features, best_head = comparison.best(split)
    return {"split": split, "features": features or best_features, "head": head or best_head}


def rows_of(table: DataFrame, values: Document) -> DataFrame:
    """The rows of a table that have these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table
