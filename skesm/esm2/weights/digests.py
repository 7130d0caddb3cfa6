"""Digests of a checkpoint's files: those that the Hub told, and those that were recorded beside the files.

The Hub's cache names a file's bytes by the digest that the Hub gave: SHA-256 of large files, git's SHA-1 of small ones.
For other files a list in the format of ``sha256sum`` is kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from skesm.exceptions import CheckpointError

#: Name of the list in a folder. ``sha256sum -c SHA256SUMS`` reads it too.
RECORD = "SHA256SUMS"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told_by_hub(path: Path) -> str | None:
    """Digest that the Hub gave for a file in its cache. None if there is none.

    In the cache a file is a link to a blob, which is named by the digest.
    """
    blob = path.resolve()
    if not path.is_symlink() or blob.parent.name != "blobs":
        return None
    return blob.name if _SHA256.fullmatch(blob.name) or _GIT.fullmatch(blob.name) else None


def differs(path: Path, digest: str) -> bool:
    """Whether a file does not have a digest: SHA-256, or git's SHA-1 of a file."""
    if _SHA256.fullmatch(digest):
        return sha256(path) != digest
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != digest


def write_record(record: Path, files: Iterable[Path]) -> None:
    """Write the digests of files, in the format of ``sha256sum``."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(files, key=lambda path: path.name)]
    record.write_text("".join(lines), encoding="utf-8")


def read_record(record: Path) -> Mapping[str, str]:
    """Digest of each file that a record names. Empty if there is no record.

    Raises
    ------
    CheckpointError
        If a line is not a digest and a name.
    """
    if not record.is_file():
        return {}
    digests = {}
    for number, line in enumerate(record.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if match is None:
            raise CheckpointError(f"{record}, line {number} is not a SHA-256 digest and a file name")
        digests[match[2]] = match[1].lower()
    return digests
