"""The files around the records: where a store lies, its format, JSON files, moving damaged files aside."""

from __future__ import annotations

import functools
import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from skesm._messages import warn
from skesm._typing import Document
from skesm.cache.disk.locks import mutex
from skesm.exceptions import StoreError, StoreWarning

#: Layout of the folder and of the record files. Raised when older versions would misread newer files.
FORMAT = 1

#: Folder of the store inside the location of a `joblib.Memory`. `Memory.clear` removes the folders it finds there.
FOLDER = "skesm"
FORMAT_FILE = "store.json"
RECORD_FILE = "records.sqlite"
MANIFEST_FILE = "manifest.json"

#: The common part of the names of damaged files.
ASIDE = ".damaged-"

#: Windows' errors for a file that another process has open, and how often and with which pause that is tried again.
_IN_USE = (5, 32)
_REPEATS = 50
_PAUSE = 0.02

T = TypeVar("T")


def resolve_location(memory: object) -> Path | None:
    """Folder in which the records for a value of the parameter `memory` are kept.

    Parameters
    ----------
    memory : None, str, path or joblib.Memory
        As in scikit-learn. None, and a `joblib.Memory` without location, mean that nothing is kept.

    Returns
    -------
    Path or None
        An absolute path. It need not exist. It lies where ``joblib.Memory(memory).clear()`` clears it.

    Raises
    ------
    TypeError
        If `memory` is something else.
    ValueError
        If `memory` is a `joblib.Memory` that does not keep its values in a folder.

    Examples
    --------
    >>> from skesm.cache import resolve_location
    >>> resolve_location("features").parts[-3:]
    ('features', 'joblib', 'skesm')
    >>> resolve_location(None) is None
    True
    """
    if memory is None:
        return None
    if isinstance(memory, str | os.PathLike):
        # joblib.Memory("features") keeps its values in features/joblib, and clears only what is in there.
        return Path(memory).absolute() / "joblib" / FOLDER
    from joblib import Memory

    if not isinstance(memory, Memory):
        raise TypeError(f"memory must be None, a path or a joblib.Memory, got {type(memory).__name__}")
    if memory.store_backend is None:
        return None
    location = getattr(memory.store_backend, "location", None)
    if memory.backend != "local" or not isinstance(location, str | os.PathLike):
        raise ValueError(f"memory must keep its values in a local folder, got joblib backend {memory.backend!r}")
    return Path(location).absolute() / FOLDER


def find_location(path: str | os.PathLike[str]) -> Path:
    """Find the store that a path given by a person means: the folder itself, or the one inside it.

    Parameters
    ----------
    path : path
        A value of `memory`, the location of a `joblib.Memory`, or the folder of the store itself.

    Raises
    ------
    StoreError
        If there is no store.
    """
    root = Path(path).absolute()
    for candidate in (root, root / FOLDER, root / "joblib" / FOLDER):
        if (candidate / FORMAT_FILE).is_file():
            return candidate
    raise StoreError(f"there is no skesm store in {root}")


def open_location(location: Path) -> None:
    """Make the folder if need be, and see that this version of skesm can read it.

    Raises
    ------
    StoreError
        If the folder was written by a newer version, or is not a folder.
    OSError
        If the folder cannot be made.
    """
    path = location / FORMAT_FILE
    if not check_location(location):
        try:
            location.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise StoreError(f"memory must be a folder, but a file is in the way of {location}") from error
        with mutex(location):
            if read_json(path, ("format", int)) is None:
                write_json(path, {"format": FORMAT, "written_by": "skesm"})


def check_location(location: Path) -> bool:
    """Whether there is a store, after a look at its format."""
    found = read_json(location / FORMAT_FILE, ("format", int))
    if found is not None:
        check_format(found["format"], location)
    return found is not None


def check_format(number: object, path: Path) -> None:
    """Raise StoreError unless files of format `number` can be read."""
    if number != FORMAT:
        raise StoreError(
            f"{path} has format {number!r}, and this skesm knows {FORMAT}: upgrade skesm, or give memory another folder"
        )


def write_json(path: Path, value: Document) -> None:
    """Write a JSON file so that it is there whole, or not at all, even after a power failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(value, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        _patiently(lambda: os.replace(temporary, path))
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_json(path: Path, *fields: tuple[str, type]) -> Document | None:
    """Return the object in a JSON file, or None if there is none.

    A file that holds no object, or one whose `fields` are not there or of another type, is moved aside with a warning.
    """
    try:
        found = json.loads(_patiently(path.read_bytes))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        move_aside(path, "is not a JSON object")
        return None
    for name, kind in fields:
        if type(found.get(name)) is not kind:
            move_aside(path, f"has no valid {name!r}")
            return None
    return found


def _patiently(operation: Callable[[], T]) -> T:
    """Repeat operations that fail on Windows while another process has the file open for a moment."""
    for _ in range(_REPEATS):
        try:
            return operation()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
            time.sleep(_PAUSE)
    return operation()


def move_aside(path: Path, reason: str) -> None:
    """Rename a damaged file and SQLite's files beside it, with a warning. Nothing is deleted.

    Raises
    ------
    StoreError
        If it cannot be renamed.
    """
    suffix = f"{ASIDE}{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(2)}"
    try:
        for extra in ("-wal", "-shm", "-journal", ""):  # the file itself last: until then others find it damaged too
            with suppress(FileNotFoundError):
                _patiently(functools.partial(os.rename, f"{path}{extra}", f"{path}{suffix}{extra}"))
    except OSError as error:
        raise StoreError(
            f"{path} {reason}, and cannot be renamed ({error.strerror}): remove it, or give memory another folder"
        ) from error
    warn(
        f"{path} {reason}. It was renamed to {path.name}{suffix}, and its content will be computed again",
        StoreWarning,
    )
