"""Where forward passes happen: on this machine, or behind a REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skesm.backends.base import Backend, Batch, RequestPlan
from skesm.backends.local import LocalBackend
from skesm.backends.resolve import resolve_backend

if TYPE_CHECKING:
    from skesm.backends.biolm import BioLMBackend

__all__ = ["Backend", "Batch", "BioLMBackend", "LocalBackend", "RequestPlan", "resolve_backend"]


def __getattr__(name: str) -> Any:
    """Import the remote client, and with it requests, only for those who use it."""
    if name == "BioLMBackend":
        from skesm.backends.biolm import BioLMBackend

        return BioLMBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
