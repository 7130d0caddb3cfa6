"""What a benchmark's numbers depend on, as a small JSON document."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skesm.sequences.clean import clean_sequences

#: Packages whose version may change the numbers.
_PACKAGES = ("numpy", "scipy", "scikit-learn", "joblib", "xgboost", "torch")

#: Parameters that change where or how fast something runs, and no value.
_NOT_NUMBERS = frozenset({"memory", "n_jobs", "prefetch", "verbose"})


def data_digest(X: Iterable[str], y: ArrayLike) -> str:
    r"""SHA-256 of sequences and target, whatever file they came from.

    The digest is over one line ``sequence <tab> target <newline>`` per row in UTF-8, sequences in upper case without
    outer white space, targets as the shortest decimal that gives the float64 back.

    Parameters
    ----------
    X : iterable of str of length n_samples
        Sequences.
    y : array-like of shape (n_samples,)
        Measured values.

    Returns
    -------
    digest : str
        64 hexadecimal digits.

    Examples
    --------
    >>> data_digest(["mkv"], [1]) == hashlib.sha256(b"MKV\t1.0\n").hexdigest()
    True
    """
    digest = hashlib.sha256()
    for sequence, value in zip(_clean(X), np.asarray(y, dtype=np.float64), strict=True):
        digest.update(f"{sequence}\t{float(value)!r}\n".encode())
    return digest.hexdigest()


def make_manifest(
    X: Iterable[str],
    y: ArrayLike,
    *,
    features: Mapping[str, Any],
    regressors: Mapping[str, Any],
    parameters: Mapping[str, Any],
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Versions, parameters and data of a comparison; nothing in it depends on when or how fast it ran.

    Parameters
    ----------
    X : iterable of str of length n_samples
        Sequences.
    y : array-like of shape (n_samples,)
        Measured values.
    features, regressors : mapping
        As given to `compare`.
    parameters : mapping
        Source of the data, folds, seed and the like; values that JSON can hold.
    model : mapping
        Name, fingerprint and numerics of the checkpoint.

    Returns
    -------
    manifest : dict
        Ready for ``json.dump``.
    """
    from skesm import __version__

    sequences = _clean(X)
    lengths = [len(sequence) for sequence in sequences]
    return {
        "versions": {"skesm": __version__, "python": platform.python_version(), **_versions()},
        "platform": f"{platform.system()} {platform.machine()}",
        "data": {
            "rows": len(sequences),
            "distinct_sequences": len(set(sequences)),
            "residues": [min(lengths), max(lengths)],
            "sha256": data_digest(sequences, y),
        },
        "model": dict(model),
        "parameters": dict(parameters),
        "features": {name: _describe(value) for name, value in features.items()},
        "regressors": {name: _describe(value) for name, value in regressors.items()},
    }


def _clean(X: Any) -> list[str]:
    return clean_sequences(X, max_length=None)


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed has no part in the numbers
    return versions


def _describe(value: Any) -> Any:
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
