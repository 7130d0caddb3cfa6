"""Cross-validation of sets of features and heads on the same folds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array, column_or_1d
from threadpoolctl import threadpool_limits

from skesm._optional import import_optional
from skesm._progress import AUTO, Progress
from skesm._typing import Column, Estimator
from skesm.benchmark._comparison import Comparison
from skesm.benchmark._heads import make_heads, predict_classes, seeded
from skesm.benchmark._scores import ERRORS, known_scores
from skesm.benchmark.fits.cells import (
    MEAN_MODEL,
    NO_FEATURES,
    Cell,
    Fits,
    Folds,
    Problem,
    permutation_row,
    prediction_frame,
    run_cell,
    score_rows,
)
from skesm.benchmark.fits.computed import compute_once, count_passes
from skesm.benchmark.fits.digests import cell_digest, data_digest, features_digest, folds_digest
from skesm.benchmark.fits.folds import Key, make_folds, measure_leakage
from skesm.benchmark.fits.threads import one_complaint_less
from skesm.model_selection import LeakageReport
from skesm.sequences.clean import clean_sequences

if TYPE_CHECKING:
    from pandas import DataFrame


def compare(
    X: Column,
    y: ArrayLike,
    features: Mapping[str, Estimator],
    heads: Mapping[str, Estimator] | Iterable[str] = ("ridge",),
    *,
    splits: Mapping[str, Estimator] | None = None,
    seeds: Sequence[int] = (0,),
    groups: ArrayLike | None = None,
    reference: str | None = None,
    scores: Iterable[str] | None = None,
    higher_is_better: bool = True,
    permutations: int = 0,
    resume: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: bool | int | str = AUTO,
) -> Comparison:
    """Cross-validate every set of features with every head, and the mean predictor, on the same folds.

    Each pair is a scikit-learn Pipeline that `cross_validate` fits in each fold. Transformers that learn nothing, such
    as `ESM2Embedder`, are computed once before: the features of a sequence depend on that sequence alone.

    Parameters
    ----------
    X : list, tuple, array, Series, or one-column DataFrame of str
        n sequences.
    y : array-like of shape (n,)
        Measured values, finite. For classifiers two classes, of any type. The second in sorted order is the positive
        one.
    features : mapping of str to transformer
        Transformers of sequences by name. `make_features` makes many by name. A `FeatureUnion` puts several side by
        side.
    heads : mapping of str to estimator, or iterable of str, default=("ridge",)
        Regressors or classifiers by name, or names that `make_heads` knows. Classifiers are scored by the probability
        of the positive class, so that they need ``predict_proba``.
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
        For regressors of ``"spearman"``, ``"pearson"``, ``"r2"``, ``"rmse"``, ``"mae"``, ``"ndcg"`` and ``"recall"``.
        The last two look at the best tenth of the rows. For classifiers of ``"auroc"``, ``"ap"`` (average precision),
        ``"mcc"`` (Matthews' correlation, at a probability of one half) and ``"brier"``.
    higher_is_better : bool, default=True
        Whether high values of y are wanted. It decides which rows are the best for ``"ndcg"`` and ``"recall"``.
    permutations : int, default=0
        Number of times that the target is shuffled to ask whether a pair does better than chance
        (`sklearn.model_selection.permutation_test_score` on the first score, with the first seed). Each takes as many
        fits as there are folds.
    resume : path-like, default=None
        Folder that keeps the fits of each pair as soon as they are finished. A comparison that was interrupted, or one
        with another pair, repeats none of them. They are named by data, features, head, folds and versions. A head
        that cannot be pickled is always fitted.
    n_jobs : int, default=None
        Number of threads that fit pipelines. -1 is one for each CPU. Each fit is held to one BLAS thread, so that the
        results do not depend on this number. Regressors that run threads of their own should be told to use one.
    verbose : bool, int or "auto", default="auto"
        Show a progress bar of the fits on stderr. ``"auto"`` shows it after two seconds on a terminal or in a notebook.

    Returns
    -------
    comparison : Comparison
        Scores, predictions, leakage and costs as pandas tables.

    Raises
    ------
    InvalidSequenceError
        If X is not a column of sequences.
    ValueError
        If shapes or names do not fit together, the rows cannot be split as asked for, or `y` is not finite.
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
    >>> features = {"composition": AminoAcidComposition()}
    >>> result = compare(X, range(20), features, splits={"random": 2})
    >>> result.summary()[["features", "head", "mean"]].round(2).to_dict("split")["data"]
    [['composition', 'ridge', 1.0], ['none', 'mean', nan]]
    """
    problem, heads = pose(X, y, heads, scores=scores, higher_is_better=higher_is_better, permutations=permutations)
    folds = dict(make_folds(problem, splits or {"random": 5}, seeds, groups))
    return compare_on(
        problem, folds, features, heads, reference=reference, resume=resume, n_jobs=n_jobs, verbose=verbose
    )


def pose(
    X: Column,
    y: ArrayLike,
    heads: Mapping[str, Estimator] | Iterable[str],
    *,
    scores: Iterable[str] | None,
    higher_is_better: bool,
    permutations: int = 0,
) -> tuple[Problem, dict[str, Estimator]]:
    """Check the arguments of `compare`. Return the problem, and the heads by name."""
    import_optional("pandas", "benchmark")
    sequences = clean_sequences(X, max_length=None, unknown_residues="X")
    heads = dict(heads) if isinstance(heads, Mapping) else make_heads(heads)
    classes = None
    if predict_classes(heads):
        target, classes = _two_classes(y)
    else:
        target = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if target.shape != (len(sequences),):
        raise ValueError(f"y has shape {target.shape}, but X has {len(sequences)} sequences")
    names = known_scores(scores, classes=classes is not None)
    return Problem(sequences, target, classes, names, higher_is_better, permutations), heads


def _two_classes(y: ArrayLike) -> tuple[NDArray[np.intp], tuple[object, object]]:
    labels, target = np.unique(column_or_1d(np.asarray(y)), return_inverse=True)
    if len(labels) != 2:
        raise ValueError(
            f"y has {len(labels)} classes, and two are compared here. Compare one class with the others, "
            "y == name, or values with a threshold, y > value"
        )
    return target.astype(np.intp), (labels[0].item(), labels[1].item())


def compare_on(
    problem: Problem,
    folds: Mapping[Key, Folds],
    features: Mapping[str, Estimator],
    heads: Mapping[str, Estimator],
    *,
    reference: str | None = None,
    describe: Callable[[LeakageReport], list[str]] = LeakageReport.warnings,
    resume: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: bool | int | str = AUTO,
) -> Comparison:
    """`compare` on folds that are made."""
    if NO_FEATURES in features:
        raise ValueError(f"features cannot be named {NO_FEATURES!r}: that is the mean predictor's row")
    leakage, distances, warnings = measure_leakage(problem.sequences, folds, reference, describe)
    computed, feature_seconds = _compute(features, problem.sequences)
    cells = list(_make_cells(problem, computed, heads, folds))
    found = list(_run(cells, problem, None if resume is None else Path(resume), n_jobs, verbose))
    return _gather(
        problem,
        cells,
        found,
        feature_seconds,
        distances=distances,
        leakage=leakage,
        warnings=tuple(warnings),
        forward_passes=sum(map(count_passes, computed.values())),
        digests={
            "splits": {f"{split}, seed {seed}": folds_digest(of_split) for (split, seed), of_split in folds.items()},
            "features": {name: digest for name, t in computed.items() if (digest := features_digest(t)) is not None},
        },
    )


def _compute(features: Mapping[str, Estimator], sequences: list[str]) -> tuple[dict[str, Estimator], dict[str, float]]:
    computed, seconds = {}, {}
    for name, transformer in features.items():
        start = perf_counter()
        computed[name] = compute_once(name, transformer, sequences)
        seconds[name] = perf_counter() - start
    return computed, seconds


def _make_cells(
    problem: Problem, computed: Mapping[str, Estimator], heads: Mapping[str, Estimator], folds: Mapping[Key, Folds]
) -> Iterator[Cell]:
    nothing = FunctionTransformer(_one_column)
    mean = DummyRegressor() if problem.classes is None else DummyClassifier(strategy="prior")
    first_seeds: dict[str, int] = dict(reversed(list(folds)))
    for (split, seed), of_split in folds.items():
        pairs = [(f, h, computed[f], heads[h]) for f in computed for h in heads]
        for f, h, transformer, head in [*pairs, (NO_FEATURES, MEAN_MODEL, nothing, mean)]:
            pipeline = Pipeline([("features", transformer), ("head", seeded(clone(head), seed))])
            permuted = f != NO_FEATURES and seed == first_seeds[split]
            yield Cell(split, seed, f, h, pipeline, of_split, problem.permutations if permuted else 0)


def _one_column(X: Sequence[str]) -> NDArray[np.float64]:
    return np.zeros((len(X), 1))


def _run(
    cells: Sequence[Cell], problem: Problem, resume: Path | None, n_jobs: int | None, verbose: bool | int | str
) -> Iterator[Fits]:
    paths = [None] * len(cells) if resume is None else [_path(resume, cell, problem) for cell in cells]
    # threadpoolctl's limit holds for one process, so that the fits must be threads of this one
    with (
        threadpool_limits(limits=1),
        one_complaint_less(),
        Progress(verbose, total=sum(len(c.folds) for c in cells), description="fits", unit="fit") as progress,
    ):
        tasks = (delayed(run_cell)(cell, problem, path) for cell, path in zip(cells, paths, strict=True))
        results = Parallel(n_jobs=n_jobs, require="sharedmem", return_as="generator")(tasks)
        for cell, fits in zip(cells, results, strict=True):
            yield fits
            progress.update(len(cell.folds))


def _path(resume: Path, cell: Cell, problem: Problem) -> Path | None:
    digest = cell_digest(
        cell.pipeline.named_steps["features"],
        cell.pipeline.named_steps["head"],
        data_digest(problem.sequences, problem.y),
        folds_digest(cell.folds),
        (cell.seed, cell.permutations, problem.scores, problem.higher_is_better),
    )
    return None if digest is None else resume / f"{digest}.npz"


def _gather(
    problem: Problem,
    cells: Sequence[Cell],
    found: Sequence[Fits],
    feature_seconds: Mapping[str, float],
    *,
    distances: Mapping[Key, list[NDArray[np.intp]]],
    leakage: list[dict[str, Estimator]],
    **facts: Any,
) -> Comparison:
    pandas = import_optional("pandas", "benchmark")
    pairs = list(zip(cells, found, strict=True))
    first = problem.scores[0]
    tested = (permutation_row(cell, fits, first, -1 if first in ERRORS else 1) for cell, fits in pairs)
    costs = [
        {**cell.names, "columns": fits.columns, "fit": fits.seconds[0], "predict": fits.seconds[1]}
        for cell, fits in pairs
    ]
    return Comparison(
        scores=pandas.DataFrame([row for cell, fits in pairs for row in score_rows(cell, fits)]),
        predictions=pandas.concat(
            [prediction_frame(cell, fits, problem.y, distances[cell.split, cell.seed]) for cell, fits in pairs],
            ignore_index=True,
        ),
        leakage=pandas.DataFrame(leakage),
        costs=_sum_costs(pandas.DataFrame(costs), feature_seconds),
        higher_is_better=problem.higher_is_better,
        n_rows=len(problem.sequences),
        permutations=pandas.DataFrame([row for row in tested if row is not None]),
        classes=problem.classes,
        fits_found=sum(len(cell.folds) for cell, fits in pairs if fits.found),
        **facts,
    )


def _sum_costs(costs: DataFrame, feature_seconds: Mapping[str, float]) -> DataFrame:
    table = costs.groupby(["features", "head"], sort=False).agg(
        columns=("columns", "max"), fit_seconds=("fit", "sum"), predict_seconds=("predict", "sum")
    )
    seconds = [feature_seconds.get(name, 0.0) for name in table.index.get_level_values("features")]
    table.insert(1, "feature_seconds", seconds)
    return table.reset_index()
