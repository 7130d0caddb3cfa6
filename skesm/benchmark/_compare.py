"""Cross-validation of sets of features and regressors on the same folds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import check_cv, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from skesm._optional import import_optional
from skesm.benchmark._comparison import MEAN_MODEL, NO_FEATURES, Comparison
from skesm.benchmark._computed import compute_once, count_columns, count_passes
from skesm.benchmark._heads import make_heads, seeded
from skesm.benchmark._scores import SCORES, make_scorers
from skesm.model_selection import DistinctSequenceKFold
from skesm.model_selection._leakage import measure_folds
from skesm.sequences.clean import clean_sequences

Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


@dataclass(frozen=True)
class _Cell:
    """One pipeline on the folds of one split and seed."""

    split: str
    seed: int
    features: str
    head: str
    pipeline: Any
    folds: Folds

    @property
    def names(self) -> dict[str, str | int]:
        return {"split": self.split, "features": self.features, "head": self.head, "seed": self.seed}


def compare(
    X: Any,
    y: ArrayLike,
    features: Mapping[str, Any],
    heads: Mapping[str, Any] | Iterable[str] = ("ridge",),
    *,
    splits: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    groups: ArrayLike | None = None,
    reference: str | None = None,
    scores: Iterable[str] = tuple(SCORES),
    higher_is_better: bool = True,
    n_jobs: int | None = None,
    verbose: bool = False,
) -> Comparison:
    """Cross-validate every set of features with every head, and the mean predictor, on the same folds.

    Each pair is a scikit-learn Pipeline that `cross_validate` fits in each fold. Transformers that learn nothing, such
    as `ESM2Embedder`, are computed once before: the features of a sequence depend on that sequence alone.

    Parameters
    ----------
    X : list, tuple, array, Series, or one-column DataFrame of str
        n sequences.
    y : array-like of shape (n,)
        Measured values, finite.
    features : mapping of str to transformer
        Transformers of sequences by name. `make_features` makes those of well-known names; a `FeatureUnion` puts
        several side by side.
    heads : mapping of str to regressor, or iterable of str, default=("ridge",)
        Regressors by name, or names that `make_heads` knows.
    splits : mapping of str to int or splitter, default=None
        Splits by name. A number is so many folds of `DistinctSequenceKFold`. Test sets need not cover every row. None
        is ``{"random": 5}``.
    seeds : sequence of int, default=(0,)
        Each seed makes other folds, where the splitter has a ``random_state``, and other draws of the heads. Splits
        without a ``random_state`` are run with the first seed only.
    groups : array-like of shape (n,), default=None
        For splitters that look at groups, such as scikit-learn's `GroupKFold`.
    reference : str or None, default=None
        The wild type of a library, for the leakage report.
    scores : iterable of str, default=all
        Of ``"spearman"``, ``"pearson"``, ``"r2"``, ``"rmse"``, ``"mae"``, ``"ndcg"`` and ``"recall"``. The last two
        look at the best tenth of the rows.
    higher_is_better : bool, default=True
        Whether high values of y are wanted. It decides which rows are the best for ``"ndcg"`` and ``"recall"``.
    n_jobs : int, default=None
        Number of threads that fit pipelines; -1 is one for each CPU. Each fit is held to one BLAS thread, so that the
        results do not depend on this number. Regressors that run threads of their own should be told to use one.
    verbose : bool, default=False
        Show a progress bar of the fits on stderr.

    Returns
    -------
    comparison : Comparison
        Scores, predictions, leakage and costs as pandas tables.

    Raises
    ------
    InvalidSequenceError
        If X is not a column of sequences.
    ValueError
        If shapes or names do not fit together, or `y` is not finite.
    MissingDependencyError
        If pandas or rapidfuzz is not installed.

    See Also
    --------
    make_features : Features by name.
    make_heads : Regressors by name.

    Examples
    --------
    >>> from skesm import AminoAcidComposition
    >>> from skesm.benchmark import compare
    >>> X = ["A" * n + "C" * (19 - n) for n in range(20)]
    >>> result = compare(X, range(20), {"composition": AminoAcidComposition()}, splits={"random": 2})
    >>> result.summary()[["features", "head", "mean"]].round(2).to_dict("split")["data"]
    [['composition', 'ridge', 1.0], ['none', 'mean', nan]]
    """
    pandas = import_optional("pandas", "benchmark")
    sequences = clean_sequences(X, max_length=None, unknown_residues="X")
    target = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if target.shape != (len(sequences),):
        raise ValueError(f"y has shape {target.shape}, but X has {len(sequences)} sequences")
    scores = _known_scores(scores)
    if NO_FEATURES in features:
        raise ValueError(f"features cannot be named {NO_FEATURES!r}: that is the mean predictor's row")
    heads = dict(heads) if isinstance(heads, Mapping) else make_heads(heads)
    folds = dict(_make_folds(sequences, target, splits or {"random": 5}, seeds, groups))

    leakage, distances, warnings = _measure_leakage(sequences, folds, reference)
    computed, feature_seconds = _compute(features, sequences)
    cells = list(_make_cells(computed, heads, folds))
    rows = np.empty(len(sequences), dtype=object)
    rows[:] = sequences
    scorers = make_scorers(scores, higher_is_better)
    # threadpoolctl's limit holds for one process, so that the fits must be threads of this one
    with (
        threadpool_limits(limits=1),
        tqdm(total=sum(len(c.folds) for c in cells), desc="fits", unit="fit", disable=not verbose) as bar,
    ):
        found = []
        tasks = (delayed(_run)(cell, rows, target, scorers) for cell in cells)
        for cell, result in zip(
            cells, Parallel(n_jobs=n_jobs, require="sharedmem", return_as="generator")(tasks), strict=True
        ):
            found.append(result)
            bar.update(len(cell.folds))
    parts = [_tables(cell, result, target, scores, distances) for cell, result in zip(cells, found, strict=True)]
    costs = [
        {**cell.names, "columns": r["columns"], "fit": r["fit_time"].sum(), "predict": r["score_time"].sum()}
        for cell, r in zip(cells, found, strict=True)
    ]
    return Comparison(
        scores=pandas.DataFrame([row for part, _ in parts for row in part]),
        predictions=pandas.concat([frame for _, frame in parts], ignore_index=True),
        leakage=pandas.DataFrame(leakage),
        costs=_sum_costs(pandas.DataFrame(costs), feature_seconds),
        warnings=tuple(warnings),
        higher_is_better=higher_is_better,
        n_rows=len(sequences),
        forward_passes=sum(map(count_passes, computed.values())),
    )


def _known_scores(scores: Iterable[str]) -> list[str]:
    names = list(scores)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"scores must be one or several of {', '.join(SCORES)}, got {names}")
    return list(dict.fromkeys([*names, "rmse"]))  # rmse is defined where correlations are not


def _make_folds(
    sequences: list[str], y: Any, splits: Mapping[str, Any], seeds: Sequence[int], groups: ArrayLike | None
) -> Iterator[tuple[tuple[str, int], Folds]]:
    if groups is not None and np.shape(groups) != (len(sequences),):
        raise ValueError(f"groups has shape {np.shape(groups)}, but X has {len(sequences)} sequences")
    for name, cv in splits.items():
        for seed in seeds:
            splitter = DistinctSequenceKFold(cv, random_state=seed) if isinstance(cv, int) else copy.copy(cv)
            draws = hasattr(splitter, "random_state") and getattr(splitter, "shuffle", True)
            draws = draws and getattr(splitter, "scheme", "random") == "random"
            if not draws and seed != seeds[0]:
                continue
            if draws:
                splitter.random_state = seed
            yield (name, seed), list(check_cv(splitter).split(sequences, y, groups))


def _measure_leakage(
    sequences: list[str], folds: Mapping[tuple[str, int], Folds], reference: str | None
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], list[NDArray[np.intp]]], list[str]]:
    rows, distances, warnings = [], {}, []
    for (split, seed), of_split in folds.items():
        measured = measure_folds(sequences, of_split, reference)
        distances[split, seed] = [distance for _, distance in measured]
        rows += [{"split": split, "seed": seed, **asdict(report)} for report, _ in measured]
        sentences = [sentence for report, _ in measured for sentence in report.warnings()]
        if sentences:
            more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
            warnings.append(f"split {split}, seed {seed}, {sentences[0]}{more}")
    return rows, distances, warnings


def _compute(features: Mapping[str, Any], sequences: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    computed, seconds = {}, {}
    for name, transformer in features.items():
        start = perf_counter()
        computed[name] = compute_once(name, transformer, sequences)
        seconds[name] = perf_counter() - start
    return computed, seconds


def _make_cells(
    computed: Mapping[str, Any], heads: Mapping[str, Any], folds: Mapping[tuple[str, int], Folds]
) -> Iterator[_Cell]:
    nothing = FunctionTransformer(_one_column)
    for (split, seed), of_split in folds.items():
        pairs = [(f, h, computed[f], heads[h]) for f in computed for h in heads]
        for f, h, transformer, head in [*pairs, (NO_FEATURES, MEAN_MODEL, nothing, DummyRegressor())]:
            pipeline = Pipeline([("features", transformer), ("head", seeded(clone(head), seed))])
            yield _Cell(split, seed, f, h, pipeline, of_split)


def _one_column(X: Sequence[str]) -> NDArray[np.float64]:
    return np.zeros((len(X), 1))


def _run(cell: _Cell, X: Any, y: Any, scorers: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = cross_validate(
        cell.pipeline, X, y, cv=cell.folds, scoring=scorers, return_estimator=True, error_score="raise"
    )
    fitted = result.pop("estimator")
    result["predicted"] = [
        np.asarray(pipeline.predict(X[test]), dtype=np.float64).ravel()
        for pipeline, (_, test) in zip(fitted, cell.folds, strict=True)
    ]
    result["columns"] = 0 if cell.features == NO_FEATURES else count_columns(fitted[0].named_steps["features"], X)
    return result


def _tables(
    cell: _Cell, result: Mapping[str, Any], y: Any, scores: list[str], distances: Mapping[tuple[str, int], list[Any]]
) -> tuple[list[dict[str, Any]], Any]:
    """Rows of the scores, and the predictions, of one cell."""
    pandas = import_optional("pandas", "benchmark")
    rows, frames = [], []
    for fold, (train, test) in enumerate(cell.folds):
        sizes = {**cell.names, "fold": fold, "n_train": len(train), "n_test": len(test)}
        rows += [{**sizes, "score": score, "value": float(result[f"test_{score}"][fold])} for score in scores]
        columns = {"row": test, "measured": y[test], "predicted": result["predicted"][fold]}
        columns["distance"] = distances[cell.split, cell.seed][fold]
        frames.append(pandas.DataFrame({**cell.names, "fold": fold, **columns}))
    return rows, pandas.concat(frames)


def _sum_costs(costs: Any, feature_seconds: Mapping[str, float]) -> Any:
    table = costs.groupby(["features", "head"], sort=False).agg(
        columns=("columns", "max"), fit_seconds=("fit", "sum"), predict_seconds=("predict", "sum")
    )
    seconds = [feature_seconds.get(name, 0.0) for name in table.index.get_level_values("features")]
    table.insert(1, "feature_seconds", seconds)
    return table.reset_index()
