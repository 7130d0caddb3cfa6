"""Reproducible comparisons of sequence features: what ESM-2 adds over baselines that know nothing of proteins.

`compare` cross-validates every set of features with every regressor on the same folds; `esm2_features`,
`baseline_features` and `default_regressors` are what ``skesm demo`` hands to it. Everything here is built from skesm's
public API.
"""

from skesm.benchmark._baselines import AminoAcidComposition, OneHotSequence
from skesm.benchmark._compare import Comparison, ComparisonRow, compare
from skesm.benchmark._manifest import data_digest, make_manifest
from skesm.benchmark._plots import plot_predictions
from skesm.benchmark._presets import baseline_features, default_regressors, esm2_features

__all__ = [
    "AminoAcidComposition",
    "Comparison",
    "ComparisonRow",
    "OneHotSequence",
    "baseline_features",
    "compare",
    "data_digest",
    "default_regressors",
    "esm2_features",
    "make_manifest",
    "plot_predictions",
]
