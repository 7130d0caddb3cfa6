"""Element-wise work of a forward pass, compiled by LLVM for this processor. Needs the extra ``fast``."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from skesm.esm2.spec import ModelSpec

if TYPE_CHECKING:
    from skesm.esm2.kernels.kernels import Kernels

#: Errors of a library that cannot be loaded, or does not know this processor.
FAILURES = (ImportError, OSError, RuntimeError)

_log = logging.getLogger(__name__)


def are_installed() -> bool:
    """Whether llvmlite is there, which compiles."""
    return find_spec("llvmlite") is not None


def find_kernels(spec: ModelSpec) -> Kernels | None:
    """The compiled functions for a model. None where they cannot be had."""
    if not are_installed():
        return None
    try:
        from skesm.esm2.kernels.kernels import Kernels

        return Kernels(spec)
    except FAILURES as error:
        _log.warning("llvmlite cannot compile for this processor: %s. NumPy computes instead", error)
        return None
