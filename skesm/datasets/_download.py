"""Files fetched once, resumed where a transfer was cut, and checked by SHA-256 at every use."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from skesm._progress import AUTO, BYTES, Progress
from skesm.datasets._manifest import Manifest, RemoteFile
from skesm.exceptions import DatasetError, LearntDigestWarning

logger = logging.getLogger(__name__)

#: Environment variable that names the data folder.
DATA_HOME_VARIABLE = "SKESM_DATA"

#: Seconds to wait for a connection, and for the next bytes.
_TIMEOUT = (10.0, 60.0)
_CHUNK = 1 << 18

#: Answers that may differ a moment later, as server errors (500 and above) may: time-out, too many requests.
_PASSING_STATUS = (408, 429)
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416


@dataclass(frozen=True)
class Downloads:
    """How files are fetched: the parameters that all loaders of remote data share.

    Attributes
    ----------
    data_home : str, path-like or None
    download_if_missing : bool
    n_retries : int
    delay : float
    verbose : bool, int or "auto"
    """

    data_home: str | os.PathLike[str] | None = None
    download_if_missing: bool = True
    n_retries: int = 3
    delay: float = 1.0
    verbose: bool | int | str = AUTO

    def __post_init__(self) -> None:
        if self.n_retries < 0 or self.delay < 0:
            raise ValueError(f"n_retries and delay must not be negative, got {self.n_retries!r} and {self.delay!r}")

    @property
    def folder(self) -> Path:
        """The data folder."""
        return get_data_home(self.data_home)

    def fetch(self, file: RemoteFile) -> Path:
        """The path of a file whose bytes were checked, see `fetch_file`."""
        return fetch_file(
            file,
            self.folder,
            download_if_missing=self.download_if_missing,
            n_retries=self.n_retries,
            delay=self.delay,
            verbose=self.verbose,
        )


class _PassingError(Exception):
    """The transfer failed in a way that another attempt may repair."""


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Folder of fetched files: the argument, ``$SKESM_DATA``, or ``~/skesm_data``. It is not created here."""
    return Path(data_home or os.environ.get(DATA_HOME_VARIABLE) or "~/skesm_data").expanduser()


def fetch_file(
    file: RemoteFile,
    folder: Path,
    *,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: bool | int | str = AUTO,
) -> Path:
    """Find `file` in `folder` or, if it is not there, download it into `folder`.

    A file appears in `folder` under its name only when it is complete and has the right digest. A transfer that was cut
    is kept beside it as ``NAME.part``, and the next attempt goes on from there. Of several processes, one downloads. A
    file that is there but differs is left as it is, and refused.

    Parameters
    ----------
    file : RemoteFile
        The file. Without a known digest, the first one that is seen is kept in the folder's manifest.
    folder : Path
        Its folder. It is created before the first write.
    download_if_missing : bool, default=True
        If False, a missing file is an error and the network is not used.
    n_retries : int, default=3
        Further attempts after a failure that may pass (no connection, cut transfer, server error).
    delay : float, default=1.0
        Seconds between attempts.
    verbose : bool, int or "auto", default="auto"
        Whether a progress bar is shown.

    Returns
    -------
    path : Path
        The file, with checked bytes.

    Raises
    ------
    DatasetError
        If the file cannot be obtained, or is not the expected one.

    Warns
    -----
    LearntDigestWarning
        If the digest was not known before.
    """
    path = folder / file.name
    if _is_there(path):
        return _check_there(file, path)
    if not download_if_missing:
        raise DatasetError(_how_to_fetch(file, folder, "download_if_missing is False"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        with lock:
            if not path.exists():  # another process may have been faster
                _download(file, path, n_retries, delay, verbose)
        return path
    except DatasetError:
        raise
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}. Choose another data_home") from error


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    return True


def _check_there(file: RemoteFile, path: Path) -> Path:
    """Compare a file of the data folder with its known or learnt digest."""
    try:
        found = digest_of(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    manifest = Manifest(path.parent)
    expected = file.sha256 or manifest.digest_of(file.name)
    if expected is None:
        _learn(file, path, found)
    elif found != expected:
        known = "the published file" if file.sha256 else "the file that was seen first"
        size = f"{file.size:,} bytes, " if file.size is not None else ""
        remedy = "" if file.sha256 else f", and remove its entry from {manifest.path}"
        raise DatasetError(
            f"{path} is not {known} ({size}SHA-256 {expected}): it has {path.stat().st_size:,} bytes and SHA-256 "
            f"{found}. Move it away{remedy}, then call again to download it"
        )
    return path


def _learn(file: RemoteFile, path: Path, digest: str) -> None:
    """Note a digest that nobody published, and show it."""
    manifest = Manifest(path.parent)
    kept = manifest.add(file, digest, path.stat().st_size, learnt=True)
    where = f"It is kept in {manifest.path}" if kept else f"It could not be written to {manifest.path}"
    warnings.warn(
        f"{file.name}: no published digest is known to skesm. The file here has SHA-256 {digest}. {where}, and another "
        "file will be refused. Compare it with somebody else's copy before you rely on it",
        LearntDigestWarning,
        stacklevel=2,
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(file: RemoteFile, path: Path, n_retries: int, delay: float, verbose: bool | int | str) -> None:
    """Download a file that is not there, in several attempts."""
    part = path.with_name(f"{path.name}.part")
    for attempt in range(n_retries + 1):
        if attempt:
            time.sleep(delay)
        try:
            digest = _Transfer(file, part, verbose).run()
        except _PassingError as error:
            failure = error
            logger.info("%s: attempt %d of %d failed: %s", file.name, attempt + 1, n_retries + 1, error)
        else:
            _accept(file, path, part, digest)
            return
    kept = f". {part.stat().st_size:,} bytes were kept for the next attempt" if part.exists() else ""
    reason = f"{failure}. Attempts: {n_retries + 1}{kept}"
    raise DatasetError(_how_to_fetch(file, path.parent, reason)) from failure.__cause__


def _accept(file: RemoteFile, path: Path, part: Path, digest: str) -> None:
    """Give a complete file of the right digest its name."""
    expected = file.sha256 or Manifest(path.parent).digest_of(file.name)
    size = part.stat().st_size
    _forget_source(part)
    if expected is not None and digest != expected:
        part.unlink()
        known = (
            f"the published file ({file.describe()})" if file.sha256 else f"the file seen first (SHA-256 {expected})"
        )
        raise DatasetError(f"{file.name} was refused: {file.url} does not send {known}. Nothing was kept")
    os.replace(part, path)
    if expected is None:
        _learn(file, path, digest)
    else:
        Manifest(path.parent).add(file, digest, size, learnt=file.sha256 is None)


class _Transfer:
    """One attempt to fetch a file, from the byte at which the last attempt ended."""

    def __init__(self, file: RemoteFile, part: Path, verbose: bool | int | str) -> None:
        self.file = file
        self.part = part
        self._verbose = verbose
        self._resumed = False

    def run(self) -> str:
        """Complete the partial file, and return its digest."""
        import requests

        logger.info("downloading %s from %s", self.file.name, self.file.url)
        # Compression would only hide the true number of bytes.
        headers = {"Accept-Encoding": "identity", **self._resume()}
        try:
            with requests.get(self.file.url, stream=True, timeout=_TIMEOUT, headers=headers) as response:
                self._check_status(response.status_code)
                self._receive(response)
        except requests.RequestException as error:
            # The class names the failure (connection, time-out, cut body). Its text may hold proxy settings.
            raise _PassingError(f"{type(error).__name__} while reading from {self._host}") from error
        digest = digest_of(self.part)
        expected = self.file.sha256 or Manifest(self.part.parent).digest_of(self.file.name)
        if self._resumed and expected not in (None, digest):
            self.part.unlink()  # it began with other bytes
            raise _PassingError(f"{self._host} went on with another file than the one that was begun")
        return digest

    def _resume(self) -> dict[str, str]:
        """Headers that ask for the rest. Without a known digest, only of a file that surely is the same."""
        try:
            begun = self.part.stat().st_size
            source = json.loads(_source_of(self.part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.part.unlink(missing_ok=True)
            return {}
        tag = source.get("etag")
        if not begun or source.get("url") != self.file.url or not (tag or self.file.sha256):
            self.part.unlink()
            return {}
        return {"Range": f"bytes={begun}-", **({"If-Range": tag} if tag else {})}

    def _check_status(self, status: int) -> None:
        if status == _RANGE_NOT_SATISFIABLE:
            self.part.unlink(missing_ok=True)  # it holds more than there is
        if status in (*_PASSING_STATUS, _RANGE_NOT_SATISFIABLE) or status >= 500:
            raise _PassingError(f"{self._host} answered with HTTP status {status}")
        if status not in (200, _PARTIAL_CONTENT):
            sought = f"a file of {self.file.describe()}" if self.file.sha256 else "the file at its publisher's"
            raise DatasetError(
                f"{self.file.name} could not be downloaded: {self.file.url} answered with HTTP status {status}. If it "
                f"has moved, look for {sought}, and put it at {self.part.with_suffix('')}"
            )

    def _receive(self, response: Any) -> None:
        self._resumed = resumed = response.status_code == _PARTIAL_CONTENT
        begun = self.part.stat().st_size if resumed else 0
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            self.part.unlink()
            raise _PassingError(f"{self._host} sent another part than the one that was asked for")
        announced = response.headers.get("Content-Length")
        whole = self.file.size if self.file.size is not None else begun + int(announced) if announced else None
        tag = response.headers.get("ETag", "")
        source = {"url": self.file.url, "etag": tag if tag.startswith('"') else None}  # weak tags name no bytes
        _source_of(self.part).write_text(json.dumps(source), encoding="utf-8")
        received = begun
        progress = Progress(self._verbose, total=whole or 0, description=self.file.name, unit=BYTES)
        with open(self.part, "ab" if resumed else "wb") as stream, progress:
            progress.update(begun)
            for chunk in response.iter_content(_CHUNK):
                stream.write(chunk)
                received += len(chunk)
                progress.update(len(chunk))
                if self.file.size is not None and received > self.file.size:
                    break  # already known to be wrong: an endless answer shall not fill the disk
            stream.flush()
            os.fsync(stream.fileno())
        if whole is not None and received < whole:
            raise _PassingError(f"{self._host} sent {received:,} of {whole:,} bytes")

    @property
    def _host(self) -> str:
        return urlsplit(self.file.url).netloc


def _source_of(part: Path) -> Path:
    """The file that tells where a partial file comes from."""
    return part.with_name(f"{part.name}.json")


def _forget_source(part: Path) -> None:
    _source_of(part).unlink(missing_ok=True)


def _how_to_fetch(file: RemoteFile, folder: Path, reason: str) -> str:
    target = shlex.quote(str(folder / file.name))
    known = file.describe()
    return (
        f"{file.name} is not in {folder} and was not downloaded ({reason}). To fetch it by hand:\n"
        f"    curl --fail --location --create-dirs --output {target} {shlex.quote(file.url)}\n"
        f"or do so on another machine and put the file in {folder}. "
        + (f"It has {known}" if known else "Its digest is not known in advance")
    )
