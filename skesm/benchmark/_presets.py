"""The features and regressors of ``skesm demo``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm._optional import import_optional
from skesm.benchmark._baselines import AminoAcidComposition, OneHotSequence, as_strings, normalise

if TYPE_CHECKING:
    from skesm.backends import Backend

#: One-hot columns only line up where sequences are variants of one another. Beyond a tenth of the longest sequence
#: missing at the end, position n of two rows has too little in common for the baseline to be an honest one.
MAX_LENGTH_SPREAD = 0.1


def esm2_features(
    model: str = "skesm-mini",
    *,
    reference: str | None = None,
    backend: str | Backend = "local",
    memory: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Features by ESM-2: mean embeddings, logit summaries, both side by side, and mutated positions.

    Parameters
    ----------
    model : str, default="skesm-mini"
        Registry name, Hub repository id or checkpoint folder.
    reference : str or None, default=None
        The wild type of a library of substitutions: adds ``"mutated"``, embeddings of the positions that differ.
    backend : str or Backend, default="local"
        Where the model runs.
    memory : path-like, default=None
        Folder of the record store. With it, one forward pass per sequence serves all.
    verbose : bool, default=False
        Show progress on stderr.

    Returns
    -------
    features : dict of str to transformer or tuple of str
        As `compare` takes them.

    Examples
    --------
    >>> from skesm.benchmark import esm2_features
    >>> list(esm2_features())
    ['embeddings', 'logits', 'embeddings+logits']
    """
    from skesm import ESM2Embedder, ESM2LogitSummarizer

    shared: dict[str, Any] = {"backend": backend, "memory": memory, "verbose": verbose}
    features: dict[str, Any] = {}
    if reference is not None:  # first: what the others need can be prefetched by it, but not the other way round
        others = ("mean@-1", "logit_means")
        features["mutated"] = ESM2Embedder(model, **shared, pooling="mutated", reference=reference, prefetch=others)
    return features | {
        "embeddings": ESM2Embedder(model, **shared, prefetch="logit_means"),  # of which the summaries are made
        "logits": ESM2LogitSummarizer(model, **shared),
        "embeddings+logits": ("embeddings", "logits"),
    }


def baseline_features(X: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Features without a protein model: one-hot positions and amino-acid composition.

    Parameters
    ----------
    X : sequence of str
        All sequences of the comparison; only their lengths are looked at.

    Returns
    -------
    features : dict of str to transformer
        As `compare` takes them. One-hot is left out where lengths differ by more than a tenth of the longest, since
        its columns would not line up; smaller differences are padded at the end.
    notes : list of str
        What was padded or left out, for the reader of the table.

    Examples
    --------
    >>> from skesm.benchmark import baseline_features
    >>> features, notes = baseline_features(["ACDEFGHIKL", "ACDEFGHIK"])
    >>> list(features), notes
    (['one-hot', 'composition'], ['one-hot: 1 of 2 sequences padded at the end to 10 residues'])
    """
    lengths = np.array([len(normalise(sequence)) for sequence in as_strings(X)])
    longest, n_shorter = int(lengths.max()), int((lengths < lengths.max()).sum())
    features: dict[str, Any] = {}
    notes = []
    if lengths.min() < (1 - MAX_LENGTH_SPREAD) * longest:
        notes.append(f"one-hot: left out, since lengths run from {lengths.min()} to {longest} residues")
    else:
        features["one-hot"] = OneHotSequence(longest)
        if n_shorter:
            notes.append(f"one-hot: {n_shorter} of {len(lengths)} sequences padded at the end to {longest} residues")
    features["composition"] = AminoAcidComposition()
    return features, notes


def default_regressors(random_state: int = 0) -> dict[str, Any]:
    """Gradient-boosted trees (XGBoost) after a `StandardScaler`, and ridge regression.

    XGBoost runs on one thread, so that its sums are always taken in the same order. The penalty of the ridge is
    chosen on the training rows by leave-one-out. Its columns are not scaled: the columns of rare substitutions would
    count as much as the others, and make the one-hot baseline weaker than it is.

    Parameters
    ----------
    random_state : int, default=0
        Seed of XGBoost's draws of rows and columns.

    Returns
    -------
    regressors : dict of str to estimator
        As `compare` takes them.

    Raises
    ------
    MissingDependencyError
        If XGBoost is not installed.

    Examples
    --------
    >>> from skesm.benchmark import default_regressors
    >>> list(default_regressors())
    ['xgboost', 'ridge']
    """
    xgboost = import_optional("xgboost", "demo")
    trees = xgboost.XGBRegressor(
        n_estimators=300,
        learning_rate=0.05,
        max_depth=4,
        subsample=0.8,
        colsample_bytree=0.5,
        tree_method="hist",
        n_jobs=1,
        random_state=random_state,
    )
    return {
        "xgboost": make_pipeline(StandardScaler(), trees),
        "ridge": RidgeCV(alphas=np.logspace(-6, 4, 21)),
    }
