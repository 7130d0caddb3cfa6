"""The record store: what the model said about a sequence, kept so that it is computed once, ever."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sqlite3
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from skesm.cache import _claims, _records
from skesm.cache._database import Handle, is_damage, open_database, set_aside
from skesm.cache._files import (
    FORMAT,
    MANIFEST_FILE,
    RECORD_FILE,
    check_location,
    mutex,
    open_location,
    read_json,
    write_json,
)
from skesm.cache._records import Codec, Key, identity, sequence_digest
from skesm.exceptions import StoreError, StoreWarning
from skesm.outputs.spec import Namespace, OutputSpec, Record
from skesm.outputs.types import FloatArray

_PAUSES = (0.005, 0.2)  # seconds between two looks at others' claims: at first, and at most

#: How often an operation is begun before a file that is damaged each time is given up.
_ATTEMPTS = 3

_logger = logging.getLogger(__name__)

T = TypeVar("T")


class RecordStore:
    """Records of one namespace, shared by all processes and threads that use the same location.

    A store is meant to live as long as one ``transform``: it opens its file at the first use and must be closed, best
    by ``with``. It may be used by several threads, forked and pickled.

    What goes wrong with the file never changes a number. A damaged file or value gives a `StoreWarning` and counts as
    missing; when nothing can be written, one `StoreWarning` says so and the work goes on without storing.

    Parameters
    ----------
    location : Path
        Folder of the store, see `resolve_location`.
    namespace : Namespace
        What the values depend on beside sequence and output.

    Raises
    ------
    StoreError
        At first use: if the folder or the file was written by a newer skesm, or the file system cannot hold a store.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skesm.outputs.spec import Namespace, OutputSpec
    >>> from skesm.cache import RecordStore, resolve_location
    >>> namespace = Namespace("toy", fingerprint="sha256:00", numerics="fp32")
    >>> mean = OutputSpec("mean", 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RecordStore(resolve_location(folder), namespace) as store:
    ...         store.put(["MKT"], [{mean: np.ones(3, dtype=np.float32)}])
    ...         known, unknown = store.get(["MKT", "MKV"], [mean])
    >>> known[mean], unknown
    (array([1., 1., 1.], dtype=float32), None)
    """

    def __init__(self, location: Path, namespace: Namespace) -> None:
        self.location = Path(location).absolute()
        self.namespace = namespace
        self._identity = identity(namespace)
        self._codec = Codec(self._identity)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._handle: Handle | None = None
        self._warned = False

    def __getstate__(self) -> tuple[Path, Namespace]:
        return self.location, self.namespace

    def __setstate__(self, state: tuple[Path, Namespace]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def folder(self) -> Path:
        """Folder of this namespace's files."""
        # The name starts with the numerics, so that joblib.Memory.reduce_size never takes it for one of its own values.
        return self.location / f"{self.namespace.numerics}-{hashlib.sha256(self._identity.encode()).hexdigest()[:24]}"

    # -- looking up and storing ----------------------------------------------------------------------------------------

    def get(self, sequences: Sequence[str], outputs: Iterable[OutputSpec]) -> list[Record | None]:
        """Look up the records of `sequences`, in their order.

        Parameters
        ----------
        sequences : sequence of str
            Clean sequences. They may repeat.
        outputs : iterable of OutputSpec
            The outputs that are needed.

        Returns
        -------
        list
            For each sequence, a dict from output to a read-only float32 array, or None unless all outputs are there.
        """
        names = {str(output): output for output in outputs}
        keys = [(sequence_digest(sequence), len(sequence)) for sequence in sequences]
        found = self._read(lambda c: self._load(c, dict.fromkeys(keys), names)) or {}
        return [found.get(key) for key in keys]

    def put(self, sequences: Sequence[str], records: Sequence[Record]) -> None:
        """Store records, all or none. They are on the disk when this returns. What is there already stays.

        Parameters
        ----------
        sequences : sequence of str
            Clean sequences.
        records : sequence of Record
            One for each sequence: from outputs to finite float32 arrays.

        Raises
        ------
        ValueError
            If a value is not a finite, non-empty float32 array.
        """
        keys = [(sequence_digest(sequence), len(sequence)) for sequence in sequences]
        values = {
            (str(output), key): _checked(output, value)
            for key, record in zip(keys, records, strict=True)
            for output, value in record.items()
        }
        self._write(lambda c: _records.save(c, self._codec, values))

    def _load(
        self, connection: sqlite3.Connection, keys: Iterable[Key], names: dict[str, OutputSpec]
    ) -> dict[Key, dict[OutputSpec, FloatArray]]:
        found, damaged = _records.load(connection, self._codec, keys, names)
        if damaged:
            warnings.warn(
                f"{len(damaged)} values in {self.folder} do not agree with their checksums and count as missing",
                StoreWarning,
                stacklevel=2,
            )
            with suppress(sqlite3.OperationalError):  # in a file that cannot be written they go on counting as missing
                _records.forget(connection, damaged)
        return found

    # -- claims --------------------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, sequences: Sequence[str], outputs: Iterable[OutputSpec]) -> Iterator[list[int]]:
        """Claim sequences for this caller to compute.

        Nobody else gets a claim on them before the end of the ``with`` block, or of the process, however that ends.
        Claims never wait for one another, so callers with overlapping sequences cannot block each other as long as
        each puts its records and leaves the block before it waits for the others'.

        Parameters
        ----------
        sequences : sequence of str
            Clean, distinct sequences, usually those that `get` did not find.
        outputs : iterable of OutputSpec
            The outputs that are needed.

        Yields
        ------
        list of int
            Places in `sequences` that the caller shall compute now. The others are stored by now, or being computed by
            another process or thread. If claims cannot be written, all that are not stored.
        """
        names = {str(output): output for output in outputs}
        keys = [(sequence_digest(sequence), len(sequence)) for sequence in sequences]
        token = self._token()
        try:
            taken = None
            if token is not None:
                taken = self._write(lambda c: self._take(c, token, keys, names), durable=False)
            if taken is None:
                found = self._read(lambda c: self._load(c, dict.fromkeys(keys), names)) or {}
                taken = {key for key in keys if key not in found}
            places = {key: place for place, key in reversed(list(enumerate(keys)))}
            yield sorted(places[key] for key in taken)
        finally:
            if token is not None:
                # Released even if the rows cannot be deleted: a row whose token is dead claims nothing.
                _claims.release(self.folder, token)
                self._write(lambda c: c.execute("DELETE FROM claim WHERE token = ?", (token,)), durable=False)

    def _token(self) -> str | None:
        if self._write(lambda _: True, durable=False):
            try:
                return _claims.acquire(self.folder)
            except OSError as error:
                self._warn_unwritable(error)
        return None

    def _take(
        self, connection: sqlite3.Connection, token: str, keys: list[Key], names: dict[str, OutputSpec]
    ) -> set[Key]:
        for other in {
            *_claims.tokens(self.folder),
            *(t for (t,) in connection.execute("SELECT DISTINCT token FROM claim")),
        }:
            if not _claims.alive(self.folder, other):
                connection.execute("DELETE FROM claim WHERE token = ?", (other,))
        claimed = _records.claimed(connection, [digest for digest, _ in keys])
        free = {key for key in keys if key[0] not in claimed}
        free -= self._load(connection, free, names).keys()
        connection.executemany("INSERT INTO claim VALUES (?, ?)", ((digest, token) for digest, _ in free))
        return free

    def wait(self, sequences: Sequence[str], outputs: Iterable[OutputSpec], timeout: float | None = None) -> bool:
        """Wait while everything that is missing is being computed by others.

        Parameters
        ----------
        sequences : sequence of str
            Clean sequences.
        outputs : iterable of OutputSpec
            The outputs that are needed.
        timeout : float, optional
            Seconds to wait at most. None waits as long as the others live.

        Returns
        -------
        bool
            True as soon as all records are stored, or one is neither stored nor claimed by anyone alive: then call
            `get` and `claim` again. False if `timeout` passed before that.
        """
        names = {str(output) for output in outputs}
        digests = {sequence_digest(sequence) for sequence in sequences}
        end = None if timeout is None else time.monotonic() + timeout
        pause, longest = _PAUSES
        while (holders := self._read(lambda c: _records.holders(c, digests, names))) and self._all_alive(holders):
            # Until a holder ends, what it stores changes nothing for a caller that needs all of it.
            while self._all_alive(holders):
                if end is not None and time.monotonic() >= end:
                    return False
                time.sleep(pause if end is None else min(pause, max(0.0, end - time.monotonic())))
                pause = min(2 * pause, longest)
        return True

    def _all_alive(self, tokens: Iterable[str]) -> bool:
        return all(_claims.alive(self.folder, token) for token in tokens)

    # -- the file ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file. It is opened again if the store is used again."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Handle:
        if self._handle is not None and not self._handle.is_current():
            self.close()  # joblib.Memory.clear, or someone replaced the file
        if self._handle is None:
            _close_before_forks()
            if self not in _stores:  # a fork takes the two locks the other way round, but of the stores it knows
                with _forking_lock:
                    _stores.add(self)
            try:
                open_location(self.location)
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
        try:
            manifest = read_json(path)
            if manifest is not None and self.namespace.model in manifest.get("models", ()):
                return
            with mutex(self.folder):
                manifest = read_json(path) or {
                    "format": FORMAT,
                    "fingerprint": self.namespace.fingerprint,
                    "numerics": self.namespace.numerics,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "versions": _versions(),
                }
                manifest["models"] = sorted({*manifest.get("models", ()), self.namespace.model})
                write_json(path, manifest)
        except OSError as error:  # records are read and written without a manifest too
            _logger.info("no manifest in %s: %s", self.folder, error)

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do `operation` on one state of the file; None if there is no file."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                if not (self.folder / RECORD_FILE).exists():
                    check_location(self.location)
                    return None
                try:
                    return self._transact(operation, "BEGIN")
                except sqlite3.Error as error:
                    self._recover(error)
            raise self._hopeless()

    def _write(self, operation: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T | None:
        """Do `operation` as one transaction; if it cannot be written, warn once and return None."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                try:
                    connection = self._open().connection
                    # What a power failure takes back may be a claim, but not a record.
                    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                    return self._transact(operation, "BEGIN IMMEDIATE")
                except StoreError:
                    raise
                except (OSError, sqlite3.OperationalError) as error:
                    self._warn_unwritable(error)
                    return None
                except sqlite3.DatabaseError as error:
                    self._recover(error)
            raise self._hopeless()

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

    def _recover(self, error: sqlite3.Error) -> None:
        """Move the file aside if it is damaged, so that the next attempt starts a new one."""
        if not is_damage(error):
            raise StoreError(f"the records in {self.folder} cannot be read: {error}") from error
        if self._handle is not None:
            identity = self._handle.identity
            self.close()
            set_aside(self.folder / RECORD_FILE, identity, str(error))

    def _hopeless(self) -> StoreError:
        return StoreError(f"the records in {self.folder} were damaged again and again while they were used")

    def _warn_unwritable(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"nothing can be stored in {self.location} ({error}); going on without storing, so what is computed "
                "now will be computed again next time. Free or choose another disk, or give memory another folder",
                StoreWarning,
                stacklevel=2,
            )


def _checked(output: OutputSpec, value: FloatArray) -> FloatArray:
    if value.dtype != np.float32 or value.size == 0 or not np.isfinite(value).all():
        raise ValueError(f"output {output} is {value.dtype}{list(value.shape)}; only finite float32 values are stored")
    return value


def _versions() -> dict[str, str]:
    try:
        own = version("skesm")
    except PackageNotFoundError:
        own = "not installed"
    python = ".".join(map(str, sys.version_info[:3]))
    return {"skesm": own, "numpy": np.__version__, "python": python, "sqlite": sqlite3.sqlite_version}


# -- fork --------------------------------------------------------------------------------------------------------------
# SQLite's view of its locks is copied by fork, the locks are not; so no file is open while the process forks.

_stores: weakref.WeakSet[RecordStore] = weakref.WeakSet()
_forking: list[RecordStore] = []
_forking_lock = threading.RLock()


@functools.cache
def _close_before_forks() -> None:
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    _forking_lock.acquire()
    for store in list(_stores):
        store._lock.acquire()
        store.close()
        _forking.append(store)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()
    _forking_lock.release()
