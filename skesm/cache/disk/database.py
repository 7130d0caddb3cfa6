"""The SQLite file of one namespace: schema, opening, and the meaning of its errors."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from skesm._messages import warn
from skesm.cache.disk.files import FORMAT, MANIFEST_FILE, RECORD_FILE, check_format, move_aside
from skesm.cache.disk.locks import mutex
from skesm.exceptions import StoreError, StoreWarning

#: "skes" in ASCII: tells our files from other SQLite files.
APPLICATION_ID = 0x736B6573

#: Seconds to wait for another process's transaction. Ours take milliseconds, but a stopped process may hold one long.
BUSY_TIMEOUT = 60.0

# Values lie in blocks of up to BLOCK_BYTES, because SQLite rounds a large value up to whole pages: alone on its page, a
# row of 640 float32 would take 1.6 times its size. Per block at most one page is lost.
BLOCK_BYTES = 1 << 16
PAGE_BYTES = 1 << 12

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE block (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE record (
    sequence BLOB NOT NULL,    -- first 16 bytes of the SHA-256 of the residues
    output TEXT NOT NULL,      -- "mean@33", "logits", ...
    length INTEGER NOT NULL,   -- number of residues
    shape TEXT NOT NULL,       -- "1280", "238,20": dimensions of the little-endian float32 array
    block INTEGER NOT NULL,
    start INTEGER NOT NULL,    -- place in the block, in bytes
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL, -- over namespace, key, shape and value
    PRIMARY KEY (sequence, output)
) WITHOUT ROWID;
CREATE TABLE claim (sequence BLOB PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
"""

T = TypeVar("T")

#: Errors that a sound file never gives: our transactions break no constraint, and none of our values is too large.
_DAMAGE = {
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT),
    *(sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG),
}
_UNWRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}

#: How often a file is opened that is damaged, or replaced, each time.
_ATTEMPTS = 5


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error says that the file's content is broken, not that it cannot be reached."""
    return _code(error) in _DAMAGE


def is_outdated(error: sqlite3.Error) -> bool:
    """Whether the error may come from a schema that was changed or damaged while the file was open."""
    return _code(error) in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


class Damaged(sqlite3.DatabaseError):
    """SQLite reads a value without complaint, but it cannot be a stored one."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class Foreign(Damaged):
    """A sound SQLite file, but not the one of this namespace."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


class Stuck(StoreError):
    """A damaged file that cannot be moved: in a read-only folder, or open in another process on Windows."""


class Unmade(sqlite3.OperationalError):
    """The file holds nothing yet, and nothing can be written to it."""

    sqlite_errorcode = sqlite3.SQLITE_FULL


def typed(
    connection: sqlite3.Connection, query: str, values: Sequence[str | bytes | int], *types: type
) -> Iterator[tuple[Any, ...]]:
    """Rows of a query, each column of the type that we stored there.

    Raises
    ------
    Damaged
        If a row is of other types.
    """
    for row in connection.execute(query, values):
        if tuple(map(type, row)) != types:
            raise Damaged("a row does not have the types that were stored")
        yield row


@dataclass(frozen=True)
class Handle:
    """An open record file and its identity. `writable` says whether SQLite may write to it."""

    connection: sqlite3.Connection
    identity: tuple[int, int]
    path: Path
    writable: bool

    def is_current(self) -> bool:
        """Whether the path still names the open file, which may have been removed or replaced."""
        return _identity(self.path) == self.identity

    def is_damaged_by(self, error: sqlite3.Error) -> bool:
        """Whether the error comes from the file's content.

        Damage to the header can turn a file read-only that the user may write to.
        """
        turned = self.writable and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY
        return is_damage(error) or (turned and all(os.access(p, os.W_OK) for p in (self.path, self.path.parent)))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    # By name, never by opening the file: closing a second descriptor would drop SQLite's own locks on it.
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def open_database(folder: Path, namespace: str) -> Handle:
    """Open the record file in `folder`, and make it if there is none. A damaged or foreign file is moved aside first.

    Raises
    ------
    StoreError
        If the file comes from a newer version of skesm, or the file system cannot hold it.
    sqlite3.Error, OSError
        If it cannot be reached.
    """
    path = folder / RECORD_FILE
    for _ in range(_ATTEMPTS):
        before = _identity(path)
        try:
            connection, writable = _open_existing_or_new(path, namespace)
        except sqlite3.DatabaseError as error:
            if not is_damage(error) and not is_outdated(error):
                raise
            set_aside(path, before, str(error))
            continue
        if before is not None and before == _identity(path):
            return Handle(connection, before, path, writable)
        connection.close()  # just made, or replaced meanwhile: once more, to be sure of which file is open
    raise StoreError(f"{path} is damaged or replaced again and again: give memory another folder")


def open_for_reading(folder: Path) -> tuple[sqlite3.Connection, str]:
    """Open the record file, whosever it is, and return its namespace too. Nothing is made, moved or changed.

    Raises
    ------
    StoreError
        If the file comes from a newer version of skesm.
    sqlite3.Error
        If it cannot be read.
    """
    path = folder / RECORD_FILE

    def opened(mode: str) -> tuple[sqlite3.Connection, str]:
        connection = _connect(path, mode)
        try:
            return connection, _check(connection, path)
        except BaseException:
            connection.close()
            raise

    return _with_fallback(path, "ro", opened)


def set_aside(path: Path, identity: tuple[int, int] | None, reason: str) -> None:
    """Move a damaged record file out of the way, unless another process has done so already."""
    reason = f"cannot be read ({reason})"
    try:
        with mutex(path.parent):
            if _identity(path) == identity:
                move_aside(path, reason)
    except StoreError as error:
        raise Stuck(str(error)) from error
    except OSError as error:
        raise Stuck(f"{path} {reason}: remove it, or give memory another folder") from error


def _open_existing_or_new(path: Path, namespace: str) -> tuple[sqlite3.Connection, bool]:
    existed = path.exists()

    def opened(mode: str) -> tuple[sqlite3.Connection, bool]:
        connection = _connect(path, mode)
        try:
            if _pragma(connection, "user_version") == 0 and mode == "rwc":
                _create(connection, path, namespace, emptied=existed)
            if _check(connection, path) != namespace:
                raise Foreign("it holds records of another model")
        except BaseException:
            connection.close()
            raise
        return connection, mode == "rwc"

    return _with_fallback(path, "rwc", opened)


def _with_fallback(path: Path, mode: str, opened: Callable[[str], T]) -> T:
    try:
        return opened(mode)
    except sqlite3.OperationalError as error:
        if _code(error) not in _UNWRITABLE or not path.is_file():
            raise
        reason = error
    # In a read-only folder or on a full disk, SQLite cannot make the files through which it follows other processes.
    # Then the file is read as it is. Values that a crashed process left in the journal beside it count as missing.
    try:
        return opened("ro&immutable=1")
    except Unmade:
        raise Unmade(str(reason)) from reason


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{uri_of(path)}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )
    # Text that is no longer UTF-8 is text that we did not store, and no error.
    connection.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
    # A file is not trusted: neither its schema's code nor a mapping that a truncation would turn into a crash.
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA mmap_size=0")
    return connection


def uri_of(path: PurePath) -> str:
    """An absolute path as SQLite's URI.

    Examples
    --------
    >>> from pathlib import PurePosixPath, PureWindowsPath
    >>> uri_of(PurePosixPath("/a b/c?"))
    'file:///a%20b/c%3F'
    >>> uri_of(PureWindowsPath("C:/a b/c"))
    'file:///C:/a%20b/c'
    >>> uri_of(PureWindowsPath("//server/share/c"))
    'file:////server/share/c'
    """
    uri = path.as_uri()
    # SQLite takes no host names. Windows' network folders then stand in the path.
    return uri if uri.startswith("file:///") else f"file://{uri.removeprefix('file:')}"


def _create(connection: sqlite3.Connection, path: Path, namespace: str, *, emptied: bool) -> None:
    with mutex(path.parent):
        if _pragma(connection, "user_version") != 0:
            return
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise Foreign("it is another program's SQLite file")
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(
                f"the file system of {path.parent} cannot hold a record store (no shared memory, as on network file "
                "systems): give memory a folder on a local disk"
            )
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("INSERT INTO meta VALUES ('namespace', ?)", (namespace,))
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    if emptied and (path.parent / MANIFEST_FILE).exists():
        warn(f"{path} was empty. Its content will be computed again", StoreWarning)


def _check(connection: sqlite3.Connection, path: Path) -> str:
    """Return the namespace of a record file, once it has proved to be one."""
    number, application = _pragma(connection, "user_version"), _pragma(connection, "application_id")
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    if not found and number == 0 and application in (0, APPLICATION_ID):
        raise Unmade("it is empty")
    if application != APPLICATION_ID:
        raise Foreign("it is another program's SQLite file")
    is_ours = found.items() >= _tables().items()
    if number != FORMAT and is_ours:  # another format has other tables: its number is damaged
        raise Damaged(f"its format cannot be {number}")
    check_format(number, path)
    if not is_ours:
        raise Foreign("it does not have the tables of a record store")
    row = connection.execute("SELECT value FROM meta WHERE key = 'namespace'").fetchone()
    if row is None:
        raise Foreign("it does not say which model its records belong to")
    return str(row[0])


@functools.cache
def _tables() -> dict[str, str]:
    """The tables of SCHEMA, by name, as SQLite remembers them."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(SCHEMA)
        return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    finally:
        connection.close()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
