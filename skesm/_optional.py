"""Import of optional dependencies, at the moment they are used."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from types import ModuleType

from skesm.exceptions import MissingDependencyError


def import_optional(module: str, extra: str) -> ModuleType:
    """Import `module`, or say how to install the extra of skesm that brings it.

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
    >>> import_optional("no_such_package", extra="xgboost")
    Traceback (most recent call last):
        ...
    skesm.exceptions.MissingDependencyError: no_such_package is not installed: pip install 'xgboost>=...'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the absence of the package itself is ours to explain: one that lacks a part, or a dependency
        # of its own, is a broken installation that the extra would not repair.
        if error.name != package:
            raise
        message = f"{package} is not installed: {install_line(extra)}"
        raise MissingDependencyError(message, name=package) from error


def install_line(extra: str) -> str:
    """Command that installs an extra's packages, wherever skesm itself came from.

    It names the packages and not ``skesm[extra]``: a registry may know another project by the name of skesm.

    Parameters
    ----------
    extra : str
        One of skesm's extras.

    Examples
    --------
    >>> install_line("server").startswith("pip install 'orjson")
    True
    """
    try:
        lines = importlib.metadata.requires("skesm") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, without having been installed
        lines = []
    of_extra = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    needed = sorted(line.partition(";")[0].strip() for line in lines if of_extra.search(line))
    packages = " ".join(f"'{requirement}'" for requirement in needed if not requirement.startswith("skesm["))
    return f"pip install {packages}" if packages else f"install skesm's extra {extra!r}"
