"""Tensors from torch's own files, which are pickles. The only module that may call ``torch.load``.

A pickle can run code when it is read. ``weights_only=True`` lets torch build tensors and plain containers only, but
before version 2.6 it could be led around (CVE-2025-32434). So older versions are refused before a byte is read.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path
from types import ModuleType

from skesm._optional import import_optional
from skesm.exceptions import CheckpointError, MissingDependencyError

SAFE_SINCE = (2, 6)

#: fair-esm keeps a model's arguments as a Namespace, which holds attributes and nothing that runs.
_ALLOWED = [argparse.Namespace]


def import_safe_torch() -> ModuleType:
    """Import torch if it is new enough to read pickles safely.

    Raises
    ------
    MissingDependencyError
        If torch is not installed or is older than 2.6.
    """
    torch = import_optional("torch", extra="torch")
    numbers = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if numbers is None or (int(numbers[1]), int(numbers[2])) < SAFE_SINCE:
        raise MissingDependencyError(
            f"torch {torch.__version__} cannot read .bin and .pt files safely (CVE-2025-32434). "
            "Install torch 2.6 or later: pip install --upgrade 'torch>=2.6'",
            name="torch",
        )
    return torch


def read_pickled(path: Path) -> object:
    """Content of a file that ``torch.save`` wrote. In its present format, tensors stay in the file until they are used.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds anything but tensors, plain containers and argparse's namespaces.
    MissingDependencyError
        If torch is not installed or is older than 2.6.
    """
    torch = import_safe_torch()
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        objects = _objects_in(torch, path)
        # torch's own message recommends weights_only=False, which must not reach anybody
        raise CheckpointError(
            f"{path} holds objects that are not tensors, which are not loaded because they can run code: {objects}. "
            "Save only the weights: torch.save(model.state_dict(), path)"
            if objects
            else f"{path} cannot be read as a file of torch.save: it is damaged, or something else "
            f"({type(error).__name__})"
        ) from None


def _objects_in(torch: ModuleType, path: Path) -> str:
    """The classes and functions that a pickle asks for and that are not allowed. "" if they are not known."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))
    except Exception:  # not a zip file, or damaged
        return ""
