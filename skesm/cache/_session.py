"""One record file in use: opened when needed, followed when it is replaced, set aside when it is damaged."""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from skesm._messages import warn
from skesm._typing import Document
from skesm.cache.disk.database import Handle, Stuck, Unmade, is_outdated, open_database, set_aside
from skesm.cache.disk.files import (
    FORMAT,
    MANIFEST_FILE,
    RECORD_FILE,
    check_location,
    open_location,
    read_json,
    write_json,
)
from skesm.cache.disk.locks import has_fork, mutex
from skesm.exceptions import StoreError, StoreWarning
from skesm.outputs.spec import Namespace

#: How often an operation is begun before a file that is damaged each time is given up.
_ATTEMPTS = 3

#: Milliseconds to wait for another process's transaction, for writes that may be left out.
_PATIENCE = 500

_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Session:
    """Transactions on the record file of one namespace.

    A problem with the file never changes a number. A damaged file gives a `StoreWarning` and counts as missing.
    If nothing can be written, one `StoreWarning` says so and the work goes on without storing.

    Parameters
    ----------
    location : Path
        Folder of the store.
    folder : Path
        Folder of the namespace, inside it.
    namespace : Namespace
        For the manifest.
    identity : str
        The identity that the file must state.
    """

    def __init__(self, location: Path, folder: Path, namespace: Namespace, identity: str) -> None:
        self.folder = folder
        self._location = location
        self._namespace = namespace
        self._identity = identity
        self._lock = threading.RLock()
        self._handle: Handle | None = None
        self._warned = False

    def read(self, operation: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do `operation` on one state of the file. None if there is no file."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                if not (self.folder / RECORD_FILE).exists():
                    check_location(self._location)
                    return None
                try:
                    return self._transact(operation, "BEGIN")
                except (Unmade, Stuck) as error:
                    self.warn_unwritable(error)
                    return None
                except sqlite3.Error as error:
                    failure = error
                if not self._recover(failure):
                    return None
            raise self._hopeless()

    def write(self, operation: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T | None:
        """Do `operation` as one transaction. If it cannot be written, warn once and return None."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    connection = self._open().connection
                    # A power failure may undo a claim, but not a record.
                    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                    return self._transact(operation, "BEGIN IMMEDIATE")
                except OSError as error:
                    if isinstance(error, StoreError) and not isinstance(error, Stuck):
                        raise
                    self.warn_unwritable(error)
                    return None
                except sqlite3.Error as error:
                    if not self._may_recover(error) and isinstance(error, sqlite3.OperationalError):
                        self.warn_unwritable(error)
                        return None
                    failure = error
                if not self._recover(failure):
                    return None
            raise self._hopeless()

    def attempt(self, operation: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do `operation` as one transaction before the file is closed. If it cannot be done now, leave it out."""
        with self._lock:
            if self._handle is None or not self._handle.writable or not self._handle.is_current():
                return None
            try:
                self._handle.connection.execute(f"PRAGMA busy_timeout={_PATIENCE}")
                return self._transact(operation, "BEGIN")
            except (OSError, sqlite3.Error) as error:
                _logger.info("nothing noted in %s: %s", self.folder, error)
                return None

    def close(self) -> None:
        """Close the file. It is opened again at the next use."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def warn_unwritable(self, error: Exception) -> None:
        """Say once that nothing can be stored."""
        if not self._warned:
            self._warned = True
            warn(
                f"nothing can be stored in {self._location} ({error}). The work goes on without the store, and its "
                "results will be computed again next time. Free disk space, give memory another folder, or leave it "
                "out (memory=None)",
                StoreWarning,
            )

    def _transact(self, operation: Callable[[sqlite3.Connection], T], begin: str) -> T:
        connection = self._open().connection
        connection.execute(begin)
        try:
            result = operation(connection)
            if connection.in_transaction:  # SQLite rolls back by itself when it runs into a full disk
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def _open(self) -> Handle:
        if self._handle is not None and not self._handle.is_current():
            self.close()  # joblib.Memory.clear, or someone replaced the file
        if self._handle is None:
            _close_before_forks()
            if self not in _sessions:  # a fork takes the two locks the other way round, but of the sessions it knows
                with _forking_lock:
                    _sessions.add(self)
            try:
                open_location(self._location)
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                if isinstance(error, StoreError) or not (self.folder / RECORD_FILE).is_file():
                    raise
            self._handle = open_database(self.folder, self._identity)
            self._describe()
        return self._handle

    def _describe(self) -> None:
        """Keep the manifest: for people, and for `info`."""
        path = self.folder / MANIFEST_FILE
        model = self._namespace.model
        try:
            manifest = read_manifest(path)
            if manifest is not None and model in manifest["models"]:
                return
            with mutex(self.folder):
                manifest = read_manifest(path) or {
                    "format": FORMAT,
                    "fingerprint": self._namespace.fingerprint,
                    "numerics": self._namespace.numerics,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "versions": _versions(),
                    "models": [],
                }
                manifest["models"] = sorted({*manifest["models"], model})
                write_json(path, manifest)
        except OSError as error:  # records are read and written without a manifest too
            _logger.info("no manifest in %s: %s", self.folder, error)

    def _may_recover(self, error: sqlite3.Error) -> bool:
        damaged = self._handle is not None and self._handle.is_damaged_by(error)
        return damaged or is_outdated(error)

    def _recover(self, error: sqlite3.Error) -> bool:
        """Make the next attempt possible: move the file aside if it is damaged, or open it again.

        Warns and returns False if that cannot be done.
        """
        if self._handle is None or not self._may_recover(error):
            raise StoreError(f"the records in {self.folder} cannot be read: {error}") from error
        identity, damaged = self._handle.identity, self._handle.is_damaged_by(error)
        self.close()  # opening it again looks at the schema, which may be damaged
        try:
            if damaged:
                set_aside(self.folder / RECORD_FILE, identity, str(error))
        except Stuck as stuck:
            self.warn_unwritable(stuck)
            return False
        return True

    def _hopeless(self) -> StoreError:
        return StoreError(f"the records in {self.folder} were damaged again and again while they were used")


def read_manifest(path: Path) -> Document | None:
    """Return a manifest, or None if there is none. A file that is not a manifest is moved aside with a warning."""
    manifest = read_json(path, ("models", list))
    if manifest is not None:
        manifest["models"] = [name for name in manifest["models"] if isinstance(name, str)]
    return manifest


def _versions() -> dict[str, str]:
    try:
        own = version("skesm")
    except PackageNotFoundError:
        own = "not installed"
    python = ".".join(map(str, sys.version_info[:3]))
    return {"skesm": own, "numpy": np.__version__, "python": python, "sqlite": sqlite3.sqlite_version}


# -- fork --------------------------------------------------------------------------------------------------------------
# SQLite's view of its locks is copied by fork, but the locks are not. So no file is open while the process forks.

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_forking: list[Session] = []
_forking_lock = threading.RLock()


@functools.cache
def _close_before_forks() -> None:
    if has_fork():
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    _forking_lock.acquire()
    for session in list(_sessions):
        session._lock.acquire()
        session.close()
        _forking.append(session)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()
    _forking_lock.release()
