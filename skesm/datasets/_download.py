"""Files fetched once, checked by SHA-256 at every use."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from skesm.exceptions import DatasetError

logger = logging.getLogger(__name__)

#: Environment variable that names the data folder.
DATA_HOME_VARIABLE = "SKESM_DATA"

#: Seconds to wait for a connection, and for the next bytes.
_TIMEOUT = (10.0, 60.0)
_CHUNK = 1 << 18

#: Answers that may differ a moment later, as server errors (500 and above) may: time-out, too many requests.
_PASSING_STATUS = (408, 429)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web with bytes that are known in advance."""

    name: str
    url: str
    size: int
    sha256: str


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
) -> bytes:
    """Read `file` from `folder` or, if it is not there, from the web into `folder`.

    A file appears in `folder` under its name only when complete and of the right digest, whatever else fails
    or runs at the same time. A file that is there but differs is left as it is and refused.

    Parameters
    ----------
    file : RemoteFile
        The file to fetch.
    folder : Path
        Its folder. It is created before the first write.
    download_if_missing : bool, default=True
        If False, a missing file is an error and the network is not used.
    n_retries : int, default=3
        Further attempts after a failure that may pass (no connection, cut transfer, server error).
    delay : float, default=1.0
        Seconds between attempts.

    Returns
    -------
    content : bytes
        The checked content.

    Raises
    ------
    DatasetError
        If the file cannot be obtained, or is not the expected one.
    """
    path = folder / file.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    else:
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise DatasetError(
                f"{path} is not the published file ({file.size:,} bytes, SHA-256 {file.sha256}): it has "
                f"{len(content):,} bytes and another digest. Move it away, then call again to download it"
            )
        return content

    if not download_if_missing:
        raise DatasetError(_how_to_fetch(file, folder, "download_if_missing is False"))
    for attempt in range(n_retries + 1):
        if attempt:
            time.sleep(delay)
        try:
            content = _download(file)
        except _PassingError as error:
            failure = error
            logger.info("%s: attempt %d of %d failed: %s", file.name, attempt + 1, n_retries + 1, error)
        else:
            _write_atomically(path, content)
            return content
    reason = f"{failure}. Attempts: {n_retries + 1}"
    raise DatasetError(_how_to_fetch(file, folder, reason)) from failure.__cause__


def _download(file: RemoteFile) -> bytes:
    """Download `file` in one attempt, and check it."""
    import requests

    logger.info("downloading %s from %s", file.name, file.url)
    content = bytearray()
    try:
        # Compression would only hide the true number of bytes.
        with requests.get(file.url, stream=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code in _PASSING_STATUS or response.status_code >= 500:
                raise _PassingError(f"{_host(file)} answered with HTTP status {response.status_code}")
            if response.status_code != 200:
                raise DatasetError(
                    f"{file.name} could not be downloaded: {file.url} answered with HTTP status "
                    f"{response.status_code}. If it has moved, look for a file of SHA-256 {file.sha256}"
                )
            for chunk in response.iter_content(_CHUNK):
                content += chunk
                if len(content) > file.size:
                    break  # already known to be wrong: an endless answer shall not fill the memory
    except requests.RequestException as error:
        # The class names the failure (connection, time-out, cut body). Its text may hold proxy settings.
        raise _PassingError(f"{type(error).__name__} while reading from {_host(file)}") from error
    if len(content) < file.size:
        raise _PassingError(f"{_host(file)} sent {len(content):,} of {file.size:,} bytes")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DatasetError(
            f"{file.name} was refused: {file.url} does not send the published file "
            f"({file.size:,} bytes, SHA-256 {file.sha256}). Nothing was kept"
        )
    return bytes(content)


def _write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under a name of its own, then give it its name in one step."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}. Choose another data_home") from error


def _host(file: RemoteFile) -> str:
    return urlsplit(file.url).netloc


def _how_to_fetch(file: RemoteFile, folder: Path, reason: str) -> str:
    target = shlex.quote(str(folder / file.name))
    return (
        f"{file.name} is not in {folder} and was not downloaded ({reason}). To fetch it by hand:\n"
        f"    curl --fail --location --create-dirs --output {target} {shlex.quote(file.url)}\n"
        f"or do so on another machine and put the file in {folder}. "
        f"It has {file.size:,} bytes and SHA-256 {file.sha256}"
    )
