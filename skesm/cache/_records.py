"""Records as rows: checksums, and the SQL that finds, stores and claims them on an open connection."""

from __future__ import annotations

import functools
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from skesm.cache import _usage
from skesm.cache.disk.database import BLOCK_BYTES, Damaged, typed
from skesm.outputs.spec import Namespace, OutputSpec
from skesm.outputs.types import FloatArray

_DIGEST_BYTES = 16
_STORED = np.dtype("<f4")

#: Keys in one SQL statement. SQLite allows 32,766 of them. More than some hundred gain nothing.
_CHUNK = 500

#: Keys whose values are read in the order in which they lie in the file.
_GROUP = 20_000

#: More blocks than any disk holds.
_MOST_BLOCKS = 1 << 48

#: Stands for whichever output is looked up by its name alone.
_ANY = OutputSpec("logits")

T = TypeVar("T")
#: Digest of a sequence and its length.
Key = tuple[bytes, int]
#: The key of a row of the table `record`, and the place of its value.
Place = tuple[bytes, str, int, int]


def sequence_digest(sequence: str) -> bytes:
    """Under which name a sequence is stored: the first 16 bytes of the SHA-256 of its residues.

    Examples
    --------
    >>> sequence_digest("MKTAYIAK").hex()
    'b5f2a413e2fcd0586f3ce57ecb88b0c8'
    """
    return hashlib.sha256(sequence.encode()).digest()[:_DIGEST_BYTES]


def identity(namespace: Namespace) -> str:
    """Text that is equal exactly for namespaces that share records."""
    return json.dumps([namespace.fingerprint, namespace.numerics])


class Codec:
    """Arrays to bytes and back, with checksums that hold for one namespace, sequence, output and shape only."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._namespace = hashlib.sha256(namespace.encode()).digest()
        self._starts: dict[tuple[int, str, str], int] = {}  # few: lengths times outputs

    def checksum(self, key: Key, output: str, shape: str, value: bytes) -> int:
        # CRC-32, begun differently for each place: the same value elsewhere has another checksum.
        digest, length = key
        start = self._starts.get((length, output, shape))
        if start is None:
            start = zlib.crc32(self._namespace + f"{length}:{output}:{shape}:".encode())
            self._starts[length, output, shape] = start
        return zlib.crc32(value, zlib.crc32(digest, start))

    def decode(self, key: Key, output: str, shape: str, value: bytes, checksum: int) -> FloatArray | None:
        """Return the array, read-only. None if it is not the array that was stored under this key."""
        if self.checksum(key, output, shape, value) != checksum:
            return None
        return np.frombuffer(value, _STORED).astype(np.float32, copy=False).reshape(_dimensions(shape))


@functools.lru_cache(maxsize=4096)
def _dimensions(shape: str) -> tuple[int, ...]:
    return tuple(map(int, shape.split(",")))


def load(
    connection: sqlite3.Connection,
    codec: Codec,
    keys: Iterable[Key],
    names: Mapping[str, OutputSpec],
    blocks: set[int] | None = None,
) -> tuple[dict[Key, dict[OutputSpec, FloatArray]], list[Place]]:
    """Read the records that hold all outputs `names`, and the places of the damaged values met on the way.

    The numbers of the blocks that were read go to `blocks`.
    """
    found: dict[Key, dict[OutputSpec, FloatArray]] = {}
    damaged: list[Place] = []
    for group in _chunks(list(keys), _GROUP):
        lengths = dict(group)
        rows: list[tuple[int, int, int, bytes, str, str, int]] = []
        for chunk in _chunks(list(lengths)):
            query = (
                "SELECT block, start, size, sequence, output, shape, checksum FROM record"
                f" WHERE sequence IN ({_marks(chunk)}) AND output IN ({_marks(names)})"
            )
            rows += typed(connection, query, (*chunk, *names), int, int, int, bytes, str, str, int)
        held, block = -1, b""
        for number, start, size, digest, output, shape, checksum in sorted(rows):
            if digest not in lengths or output not in names:
                raise Damaged("a look-up found another key")
            if number != held:
                held, block = number, read_block(connection, number)
                if blocks is not None:
                    blocks.add(number)
            key = (digest, lengths[digest])
            array = codec.decode(key, output, shape, block[start : start + size], checksum)
            if array is None:
                damaged.append((digest, output, number, start))
            else:
                found.setdefault(key, {})[names[output]] = array
    return {key: record for key, record in found.items() if len(record) == len(names)}, damaged


def read_block(connection: sqlite3.Connection, number: int) -> bytes:
    """Return a block. If it is missing or is not a block, return an empty one, so that no checksum agrees."""
    row = connection.execute("SELECT value FROM block WHERE id = ?", (number,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], bytes) else b""


def forget(connection: sqlite3.Connection, places: Sequence[Place]) -> None:
    """Delete damaged rows, by place as well as by key: another process may have stored a sound value since."""
    connection.executemany("DELETE FROM record WHERE sequence = ? AND output = ? AND block = ? AND start = ?", places)


def save(connection: sqlite3.Connection, codec: Codec, values: Mapping[tuple[str, Key], FloatArray]) -> None:
    """Store values by output and sequence. Stored values stay.

    Raises
    ------
    Damaged
        If the file takes the values and does not give them back.
    """
    # Output by output: who reads one of many prefetched outputs then finds it in few blocks.
    order = sorted(values.items(), key=lambda item: item[0][0])
    known = _sound(connection, codec, values)
    blocks: list[bytearray] = []
    rows = []
    first = _first_free(connection)
    for (output, key), value in order:
        if (key[0], output) in known:
            continue
        data = value.astype(_STORED, copy=False).tobytes()
        if not blocks or len(blocks[-1]) + len(data) > BLOCK_BYTES:
            blocks.append(bytearray())
        shape = ",".join(map(str, value.shape))
        checksum = codec.checksum(key, output, shape, data)
        place = first + len(blocks) - 1, len(blocks[-1]), len(data)
        rows.append((key[0], output, key[1], shape, *place, checksum))
        blocks[-1] += data
    connection.executemany("INSERT INTO block VALUES (?, ?)", enumerate(blocks, first))
    _usage.begin(connection, range(first, first + len(blocks)))
    connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    _look_again(connection, {(row[0], row[1]) for row in rows}, dict(enumerate(map(len, blocks), first)))


def _sound(
    connection: sqlite3.Connection, codec: Codec, values: Mapping[tuple[str, Key], FloatArray]
) -> set[tuple[bytes, str]]:
    """Find the stored ones. Rows with damaged values are deleted."""
    lengths = {key[0]: key for _, key in values}
    known = stored(connection, lengths, {output for output, _ in values}) & {(key[0], o) for o, key in values}
    sound: set[tuple[bytes, str]] = set()
    for output in {name for _, name in known}:
        keys = [lengths[digest] for digest, name in known if name == output]
        found, damaged = load(connection, codec, keys, {output: _ANY})
        forget(connection, damaged)
        sound.update((digest, output) for digest, _ in found)
    return sound


def _first_free(connection: sqlite3.Connection) -> int:
    """The number of the next block."""
    ((number,),) = typed(connection, "SELECT coalesce(max(id), 0) + 1 FROM block", (), int)
    if not 0 < number < _MOST_BLOCKS:
        raise Damaged("the number of a block is out of range")
    return int(number)


def _look_again(connection: sqlite3.Connection, keys: set[tuple[bytes, str]], sizes: Mapping[int, int]) -> None:
    """Check that written rows can be found. In a damaged tree a look-up may miss them."""
    found = stored(connection, {digest for digest, _ in keys}, {output for _, output in keys})
    lengths = {
        number: size
        for chunk in _chunks(list(sizes))
        for number, size in connection.execute(
            f"SELECT id, length(value) FROM block WHERE id IN ({_marks(chunk)})", chunk
        )
    }
    if not keys <= found or lengths != sizes:
        raise Damaged("new values cannot be found again")


def stored(connection: sqlite3.Connection, digests: Iterable[bytes], outputs: Iterable[str]) -> set[tuple[bytes, str]]:
    """Which outputs of which sequences have a row."""
    known: set[tuple[bytes, str]] = set()
    names = list(outputs)
    for chunk in _chunks(list(digests)):
        query = (
            f"SELECT sequence, output FROM record WHERE sequence IN ({_marks(chunk)}) AND output IN ({_marks(names)})"
        )
        known.update(typed(connection, query, (*chunk, *names), bytes, str))
    return known


def claimed(connection: sqlite3.Connection, digests: list[bytes]) -> dict[bytes, str]:
    """Find the tokens that claim these sequences."""
    tokens: dict[bytes, str] = {}
    for chunk in _chunks(digests):
        query = f"SELECT sequence, token FROM claim WHERE sequence IN ({_marks(chunk)})"
        tokens.update(typed(connection, query, chunk, bytes, str))
    return tokens


def holders(connection: sqlite3.Connection, digests: set[bytes], names: set[str]) -> set[str]:
    """Find the tokens that claim the missing sequences. None if one of them is not claimed."""
    counts: dict[bytes, int] = {}
    for digest, _ in stored(connection, digests, names):
        counts[digest] = counts.get(digest, 0) + 1
    missing = [digest for digest in digests if counts.get(digest, 0) < len(names)]
    claims = claimed(connection, missing)
    return set(claims.values()) if len(claims) == len(missing) else set()


def _chunks(items: list[T], size: int = _CHUNK) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _marks(items: Collection[object]) -> str:
    return ",".join("?" * len(items))
