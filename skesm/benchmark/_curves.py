"""Learning curves, and profiles over layers and poolings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import ShuffleSplit

from skesm import ESM2Embedder
from skesm._optional import import_optional
from skesm._typing import Column, Estimator, Memory, Options
from skesm.backends import resolve_backend
from skesm.backends.base import Backend
from skesm.benchmark._compare import compare
from skesm.benchmark._heads import LEAST_OF_CLASS, make_heads, predict_classes
from skesm.outputs.kinds import POOLINGS

if TYPE_CHECKING:
    from pandas import DataFrame

#: Training rows of a learning curve: a plate's quarter, a plate, four plates, and less.
SIZES = (8, 24, 96, 384)


class _FewRows:
    """A splitter that draws few training rows, and tests on the same part of the rows each time.

    With classes, the first rows that are drawn hold enough of each for a classifier.
    """

    def __init__(self, n_train: int, test_share: float, draws: int, random_state: int, classes: bool) -> None:
        self.classes = classes
        self.n_train = n_train
        self.test_share = test_share
        self.draws = draws
        self.seed = random_state

    def split(
        self, X: Column, y: object = None, groups: object = None
    ) -> Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        distinct, inverse = np.unique(np.asarray(X, dtype=str), return_inverse=True)
        splits = ShuffleSplit(self.draws, test_size=self.test_share, random_state=self.seed).split(distinct)
        generator = np.random.default_rng(self.seed)
        for train, test in splits:
            pool = generator.permutation(np.flatnonzero(np.isin(inverse, train)))
            if self.classes:
                labels = np.asarray(y)[pool]
                first = [np.flatnonzero(labels == label)[:LEAST_OF_CLASS] for label in np.unique(labels)]
                pool = np.concatenate([pool[np.concatenate(first)], np.delete(pool, np.concatenate(first))])
            yield np.sort(pool[: self.n_train]), np.flatnonzero(np.isin(inverse, test))

    def get_n_splits(self, X: Column = None, y: object = None, groups: object = None) -> int:
        return self.draws


def learning_curve(
    X: Column,
    y: ArrayLike,
    features: Estimator,
    heads: Estimator = ("ridge",),
    *,
    sizes: Sequence[int] = SIZES,
    draws: int = 10,
    test_share: float = 0.2,
    random_state: int = 0,
    score: str | None = None,
    **options: Any,
) -> DataFrame:
    """Score against the number of training rows.

    Parameters
    ----------
    X, y, features, heads
        As for `compare`.
    sizes : sequence of int, default=(8, 24, 96, 384)
        Numbers of training rows. Those that leave no room for test rows are left out.
    draws : int, default=10
        Draws of training and test rows for each size.
    test_share : float, default=0.2
        Share of the distinct sequences that are tested on in each draw. It is the same for every size.
    random_state : int, default=0
        Seed of the draws.
    score : str, default=None
        One of `compare`'s scores. None is the first.
    **options : object
        Further arguments of `compare`.

    Returns
    -------
    curve : DataFrame
        Columns ``n_train``, ``features``, ``head``, ``mean``, ``sd`` and ``folds``, the number of draws in which the
        score is defined. The mean is over these.

    Raises
    ------
    ValueError
        If no size fits the data.

    Examples
    --------
    >>> from skesm import AminoAcidComposition
    >>> from skesm.benchmark import learning_curve
    >>> X = ["A" * n + "C" * (40 - n) for n in range(40)]
    >>> features = {"composition": AminoAcidComposition()}
    >>> curve = learning_curve(X, range(40), features, sizes=(8, 16), draws=3)
    >>> ridge = curve.query("head == 'ridge'").round(1)
    >>> ridge[["n_train", "head", "mean"]].to_dict("split")["data"]
    [[8, 'ridge', 1.0], [16, 'ridge', 1.0]]
    """
    heads = dict(heads) if isinstance(heads, Mapping) else make_heads(heads)
    n_rows = len(np.asarray(y))
    fitting = [size for size in sizes if size <= (1 - test_share) * n_rows]
    if not fitting:
        raise ValueError(f"sizes: all of {list(sizes)} leave fewer than {test_share:.0%} of {n_rows} rows to test on")
    classes = predict_classes(heads)
    splits = {str(size): _FewRows(size, test_share, draws, random_state, classes) for size in fitting}
    scores = None if score is None else [score]
    comparison = compare(X, y, features, heads, splits=splits, scores=scores, **options)
    of_score = comparison.scores[comparison.scores["score"] == comparison.main_score]
    groups = of_score.groupby(["n_train", "features", "head"], sort=False)["value"]
    return groups.agg(mean="mean", sd="std", folds="count").reset_index()


def layer_profile(
    X: Column,
    y: ArrayLike,
    *,
    model: str = "skesm-mini",
    poolings: Sequence[str] = ("mean",),
    reference: str | None = None,
    backend: str | Backend = "local",
    memory: Memory,
    cv: object = 5,
    head: Estimator = "ridge",
    score: str | None = None,
    prefetch: Sequence[str] = (),
    **options: Any,
) -> DataFrame:
    """Score of every layer and pooling, from one forward pass for each sequence.

    Parameters
    ----------
    X, y
        Sequences and measured values, as for `compare`.
    model : str, default="skesm-mini"
        The checkpoint.
    poolings : sequence of str, default=("mean",)
        Of `ESM2Embedder`'s.
    reference : str or None, default=None
        The wild type, for ``"mutated"``.
    backend : str or Backend, default="local"
        Where the model runs.
    memory : path-like
        Folder of the record store, which keeps all layers of a pass.
    cv : int or splitter, default=5
        The folds, as `compare` takes them.
    head : str or estimator, default="ridge"
        A regressor or classifier.
    score : str, default=None
        One of `compare`'s scores. None is the first.
    prefetch : sequence of str, default=()
        Further outputs that the passes store.
    **options : object
        Further arguments of `compare`, such as `seeds` and `n_jobs`.

    Returns
    -------
    profile : DataFrame
        One row for each layer and pooling: ``layer``, ``pooling``, and the columns of `Comparison.summary`. Give it to
        `best_layers`.

    Examples
    --------
    >>> from skesm.benchmark import best_layers, layer_profile
    >>> from skesm.datasets import load_gb1_stability
    >>> gb1 = load_gb1_stability()
    >>> X, y = gb1.data[::20], gb1.target[::20]
    >>> profile = layer_profile(X, y, memory=getfixture("tmp_path"), cv=2)
    >>> profile["layer"].tolist()
    [0, 1, 2, 3, 4, 5, 6]
    >>> best_layers(profile).columns.tolist()
    ['layer', 'pooling', 'mean', 'low', 'high', 'cost']
    """
    shared: Options = {
        "model": model,
        "poolings": poolings,
        "reference": reference,
        "backend": backend,
        "memory": memory,
    }
    return profile_layers(X, y, **shared, cv=cv, head=head, score=score, prefetch=prefetch, **options)[0]


def profile_layers(
    X: Column,
    y: ArrayLike,
    *,
    model: str,
    poolings: Sequence[str],
    reference: str | None,
    backend: str | Backend,
    memory: Memory,
    cv: object,
    head: Estimator,
    score: str | None,
    prefetch: Sequence[str],
    **options: Any,
) -> tuple[DataFrame, int]:
    """`layer_profile`, and the number of forward passes."""
    pandas = import_optional("pandas", "benchmark")
    layers = range(resolve_backend(backend).model(model).spec.n_layers + 1)
    kinds = [*(f"{pooling}@*" for pooling in poolings if pooling in POOLINGS), *prefetch]
    shared: Options = {"backend": backend, "memory": memory, "reference": reference}
    pairs = [(layer, pooling) for pooling in poolings for layer in layers]
    passes = 0
    compared = [pooling for pooling in poolings if pooling not in POOLINGS]
    if compared:
        # one pass stores the comparison with the reference of every layer
        everything = ESM2Embedder(model, layers=tuple(layers), pooling=compared, prefetch=kinds, **shared)
        everything.fit_transform(X)
        passes = everything.cache_info().computed  # type: ignore[union-attr]  # it has just run
    features = {
        f"{pooling} {layer}": ESM2Embedder(model, layers=layer, pooling=pooling, prefetch=kinds, **shared)
        for layer, pooling in pairs
    }
    heads = [head] if isinstance(head, str) else {"head": head}
    scores = None if score is None else [score]
    comparison = compare(X, y, features, heads, splits={"cv": cv}, scores=scores, **options)
    summary = comparison.summary().iloc[:-1]  # without the mean predictor
    places = pandas.DataFrame(pairs, columns=["layer", "pooling"])
    profile = pandas.concat([places, summary.reset_index(drop=True)], axis=1)
    return profile, passes + comparison.forward_passes


def best_layers(profile: DataFrame) -> DataFrame:
    """Layers and poolings that are within noise of the best, the cheapest first.

    The best alone is often the best by chance. A layer in this table that is not the last one saves the layers above
    it, since the engines stop after the last layer that is needed.

    Parameters
    ----------
    profile : DataFrame
        The result of `layer_profile`.

    Returns
    -------
    layers : DataFrame
        Columns ``layer``, ``pooling``, ``mean``, ``low``, ``high`` and ``cost``, the share of the model's layers that
        are computed.
    """
    chosen = profile[profile["within_noise"]].sort_values(["layer", "mean"], ascending=[True, False])
    cost = (chosen["layer"] / max(1, profile["layer"].max())).round(2)
    return chosen[["layer", "pooling", "mean", "low", "high"]].assign(cost=cost).reset_index(drop=True)
