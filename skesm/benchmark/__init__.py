"""Reproducible comparisons of sequence features: what ESM-2 adds over baselines that know nothing of proteins.

`compare` cross-validates sets of features with regressors on the same folds, `make_features` and `make_heads` know the
usual ones by name.
"""

from skesm.benchmark._compare import compare
from skesm.benchmark._comparison import Comparison
from skesm.benchmark._curves import best_layers, layer_profile, learning_curve
from skesm.benchmark._features import FEATURES, make_features
from skesm.benchmark._heads import HEADS, make_heads
from skesm.benchmark._plots import plot_predictions, plot_scores
from skesm.benchmark.runs.config import SPLITS, RunConfig
from skesm.benchmark.runs.manifest import data_digest, make_manifest
from skesm.benchmark.runs.replay import Replay, replay
from skesm.benchmark.runs.run import Run, run_benchmark

__all__ = [
    "FEATURES",
    "HEADS",
    "SPLITS",
    "Comparison",
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
    "plot_predictions",
    "plot_scores",
    "replay",
    "run_benchmark",
]
