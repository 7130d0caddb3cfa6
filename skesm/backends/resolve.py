"""The short names of the backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from skesm.backends.base import Backend
from skesm.backends.local import LocalBackend


def _biolm() -> Backend:
    from skesm.backends.biolm import BioLMBackend  # brings in requests

    return BioLMBackend()


#: The backends by their short names. Parameters and commands take these names.
BACKENDS: Mapping[str, Callable[[], Backend]] = {
    "local": LocalBackend,
    "numpy": partial(LocalBackend, engine="numpy"),
    "torch": partial(LocalBackend, engine="torch"),
    "biolm": _biolm,
}


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
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: use {', '.join(map(repr, BACKENDS))}, or a backend object")
    return BACKENDS[backend]()
