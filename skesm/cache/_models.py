"""Which weights a model's name meant the last time they were there: what offline replay needs to find its records."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skesm.cache._files import FORMAT, check_format, mutex, open_location, read_json, write_json
from skesm.exceptions import StoreError
from skesm.outputs.spec import Namespace

MODELS_FILE = "models.json"


@dataclass(frozen=True)
class KnownModel:
    """What a model's name meant when its weights were last there.

    Attributes
    ----------
    model, fingerprint, numerics : str
        Its namespace, with the name as remembered.
    details : mapping
        What the caller wanted remembered with it, as JSON allows.
    last_seen : str
        Day (UTC, ISO 8601) on which the weights were last there.
    """

    model: str
    fingerprint: str
    numerics: str
    details: Mapping[str, Any]
    last_seen: str


def remember_model(location: Path, name: str, namespace: Namespace, details: Mapping[str, Any] | None = None) -> None:
    """Note which weights `name` means. Call it whenever the weights are there and their fingerprint is known.

    Parameters
    ----------
    location : Path
        See `resolve_location`.
    name : str
        The model as the user gave it, with its revision if there is one; for a local folder its absolute path.
    namespace : Namespace
        Its fingerprint and numerics.
    details : mapping, optional
        Anything else that is needed without the weights, such as the model's shape; must be fit for JSON.

    Notes
    -----
    In a folder that cannot be written, nothing is remembered, and nothing is raised.
    """
    day = datetime.now(UTC).date().isoformat()
    entry = {"fingerprint": namespace.fingerprint, "details": dict(details or {}), "last_seen": day}
    path = location / MODELS_FILE
    with suppress(OSError):
        if _entry(_models(path), name, namespace.numerics) == entry:
            return
        open_location(location)
        with mutex(location):
            models = _models(path)
            models.setdefault(name, {})[namespace.numerics] = entry
            write_json(path, {"format": FORMAT, "models": models})


def recall_model(location: Path, name: str, numerics: str) -> KnownModel | None:
    """Which weights `name` meant when they were last there, or None if that was never.

    Call it only when the weights cannot be found: a folder whose weights have changed must be fingerprinted anew, or
    its old records would answer for the new weights.

    Parameters
    ----------
    location : Path
        See `resolve_location`.
    name : str
        As given to `remember_model`.
    numerics : str
        ``"fp32"``, ``"bf16"`` …

    Raises
    ------
    StoreError
        If the location was written by a newer version of skesm.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skesm.outputs.spec import Namespace
    >>> from skesm.cache import recall_model, remember_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     remember_model(Path(folder), "m@main", Namespace("m", "sha256:00", "fp32"), {"n_layers": 6})
    ...     known = recall_model(Path(folder), "m@main", "fp32")
    >>> known.fingerprint, known.details
    ('sha256:00', {'n_layers': 6})
    """
    entry = _entry(_models(location / MODELS_FILE), name, numerics)
    if entry is None:
        return None
    return KnownModel(name, entry["fingerprint"], numerics, entry["details"], entry["last_seen"])


def _models(path: Path) -> dict[str, dict[str, Any]]:
    found = read_json(path)
    if found is None:
        return {}
    check_format(found.get("format"), path)
    models = found.get("models")
    if not isinstance(models, dict) or not all(isinstance(entries, dict) for entries in models.values()):
        raise StoreError(f"{path} is not a list of models: remove it")
    return models


def _entry(models: dict[str, dict[str, Any]], name: str, numerics: str) -> dict[str, Any] | None:
    entry = models.get(name, {}).get(numerics)
    sound = isinstance(entry, dict) and {"fingerprint", "details", "last_seen"} <= entry.keys()
    return entry if sound else None
