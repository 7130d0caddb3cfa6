"""Reproducible comparisons of sequence features: the gain of ESM-2 over baselines that know nothing of proteins.

`compare` cross-validates sets of features with regressors on the same folds, `make_features` and `make_heads` know the
usual ones by name.
"""

from skesm.benchmark._compare import compare
from skesm.benchmark._comparison import Comparison
from skesm.benchmark._curves import best_layers, layer_profile, learning_curve
from skesm.benchmark._features import FEATURES, make_features
from skesm.benchmark._heads import CLASSIFIERS, HEADS, make_heads
from skesm.benchmark._random_weights import RandomWeightsBackend
from skesm.benchmark.figures.curves import plot_layer_profile, plot_learning_curve
from skesm.benchmark.figures.distances import plot_errors
from skesm.benchmark.figures.predictions import plot_predictions
from skesm.benchmark.figures.scan import plot_scan
from skesm.benchmark.figures.scores import plot_scores
from skesm.benchmark.fits.digests import data_digest
from skesm.benchmark.runs.config import SPLITS, RunConfig
from skesm.benchmark.runs.manifest import make_manifest
from skesm.benchmark.runs.replay import Replay, replay
from skesm.benchmark.runs.run import Run, run_benchmark

__all__ = [
    "CLASSIFIERS",
    "FEATURES",
    "HEADS",
    "SPLITS",
    "Comparison",
    "RandomWeightsBackend",
    "Replay",
    "Run",
    "RunConfig",
    "best_layers",
    "compare",
    "data_digest",
    "layer_profile",
    "learning_curve",
    "make_features",
    "make_heads",
    "make_manifest",
    "plot_errors",
    "plot_layer_profile",
    "plot_learning_curve",
    "plot_predictions",
    "plot_scan",
    "plot_scores",
    "replay",
    "run_benchmark",
]
