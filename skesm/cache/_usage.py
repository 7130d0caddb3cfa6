"""The day on which a block of values was last used. `prune` goes by it.

Reading a block writes this once a day at most, so that warm reads stay reads.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

#: An additional table. Older versions of skesm do not make it, and do not miss it.
TABLE = "CREATE TABLE used (block INTEGER PRIMARY KEY, day INTEGER NOT NULL)"

SECONDS_A_DAY = 86_400


def today() -> int:
    """Days since 1970-01-01 UTC."""
    return int(time.time() // SECONDS_A_DAY)


def note(connection: sqlite3.Connection, blocks: Iterable[int]) -> None:
    """Note that blocks are used today. Nothing is written if that is known."""
    day = today()
    if _make(connection, day):
        return
    old = [
        number
        for number in sorted(blocks)
        for (found,) in connection.execute("SELECT day FROM used WHERE block = ?", (number,))
        if found != day
    ]
    if old:
        connection.executemany("UPDATE used SET day = ? WHERE block = ?", ((day, number) for number in old))


def begin(connection: sqlite3.Connection, blocks: Iterable[int]) -> None:
    """Note the day on which blocks were made."""
    day = today()
    _make(connection, day)
    connection.executemany("INSERT OR REPLACE INTO used VALUES (?, ?)", ((number, day) for number in blocks))


def _make(connection: sqlite3.Connection, day: int) -> bool:
    """Make the table in a file of an older version. Its blocks count as used today. Return whether it was made."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'used'").fetchone() is not None:
        return False
    connection.execute(TABLE)
    connection.execute("INSERT INTO used SELECT id, ? FROM block", (day,))
    return True
