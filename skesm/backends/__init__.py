"""Where forward passes happen: on this machine, on several, or behind a REST API.

`Backend` is the class to derive from if you write a backend of your own. The other names are types that its methods
take and return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skesm.backends.base import Backend, Batch, Model, RequestPlan
from skesm.backends.costs import RunInfo, TransformPlan
from skesm.backends.local import LocalBackend
from skesm.backends.parallel import ParallelBackend
from skesm.backends.resolve import resolve_backend
from skesm.esm2.spec import ModelSpec
from skesm.outputs.spec import Namespace, OutputSpec, Record

if TYPE_CHECKING:
    from skesm.backends.biolm import BioLMBackend

__all__ = [
    "Backend",
    "Batch",
    "BioLMBackend",
    "LocalBackend",
    "Model",
    "ModelSpec",
    "Namespace",
    "OutputSpec",
    "ParallelBackend",
    "Record",
    "RequestPlan",
    "RunInfo",
    "TransformPlan",
    "resolve_backend",
]


def __getattr__(name: str) -> object:
    """Import the remote client, and with it requests, only for those who use it."""
    if name == "BioLMBackend":
        from skesm.backends.biolm import BioLMBackend

        return BioLMBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
