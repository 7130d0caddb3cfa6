"""The loaders: what they return, and every way in which fetching can fail."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from skesm._optional import import_optional
from skesm.datasets import _fluorescence, fetch_fluorescence, load_gb1_stability, load_gfp_fluorescence
from skesm.datasets._download import RemoteFile, fetch_file, get_data_home
from skesm.exceptions import DatasetError, MissingDependencyError

ROOT = Path(__file__).resolve().parents[1]
AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")


# --- GB1 -------------------------------------------------------------------------------------------------


def test_gb1_rows_are_the_wild_type_with_their_mutation() -> None:
    gb1 = load_gb1_stability()
    assert gb1.data.shape == gb1.target.shape == gb1.mutations.shape == gb1.positions.shape == (813,)
    assert gb1.data.dtype == gb1.mutations.dtype == object
    assert gb1.target.dtype == np.float64
    assert gb1.positions.dtype == np.int64
    assert len(gb1.wild_type) == 55
    for sequence, mutation, position in zip(gb1.data, gb1.mutations, gb1.positions, strict=True):
        old, new, index = mutation[0], mutation[-1], position - 2
        assert type(sequence) is str
        assert int(mutation[1:-1]) == position
        assert gb1.wild_type[index] == old != new
        assert sequence == gb1.wild_type[:index] + new + gb1.wild_type[index + 1 :]
    assert set("".join(gb1.data)) <= AMINO_ACIDS
    assert len(set(gb1.data)) == len(set(gb1.mutations)) == 813


def test_gb1_values_are_those_of_the_source() -> None:
    gb1 = load_gb1_stability()
    by_mutation = dict(zip(gb1.mutations, gb1.target, strict=True))
    # Read off the source table; the last three are the rows whose source name holds more than a mutation.
    expected = {"T2A": 0.4704, "K4V": 0.2696, "E27F": -1.915, "N37P": 3.694}
    expected |= {"T2Q": -0.3391, "L7I": -0.9735, "V39I": -0.9096}
    assert {name: by_mutation[name] for name in expected} == expected
    assert np.isfinite(gb1.target).all()
    # An order-free digest of the whole table: any changed, lost or doubled row shows.
    rows = sorted(f"{s} {y!r}" for s, y in zip(gb1.data, gb1.target.tolist(), strict=True))
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    assert digest == "c9eb05cc020738370680dba2d0ff9d724f8e2805a58df0f5dffe138ff0347d8d"


def test_gb1_sign_positive_destabilises() -> None:
    """Known physics: proline destabilises, and so does any change of the core; the surface tolerates much."""
    gb1 = load_gb1_stability()
    new = np.array([mutation[-1] for mutation in gb1.mutations])
    core = np.isin(gb1.positions, [3, 5, 7, 20, 26, 30, 34, 39, 52, 54])  # buried in the structure 1PGA
    for destabilising in (new == "P", core):
        assert np.median(gb1.target[destabilising]) > 1.0
        assert abs(np.median(gb1.target[~destabilising])) < 0.25


def test_gb1_positions_group_folds() -> None:
    gb1 = load_gb1_stability()
    folds = GroupKFold(n_splits=5).split(gb1.data, gb1.target, groups=gb1.positions)
    for train, test in folds:
        assert not set(gb1.positions[train]) & set(gb1.positions[test])
    assert sorted(set(gb1.positions)) == [p for p in range(2, 57) if p != 43]
    assert (np.diff(gb1.positions) >= 0).all()


def test_gb1_bunch() -> None:
    gb1 = load_gb1_stability()
    assert gb1.frame is None
    assert gb1.feature_names == ["sequence"]
    assert gb1.target_names == ["ddg"]
    assert gb1.filename == "gb1_stability.csv"
    assert import_optional(gb1.data_module, extra="demo").__name__ == "skesm.datasets.data"
    for needed in ("kcal/mol", "10.1073/pnas.1903888116", "mavenn", "MIT", "less stable", "813"):
        assert needed in gb1.DESCR
    assert pickle.loads(pickle.dumps(gb1)).wild_type == gb1.wild_type


def test_gb1_calls_do_not_share_arrays() -> None:
    first = load_gb1_stability()
    first.target[:] = 0
    assert load_gb1_stability().target.any()


def test_gb1_return_X_y() -> None:
    X, y = load_gb1_stability(return_X_y=True)
    gb1 = load_gb1_stability()
    assert X.tolist() == gb1.data.tolist()
    np.testing.assert_array_equal(y, gb1.target)


def test_gb1_as_frame() -> None:
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    gb1 = load_gb1_stability(as_frame=True)
    arrays = load_gb1_stability()
    assert list(gb1.data.columns) == gb1.feature_names
    assert isinstance(gb1.target, pd.Series)
    assert gb1.target.name == "ddg"
    assert gb1.target.dtype == np.float64
    assert list(gb1.frame.columns) == ["sequence", "ddg"]
    assert gb1.data["sequence"].tolist() == gb1.frame["sequence"].tolist() == arrays.data.tolist()
    np.testing.assert_array_equal(gb1.target, arrays.target)
    X, y = load_gb1_stability(as_frame=True, return_X_y=True)
    pd.testing.assert_frame_equal(X, gb1.data)
    pd.testing.assert_series_equal(y, gb1.target)


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        load_gb1_stability(True)  # type: ignore[misc]
    with pytest.raises(TypeError):
        fetch_fluorescence("train")  # type: ignore[misc]


# --- optional dependencies -------------------------------------------------------------------------------

WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None  # what Python does for a module that must not be imported
from skesm.datasets import load_gb1_stability
from skesm.exceptions import MissingDependencyError
assert load_gb1_stability().data.shape == (813,)
try:
    load_gb1_stability(as_frame=True)
except MissingDependencyError as error:
    assert isinstance(error, ImportError) and error.name == "pandas"
    assert "pip install 'matplotlib" in str(error), error
else:
    raise SystemExit("no error without pandas")
"""

WITHOUT_EXTRAS = """
import sys
import sklearn.utils  # imports pandas of its own accord where it is installed
already = set(sys.modules)
import skesm.datasets
skesm.datasets.load_gb1_stability()
brought = {"pandas", "requests", "torch", "xgboost"} & (set(sys.modules) - already)
assert not brought, brought
"""


@pytest.mark.parametrize("script", [WITHOUT_PANDAS, WITHOUT_EXTRAS], ids=["pandas hidden", "lazy imports"])
def test_in_a_fresh_process(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_import_optional_leaves_broken_packages_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there but lacks a part is not reported as one to install."""
    (tmp_path / "skesm_test_broken.py").write_text("import skesm_test_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        import_optional("skesm_test_broken", extra="demo")
    assert not isinstance(caught.value, MissingDependencyError)
    with pytest.raises(MissingDependencyError, match=r"skesm_test_absent is not installed: pip install 'torch>="):
        import_optional("skesm_test_absent.part", extra="torch")


# --- GFP, bundled ----------------------------------------------------------------------------------------


def test_gfp_bunch() -> None:
    gfp = load_gfp_fluorescence()
    assert gfp.data.shape == gfp.target.shape == (300,)
    assert gfp.data.dtype == object
    assert gfp.target.dtype == np.float64
    assert gfp.frame is None
    assert (gfp.feature_names, gfp.target_names) == (["sequence"], ["log_fluorescence"])
    assert gfp.filename == "gfp_fluorescence.csv"
    assert set("".join(gfp.data)) <= AMINO_ACIDS
    assert len(set(gfp.data)) == 300
    for needed in ("Sarkisyan", "10.1038/nature17995", "1906.08230", "log10", "CC BY 4.0", "default_rng(0)"):
        assert needed in gfp.DESCR


def test_gfp_rows_are_variants_of_the_wild_type() -> None:
    gfp = load_gfp_fluorescence()
    lengths = np.char.str_len(gfp.data.astype(str))
    assert {n: int((lengths == n).sum()) for n in set(lengths.tolist())} == {236: 8, 237: 292}
    distances = [sum(a != b for a, b in zip(s, gfp.wild_type, strict=True)) for s in gfp.data[lengths == 237]]
    assert (min(distances), max(distances)) == (1, 3)
    assert (gfp.target.min(), gfp.target.max()) == (1.2963716983795162, 3.892076969146728)
    rows = sorted(f"{s} {y!r}" for s, y in zip(gfp.data, gfp.target.tolist(), strict=True))
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    assert digest == "6e56b1c12129787eda533d926b55cfeac9ee54a8633d430e79ee7bc1a1f5ecae"


def test_gfp_frame_and_tuple() -> None:
    pytest.importorskip("pandas", reason="frames need pandas")
    gfp = load_gfp_fluorescence(as_frame=True)
    assert list(gfp.frame.columns) == ["sequence", "log_fluorescence"]
    X, y = load_gfp_fluorescence(return_X_y=True)
    assert gfp.data["sequence"].tolist() == X.tolist()
    np.testing.assert_array_equal(gfp.target, y)


# --- fluorescence from a folder --------------------------------------------------------------------------


@pytest.fixture
def validation_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the bundled rows, in the format of TAPE's files, stand in for the published split."""
    sample = load_gfp_fluorescence()
    rows = [f"{sequence},{value!r}\n" for sequence, value in zip(sample.data, sample.target.tolist(), strict=True)]
    content = "".join(["seq,label\n", *rows]).encode()
    (tmp_path / "fluorescence.valid.csv").write_bytes(content)
    checksums = {**_fluorescence._CHECKSUMS, "valid": (len(content), hashlib.sha256(content).hexdigest())}
    monkeypatch.setattr(_fluorescence, "_CHECKSUMS", checksums)
    return tmp_path


def test_fluorescence_from_a_folder(validation_folder: Path) -> None:
    gfp = fetch_fluorescence(subset="valid", data_home=validation_folder)
    assert gfp.data.shape == gfp.target.shape == gfp.split.shape == (300,)
    assert gfp.data.dtype == object
    assert gfp.target.dtype == np.float64
    assert set(gfp.split) == {"valid"}
    assert gfp.filenames == [str(validation_folder / "fluorescence.valid.csv")]
    assert gfp.target_names == ["log_fluorescence"]
    sample = load_gfp_fluorescence()
    assert gfp.data.tolist() == sample.data.tolist()
    np.testing.assert_array_equal(gfp.target, sample.target)
    assert gfp.wild_type == sample.wild_type
    for needed in ("Sarkisyan", "10.1038/nature17995", "1906.08230", "log10"):
        assert needed in gfp.DESCR


def test_fluorescence_frame_and_tuple(validation_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas", reason="frames need pandas")
    monkeypatch.setenv("SKESM_DATA", str(validation_folder))
    gfp = fetch_fluorescence(subset="valid", as_frame=True, download_if_missing=False)
    assert list(gfp.frame.columns) == ["sequence", "log_fluorescence"]
    X, y = fetch_fluorescence(subset="valid", return_X_y=True, download_if_missing=False)
    assert gfp.data["sequence"].tolist() == X.tolist()
    np.testing.assert_array_equal(gfp.target, y)


@pytest.mark.network
def test_the_published_validation_split(tmp_path: Path) -> None:
    gfp = fetch_fluorescence(subset="valid", data_home=tmp_path)
    assert gfp.target[0] == 3.713897705078125
    assert gfp.target[-1] == 3.3246629238128664
    lengths = np.char.str_len(gfp.data.astype(str))
    assert {n: int((lengths == n).sum()) for n in set(lengths.tolist())} == {235: 1, 236: 126, 237: 5235}
    distances = [sum(a != b for a, b in zip(s, gfp.wild_type, strict=True)) for s in gfp.data[lengths == 237]]
    assert (min(distances), max(distances)) == (1, 3)
    chosen = np.sort(np.random.default_rng(0).choice(5362, 300, replace=False))
    sample = load_gfp_fluorescence()
    assert gfp.data[chosen].tolist() == sample.data.tolist()
    np.testing.assert_array_equal(gfp.target[chosen], sample.target)


@pytest.mark.parametrize(
    "arguments", [{"subset": "validation"}, {"subset": None}, {"n_retries": -1}, {"delay": -0.5}], ids=repr
)
def test_fluorescence_bad_arguments(arguments: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must"):
        fetch_fluorescence(data_home=tmp_path, download_if_missing=False, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("subset", ["train", "valid", "test", "all"])
def test_missing_file_says_how_to_fetch_it(subset: str, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    with pytest.raises(DatasetError) as caught:
        fetch_fluorescence(subset=subset, data_home=folder, download_if_missing=False)  # type: ignore[arg-type]
    message = str(caught.value)
    name = f"fluorescence.{'train' if subset == 'all' else subset}.csv"
    assert f"{name} is not in {folder}" in message
    assert f"curl --fail --location --create-dirs --output '{folder / name}' https://" in message
    assert _fluorescence._CHECKSUMS[name.split(".")[1]][1] in message
    assert isinstance(caught.value, OSError)
    assert not folder.exists()


def test_damaged_local_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "fluorescence.valid.csv"
    path.write_text("seq,label\nMKT,1.0\n")
    with pytest.raises(DatasetError, match=r"is not the published file .* it has 18 bytes") as caught:
        fetch_fluorescence(subset="valid", data_home=tmp_path)
    assert "MKT" not in str(caught.value)
    assert path.read_text() == "seq,label\nMKT,1.0\n"


def test_unreadable_local_file(tmp_path: Path) -> None:
    (tmp_path / "fluorescence.valid.csv").mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        fetch_fluorescence(subset="valid", data_home=tmp_path)


def test_data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SKESM_DATA", raising=False)
    assert get_data_home() == tmp_path / "skesm_data"
    assert get_data_home("~/x") == tmp_path / "x"
    monkeypatch.setenv("SKESM_DATA", str(tmp_path / "y"))
    assert get_data_home() == tmp_path / "y"
    assert get_data_home(tmp_path / "z") == tmp_path / "z"
    assert not any(tmp_path.iterdir())


# --- download, from a real server on this machine --------------------------------------------------------

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several chunks
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers the n-th request with the n-th of `answers`, and any further one with the last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [send()]
        self.paths: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that a test has the client cut."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            answer = self.server.answers[min(len(self.server.paths), len(self.server.answers) - 1)]
            self.server.paths.append(self.path)
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


def send(body: bytes = CONTENT, *, status: int = 200, announced: int | None = None, length: bool = True) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length:
            handler.send_header("Content-Length", str(len(body) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def redirect(to: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(server: Server, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("file.bin", f"{server.url}/file.bin", len(content), hashlib.sha256(content).hexdigest())


def test_download_then_read(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert fetch_file(remote(server), folder, delay=0) == CONTENT
    assert [path.name for path in folder.iterdir()] == ["file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert fetch_file(remote(server), folder, delay=0) == CONTENT
    assert len(server.paths) == 1


def test_downloaded_file_has_the_users_permissions(server: Server, tmp_path: Path) -> None:
    """Others who share the folder can read it: a temporary file's 0600 does not stay."""
    fetch_file(remote(server), tmp_path, delay=0)
    (tmp_path / "plain").touch()
    assert (tmp_path / "file.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.answers = [redirect(f"{server.url}/media/file.bin"), send()]
    assert fetch_file(remote(server), tmp_path, n_retries=0) == CONTENT
    assert server.paths == ["/file.bin", "/media/file.bin"]


def test_wrong_digest_keeps_nothing_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    server.answers = [send(b"x" * len(CONTENT))]
    with pytest.raises(DatasetError, match=r"was refused.*Nothing was kept"):
        fetch_file(remote(server), tmp_path, n_retries=3, delay=0)
    assert not any(tmp_path.iterdir())
    assert len(server.paths) == 1


def test_longer_answer_is_not_read_to_its_end(server: Server, tmp_path: Path) -> None:
    server.answers = [send(CONTENT * 64)]
    with pytest.raises(DatasetError, match="was refused"):
        fetch_file(remote(server), tmp_path, delay=0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_lasting_status_is_not_repeated(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [send(b"no", status=status)]
    with pytest.raises(DatasetError, match=f"HTTP status {status}"):
        fetch_file(remote(server), tmp_path, n_retries=3, delay=0)
    assert not any(tmp_path.iterdir())
    assert len(server.paths) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_status_is_repeated(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [send(b"wait", status=status), send(b"wait", status=status), send()]
    assert fetch_file(remote(server), tmp_path, n_retries=2, delay=0) == CONTENT
    assert len(server.paths) == 3


def test_retries_end(server: Server, tmp_path: Path) -> None:
    server.answers = [send(b"", status=503)]
    with pytest.raises(DatasetError, match=r"HTTP status 503. Attempts: 3\)"):
        fetch_file(remote(server), tmp_path, n_retries=2, delay=0)
    assert len(server.paths) == 3
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("length", [True, False], ids=["length announced", "length unknown"])
def test_cut_body_is_repeated(server: Server, tmp_path: Path, length: bool) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT), length=length), send()]
    assert fetch_file(remote(server), tmp_path, n_retries=1, delay=0) == CONTENT
    assert len(server.paths) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_cut_body_every_time(server: Server, tmp_path: Path) -> None:
    server.answers = [send(CONTENT[:700_000], announced=len(CONTENT))]
    with pytest.raises(DatasetError, match="Attempts: 2") as caught:
        fetch_file(remote(server), tmp_path, n_retries=1, delay=0)
    assert caught.value.__cause__ is not None
    assert not any(tmp_path.iterdir())


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
    assert not (tmp_path / "x").exists()


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
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
from skesm.datasets._download import RemoteFile, fetch_file
name, url, size, sha256, folder = sys.argv[1:]
content = fetch_file(RemoteFile(name, url, int(size), sha256), Path(folder), n_retries=0)
assert len(content) == int(size)
"""


def test_two_processes_leave_one_good_file(server: Server, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def together(handler: BaseHTTPRequestHandler) -> None:
        both.wait(timeout=60)  # both processes are past the look for the file before either gets a byte
        send()(handler)

    server.answers = [together]
    file = remote(server)
    command = [sys.executable, "-c", FETCH, file.name, file.url, str(file.size), file.sha256, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert len(server.paths) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_fluorescence_downloads_all_splits(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: three files of other content stand in for the published ones, which are elsewhere."""
    files = {
        name: f"seq,label\n{residue}KT,{value}\n{residue}KV,0.5\n".encode()
        for name, residue, value in [("train", "M", 1.5), ("valid", "A", 2.5), ("test", "G", 3.5)]
    }
    checksums = {n: (len(content), hashlib.sha256(content).hexdigest()) for n, content in files.items()}
    monkeypatch.setattr(_fluorescence, "_CHECKSUMS", checksums)
    monkeypatch.setattr(_fluorescence, "_URL", server.url + "/{name}")
    server.answers = [send(content) for content in files.values()]
    gfp = fetch_fluorescence(subset="all", data_home=tmp_path, n_retries=0)
    assert server.paths == [f"/fluorescence.{name}.csv" for name in ("train", "valid", "test")]
    assert gfp.data.tolist() == ["MKT", "MKV", "AKT", "AKV", "GKT", "GKV"]
    assert gfp.target.tolist() == [1.5, 0.5, 2.5, 0.5, 3.5, 0.5]
    assert gfp.split.tolist() == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2
    assert sorted(os.listdir(tmp_path)) == sorted(f"fluorescence.{name}.csv" for name in files)
    again = fetch_fluorescence(subset="test", data_home=tmp_path, download_if_missing=False)
    assert again.data.tolist() == ["GKT", "GKV"]
    assert len(server.paths) == 3
