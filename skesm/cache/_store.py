"""The record store: it keeps the model's outputs for a sequence, so that they are computed only once."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType

import numpy as np

from skesm._messages import warn
from skesm.cache import _records, _usage
from skesm.cache._portions import Portions, take
from skesm.cache._records import Codec, Key, identity, sequence_digest
from skesm.cache._session import Session
from skesm.cache.disk import claims
from skesm.cache.disk.database import typed
from skesm.exceptions import StoreWarning
from skesm.outputs.spec import Namespace, OutputSpec, Record
from skesm.outputs.types import FloatArray

_PAUSES = (0.005, 0.2)  # seconds between two looks at others' claims: at first, and at most

#: Keys that are remembered: a new sequence is looked up, claimed, stored and looked up again.
_KEYS_KEPT = 1 << 14


class RecordStore:
    """Records of one namespace, shared by all processes and threads that use the same location.

    A store is meant to live as long as one ``transform``: it opens its file at the first use and must be closed, best
    by ``with``. It may be used by several threads, forked and pickled.

    A problem with the file never changes a number. A damaged file or value gives a `StoreWarning` and counts as
    missing. When nothing can be written, one `StoreWarning` says so, and the work goes on without storing.

    Parameters
    ----------
    location : Path
        Folder of the store, see `resolve_location`.
    namespace : Namespace
        Everything besides sequence and output that the values depend on.

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
        name = identity(namespace)
        self._codec = Codec(name)
        # The name starts with the numerics, so that joblib.Memory.reduce_size never takes it for one of its own values.
        folder = self.location / f"{namespace.numerics}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
        self._session = Session(self.location, folder, namespace, name)
        self._portions = Portions()
        self._keys: dict[str, Key] = {}
        self._blocks_read: set[int] = set()
        self._stored = 0

    def __getstate__(self) -> tuple[Path, Namespace]:
        return self.location, self.namespace

    def __setstate__(self, state: tuple[Path, Namespace]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def folder(self) -> Path:
        """Folder of this namespace's files."""
        return self._session.folder

    def close(self) -> None:
        """Close the file, after noting which of it was used. It is opened again if the store is used again."""
        if self._blocks_read:
            self._session.attempt(lambda c: _usage.note(c, self._blocks_read))
            self._blocks_read = set()
        self._session.close()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
        keys = self._keys_of(sequences)
        found = self._session.read(lambda c: self._load(c, dict.fromkeys(keys), names)) or {}
        return [found.get(key) for key in keys]

    def put(self, sequences: Sequence[str], records: Sequence[Record]) -> None:
        """Store records, all or none. They are on the disk when this returns. Stored values stay.

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
        keys = self._keys_of(sequences)
        values = {
            (str(output), key): _checked(output, value)
            for key, record in zip(keys, records, strict=True)
            for output, value in record.items()
        }

        def save(connection: sqlite3.Connection) -> int:
            _records.save(connection, self._codec, values)
            return len(values)

        self._stored += self._session.write(save) or 0

    def _load(
        self, connection: sqlite3.Connection, keys: Iterable[Key], names: dict[str, OutputSpec]
    ) -> dict[Key, dict[OutputSpec, FloatArray]]:
        found, damaged = _records.load(connection, self._codec, keys, names, self._blocks_read)
        if damaged:
            warn(
                f"{len(damaged)} values in {self.folder} do not agree with their checksums and count as missing",
                StoreWarning,
            )
            with suppress(sqlite3.OperationalError):  # in a file that cannot be written they go on counting as missing
                _records.forget(connection, damaged)
        return found

    def _keys_of(self, sequences: Sequence[str]) -> list[Key]:
        if len(self._keys) > _KEYS_KEPT:
            self._keys = {}
        known = self._keys  # another thread may begin a new one
        keys = []
        for sequence in sequences:
            key = known.get(sequence)
            if key is None:
                key = known[sequence] = (sequence_digest(sequence), len(sequence))
            keys.append(key)
        return keys

    # -- claims --------------------------------------------------------------------------------------------------------

    @contextmanager
    def claim(self, sequences: Sequence[str], outputs: Iterable[OutputSpec]) -> Iterator[list[int]]:
        """Claim sequences for this caller to compute: a portion of the free ones, so that others find work too.

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
            Places in `sequences` that the caller shall compute now. If it is empty, all are stored by now or being
            computed by another process or thread: `wait` for them. Otherwise call `get` and `claim` again afterwards.
            If claims cannot be written, these are all that are not stored.
        """
        names = {str(output): output for output in outputs}
        keys = self._keys_of(sequences)
        token = self._token()
        try:
            taken = None
            if token is not None:
                taken = self._session.write(lambda c: self._take(c, token, keys, names), durable=False)
            if taken is None:
                found = self._session.read(lambda c: self._load(c, dict.fromkeys(keys), names)) or {}
                taken = [key for key in keys if key not in found]
            places = {key: place for place, key in reversed(list(enumerate(keys)))}
            begun, before = time.monotonic(), self._stored
            yield sorted(places[key] for key in taken)
            if taken:
                residues, seconds = sum(length for _, length in taken), time.monotonic() - begun
                self._portions.note(residues, seconds, stored=self._stored > before)
        finally:
            if token is not None:
                # Released even if the rows cannot be deleted: a row whose token is dead claims nothing.
                claims.release(self.folder, token)
                self._session.write(lambda c: c.execute("DELETE FROM claim WHERE token = ?", (token,)), durable=False)

    def _token(self) -> str | None:
        if self._session.write(lambda _: True, durable=False):
            try:
                return claims.acquire(self.folder)
            except OSError as error:
                self._session.warn_unwritable(error)
        return None

    def _take(
        self, connection: sqlite3.Connection, token: str, keys: list[Key], names: dict[str, OutputSpec]
    ) -> list[Key]:
        holders = {other for (other,) in typed(connection, "SELECT DISTINCT token FROM claim", (), str)}
        workers = 0
        for other in {*claims.tokens(self.folder), *holders}:
            if claims.alive(self.folder, other):
                workers += 1
            else:
                connection.execute("DELETE FROM claim WHERE token = ?", (other,))
        claimed = _records.claimed(connection, [digest for digest, _ in keys])
        free = [key for key in dict.fromkeys(keys) if key[0] not in claimed]
        size = self._portions.size(sum(length for _, length in free), workers)
        taken: list[Key] = []
        while free and not taken:
            count = take([length for _, length in free], size)
            found = self._load(connection, free[:count], names)
            taken = [key for key in free[:count] if key not in found]
            free = free[count:]
        connection.executemany("INSERT INTO claim VALUES (?, ?)", ((digest, token) for digest, _ in taken))
        return taken

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

        def holders_now() -> set[str]:
            return self._session.read(lambda c: _records.holders(c, digests, names)) or set()

        while (holders := holders_now()) and self._all_alive(holders):
            # A caller that needs all records waits until a holder ends: records that it stores before change nothing.
            while self._all_alive(holders):
                if end is not None and time.monotonic() >= end:
                    return False
                time.sleep(pause if end is None else min(pause, max(0.0, end - time.monotonic())))
                pause = min(2 * pause, longest)
        return True

    def _all_alive(self, tokens: Iterable[str]) -> bool:
        return all(claims.alive(self.folder, token) for token in tokens)


_kept: ContextVar[RecordStore | None] = ContextVar("kept", default=None)


@contextmanager
def keep_open(location: Path, namespace: Namespace) -> Iterator[None]:
    """Let `open_store` give one store, again and again, for one location and namespace.

    For who calls ``transform`` once for each of many chunks: to open and to close the file takes as long as a hundred
    records.
    """
    with RecordStore(location, namespace) as store:
        token = _kept.set(store)
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def open_store(location: Path, namespace: Namespace) -> Iterator[RecordStore]:
    """A store for one use. It is closed at the end, unless `keep_open` keeps it."""
    kept = _kept.get()
    if kept is not None and (kept.location, kept.namespace) == (Path(location).absolute(), namespace):
        yield kept
    else:
        with RecordStore(location, namespace) as store:
            yield store


def _checked(output: OutputSpec, value: FloatArray) -> FloatArray:
    if value.dtype != np.float32 or value.size == 0 or not np.isfinite(value).all():
        raise ValueError(f"output {output} is {value.dtype}{list(value.shape)}. Only finite float32 values are stored")
    return value
