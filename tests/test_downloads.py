"""Fetched files: every way in which a transfer can fail, go on, and be checked."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from file_server import FileServer, redirect, send, send_range, serving

from skesm.datasets._download import fetch_file
from skesm.datasets._manifest import RemoteFile
from skesm.exceptions import DatasetError, LearntDigestWarning

ROOT = Path(__file__).resolve().parents[1]
CONTENT = bytes(range(256)) * 4096  # 1 MiB: several chunks
KEPT = 2 << 18  # whole pieces of the first 700,000 bytes
MANIFEST = "skesm_manifest.json"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        server.answers = [send(CONTENT)]
        yield server


def shown(folder: Path) -> list[str]:
    """Files that a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def remote(server: FileServer, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("file.bin", f"{server.url}/file.bin", len(content), hashlib.sha256(content).hexdigest())


def test_download_then_read(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert fetch_file(remote(server), folder, delay=0).read_bytes() == CONTENT
    assert shown(folder) == ["file.bin", MANIFEST]
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert fetch_file(remote(server), folder, delay=0).read_bytes() == CONTENT
    assert len(server.paths) == 1


def test_downloaded_file_has_the_users_permissions(server: FileServer, tmp_path: Path) -> None:
    """Others who share the folder can read it: a temporary file's 0600 does not stay."""
    fetch_file(remote(server), tmp_path, delay=0)
    (tmp_path / "plain").touch()
    assert (tmp_path / "file.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_redirect_is_followed(server: FileServer, tmp_path: Path) -> None:
    server.answers = [redirect(f"{server.url}/media/file.bin"), send(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=0).read_bytes() == CONTENT
    assert server.paths == ["/file.bin", "/media/file.bin"]


def test_wrong_digest_keeps_nothing_and_is_not_repeated(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(b"x" * len(CONTENT))]
    with pytest.raises(DatasetError, match=r"was refused.*Nothing was kept"):
        fetch_file(remote(server), tmp_path, n_retries=3, delay=0)
    assert not shown(tmp_path)
    assert len(server.paths) == 1


def test_longer_answer_is_not_read_to_its_end(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(CONTENT * 64)]
    with pytest.raises(DatasetError, match="was refused"):
        fetch_file(remote(server), tmp_path, delay=0)
    assert not shown(tmp_path)


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_lasting_status_is_not_repeated(server: FileServer, tmp_path: Path, status: int) -> None:
    server.answers = [send(b"no", status=status)]
    with pytest.raises(DatasetError, match=f"HTTP status {status}"):
        fetch_file(remote(server), tmp_path, n_retries=3, delay=0)
    assert not shown(tmp_path)
    assert len(server.paths) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_status_is_repeated(server: FileServer, tmp_path: Path, status: int) -> None:
    server.answers = [send(b"wait", status=status), send(b"wait", status=status), send(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=2, delay=0).read_bytes() == CONTENT
    assert len(server.paths) == 3


def test_retries_end(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(b"", status=503)]
    with pytest.raises(DatasetError, match=r"HTTP status 503. Attempts: 3\)"):
        fetch_file(remote(server), tmp_path, n_retries=2, delay=0)
    assert len(server.paths) == 3
    assert not shown(tmp_path)


@pytest.mark.parametrize("length", [True, False], ids=["length announced", "length unknown"])
def test_cut_body_is_repeated(server: FileServer, tmp_path: Path, length: bool) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT), length=length), send(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=1, delay=0).read_bytes() == CONTENT
    assert len(server.paths) == 2
    assert shown(tmp_path) == ["file.bin", MANIFEST]


def test_cut_body_every_time(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT))]
    with pytest.raises(DatasetError, match="Attempts: 2") as caught:
        fetch_file(remote(server), tmp_path, n_retries=1, delay=0)
    assert caught.value.__cause__ is not None
    assert f"{KEPT:,} bytes were kept for the next attempt" in str(caught.value)
    assert shown(tmp_path) == ["file.bin.part", "file.bin.part.json"]


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as reserved:  # bound, not listening: connections to it are refused
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/file.bin"
        file = RemoteFile("file.bin", url, 3, "0" * 64)
        with pytest.raises(DatasetError, match=r"ConnectionError while reading from 127\.0\.0\.1") as caught:
            fetch_file(file, tmp_path / "x", n_retries=1, delay=0)
    assert f"curl --fail --location --create-dirs --output {tmp_path / 'x' / 'file.bin'} {url}" in str(caught.value)
    assert type(caught.value.__cause__).__module__.startswith("requests")
    assert not shown(tmp_path / "x")


def test_folder_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    # A file where a folder should be: refused for every user, root included.
    with pytest.raises(DatasetError, match="cannot be read: Not a directory"):
        fetch_file(remote(server), tmp_path / "file", delay=0)
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"cannot be written: File exists.*data_home"):
        fetch_file(remote(server), tmp_path / "nowhere", delay=0)


FETCH = """
import sys
from pathlib import Path
from skesm.datasets._download import fetch_file
from skesm.datasets._manifest import RemoteFile
name, url, size, sha256, folder = sys.argv[1:]
path = fetch_file(RemoteFile(name, url, int(size), sha256), Path(folder), n_retries=0)
assert path.stat().st_size == int(size)
"""


def test_two_processes_download_once(server: FileServer, tmp_path: Path) -> None:
    asked = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        second.wait(timeout=60)  # until the other process runs, too
        send(CONTENT)(handler)

    second = threading.Event()
    server.answers = [slow]
    file = remote(server)
    command = [sys.executable, "-c", FETCH, file.name, file.url, str(file.size), file.sha256, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT)]
    assert asked.wait(timeout=60)
    processes.append(subprocess.Popen(command, cwd=ROOT))
    second.set()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert len(server.paths) == 1
    assert shown(tmp_path) == ["file.bin", MANIFEST]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


# --- a transfer goes on where it was cut ---------------------------------------------------------------------------


def test_a_cut_transfer_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT)), send_range(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=1, delay=0).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={KEPT}-"]
    assert shown(tmp_path) == ["file.bin", MANIFEST]


def test_the_next_call_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT)), send_range(CONTENT)]
    with pytest.raises(DatasetError, match=f"{KEPT:,} bytes were kept"):
        fetch_file(remote(server), tmp_path, n_retries=0)
    assert fetch_file(remote(server), tmp_path, n_retries=0).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={KEPT}-"]


def test_a_server_without_ranges_sends_all_again(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT)), send(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=1, delay=0).read_bytes() == CONTENT


def test_parts_of_two_files_are_not_put_together(server: FileServer, tmp_path: Path) -> None:
    server.answers = [send(b"x" * 700_000, announced=len(CONTENT)), send_range(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=2, delay=0).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={KEPT}-", None]


def test_without_a_known_digest_only_an_unchanged_file_goes_on(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile("file.bin", f"{server.url}/file.bin")
    cut = send(b"x" * 700_000, announced=len(CONTENT), etag='"old"')
    server.answers = [cut, send_range(CONTENT, etag='"new"')]  # If-Range: "old" makes the server send all
    with pytest.warns(LearntDigestWarning):
        assert fetch_file(file, tmp_path, n_retries=1, delay=0).read_bytes() == CONTENT
    (tmp_path / "other").mkdir()
    server.answers = [send(CONTENT[:10], announced=20), send(CONTENT)]  # without a tag nothing can be resumed
    server.paths.clear()
    with pytest.warns(LearntDigestWarning):
        assert fetch_file(file, tmp_path / "other", n_retries=1, delay=0).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={KEPT}-", None, None]


def test_a_partial_file_that_is_too_long_is_begun_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    source = {"url": f"{server.url}/file.bin", "etag": None}
    (tmp_path / "file.bin.part.json").write_text(json.dumps(source))
    server.answers = [send_range(CONTENT)]
    assert fetch_file(remote(server), tmp_path, n_retries=1, delay=0).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


# --- digests that nobody published ---------------------------------------------------------------------------------


def test_an_unknown_digest_is_learnt_shown_and_kept(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile("file.bin", f"{server.url}/file.bin", licence="CC0", citation="Nobody (2000)")
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.warns(LearntDigestWarning, match=f"SHA-256 {digest}"):
        fetch_file(file, tmp_path)
    entry = json.loads((tmp_path / MANIFEST).read_text())["files"]["file.bin"]
    assert (entry["sha256"], entry["digest"], entry["bytes"]) == (digest, "learnt", len(CONTENT))
    assert (entry["url"], entry["licence"], entry["citation"]) == (file.url, "CC0", "Nobody (2000)")
    fetch_file(file, tmp_path)  # no second warning
    (tmp_path / "file.bin").write_bytes(b"other")
    with pytest.raises(DatasetError, match=f"is not the file that was seen first .SHA-256 {digest}"):
        fetch_file(file, tmp_path)
    (tmp_path / "file.bin").unlink()
    server.answers = [send(b"changed at its publisher's")]
    with pytest.raises(DatasetError, match=r"does not send the file seen first.*Nothing was kept"):
        fetch_file(file, tmp_path)
    assert shown(tmp_path) == [MANIFEST]


def test_a_file_put_there_by_hand_is_learnt_too(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"by hand")
    file = RemoteFile("file.bin", "http://127.0.0.1:9/file.bin")
    with pytest.warns(LearntDigestWarning, match="by hand|SHA-256"):
        fetch_file(file, tmp_path)
    assert fetch_file(file, tmp_path, download_if_missing=False).read_bytes() == b"by hand"


def test_a_published_digest_is_in_the_manifest(server: FileServer, tmp_path: Path) -> None:
    fetch_file(remote(server), tmp_path)
    entry = json.loads((tmp_path / MANIFEST).read_text())["files"]["file.bin"]
    assert entry["digest"] == "published"


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"by hand")
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(DatasetError, match="holds the digests of the files beside it"):
        fetch_file(RemoteFile("file.bin", "http://127.0.0.1:9/file.bin"), tmp_path)


def test_progress_counts_bytes(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch_file(remote(server), tmp_path, verbose=True)
    assert "file.bin: 100%" in capsys.readouterr().err
