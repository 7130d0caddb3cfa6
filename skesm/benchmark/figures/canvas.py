"""Colours, axes and sizes that all figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from skesm._optional import import_optional
from skesm._typing import Document

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

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


def clear_axes(axes: Axes, grid: str = "both") -> None:
    """Only two sides, and a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def rows_of(table: DataFrame, values: Document) -> DataFrame:
    """The rows of a table that have these values."""
    for name, value in values.items():
        table = table[table[name] == value]
    return table
