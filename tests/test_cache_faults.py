"""Damaged bits, full disks, files of earlier versions: a number is right or missing, and the work goes on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skesm.cache import RecordStore, find_location, info, prune, recall_model, remember_model, resolve_location, verify
from skesm.exceptions import StoreWarning
from skesm.outputs.spec import Namespace, OutputSpec

NAMESPACE = Namespace("toy", "sha256:00", "fp32")
OUTPUTS = (OutputSpec("mean", 1), OutputSpec("logits"))
MEAN = OUTPUTS[:1]
PAGE = 4096


def sequences_of(n: int, start: int = 0) -> list[str]:
    return ["MKT" + "ACDEFGHIKL"[i % 10] * (i % 5) + f"{i:04d}".translate(str.maketrans("0123456789", "NPQRSTVWYM"))
            for i in range(start, start + n)]  # fmt: skip


def record_of(sequence: str, outputs: tuple[OutputSpec, ...] = OUTPUTS) -> dict[OutputSpec, Any]:
    """What the fake model says: any other sequence has another vector."""

    def values(n: int) -> Any:
        return (np.frombuffer(hashlib.shake_128(sequence.encode()).digest(4 * n), "<u4") >> 8).astype(np.float32)

    known = {OUTPUTS[0]: values(64), OUTPUTS[1]: values(len(sequence) * 20).reshape(-1, 20)}
    return {output: known[output] for output in outputs}


def compute(location: Path, sequences: list[str], outputs: tuple[OutputSpec, ...] = OUTPUTS, batch: int = 100) -> int:
    """A transform in small: every record that the store gives is right. Returns how many were computed."""
    computed = 0
    with RecordStore(location, NAMESPACE) as store:
        missing = sequences
        while missing:
            found = store.get(missing, outputs)
            for sequence, record in zip(missing, found, strict=True):
                for output, value in (record or {}).items():
                    np.testing.assert_array_equal(value, record_of(sequence)[output], strict=True)
            missing = [sequence for sequence, record in zip(missing, found, strict=True) if record is None]
            with store.claim(missing, outputs) as mine:
                claimed = [missing[i] for i in mine]
                for start in range(0, len(claimed), batch):
                    part = claimed[start : start + batch]
                    store.put(part, [record_of(sequence, outputs) for sequence in part])
            computed += len(claimed)
            missing = [sequence for sequence in missing if sequence not in claimed]
    return computed


@contextmanager
def only_store_warnings() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    assert {warning.category for warning in caught} <= {StoreWarning}, [str(warning.message) for warning in caught]


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with pages of each kind: a claim of a killed process is in it too."""
    location = tmp_path_factory.mktemp("filled")
    for start in range(0, 45, 15):
        compute(location, sequences_of(15, start))
    import sqlite3

    connection = sqlite3.connect(next(location.glob("*/records.sqlite")))
    connection.execute("INSERT INTO claim VALUES (?, '1-0123456789abcdef')", (bytes(16),))
    connection.commit()
    connection.close()
    return location


def flips(size: int, per_page: int) -> list[tuple[int, int]]:
    """Bits to flip: in each page its first bytes, which say how to read it, and some anywhere."""
    rng = random.Random(0)
    header = [(place, rng.randrange(8)) for place in range(0, 100, 3)]
    pages = range(0, size, PAGE)
    starts = [(page + 100 * (page == 0) + rng.randrange(16), rng.randrange(8)) for page in pages]
    return [
        *header,
        *starts,
        *((page + rng.randrange(PAGE), rng.randrange(8)) for page in pages for _ in range(per_page)),
    ]


def test_a_flipped_bit_in_any_page_never_gives_a_wrong_value_or_an_error(filled: Path, tmp_path: Path) -> None:
    (path,) = filled.glob("*/records.sqlite")
    content = path.read_bytes()
    sequences = sequences_of(45)
    warned = 0
    for number, (place, bit) in enumerate(flips(len(content), 3)):
        location = tmp_path / "copy"
        shutil.copytree(filled, location)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        (location / path.parent.name / path.name).write_bytes(damaged)
        with only_store_warnings() as caught:
            compute(location, sequences)  # each value that is found is compared
            compute(location, sequences_of(2, 1000 + number))  # some damage shows only when it is written to
            compute(location, sequences)
            assert compute(location, sequences) == 0
        warned += bool(caught)
        shutil.rmtree(location)
    assert warned > 30


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE record SET checksum = 'x' WHERE output = 'logits'",
        "UPDATE record SET block = x'00' WHERE output = 'logits'",
        "UPDATE block SET value = 7",
        "UPDATE claim SET token = CAST(x'FF00FF' AS TEXT)",
        "UPDATE claim SET token = '../../../etc'",
        "UPDATE record SET output = CAST(x'6DFF' AS TEXT) WHERE output = 'logits'",
        "INSERT INTO block VALUES (9223372036854775807, x'00')",
        "UPDATE meta SET value = 7",
        "DELETE FROM meta",
        "PRAGMA user_version=3",
        "ALTER TABLE record RENAME COLUMN size TO sice",
        "DROP TABLE claim",
        "DROP TABLE used",
    ],
)  # fmt: skip
def test_what_sqlite_reads_without_complaint_is_checked_too(filled: Path, tmp_path: Path, change: str) -> None:
    import sqlite3

    location = tmp_path / "copy"
    shutil.copytree(filled, location)
    connection = sqlite3.connect(next(location.glob("*/records.sqlite")))
    connection.execute(change)
    connection.commit()
    connection.close()
    with only_store_warnings():
        compute(location, sequences_of(50))  # some damage shows only when it is written to
        compute(location, sequences_of(50))
        assert compute(location, sequences_of(50)) == 0


@pytest.mark.parametrize(
    "content",
    [
        '{"models": "toy"}',
        '{"models": 3}',
        '{"models": {"toy": 1}}',
        '{"models": null}',
        "[]",
        "7",
        "{}",
        "[" * 100_000,
    ],
    ids=lambda content: content[:20],
)
@pytest.mark.parametrize("name", ["manifest.json", "models.json", "store.json"])
def test_json_of_another_type_is_set_aside(tmp_path: Path, name: str, content: str) -> None:
    compute(tmp_path, sequences_of(3))
    remember_model(tmp_path, "toy", NAMESPACE, {"n_layers": 1})
    (path,) = tmp_path.rglob(name)
    path.write_text(content)
    with only_store_warnings() as caught:
        assert compute(tmp_path, sequences_of(3)) == 0
        recall_model(tmp_path, "toy", "fp32")
        remember_model(tmp_path, "toy", NAMESPACE, {"n_layers": 1})
    assert len(caught) == 1
    assert len(list(path.parent.glob(f"{name}.damaged-*"))) == 1
    assert json.loads(path.read_text())
    recalled = recall_model(tmp_path, "toy", "fp32")
    assert recalled is not None
    assert info(tmp_path)[0].models == ("toy",)


@pytest.mark.parametrize("entry", [7, {"fp32": 7}, {"fp32": {"fingerprint": 7, "details": {}, "last_seen": "x"}}])
def test_an_entry_of_another_type_is_a_model_that_is_not_known(tmp_path: Path, entry: Any) -> None:
    remember_model(tmp_path, "toy", NAMESPACE)
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"format": 1, "models": {"toy": entry}}))
    assert recall_model(tmp_path, "toy", "fp32") is None
    remember_model(tmp_path, "toy", NAMESPACE)
    assert recall_model(tmp_path, "toy", "fp32") is not None


# -- no room -----------------------------------------------------------------------------------------------------------


def mounted(place: Path, kilobytes: int) -> bool:
    """Mount a file system of this size, where this user may."""
    if shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def work_in_little_room(place: Path) -> None:
    location = resolve_location(place)
    assert location is not None
    sequences = sequences_of(200)
    for _ in range(2):
        with only_store_warnings() as caught:
            remember_model(location, "toy", NAMESPACE)
            compute(location, sequences, MEAN, batch=20)
        assert [str(warning.message).startswith("nothing can be stored in ") for warning in caught] in ([], [True])
    assert not list(place.rglob("*.damaged-*"))


@pytest.mark.parametrize("kilobytes", [4, 8, 16, 24, 32, 44, 60, 72, 84, 100, 128, 160])
def test_a_nearly_full_disk_stops_storing_not_the_work(tmp_path: Path, kilobytes: int) -> None:
    """A real small disk for root; for others a limit on the size of files, which SQLite meets in the same places."""
    if mounted(tmp_path, kilobytes):
        try:
            work_in_little_room(tmp_path)
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)
        return
    work_under_a_limit(tmp_path, kilobytes)


@pytest.mark.parametrize("kilobytes", [1, 4, 20, 40, 80])
def test_a_limit_on_the_size_of_files_stops_storing_not_the_work(tmp_path: Path, kilobytes: int) -> None:
    work_under_a_limit(tmp_path, kilobytes)


def work_under_a_limit(place: Path, kilobytes: int) -> None:
    command = [sys.executable, "-W", "error", __file__, str(place), str(kilobytes)]
    subprocess.run(command, check=True, timeout=60)
    location = resolve_location(place)
    assert location is not None
    with only_store_warnings() as caught:  # with room again, everything can be stored
        compute(location, sequences_of(200), MEAN)
        assert compute(location, sequences_of(200), MEAN) == 0
    assert not caught


# -- earlier versions --------------------------------------------------------------------------------------------------


def test_a_store_of_the_first_version_is_read_and_added_to(tmp_path: Path) -> None:
    """Made by revision 5a7e660 with the records of record_of for MKT and MKVL."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "store_format_1.zip") as archive:
        archive.extractall(tmp_path / "joblib" / "skesm")
    location = find_location(tmp_path)
    known = recall_model(location, "toy", "fp32")
    assert known is not None
    assert (known.fingerprint, known.details) == ("sha256:00", {"n_layers": 1})
    assert compute(location, ["MKT", "MKVL"]) == 0
    assert compute(location, ["MKT", "MKVL", "MKA"]) == 1
    assert compute(location, ["MKT", "MKVL", "MKA"]) == 0
    assert verify(location)[0].sound
    assert info(location)[0].outputs == {"logits": 3, "mean@1": 3}
    assert prune(location, model="toy").freed_bytes > 0


if __name__ == "__main__":
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]) * 1024,) * 2)
    work_in_little_room(Path(sys.argv[1]))
