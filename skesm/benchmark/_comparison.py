"""The result of a comparison: tidy tables, and summaries of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from skesm._optional import import_optional
from skesm.benchmark._resampling import Fold, draw_weights, resample
from skesm.benchmark._scores import ALWAYS_DEFINED, ERRORS

if TYPE_CHECKING:
    from pandas import DataFrame

_DRAWS = 500  # bootstrap samples: enough for two decimals of a 95 % interval
_CELL = ["split", "features", "head"]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`, as pandas tables.

    Attributes
    ----------
    scores : DataFrame
        One row for each fold and score: ``split``, ``features``, ``head``, ``seed``, ``fold``, ``n_train``, ``n_test``,
        ``score``, ``value``. A correlation is NaN where predictions or measurements are constant.
    predictions : DataFrame
        One row for each prediction: ``split``, ``features``, ``head``, ``seed``, ``fold``, ``row``, ``measured``,
        ``predicted``, ``distance`` (edits to the nearest training sequence).
    leakage : DataFrame
        One row for each fold: ``split``, ``seed`` and the fields of `skesm.model_selection.LeakageReport`.
    costs : DataFrame
        One row for each pair of features and head: ``columns``, ``feature_seconds``, ``fit_seconds``,
        ``predict_seconds``. Seconds to fit and predict are sums over folds.
    warnings : tuple of str
        Sentences on leakage that a reader of the scores must know.
    higher_is_better : bool
        Whether high values of the target are wanted.
    n_rows : int
        Number of rows that were given.
    forward_passes : int
        Sequences that went through a model. Sequences from the record store are not counted.
    permutations : DataFrame
        One row for each pair and split, if permutation tests were asked for: ``score``, its ``value``, ``p``, and
        ``permutations``. ``p`` is the share of shuffled targets on which the pair does as well, (k + 1) / (n + 1).
    classes : tuple or None
        The two classes, the positive one last. None for values. ``measured`` is then 0 or 1, and ``predicted`` is the
        probability of the positive class.
    fits_found : int
        Fits that an earlier run had finished, see ``resume``.
    digests : mapping
        SHA-256 of the rows of each split (``"splits"``), and of features that were computed once (``"features"``).
    """

    scores: DataFrame
    predictions: DataFrame
    leakage: DataFrame
    costs: DataFrame
    warnings: tuple[str, ...]
    higher_is_better: bool
    n_rows: int
    forward_passes: int = 0
    permutations: DataFrame = None
    classes: tuple[object, object] | None = None
    fits_found: int = 0
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def main_score(self) -> str:
        """The first of the scores."""
        return str(self.scores["score"].iloc[0])

    def summary(self, score: str | None = None, *, level: float = 0.95) -> DataFrame:
        """One row for each split, features and head: mean, interval, and difference from the best of its split.

        Parameters
        ----------
        score : str, default=None
            One of the computed scores. None is the first.
        level : float, default=0.95
            Level of the interval and of the test.

        Returns
        -------
        summary : DataFrame
            Columns ``split``, ``features``, ``head``, ``columns``, ``folds``, ``mean``, ``sd`` (over folds), ``low``
            and ``high`` (bootstrap over rows), ``difference`` (from the best mean of the split, negative is worse),
            ``p`` and ``within_noise``.

        Notes
        -----
        ``low`` and ``high`` are percentiles over 500 bootstrap samples of the rows. In each sample the score is
        computed fold by fold, for all seeds, and averaged. Models are not fitted again: the interval tells how much
        the score depends on the rows that were tested, and not on those that were trained on.

        ``p`` is of the corrected resampled t-test [1]_ over the folds that two rows of the table share. With J
        differences of mean d and variance s², t = d / sqrt((1/J + n_test / n_train) s²) with J - 1 degrees of freedom.
        The correction is needed because folds share training rows. ``within_noise`` is True for the best and for rows
        with ``p`` above 1 - `level`. With a single fold there is no p, and a row is within noise if the interval of the
        paired bootstrap difference holds 0. The best was chosen among many, so a small p is a little too small.

        References
        ----------
        .. [1] Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52, 239-281 (2003).
        """
        pandas = import_optional("pandas", "benchmark")
        score = score or self.main_score
        scores = self.scores[self.scores["score"] == score]
        if scores.empty:
            known = ", ".join(self.scores["score"].unique())
            raise ValueError(f"score {score!r} was not computed. Choose from {known}")
        if (score, level) not in self._summaries:
            parts = [self._of_split(score, part, level) for _, part in scores.groupby("split", sort=False)]
            self._summaries[score, level] = pandas.concat(parts, ignore_index=True)
        return self._summaries[score, level].copy()

    def _of_split(self, score: str, scores: DataFrame, level: float) -> DataFrame:
        sign = -1 if score in ERRORS else 1
        table = scores.groupby(_CELL, sort=False).agg(
            folds=("value", "size"),
            mean=("value", lambda values: values.mean(skipna=False)),
            sd=("value", lambda values: values.std(ddof=1, skipna=False)),
        )
        draws = {cell: self._draws(score, cell) for cell in table.index}
        tails = [(1 - level) / 2, (1 + level) / 2]
        table[["low", "high"]] = [_interval(draws[cell], tails) for cell in table.index]
        table["difference"], table["p"], table["within_noise"] = np.nan, np.nan, False
        if table["mean"].notna().any():
            best = (sign * table["mean"]).idxmax()
            for cell in table.index:
                difference, p = _compare_folds(_folds_of(scores, cell), _folds_of(scores, best), sign)
                table.loc[cell, ["difference", "p"]] = difference, p
                if cell == best:
                    table.loc[cell, "within_noise"] = True
                elif math.isnan(p):
                    low, high = _interval(draws[cell] - draws[best], tails)
                    table.loc[cell, "within_noise"] = low <= 0 <= high
                else:
                    table.loc[cell, "within_noise"] = p > 1 - level
        columns = self.costs.set_index(["features", "head"])["columns"]
        table.insert(0, "columns", [columns[cell[1:]] for cell in table.index])
        return table.reset_index()

    def _draws(self, score: str, cell: tuple[str, str, str]) -> NDArray[np.float64]:
        return resample(score, self._by_cell[cell], self._weights, self.higher_is_better)

    @cached_property
    def _summaries(self) -> dict[tuple[str, float], DataFrame]:
        return {}

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return draw_weights(self.n_rows, _DRAWS)

    @cached_property
    def _by_cell(self) -> Mapping[tuple[str, str, str], Sequence[Fold]]:
        cells: dict[tuple[str, str, str], list[Fold]] = {}
        for key, part in self.predictions.groupby([*_CELL, "seed", "fold"], sort=False):
            fold = tuple(part[name].to_numpy() for name in ("row", "measured", "predicted"))
            cells.setdefault(key[:3], []).append(fold)
        return cells

    def compare_pairs(
        self, split: str, one: tuple[str, str], other: tuple[str, str], score: str | None = None
    ) -> float:
        """Corrected resampled t-test between two pairs of features and head, see `summary`.

        Parameters
        ----------
        split : str
            The split.
        one, other : tuple of (str, str)
            Names of features and head.
        score : str, default=None
            One of the computed scores. None is the first.

        Returns
        -------
        p : float
            Two-sided. NaN for a single fold.
        """
        scores = self.scores[self.scores["score"] == (score or self.main_score)]
        first, second = (_folds_of(scores, (split, *pair)) for pair in (one, other))
        return _compare_folds(first, second, 1)[1]

    def best(self, split: str | None = None, score: str | None = None) -> tuple[str, str]:
        """Names of the features and head of the best mean score in a split, by default the first.

        Where no score is defined, the least error decides.
        """
        split = self.scores["split"].iloc[0] if split is None else split
        of_split = self.scores[self.scores["split"] == split]
        score = score or self.main_score
        for name in (score, *ALWAYS_DEFINED):
            scores = of_split[of_split["score"] == name].groupby(["features", "head"], sort=False)["value"]
            means = scores.agg(lambda values: values.mean(skipna=False)) * (-1 if name in ERRORS else 1)
            if means.notna().any():
                features, head = means.idxmax()
                return str(features), str(head)
        raise ValueError(f"no {score} is defined in split {split!r}")

    def table(self, score: str | None = None) -> DataFrame:
        """The summary for people: one row for each pair of features and head, and a text for each split.

        ``*`` marks a score within noise of the best of its split, ``-`` a score that is not defined.

        Parameters
        ----------
        score : str, default=None
            One of the computed scores. None is the first.

        Returns
        -------
        table : DataFrame
            Columns ``features``, ``head``, ``columns``, and one for each split.
        """
        summary = self.summary(score)
        summary["text"] = [_text(row) for row in summary.itertuples()]
        order = summary[["features", "head", "columns"]].drop_duplicates()
        wide = summary.pivot(index=["features", "head"], columns="split", values="text")
        splits = list(dict.fromkeys(summary["split"]))
        return order.join(wide[splits], on=["features", "head"]).reset_index(drop=True)

    def to_text(self, score: str | None = None) -> str:
        """`table` for a terminal."""
        table = self.table(score)
        cells = [tuple(map(str, table.columns)), *(tuple(map(str, row)) for row in table.itertuples(index=False))]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        aligned = "<<" + ">" * (len(widths) - 2)  # names left, numbers right
        lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(line, aligned, widths, strict=True)) for line in cells]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _text(row: Any) -> str:
    if math.isnan(row.mean):
        return "-"
    return f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]{'*' if row.within_noise else ' '}"


def _interval(draws: NDArray[np.float64], tails: Sequence[float]) -> NDArray[np.float64]:
    known = draws[np.isfinite(draws)]
    if len(known) < len(draws) / 2:
        return np.full(2, np.nan)
    return np.asarray(np.quantile(known, tails))


def _folds_of(scores: DataFrame, cell: tuple[str, str, str]) -> DataFrame:
    rows = scores[(scores[_CELL] == list(cell)).all(axis=1)]
    return rows.set_index(["seed", "fold"])


def _compare_folds(one: DataFrame, best: DataFrame, sign: int) -> tuple[float, float]:
    """Mean difference over the folds, and the two-sided p of the corrected resampled t-test (NaN for a single fold)."""
    differences = sign * (one["value"] - best["value"]).to_numpy()
    mean, n = float(np.mean(differences)), len(differences)
    if n < 2 or not np.isfinite(differences).all():
        return mean, float("nan")
    variance = float(np.var(differences, ddof=1)) * (1 / n + float((one["n_test"] / one["n_train"]).mean()))
    if variance == 0:
        return mean, 1.0 if mean == 0 else 0.0
    return mean, float(2 * student.sf(abs(mean) / math.sqrt(variance), n - 1))
