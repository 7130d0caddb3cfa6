"""The files that a loader reads, and their entries in its Bunch."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import zipfile
from pathlib import Path, PurePosixPath

from skesm._typing import Document
from skesm.datasets._download import Downloads, digest_of
from skesm.datasets._manifest import RemoteFile
from skesm.datasets._sources import FILES
from skesm.exceptions import DatasetError


class Fetched:
    """Fetches files by their names in `FILES`, and notes their paths and digests.

    Parameters
    ----------
    downloads : Downloads
        How they are fetched.
    """

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._files: dict[str, RemoteFile] = {}
        self._paths: list[Path] = []
        self._sha256: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """The path of a file whose bytes were checked."""
        file = FILES[name]
        path = self._downloads.fetch(file)
        self._note(file, path, file.sha256 or digest_of(path))
        return path

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a table, by column."""
        with self.path(name).open(encoding="utf-8", newline="") as text:
            return list(csv.DictReader(text, strict=True))

    def rows_of_member(self, archive: str, member: str) -> list[dict[str, str]]:
        """Rows of a table in a zip archive.

        The table may also lie unpacked in the folder of the archive's name, as ``unzip`` leaves it. That file is read
        then, and the archive is not needed.
        """
        unpacked = self._downloads.folder / archive.removesuffix(".zip")
        if (unpacked / member).is_file():
            alone = RemoteFile(member, FILES[archive].url, licence=FILES[archive].licence)
            path = Downloads(unpacked, download_if_missing=False).fetch(alone)
            content = path.read_bytes()
            self._note(FILES[archive], path, hashlib.sha256(content).hexdigest())
        else:
            path = self.path(archive)
            content = _member(path, member)
            self._sha256[member] = hashlib.sha256(content).hexdigest()
        try:
            return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{member} of {path} is not a table of text: {error}") from error

    def _note(self, file: RemoteFile, path: Path, digest: str) -> None:
        self._files[file.name] = file
        self._paths.append(path)
        self._sha256[path.name] = digest

    def entries(self) -> Document:
        """Entries of the Bunch."""
        return {
            "filenames": [os.fspath(path) for path in self._paths],
            "sha256": dict(self._sha256),
            "licence": "; ".join(dict.fromkeys(file.licence for file in self._files.values())),
            "citation": "; ".join(dict.fromkeys(file.citation for file in self._files.values())),
        }


class OwnFiles:
    """The same, of a user's own folder in ProteinGym's form: nothing is fetched, and no digest is expected."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a table, by column."""
        return self._rows(self._folder / name)

    def rows_of_member(self, archive: str, member: str) -> list[dict[str, str]]:
        """Rows of a table, which may lie in the folder of the archive's name."""
        unpacked = self._folder / archive.removesuffix(".zip") / member
        return self._rows(unpacked if unpacked.is_file() else self._folder / member)

    def _rows(self, path: Path) -> list[dict[str, str]]:
        try:
            with path.open(encoding="utf-8", newline="") as text:
                rows = list(csv.DictReader(text, strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        self._paths.append(path)
        return rows

    def entries(self) -> Document:
        """Entries of the Bunch."""
        return {
            "filenames": [os.fspath(path) for path in self._paths],
            "sha256": {path.name: digest_of(path) for path in self._paths},
            "licence": "",
            "citation": "",
        }


def _member(path: Path, member: str) -> bytes:
    """Bytes of the file of this name in a zip archive, in whichever folder of the archive it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                name
                for name in archive.namelist()
                if PurePosixPath(name).name == member and "__MACOSX" not in PurePosixPath(name).parts
            ]
            if len(names) != 1:
                raise DatasetError(f"{path} has {'no' if not names else 'several'} {member}")
            return archive.read(names[0])
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{path} is not a zip archive: {error}") from error
