"""Where forward passes happen: on this machine, or behind a REST API."""

from skesm.backends.base import Backend, Batch, resolve_backend
from skesm.backends.local import LocalBackend

__all__ = ["Backend", "Batch", "LocalBackend", "resolve_backend"]
