"""`variant_pipeline`: the default for a library of variants, as an ordinary Pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skesm._typing import Memory, ModelName
from skesm.features.embedder import ESM2Embedder
from skesm.features.encoders.variant_encoders import PARTS, SubstitutionEncoder

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from skesm.backends.base import Backend

#: Scaled columns leave penalties of this range for any number of rows and columns that is usual.
_PENALTIES = np.logspace(-2, 8, 41)


def variant_pipeline(
    reference: str,
    *,
    model: ModelName = "esm2_t6_8M_UR50D",
    backend: str | Backend = "local",
    memory: Memory = None,
    n_jobs: int | None = None,
) -> Pipeline:
    """Make a pipeline that predicts measured values of a protein's variants.

    It is an ordinary scikit-learn Pipeline. Print it, change its steps with ``set_params``, or search over them. Its
    steps:

    - ``features``: ``esm2``, an `ESM2Embedder` of the mutated positions, beside ``substitutions``, a
      `SubstitutionEncoder` with all its parts,
    - ``scaler``: a `StandardScaler`,
    - ``regressor``: ridge regression. Leave-one-out chooses its penalty.

    The parts were chosen on three data sets by a rule that docs/variants.md tells, with the gain of each part.

    Parameters
    ----------
    reference : str
        The wild type. All variants must have its length.
    model : str or path-like, default="esm2_t6_8M_UR50D"
        The checkpoint, see `ESM2Embedder`.
    backend : {"local", "numpy", "torch", "biolm"} or Backend, default="local"
        Where the model runs. ``backend="biolm"`` sends the sequences to BioLM's REST API. See `skesm.backends`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. With it, no sequence goes through the model twice.
    n_jobs : int or None, default=None
        CPU threads that compute. They change no value.

    Returns
    -------
    pipeline : Pipeline
        Not fitted.

    See Also
    --------
    skesm.benchmark.compare : Measures whether this pipeline is better than others on your data.

    Examples
    --------
    >>> from skesm import variant_pipeline
    >>> from skesm.datasets import load_gb1_stability
    >>> gb1 = load_gb1_stability()
    >>> pipeline = variant_pipeline(gb1.wild_type, model="skesm-mini")
    >>> pipeline.fit(gb1.data[:50], gb1.target[:50]).predict(gb1.data[50:52]).shape
    (2,)
    >>> with_mean = pipeline.set_params(features__esm2__pooling=("mean", "mutated"))
    """
    # here, and not for everybody who imports skesm: linear models alone take 8 MB
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import StandardScaler

    embedder = ESM2Embedder(
        model, pooling="mutated", reference=reference, backend=backend, memory=memory, n_jobs=n_jobs
    )
    features = FeatureUnion([("esm2", embedder), ("substitutions", SubstitutionEncoder(reference, parts=PARTS))])
    return Pipeline([("features", features), ("scaler", StandardScaler()), ("regressor", RidgeCV(alphas=_PENALTIES))])
