"""The default pipeline of a library of variants: an ordinary Pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skesm import variant_pipeline
from skesm.datasets import load_gb1_stability
from skesm.model_selection import DistinctSequenceKFold


def test_it_is_ordinary(tiny_checkpoint: Path, tmp_path: Path) -> None:
    gb1 = load_gb1_stability()
    chosen = np.random.default_rng(0).choice(813, 120, replace=False)
    X, y = gb1.data[chosen], gb1.target[chosen]
    pipeline = variant_pipeline(gb1.wild_type, model=tiny_checkpoint, memory=tmp_path)
    assert list(pipeline.named_steps) == ["features", "scaler", "regressor"]
    assert "features__esm2__pooling" in clone(pipeline).get_params()
    search = GridSearchCV(
        pipeline, {"features__esm2__pooling": ["mutated", ("mean", "mutated")]}, cv=DistinctSequenceKFold(2), refit=True
    )
    search.fit(X[:80], y[:80])
    assert spearmanr(search.predict(X[80:]), y[80:]).statistic > 0.2  # substitutions alone give as much
    names = pipeline.fit(X[:80], y[:80])[:-1].get_feature_names_out()
    assert {"esm2__mutated_l2_0", "substitutions__new_A", "substitutions__blosum62"} <= set(names)


def test_nothing_is_made_before_it_is_fitted(tmp_path: Path) -> None:
    assert "ESM2Embedder" in str(variant_pipeline("MKT", model=tmp_path / "no such folder").named_steps["features"])
