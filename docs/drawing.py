"""Boxes, arrows and words of the diagrams in docs/diagrams.py."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

BLUE, ORANGE, GREEN, GREY = "#cfe0f3", "#fbdcc0", "#d5ecd4", "#e8e8e8"
LINE = "#555555"
#: Units across. A phone shows them at three quarters of their size, and letters are still read.
WIDTH = 9.5
SMALL = 9.5


def canvas(height: float) -> Axes:
    """Axes of so many units, half an inch each, without a frame."""
    figure = plt.figure(figsize=(WIDTH / 2, height / 2), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return axes


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = "",
    colour: str = BLUE,
    *,
    small: bool = False,
    code: bool = False,
) -> None:
    """A box with its lower left corner at (x, y), and a text in its middle."""
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=LINE))
    words(axes, x + width / 2, y + height / 2, text, small=small, code=code)


def words(axes: Axes, x: float, y: float, text: str, *, small: bool = False, code: bool = False, at: str = "center"):
    family = "monospace" if code else "sans-serif"
    axes.text(x, y, text, ha=at, va="center", family=family, fontsize=SMALL if small or code else 11)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 1.4})
