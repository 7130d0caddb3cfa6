"""The public names, and the pages of the reference that are made of them.

A module's page lists all of its public names, so that a new one has a page without anybody's doing. `check_site.py`
opens the built pages and looks for each name and each method.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any

MODULES = {
    "skesm": "Estimators, and functions for sequences",
    "skesm.io": "Files",
    "skesm.datasets": "Data sets",
    "skesm.model_selection": "Splits",
    "skesm.benchmark": "Comparisons",
    "skesm.reproduce": "Published figures",
    "skesm.design": "The next round",
    "skesm.backends": "Where the model runs",
    "skesm.models": "Checkpoints",
    "skesm.cache": "The record store",
    "skesm.server": "Server",
    "skesm.exceptions": "Errors and warnings",
}


def public_names(module: str) -> dict[str, Any]:
    """The public classes, functions and data of a module, by name."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name for name, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module
    ]
    return {name: getattr(found, name) for name in names if not name.startswith("_")}


@cache
def members() -> dict[str, dict[str, list[str]]]:
    """Public methods and properties, inherited ones included, by the full name of the class."""
    return {
        f"{module}.{name}": members_of(value)
        for module in MODULES
        for name, value in public_names(module).items()
        if inspect.isclass(value)
    }


def members_of(cls: type) -> dict[str, list[str]]:
    """Methods and properties that a user may call, but for those of Python's own classes."""
    methods, properties = [], []
    for name in dir(cls):
        home = next((base for base in cls.__mro__ if name in vars(base)), object)
        if name.startswith("_") or home.__module__ in {"builtins", "enum", "typing"}:
            continue
        value = inspect.getattr_static(cls, name)
        if isinstance(value, property):
            properties.append(name)
        elif callable(getattr(cls, name)) and not inspect.isclass(getattr(cls, name)):
            methods.append(name)
    return {"methods": methods, "properties": properties}


def write_pages(source: Path) -> None:
    """One page for each module, with a table of its classes and one of its functions."""
    folder = source / "reference"
    folder.mkdir(exist_ok=True)
    for module, title in MODULES.items():
        text = page(module, title)
        path = folder / f"{module}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not read again
            path.write_text(text, encoding="utf-8")


def page(module: str, title: str) -> str:
    names = public_names(module)
    classes = [name for name, value in names.items() if inspect.isclass(value)]
    kinds = {
        "Errors": [name for name in classes if is_error(names[name]) and not issubclass(names[name], Warning)],
        "Warnings": [name for name in classes if issubclass(names[name], Warning)],
        "Classes": [name for name in classes if not is_error(names[name])],
        "Functions": [name for name in names if name not in classes],
    }
    heading = f"{title}: {module}"
    lines = [heading, "=" * len(heading), "", f".. automodule:: {module}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {module}", ""]
    for kind, of_kind in kinds.items():
        if of_kind:
            lines += [
                kind,
                "-" * len(kind),
                "",
                ".. autosummary::",
                "   :toctree: ../generated",
                "   :nosignatures:",
                "",
            ]
            lines += [f"   {name}" for name in of_kind] + [""]
    return "\n".join(lines)


def is_error(cls: type) -> bool:
    return issubclass(cls, BaseException)


@cache
def full_names() -> dict[str, str]:
    """Full names by the last part: docstrings name their neighbours shortly."""
    return {name: f"{module}.{name}" for module in reversed(MODULES) for name in public_names(module)}


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A link to a public name that a docstring of another module names without its module."""
    if node.get("refdomain") != "py":
        return None
    target = node.get("reftarget", "")
    name, _, method = target.rpartition("skesm.")[2].partition(".")
    full = full_names().get(name) or full_names().get(target.rpartition(".")[2])
    if full is None:
        return None
    domain = env.get_domain("py")
    wanted = f"{full}.{method}" if method and full.endswith(f".{name}") else full
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", wanted, node, contnode)
