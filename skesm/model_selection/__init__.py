"""Splits of protein data that do not flatter, and measures of how far a split is from being honest.

The splitters are scikit-learn splitters: give them as ``cv`` to `cross_validate`, `GridSearchCV` or
`skesm.benchmark.compare`. For a column of groups, such as the wild type of each row, use scikit-learn's own
`GroupKFold` or `LeaveOneGroupOut`.
"""

from skesm.model_selection._clusters import IdentityClusterKFold, identity_clusters
from skesm.model_selection._leakage import LeakageReport, distance_to_training, leakage
from skesm.model_selection._splitters import (
    DistinctSequenceKFold,
    LowToHighSplit,
    MutationCountSplit,
    PositionKFold,
)

__all__ = [
    "DistinctSequenceKFold",
    "IdentityClusterKFold",
    "LeakageReport",
    "LowToHighSplit",
    "MutationCountSplit",
    "PositionKFold",
    "distance_to_training",
    "identity_clusters",
    "leakage",
]
