"""Import of optional dependencies, at the moment they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from skesm.exceptions import MissingDependencyError


def import_optional(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of skesm to install.

    Parameters
    ----------
    module : str
        Dotted name of the module, for example ``"pandas"``.
    extra : str
        Extra of skesm that brings it, for example ``"demo"``.

    Returns
    -------
    module : module
        The imported module (the submodule itself for a dotted name).

    Raises
    ------
    MissingDependencyError
        If the package is not installed. A package that is installed but broken raises its own error.

    Examples
    --------
    >>> import_optional("numpy", extra="demo").__name__
    'numpy'
    >>> import_optional("no_such_package", extra="demo")
    Traceback (most recent call last):
        ...
    skesm.exceptions.MissingDependencyError: no_such_package is not installed: pip install 'skesm[demo]'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the absence of the package itself is ours to explain: one that lacks a part, or a dependency
        # of its own, is a broken installation that the extra would not repair.
        if error.name != package:
            raise
        message = f"{package} is not installed: pip install 'skesm[{extra}]'"
        raise MissingDependencyError(message, name=package) from error
