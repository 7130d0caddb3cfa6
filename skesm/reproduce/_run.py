"""`reproduce`: a published figure again, on this machine."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

import numpy as np
from scipy.stats import spearmanr
from sklearn.model_selection import KFold, cross_validate
from sklearn.pipeline import make_pipeline

from skesm._optional import import_optional
from skesm._progress import AUTO
from skesm._typing import Memory, ModelName, Options
from skesm.backends.base import Backend
from skesm.backends.resolve import resolve_backend
from skesm.datasets import fetch_proteingym, load_gfp_fluorescence
from skesm.datasets._download import Downloads
from skesm.datasets._proteingym import fetch_published_scores
from skesm.features.embedder import ESM2Embedder
from skesm.features.variant_scorer import ESM2VariantScorer
from skesm.reproduce._published import RMSE, SPEARMAN, TUTORIAL, Published, find_published, of_table
from skesm.reproduce._result import Reproduction

_WINDOW_NOTE = (
    "the reference has more than 1,022 residues: each position has a window of its own by ProteinGym's rule, here with "
    "a start and an end token, there with at most one of them"
)
_TUTORIAL_NOTE = (
    "the tutorial's 40 rows and folds are not known: these are 40 rows of the same split, drawn with seed 0, in 10 "
    "folds"
)
_TUTORIAL_ROWS, _TUTORIAL_FOLDS = 40, 10


def reproduce(
    assay: str,
    *,
    model: ModelName = "esm2_t6_8M_UR50D",
    folder: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    backend: str | Backend = "local",
    memory: Memory = None,
    n_jobs: int | None = None,
    verbose: bool | int | str = AUTO,
) -> Reproduction:
    """Compute a published figure again, and put both side by side.

    For an assay of ProteinGym: fetch it, score its variants without training by masked marginals, and correlate the
    scores with the measurements. ``"biolm-tutorial"`` cross-validates XGBoost on embeddings of 40 variants of GFP.

    Parameters
    ----------
    assay : str
        Name of a substitution assay of ProteinGym, or ``"biolm-tutorial"``.
    model : str or path-like, default="esm2_t6_8M_UR50D"
        The checkpoint, see `skesm.ESM2VariantScorer`.
    folder : str or path-like, default=None
        A folder of assays of your own in ProteinGym's form, see `skesm.datasets.fetch_proteingym`.
    data_home, download_if_missing
        As in `skesm.datasets.fetch_proteingym`.
    backend : {"local", "numpy", "torch", "biolm"} or Backend, default="local"
        Where the model runs.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. With it, an interrupted run goes on where it was.
    n_jobs : int or None, default=None
        CPU threads that compute.
    verbose : bool or "auto", default="auto"
        Show a progress bar on stderr.

    Returns
    -------
    result : Reproduction
        Both figures, their difference, and the digests of data and weights.

    Raises
    ------
    DatasetError
        If the data cannot be fetched. The message says how to fetch them by hand.
    CheckpointNotFoundError
        If the model is not on this machine and cannot be fetched.
    ValueError
        If ProteinGym has no such assay.

    Notes
    -----
    A variant with several mutations gets the sum of the scores of its mutations, each masked alone, as in ProteinGym's
    own program. References of more than 1,022 residues are scored with ``long_sequences="optimal"``.

    References
    ----------
    .. [1] P. Notin et al., "ProteinGym: Large-Scale Benchmarks for Protein Fitness Prediction and Design", NeurIPS 36,
       64331-64379 (2023). https://www.proteingym.org

    Examples
    --------
    >>> from skesm.reproduce import reproduce
    >>> result = reproduce("BLAT_ECOLX_Stiffler_2015")  # doctest: +SKIP
    >>> result.published.value  # doctest: +SKIP
    0.399
    """
    start = time.perf_counter()
    shared: Options = {"backend": backend, "memory": memory, "n_jobs": n_jobs, "verbose": verbose}
    if assay == TUTORIAL:
        return _tutorial(model, shared, start)
    downloads = Downloads(data_home, download_if_missing, verbose=verbose)
    found = fetch_proteingym(
        assay, folder=folder, data_home=data_home, download_if_missing=download_if_missing, verbose=verbose
    )
    published, data = find_published(assay, str(model)), dict(found.sha256)
    if published is None and folder is None:
        table, entries = fetch_published_scores(downloads)
        published = of_table(assay, str(model), table)
        data |= entries["sha256"]
    scorer = ESM2VariantScorer(model, reference=found.wild_type, long_sequences="optimal", **shared)
    scores = scorer.predict(found.data)
    info = scorer.cache_info()
    return Reproduction(
        assay=assay,
        model=str(model),
        metric=SPEARMAN,
        ours=float(spearmanr(scores, found.target).statistic),
        spread=None,
        published=published,
        n_rows=len(found.data),
        data=data,
        weights=_weights(model, backend),
        settings=_settings(strategy=scorer.strategy, long_sequences="optimal", max_length=scorer.max_length),
        passes=0 if info is None else info.computed,
        seconds=time.perf_counter() - start,
        notes=(_WINDOW_NOTE,) if len(found.wild_type) > (scorer.max_length or 0) else (),
    )


def _tutorial(model: ModelName, shared: Options, start: float) -> Reproduction:
    """XGBoost on mean embeddings of 40 variants of GFP."""
    xgboost = import_optional("xgboost", extra="benchmark")
    gfp = load_gfp_fluorescence()
    rows = np.sort(np.random.default_rng(0).choice(len(gfp.data), _TUTORIAL_ROWS, replace=False))
    embedder = ESM2Embedder(model, **shared)
    features = embedder.transform(gfp.data[rows])
    head = make_pipeline(xgboost.XGBRegressor(random_state=0, n_jobs=1))
    folds = KFold(_TUTORIAL_FOLDS, shuffle=True, random_state=0)
    scores = cross_validate(head, features, gfp.target[rows], cv=folds, scoring="neg_root_mean_squared_error")
    errors = -scores["test_score"]
    info = embedder.cache_info()
    published: Published | None = find_published(TUTORIAL, str(model))
    return Reproduction(
        assay=TUTORIAL,
        model=str(model),
        metric=RMSE,
        ours=float(errors.mean()),
        spread=float(errors.std()),
        published=published,
        n_rows=_TUTORIAL_ROWS,
        data={},
        weights=_weights(model, shared["backend"]),
        settings=_settings(pooling="mean", layers=-1, folds=_TUTORIAL_FOLDS, seed=0, xgboost=xgboost.__version__),
        passes=0 if info is None else info.computed,
        seconds=time.perf_counter() - start,
        notes=(_TUTORIAL_NOTE,),
    )


def _weights(model: ModelName, backend: str | Backend) -> str:
    namespace = resolve_backend(backend).model(str(model)).namespace()
    return f"{namespace.fingerprint} ({namespace.numerics})"


def _settings(**settings: object) -> Options:
    return {**settings, "skesm": version("skesm"), "numpy": np.__version__}
