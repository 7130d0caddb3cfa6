"""Parts of the rows for several jobs, and the manifest of the files that they wrote into one folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike

from skesm.io.jobs.parts import replacing

#: Readers of a folder of Parquet files leave out names that begin with an underscore.
MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Shard:
    """One of several parts of the rows: neighbouring rows, with about as many residues as the others.

    Attributes
    ----------
    number : int
        From 1 to `of`.
    of : int
        How many shards there are.

    Examples
    --------
    >>> Shard.parse("2/10")
    Shard(number=2, of=10)
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"a shard is written i/n, with i from 1 to n, such as 3/10, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def file(self) -> str:
        """Name of its file."""
        return f"part-{self.number:05d}-of-{self.of:05d}.parquet"

    def rows(self, residues: ArrayLike) -> tuple[int, int]:
        """The first of its rows, and the one after the last, of rows with so many residues each.

        Examples
        --------
        >>> [Shard(i, 3).rows([10, 10, 10, 30, 30]) for i in (1, 2, 3)]
        [(0, 3), (3, 4), (4, 5)]
        """
        sizes = np.asarray(residues, dtype=np.int64)
        total = max(1, int(sizes.sum()))
        owners = (np.cumsum(sizes) - sizes) * self.of // total
        first, end = np.searchsorted(owners, [self.number - 1, self.number])
        return int(first), int(end)


def update_manifest(folder: Path) -> Path:
    """Write the manifest of a folder from the files beside its parts."""
    path = folder / MANIFEST
    with FileLock(folder / ".manifest.lock"):
        parts = []
        for file in sorted(folder.glob("_part-*-of-*.parquet.json")):
            described = json.loads(file.read_text(encoding="utf-8"))
            keep = {name: described[name] for name in ("rows", "residues", "missing", "sha256") if name in described}
            parts.append({"file": file.name.removesuffix(".json").removeprefix("_"), **keep})
            common = {name: described[name] for name in ("skesm", "model", "fingerprint", "numerics", "outputs")}
        whole = {part["file"].partition("-of-")[2].partition(".")[0] for part in parts}
        expected = int(next(iter(whole))) if len(whole) == 1 else None
        content = {
            **common,
            "complete": expected == len(parts),
            "rows": sum(part["rows"] for part in parts),
            "missing": sum(part["missing"] for part in parts),
            "parts": parts,
        }
        with replacing(path) as target:
            target.write(json.dumps(content, indent=1).encode() + b"\n")
    return path
