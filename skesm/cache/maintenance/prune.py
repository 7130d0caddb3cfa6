"""Make a store smaller: remove a model, values that were not used for long, or values beyond a size."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from skesm.cache import _usage
from skesm.cache.disk import claims
from skesm.cache.disk.database import PAGE_BYTES, open_database
from skesm.cache.disk.files import ASIDE, RECORD_FILE, find_location
from skesm.cache.maintenance.contents import NamespaceInfo, reading, select
from skesm.exceptions import StoreError

#: Blocks that are removed in one transaction, which other processes wait for.
_BLOCKS_AT_ONCE = 2_000

_DAYS = {"d": 1.0, "w": 7.0, "h": 1 / 24}
_BYTES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


@dataclass(frozen=True)
class PruneReport:
    """The removed values.

    Attributes
    ----------
    folders : tuple of Path
        Folders that are gone as a whole.
    freed_bytes : int
        By how much the files became smaller.
    values : int
        Number of values that were removed.
    """

    folders: tuple[Path, ...]
    freed_bytes: int
    values: int = 0


def prune(
    location: str | os.PathLike[str],
    *,
    model: str | None = None,
    older_than: str | float | timedelta | None = None,
    max_size: str | int | None = None,
) -> PruneReport:
    """Make a store smaller.

    With `model` alone, everything that is stored for the model is removed, in all numerics. With `older_than`, values
    that were not used for so long are removed. With `max_size`, the least recently used values are removed until the
    rest fits. With `model` and one of these, only values of the model are removed, and only their size counts.

    Parameters
    ----------
    location : path
        The value of `memory`, or the folder of the store.
    model : str, optional
        A name under which it was used, or its fingerprint. `info` has both.
    older_than : str, float or timedelta, optional
        Days, or text such as ``"90d"``, ``"12w"`` or ``"36h"``. Use is noted by the day.
    max_size : str or int, optional
        Bytes, or text such as ``"20GB"`` or ``"500MB"``.

    Returns
    -------
    PruneReport

    Raises
    ------
    StoreError
        If there is no such model, or if `model` is given alone and its records are being computed right now.
    ValueError
        If none of the three is given, or an age or size cannot be read.

    Notes
    -----
    Other processes may use the store meanwhile. They compute missing values again. An interrupted call leaves a sound
    store, from which less was removed. Values lie in blocks of up to 64 KB, and a block goes as a whole, once none of
    its values was used recently. The files become smaller where the disk has room for a second copy of the smaller
    file and no other process is reading. Otherwise the space inside them is used again by the next values.
    Damaged files that were set aside are removed too, by their age, and first of all for `max_size`.

    Examples
    --------
    >>> import tempfile
    >>> from skesm import ESM2Embedder
    >>> from skesm.cache import prune
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = ESM2Embedder("skesm-mini", memory=folder).transform(["MKT"])
    ...     prune(folder, older_than="90d").values
    0
    """
    age = None if older_than is None else _days(older_than)
    most = None if max_size is None else _bytes(max_size)
    if age is None and most is None:
        if model is None:
            raise ValueError("name the values to remove: give model, older_than or max_size")
        return _drop(location, model)
    chosen = _chosen(location, model)
    before = sum(each.disk_bytes for each in chosen)
    _remove_aside(chosen, age, everything=most is not None and before > most)
    removed = {each.folder: 0 for each in chosen}
    blocks = _blocks(chosen)
    if age is not None:
        oldest = _usage.today() - age
        _remove([block for block in blocks if block.day < oldest], removed)
        blocks = [block for block in blocks if block.day >= oldest]
    if most is not None:
        _remove(_beyond(blocks, [each.folder for each in chosen], most), removed)
    for folder, count in removed.items():
        if count or _free_pages(folder):
            _shrink(folder)
    after = sum(each.disk_bytes for each in _chosen(location, model))
    return PruneReport((), max(0, before - after), sum(removed.values()))


def _drop(location: str | os.PathLike[str], model: str) -> PruneReport:
    chosen = select(location, model)
    for each in chosen:
        if any(claims.alive(each.folder, token) for token in claims.tokens(each.folder)):
            raise StoreError(f"records of {model!r} are being computed by another process: wait for it to end")
    for each in chosen:
        # Renamed first: others see all of it, or nothing.
        doomed = each.folder.with_name(f".removed-{secrets.token_hex(4)}")
        try:
            os.rename(each.folder, doomed)
        except PermissionError as error:
            raise StoreError(f"{each.folder} is open in another process, or read-only") from error
        shutil.rmtree(doomed)
    values = sum(sum(each.outputs.values()) for each in chosen)
    return PruneReport(tuple(each.folder for each in chosen), sum(each.disk_bytes for each in chosen), values)


def _chosen(location: str | os.PathLike[str], model: str | None) -> list[NamespaceInfo]:
    find_location(location)  # a place without a store is an error, a store without records is not
    try:
        return select(location, model)
    except StoreError:
        if model is None and not any(find_location(location).glob(f"*/{RECORD_FILE}")):
            return []
        raise


@dataclass(frozen=True, order=True)
class _Block:
    """Values that are removed together, least recently used first."""

    day: int
    number: int
    folder: Path
    size: int


def _blocks(chosen: Iterable[NamespaceInfo]) -> list[_Block]:
    found: list[_Block] = []
    for each in chosen:
        with suppress(StoreError), reading(each.folder) as (connection, _):
            used = "LEFT JOIN used ON used.block = block.id" if _has_usage(connection) else ""
            day = "coalesce(used.day, ?)" if used else "?"
            rows = connection.execute(f"SELECT {day}, id, length(value) FROM block {used}", (_usage.today(),))
            found += [_Block(day, number, each.folder, size) for day, number, size in rows]
    return sorted(found)


def _has_usage(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'used'").fetchone() is not None


def _beyond(blocks: list[_Block], folders: list[Path], most: int) -> list[_Block]:
    """The least recently used blocks, as many as must go."""
    sizes = dict.fromkeys(folders, 0)
    for block in blocks:
        sizes[block.folder] += block.size
    # A block's share of its file: its rows, and the bytes that SQLite adds.
    factors = {folder: _used_bytes(folder) / size for folder, size in sizes.items() if size}
    excess = sum(_used_bytes(folder) for folder in folders) - most
    doomed: list[_Block] = []
    for block in blocks:
        if excess <= 0:
            break
        doomed.append(block)
        excess -= int(block.size * factors[block.folder])
    return doomed


def _used_bytes(folder: Path) -> int:
    """Bytes of the record file that hold something."""
    with suppress(StoreError), reading(folder) as (connection, _):
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages - free) * PAGE_BYTES
    return 0


def _free_pages(folder: Path) -> int:
    with suppress(StoreError), reading(folder) as (connection, _):
        return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    return 0


def _remove(blocks: list[_Block], removed: dict[Path, int]) -> None:
    """Remove blocks and the records in them, some at a time, so that other processes do not wait for long."""
    for folder in removed:
        numbers = [block.number for block in blocks if block.folder == folder]
        if not numbers:
            continue
        with reading(folder) as (_, codec):
            namespace = codec.namespace
        connection = open_database(folder, namespace).connection
        try:
            for start in range(0, len(numbers), _BLOCKS_AT_ONCE):
                removed[folder] += _remove_some(connection, numbers[start : start + _BLOCKS_AT_ONCE])
        except sqlite3.Error as error:
            raise StoreError(f"the records in {folder} cannot be removed: {error}") from error
        finally:
            connection.close()


def _remove_some(connection: sqlite3.Connection, numbers: list[int]) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (block INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM doomed")
        connection.executemany("INSERT INTO doomed VALUES (?)", ((number,) for number in numbers))
        if _has_usage(connection):
            connection.execute("DELETE FROM used WHERE block IN (SELECT block FROM doomed)")
        count = connection.execute("DELETE FROM record WHERE block IN (SELECT block FROM doomed)").rowcount
        connection.execute("DELETE FROM block WHERE id IN (SELECT block FROM doomed)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return count


def _shrink(folder: Path) -> None:
    """Give the free space in a record file back to the disk, if nothing is in the way."""
    try:
        with reading(folder) as (_, codec):
            namespace = codec.namespace
        handle = open_database(folder, namespace)
    except (StoreError, sqlite3.Error):
        return
    try:
        with suppress(sqlite3.Error):  # a full disk, or other processes: the free space is used by the next values
            handle.connection.execute("VACUUM")
            handle.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        handle.close()


def _remove_aside(chosen: Iterable[NamespaceInfo], days: float | None, *, everything: bool) -> None:
    """Remove damaged files that were set aside."""
    for each in chosen:
        for path in each.folder.glob(f"*{ASIDE}*"):
            with suppress(OSError):
                old = days is not None and time.time() - path.stat().st_mtime > days * _usage.SECONDS_A_DAY
                if old or everything:
                    path.unlink()


def _days(value: str | float | timedelta) -> float:
    if isinstance(value, timedelta):
        days = value / timedelta(days=1)
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([dwh])\s*", value.lower())
        if match is None:
            raise ValueError(f"an age is a number with d, w or h, such as '90d', got {value!r}")
        days = float(match[1]) * _DAYS[match[2]]
    else:
        days = float(value)
    if not days >= 0:
        raise ValueError(f"an age cannot be negative, got {value!r}")
    return days


def _bytes(value: str | int) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b?)\s*", value.lower())
        unit = "" if match is None else match[2].removesuffix("b")
        if match is None:
            raise ValueError(f"a size is bytes, or a number with KB, MB, GB or TB, such as '20GB', got {value!r}")
        return int(float(match[1]) * _BYTES[f"{unit}b" if unit else ""])
    if value < 0:
        raise ValueError(f"a size cannot be negative, got {value!r}")
    return int(value)
