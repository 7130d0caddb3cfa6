"""Remember which weights a model's name meant, so that their records can be found without the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skesm._typing import Document
from skesm.cache.disk.files import FORMAT, check_format, open_location, read_json, write_json
from skesm.cache.disk.locks import mutex
from skesm.outputs.spec import Namespace

MODELS_FILE = "models.json"


@dataclass(frozen=True)
class KnownModel:
    """The weights that a model's name meant when they were last there.

    Attributes
    ----------
    model, fingerprint, numerics : str
        Its namespace, with the name as remembered.
    details : mapping
        Further values that the caller stored with it, as JSON allows.
    last_seen : str
        Day (UTC, ISO 8601) on which the weights were last there.
    """

    model: str
    fingerprint: str
    numerics: str
    details: Mapping[str, object]
    last_seen: str


def remember_model(
    location: Path, name: str, namespace: Namespace, details: Mapping[str, object] | None = None
) -> None:
    """Note which weights `name` means. Call it whenever the weights are there and their fingerprint is known.

    Parameters
    ----------
    location : Path
        See `resolve_location`.
    name : str
        The model as the user gave it, with its revision if there is one. For a local folder its absolute path.
    namespace : Namespace
        Its fingerprint and numerics.
    details : mapping, optional
        Anything else that is needed without the weights, such as the model's shape. JSON must be able to hold it.

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


def copy_models(source: Path, target: Path) -> None:
    """Remember at `target` the models that are known at `source` and not there."""
    found, known = _models(source / MODELS_FILE), _models(target / MODELS_FILE)
    for name, entries in found.items():
        for numerics in entries:
            entry = _entry(found, name, numerics)
            if entry is not None and _entry(known, name, numerics) is None:
                remember_model(target, name, Namespace(name, entry["fingerprint"], numerics), entry["details"])


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
    >>> namespace = Namespace("m", "sha256:00", "fp32")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     remember_model(Path(folder), "m@main", namespace, {"n_layers": 6})
    ...     known = recall_model(Path(folder), "m@main", "fp32")
    >>> known.fingerprint, known.details
    ('sha256:00', {'n_layers': 6})
    """
    entry = _entry(_models(location / MODELS_FILE), name, numerics)
    if entry is None:
        return None
    return KnownModel(name, entry["fingerprint"], numerics, entry["details"], entry["last_seen"])


def _models(path: Path) -> dict[str, Document]:
    found = read_json(path, ("format", int))
    if found is None:
        return {}
    check_format(found["format"], path)  # another format may have no such field
    found = read_json(path, ("models", dict))
    if found is None:
        return {}
    models: dict[str, Document] = found["models"]
    return {name: entries for name, entries in models.items() if isinstance(entries, dict)}


def _entry(models: dict[str, Document], name: str, numerics: str) -> Document | None:
    entry = models.get(name, {}).get(numerics)
    fields = {"fingerprint": str, "details": dict, "last_seen": str}
    sound = isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in fields.items())
    return entry if sound else None
