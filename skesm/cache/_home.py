"""A relative `memory` means a folder below the current one, as in joblib. A saved estimator notes which it was."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from skesm._messages import warn
from skesm._typing import Memory
from skesm.cache.disk.files import FORMAT_FILE, resolve_location
from skesm.exceptions import StoreWarning

#: Attribute of an estimator that was loaded: its `memory` when it was saved, and the folder that this meant.
_NOTE = "_memory_when_saved"


class _HasMemory(Protocol):
    memory: Memory


def note_memory(state: dict[str, object]) -> dict[str, object]:
    """Add to the state of an estimator, which is about to be saved, where its relative `memory` lies.

    Nothing is added for an absolute path, or without `memory`.
    """
    state = {name: value for name, value in state.items() if name != _NOTE} | _kept(state)
    relative = _relative(state.get("memory"))
    location = None
    with suppress(TypeError, ValueError):  # for the estimator's use to find, not for its saving
        location = resolve_location(state.get("memory"))
    if relative is not None and location is not None and (_NOTE not in state or _is_store(location)):
        state[_NOTE] = (relative, str(location))
    return state


def warn_if_elsewhere(estimator: _HasMemory) -> None:
    """Warn if the relative `memory` of a loaded estimator means a store that is new, and meant one that is there."""
    relative, saved = getattr(estimator, _NOTE, (None, ""))
    if relative is None or relative != _relative(estimator.memory):
        return
    location = resolve_location(estimator.memory)
    if str(location) != saved and not _is_store(location) and _is_store(Path(saved)):
        warn(
            f"memory={relative!r} is a relative path. In the current folder that is {location}, where there is no "
            f"store yet. When this estimator was saved, it was {saved}. To use that store, change to the folder in "
            "which the estimator was saved, or set memory to an absolute path",
            StoreWarning,
        )


def _kept(state: dict[str, object]) -> dict[str, object]:
    """The note of an earlier time, if it is of the same memory."""
    note = state.get(_NOTE)
    return {_NOTE: note} if isinstance(note, tuple) and note[0] == _relative(state.get("memory")) else {}


def _relative(memory: Memory) -> str | None:
    """The path that was given as `memory`, if it is relative."""
    if memory is not None and not isinstance(memory, str | os.PathLike):
        memory = getattr(getattr(memory, "store_backend", None), "location", None)
    if not isinstance(memory, str | os.PathLike) or os.path.isabs(memory):
        return None
    return str(os.fspath(memory))


def _is_store(location: Path | None) -> bool:
    return location is not None and (location / FORMAT_FILE).is_file()
