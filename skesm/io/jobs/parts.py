"""The features of a file that are computed so far: one small file for each chunk, in a folder beside the output."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from skesm.exceptions import InputFileError

#: Names of Parquet files that stand in one folder with others.
PART = re.compile(r"part-\d+-of-\d+\.parquet")


@dataclass(frozen=True)
class Part:
    """A chunk's rows.

    Attributes
    ----------
    ids : list of str
    values : ndarray of shape (n, d), or (residues of all, d)
    lengths : ndarray of shape (n,), int, or None
        Residues of each row, if there is a row of values for each residue.
    missing : dict of int to str
        Why rows have no values, by place.
    """

    ids: list[str]
    values: np.ndarray
    lengths: NDArray[np.int64] | None
    missing: dict[int, str]

    def present(self) -> tuple[list[str], np.ndarray, NDArray[np.int64] | None]:
        """Ids, values and lengths of the rows that are there."""
        if not self.missing:
            return self.ids, self.values, self.lengths
        kept = [place for place in range(len(self.ids)) if place not in self.missing]
        ids = [self.ids[place] for place in kept]
        if self.lengths is None:
            return ids, self.values[kept], None
        return ids, self.values, self.lengths[kept]  # a missing row has no residues


class Parts:
    """The parts of one run, in a folder that is named by all that they depend on.

    Parameters
    ----------
    output : Path
    identity : mapping
        Everything that the values depend on. Parts of another run are not seen.
    """

    def __init__(self, output: Path, identity: Mapping[str, object]) -> None:
        self.root = beside(output, ".parts")
        content = json.dumps(identity, sort_keys=True).encode()
        self.folder = self.root / hashlib.sha256(content).hexdigest()[:16]
        self._output = output

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from the same output."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputFileError(f"another process is writing {self._output}: wait, or name another output") from None
        try:
            yield
        finally:
            lock.release()

    def load(self, number: int) -> Part | None:
        """A part. None if it is not there, or damaged."""
        try:
            with np.load(self._path(number), allow_pickle=False) as file:
                rows = json.loads(file["rows"].tobytes())
                missing = {int(place): reason for place, reason in rows["missing"].items()}
                lengths = file.get("lengths")
                return Part(rows["ids"], file["values"], lengths, missing)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, number: int, part: Part) -> None:
        """Write a part."""
        rows = json.dumps({"ids": part.ids, "missing": part.missing}).encode()
        arrays = {"rows": np.frombuffer(rows, dtype=np.uint8), "values": part.values}
        if part.lengths is not None:
            arrays["lengths"] = part.lengths
        with replacing(self._path(number)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def remove(self) -> None:
        """Remove the parts of this and of earlier runs."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npz"


def beside(output: Path, ending: str) -> Path:
    """A path beside the output.

    >>> beside(Path("a/b.csv.gz"), ".json").name
    'b.csv.gz.json'
    >>> beside(Path("a/part-00001-of-00002.parquet"), ".json").name
    '_part-00001-of-00002.parquet.json'
    """
    # readers of a folder of Parquet files leave out names that begin with an underscore
    prefix = "_" if PART.fullmatch(output.name) else ""
    return output.with_name(prefix + output.name + ending)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A new file in the same folder, which gets its name when the block is left without an error.

    Its name does not change from run to run, so that one that was killed leaves no more than one. Its writer holds the
    lock of the output.
    """
    new = path.with_name(f".{path.name}.tmp")
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """The same, open for writing."""
    with temporary(path) as new, new.open("wb") as file:
        yield file
