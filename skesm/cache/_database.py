"""The SQLite file of one namespace: schema, opening, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from skesm.cache._files import FORMAT, MANIFEST_FILE, RECORD_FILE, check_format, move_aside, mutex
from skesm.exceptions import StoreError, StoreWarning

#: "skes" in ASCII: tells our files from other SQLite files.
APPLICATION_ID = 0x736B6573

#: Seconds to wait for another process's transaction. Ours take milliseconds; a stopped process may hold one for long.
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

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNWRITABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error says that the file's content is broken, not that it cannot be reached."""
    return _code(error) in _DAMAGE


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


class Foreign(sqlite3.DatabaseError):
    """A sound SQLite file, but not the one of this namespace."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


@dataclass(frozen=True)
class Handle:
    """An open record file and which file that is."""

    connection: sqlite3.Connection
    identity: tuple[int, int]
    path: Path

    def is_current(self) -> bool:
        """Whether the path still names the file that is open; it may have been removed or replaced."""
        return _identity(self.path) == self.identity

    def close(self) -> None:
        self.connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    # By name, never by opening the file: closing a second descriptor would drop SQLite's own locks on it.
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def open_database(folder: Path, namespace: str) -> Handle:
    """Open the record file in `folder`, making it if need be; a damaged or foreign file is moved aside first.

    Raises
    ------
    StoreError
        If the file comes from a newer version of skesm, or the file system cannot hold it.
    sqlite3.Error, OSError
        If it cannot be reached.
    """
    path = folder / RECORD_FILE
    while True:
        before = _identity(path)
        try:
            connection = _open_existing_or_new(path, namespace)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            set_aside(path, before, str(error))
            continue
        if before is not None and before == _identity(path):
            return Handle(connection, before, path)
        connection.close()  # just made, or replaced meanwhile: once more, to be sure of which file is open


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
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path} {reason}: remove it, or give memory another folder") from error


def _open_existing_or_new(path: Path, namespace: str) -> sqlite3.Connection:
    existed = path.exists()

    def opened(mode: str) -> sqlite3.Connection:
        connection = _connect(path, mode)
        try:
            if _pragma(connection, "user_version") == 0 and mode == "rwc":
                _create(connection, path, namespace, emptied=existed)
            if _check(connection, path) != namespace:
                raise Foreign("it holds the records of another model")
        except BaseException:
            connection.close()
            raise
        return connection

    return _with_fallback(path, "rwc", opened)


def _with_fallback(path: Path, mode: str, opened: Callable[[str], T]) -> T:
    try:
        return opened(mode)
    except sqlite3.OperationalError as error:
        if _code(error) not in _UNWRITABLE or not path.is_file():
            raise
    # In a read-only folder or on a full disk, SQLite cannot make the files through which it follows other processes.
    # Then the file is read as it is; what a crashed process left in the journal beside it counts as missing.
    return opened("ro&immutable=1")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )
    # A file is not trusted: neither its schema's code nor a mapping that a truncation would turn into a crash.
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA mmap_size=0")
    return connection


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
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
        connection.execute("INSERT INTO meta VALUES ('namespace', ?)", (namespace,))
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    if emptied and (path.parent / MANIFEST_FILE).exists():
        warnings.warn(f"{path} was empty; what it held will be computed again", StoreWarning, stacklevel=2)


def _check(connection: sqlite3.Connection, path: Path) -> str:
    """Return the namespace of a record file, once it has proved to be one."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise Foreign("it is another program's SQLite file")
    check_format(_pragma(connection, "user_version"), path)
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'namespace'").fetchone()
        connection.execute("SELECT 1 FROM record, block, claim LIMIT 0")  # they exist
    except sqlite3.OperationalError as error:
        if _code(error) == sqlite3.SQLITE_ERROR:  # no such table
            raise Foreign(str(error)) from error
        raise
    if row is None:
        raise Foreign("it does not say of which model its records are")
    return str(row[0])


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
