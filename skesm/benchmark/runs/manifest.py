"""Everything that a benchmark's numbers depend on, as a small JSON document."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from skesm._typing import Document, Estimator
from skesm.benchmark.fits.digests import data_digest, source_digest, versions
from skesm.benchmark.runs.hardware import describe_hardware
from skesm.sequences.clean import clean_sequences

#: Parameters that change where or how fast something runs, and no value.
_NOT_NUMBERS = frozenset({"memory", "n_jobs", "prefetch", "verbose"})


def make_manifest(
    X: Iterable[str],
    y: ArrayLike,
    *,
    features: Mapping[str, Estimator],
    regressors: Mapping[str, Estimator],
    parameters: Mapping[str, object],
    model: Mapping[str, object],
    digests: Mapping[str, Mapping[str, object]] | None = None,
) -> Document:
    """Versions, machine, parameters and data of a comparison. Nothing in it depends on when or how fast it ran.

    Parameters
    ----------
    X, y
        Sequences and measured values, as for `compare`.
    features, regressors : mapping
        As given to `compare`.
    parameters : mapping
        Source of the data, folds, seed and the like, as values that JSON can hold.
    model : mapping
        Name, fingerprint and numerics of the checkpoint.
    digests : mapping, default=None
        SHA-256 of splits and features, as `Comparison` has them.

    Returns
    -------
    manifest : dict
        Ready for ``json.dump``.
    """
    sequences = clean_sequences(X, max_length=None, unknown_residues="X")
    lengths = [len(sequence) for sequence in sequences]
    return {
        "versions": {**versions(), "skesm source": source_digest()},
        "platform": f"{platform.system()} {platform.machine()}",
        "hardware": describe_hardware(),
        "data": {
            "rows": len(sequences),
            "distinct_sequences": len(set(sequences)),
            "residues": [min(lengths), max(lengths)],
            "sha256": data_digest(sequences, y),
        },
        "model": dict(model),
        "digests": {kind: dict(found) for kind, found in (digests or {}).items()},
        "parameters": dict(parameters),
        "features": {name: _describe(value) for name, value in features.items()},
        "regressors": {name: _describe(value) for name, value in regressors.items()},
    }


def _describe(value: object) -> object:
    """An estimator with its parameters, or a value, as JSON holds it."""
    if hasattr(value, "get_params"):
        parameters = value.get_params(deep=False)
        described = {k: _describe(v) for k, v in parameters.items() if v is not None and k not in _NOT_NUMBERS}
        return {"class": type(value).__name__, **described}
    if isinstance(value, list | tuple | np.ndarray):
        return [_describe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, str | int | float) and finite else repr(value)  # JSON has no NaN
