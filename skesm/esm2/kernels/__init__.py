"""The work of a forward pass, compiled by LLVM for this processor. Needs the extra ``fast``."""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from skesm.esm2.spec import ModelSpec

if TYPE_CHECKING:
    from skesm.esm2.kernels.kernels import Kernels

#: Errors of a library that cannot be loaded, or does not know this processor.
FAILURES = (ImportError, OSError, RuntimeError)

#: The first llvmlite that reads the code: pointers without a type. numba 0.61 and earlier bring an older one.
_LEAST_VERSION = (0, 45)

_log = logging.getLogger(__name__)


def are_installed() -> bool:
    """Whether llvmlite is there, which compiles, and is new enough."""
    return find_spec("llvmlite") is not None and not is_outdated()


def is_outdated() -> bool:
    """Whether the installed llvmlite is too old."""
    try:
        from llvmlite import __version__
    except FAILURES:
        return False  # it has an error of its own, which tells more
    return tuple(map(int, re.findall(r"\d+", __version__)[:2])) < _LEAST_VERSION


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
