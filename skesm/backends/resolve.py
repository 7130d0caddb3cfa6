"""The short names of the backends."""

from __future__ import annotations

from skesm.backends.base import Backend
from skesm.backends.local import LocalBackend


def resolve_backend(backend: str | Backend) -> Backend:
    """The backend that a parameter value names.

    Parameters
    ----------
    backend : {"local", "numpy", "torch", "biolm"} or Backend
        ``"local"`` takes the default engine.

    Examples
    --------
    >>> resolve_backend("numpy")
    LocalBackend(engine='numpy')
    """
    if isinstance(backend, Backend):
        return backend
    if backend == "local":
        return LocalBackend()
    if backend in ("numpy", "torch"):
        return LocalBackend(engine=backend)
    if backend == "biolm":
        from skesm.backends.biolm import BioLMBackend  # brings in requests

        return BioLMBackend()
    raise ValueError(f"unknown backend {backend!r}: use 'local', 'numpy', 'torch', 'biolm', or a backend object")
