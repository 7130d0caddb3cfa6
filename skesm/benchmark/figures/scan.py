"""A deep mutational scan as a heat map, measured beside predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skesm._optional import import_optional
from skesm.benchmark._comparison import Comparison
from skesm.benchmark.figures.canvas import choose_pair, new_figure, rows_of
from skesm.sequences.alphabet import AMINO_ACIDS
from skesm.sequences.variants import differences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Residues in the order of their chemistry, so that neighbours in the map are alike.
ORDER = "GAVLIMCFYWPSTNQHKRDE"
assert sorted(ORDER) == sorted(AMINO_ACIDS)

#: Fewer single mutants than this are no scan.
LEAST_MUTANTS = 40
_POSITIONS_IN_ROW = 100
_CENTRAL = (1, 99)  # percentiles that the colours span


def plot_scan(
    comparison: Comparison,
    X: Sequence[str],
    reference: str,
    features: str | None = None,
    head: str | None = None,
    *,
    split: str | None = None,
    target: str = "target",
    title: str = "",
    offset: int = 1,
) -> Figure | None:
    """Plot single mutants by position and new amino acid, measured above predicted.

    Parameters
    ----------
    comparison : Comparison
        The result of `compare`.
    X : sequence of str
        The n sequences that were compared.
    reference : str
        The wild type.
    features, head, split, target, title : str
        As in `plot_predictions`.
    offset : int, default=1
        Position of the reference's first residue, for the axis.

    Returns
    -------
    figure : matplotlib.figure.Figure or None
        None if fewer than 40 sequences differ from the reference in one position. White is not measured, a dot is the
        reference's own residue. Predictions are out of fold, and both maps have the same colours.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    chosen = choose_pair(comparison, split, features, head)
    found = rows_of(comparison.predictions, chosen)
    found = found[found["seed"] == found["seed"].iloc[0]]
    measured, predicted = (np.full((len(ORDER), len(reference)), np.nan) for _ in range(2))
    for row, one, other in zip(found["row"], found["measured"], found["predicted"], strict=True):
        places = differences(X[row], reference) if len(X[row]) == len(reference) else np.empty(0)
        if len(places) == 1 and (new := X[row][int(places[0])]) in ORDER:
            measured[ORDER.index(new), places[0]], predicted[ORDER.index(new), places[0]] = one, other
    if np.isfinite(measured).sum() < LEAST_MUTANTS:
        return None
    names = f"{chosen['features']} → {chosen['head']}, {chosen['split']}"
    return _draw(measured, predicted, reference, offset, target, "\n".join(filter(None, (title, names))))


def _draw(
    measured: NDArray[np.float64], predicted: NDArray[np.float64], reference: str, offset: int, target: str, title: str
) -> Figure:
    limits = np.nanpercentile(measured, _CENTRAL)
    starts = range(0, len(reference), _POSITIONS_IN_ROW)
    width = min(len(reference), _POSITIONS_IN_ROW)
    figure = new_figure(2.5 + 0.11 * width, 5.2 * len(starts) + 0.6)
    rows = figure.subplots(2 * len(starts), 1, squeeze=False)[:, 0]
    colors = import_optional("matplotlib", "benchmark").colormaps["viridis"].with_extremes(bad="white")
    image: Any = None
    for number, start in enumerate(starts):
        for axes, values, name in zip(
            rows[2 * number :], (measured, predicted), ("measured", "predicted"), strict=False
        ):
            part = values[:, start : start + _POSITIONS_IN_ROW]
            image = axes.imshow(
                part, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
            )
            here = [(i, ORDER.index(r)) for i, r in enumerate(reference[start : start + width]) if r in ORDER]
            axes.plot(*zip(*here, strict=True), ".", color="0.35", markersize=3)
            ticks = [i for i in range(part.shape[1]) if (start + i + offset) % 10 == 0]
            axes.set_xticks(ticks, [str(start + i + offset) for i in ticks])
            axes.set_yticks(range(len(ORDER)), list(ORDER), fontsize=6)
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylabel(name)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        axes.set_xlabel("position")
    figure.colorbar(image, ax=list(rows), label=target, shrink=0.6, extend="both")
    figure.suptitle(title, fontsize=10)
    return figure
