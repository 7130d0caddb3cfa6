"""Digests of the things that a comparison's numbers depend on, and the versions of packages."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from pickle import PicklingError

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import FeatureUnion
from threadpoolctl import threadpool_info

from skesm._typing import Estimator
from skesm.benchmark.fits.computed import ComputedFeatures
from skesm.sequences.clean import clean_sequences

#: Packages whose version may change the numbers.
_PACKAGES = ("numpy", "scipy", "scikit-learn", "joblib", "xgboost", "torch", "llvmlite")


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
    sequences = clean_sequences(X, max_length=None, unknown_residues="X")
    for sequence, value in zip(sequences, np.asarray(y, dtype=np.float64), strict=True):
        digest.update(f"{sequence}\t{float(value)!r}\n".encode())
    return digest.hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of the values of an array, its shape and its type."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def folds_digest(folds: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> str:
    """SHA-256 of the row numbers of all training and test sets."""
    parts = [array_digest(rows.astype("<i8")) for fold in folds for rows in fold]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def features_digest(transformer: Estimator) -> str | None:
    """SHA-256 of features that were computed once. None if each fold fits the transformer, or a part of it."""
    if isinstance(transformer, ComputedFeatures):
        return array_digest(transformer.matrix)
    if not isinstance(transformer, FeatureUnion):
        return None
    parts = [features_digest(part) for _, part in transformer.transformer_list]
    known = [part for part in parts if part is not None]
    return hashlib.sha256(" ".join(known).encode()).hexdigest() if len(known) == len(parts) else None


def cell_digest(features: Estimator, head: Estimator, *others: object) -> str | None:
    """SHA-256 of all that the fits of one pair depend on. None if a part cannot be named, such as a lambda."""
    try:
        parts = [_estimator_digest(features), joblib.hash(head), joblib.hash(others), joblib.hash(environment())]
    except (PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _estimator_digest(transformer: Estimator) -> str:
    if isinstance(transformer, ComputedFeatures):
        return array_digest(transformer.matrix)
    if isinstance(transformer, FeatureUnion):
        names = " ".join(f"{name} {_estimator_digest(part)}" for name, part in transformer.transformer_list)
        return f"{names} {transformer.transformer_weights}"
    digest: str = joblib.hash(transformer)
    return digest


def environment() -> dict[str, str]:
    """Versions and kernels that the last digits depend on."""
    blas = (found for found in threadpool_info() if found["user_api"] == "blas")
    kernels = sorted({f"{found['internal_api']} {found.get('architecture', 'unknown')}" for found in blas})
    return {**versions(), "platform": f"{platform.system()} {platform.machine()}", "kernels": ", ".join(kernels)}


@cache
def source_digest() -> str:
    """16 digits of the SHA-256 of skesm's own modules: two checkouts can have one version and other code."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of skesm, Python, and the packages that numbers depend on."""
    from skesm import __version__

    found = {"skesm": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed has no part in the numbers
    return found
