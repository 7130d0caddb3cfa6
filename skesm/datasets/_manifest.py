"""The manifest of a data folder: where each file came from, and its digest."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from skesm._typing import Document
from skesm.exceptions import DatasetError

_NAME = "skesm_manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    Attributes
    ----------
    name : str
        Its name in the data folder.
    url : str
    size : int or None
        Its bytes, if they are known in advance.
    sha256 : str or None
        Its digest, if it is known in advance. None learns it at the first download.
    licence, citation : str
        For the manifest.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    licence: str = ""
    citation: str = ""

    def describe(self) -> str:
        """Size and digest, as far as they are known."""
        known = [f"{self.size:,} bytes"] if self.size is not None else []
        known += [f"SHA-256 {self.sha256}"] if self.sha256 is not None else []
        return " and ".join(known)


class Manifest:
    """The manifest of a folder. Several processes may add to it at a time.

    Examples
    --------
    >>> Manifest(Path("no such folder")).digest_of("file.csv") is None
    True
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME

    def entries(self) -> dict[str, Document]:
        """The recorded facts on each file, by its name."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            files = content["files"]
            if content["version"] != _VERSION or not isinstance(files, dict):
                raise ValueError("unknown form")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self.path} cannot be read. It holds the digests of the files beside it. Put back a copy, or move it "
                "away to learn digests anew"
            ) from error
        return files

    def digest_of(self, name: str) -> str | None:
        """The digest of a file, None if none was noted."""
        digest = self.entries().get(name, {}).get("sha256")
        return str(digest) if digest else None

    def add(self, file: RemoteFile, digest: str, size: int, *, learnt: bool) -> bool:
        """Note a file. False if the folder cannot be written, which a folder of somebody else's need not be."""
        entry = {
            "url": file.url,
            "bytes": size,
            "sha256": digest,
            "digest": "learnt" if learnt else "published",
            "licence": file.licence,
            "citation": file.citation,
            "noted": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            with FileLock(self.path.with_name(f".{_NAME}.lock")):
                files = {**self.entries(), file.name: entry}
                temporary = self.path.with_name(f".{_NAME}.part")
                text = json.dumps({"version": _VERSION, "files": dict(sorted(files.items()))}, indent=1)
                temporary.write_text(text + "\n", encoding="utf-8")
                os.replace(temporary, self.path)
        except DatasetError:
            raise
        except OSError:
            return False
        return True
