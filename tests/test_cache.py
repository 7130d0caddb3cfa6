"""The record store, used as `skesm.fetch` uses it: by many processes and threads, killed, damaged, full and read-only.

Run as a script, this file is the process that the tests start, kill or crowd.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest

from skesm.cache import (
    RecordStore,
    export,
    find_location,
    info,
    prune,
    recall_model,
    remember_model,
    resolve_location,
    sequence_digest,
    verify,
)
from skesm.esm2.spec import find_registered
from skesm.exceptions import StoreError, StoreWarning
from skesm.outputs.spec import Namespace, OutputSpec, parse_outputs
from skesm.outputs.types import Windows

ROOT = Path(__file__).resolve().parents[1]

NAMESPACE = Namespace("toy", "sha256:00", "fp32")
MEAN = OutputSpec("mean", 1)
RESIDUES = OutputSpec("residues", 1)
LOGITS = OutputSpec("logits")
WIDTH = 64


def sequences_of(n, start=0):
    return [
        f"M{'ACDEFGHIKL'[i % 10] * (i % 7)}{i:06d}".translate(str.maketrans("0123456789", "NPQRSTVWYM"))
        for i in range(start, start + n)
    ]


def vector_of(sequence, width=WIDTH):
    """What the fake model says: any other sequence has another vector."""
    raw = np.frombuffer(hashlib.shake_128(sequence.encode()).digest(4 * width), "<u4")
    return (raw >> 8).astype(np.float32)


def record_of(sequence, outputs=(MEAN,)):
    values = {
        MEAN: vector_of(sequence),
        RESIDUES: vector_of(sequence, len(sequence) * WIDTH).reshape(-1, WIDTH),
        LOGITS: vector_of(sequence, len(sequence) * 20).reshape(-1, 20),
    }
    return {output: values[output] for output in outputs}


def fill(location, sequences, outputs=(MEAN,), namespace=NAMESPACE):
    with RecordStore(location, namespace) as store:
        store.put(sequences, [record_of(s, outputs) for s in sequences])
        return store.folder


def assert_right(records, sequences, outputs=(MEAN,)):
    assert len(records) == len(sequences)
    for record, sequence in zip(records, sequences, strict=True):
        expected = record_of(sequence, outputs)
        assert record is not None
        assert record.keys() == expected.keys()
        for output in outputs:
            np.testing.assert_array_equal(record[output], expected[output], strict=True)


def drive(location, sequences, log, *, batch=25, delay=0.0):
    """A fetch in small: what is missing is claimed, computed batch by batch and stored; others' is awaited."""
    with RecordStore(location, NAMESPACE) as store, open(log, "a", buffering=1) as file:
        while missing := [s for s, r in zip(sequences, store.get(sequences, [MEAN]), strict=True) if r is None]:
            with store.claim(missing, [MEAN]) as mine:
                for start in range(0, len(mine), batch):
                    chunk = [missing[i] for i in mine[start : start + batch]]
                    os.write(file.fileno(), "".join(f"{s}\n" for s in chunk).encode())  # O_APPEND: whole, in any crowd
                    time.sleep(delay)
                    store.put(chunk, [record_of(s) for s in chunk])
            if not mine:
                store.wait(missing, [MEAN])
        assert_right(store.get(sequences, [MEAN]), sequences)


def fork(work, *arguments):
    """A process that does `work`, without the seconds that a new one takes to import; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns if there are other threads
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        work(*arguments)
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def status_of(child):
    return os.waitpid(child, 0)[1]


def start_process(*arguments):
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.fixture
def location(tmp_path):
    return resolve_location(tmp_path / "cache")


# -- records -----------------------------------------------------------------------------------------------------------


def test_records_come_back_bit_for_bit_in_the_order_asked_for(location):
    sequences = sequences_of(1000)
    outputs = (MEAN, RESIDUES, LOGITS)
    fill(location, sequences, outputs)
    asked = random.Random(0).choices(sequences, k=1500)  # repeats
    with RecordStore(location, NAMESPACE) as store:
        assert_right(store.get(asked, outputs), asked, outputs)
        assert_right(store.get(asked, [MEAN]), asked)


def test_values_cannot_be_written_to(location):
    fill(location, ["MKT"])
    with RecordStore(location, NAMESPACE) as store:
        (record,) = store.get(["MKT"], [MEAN])
    with pytest.raises(ValueError, match="read-only"):
        record[MEAN][0] = 1


def test_a_record_is_none_unless_all_outputs_are_there(location):
    with RecordStore(location, NAMESPACE) as store:
        assert store.get(["MKT"], [MEAN]) == [None]
        store.put(["MKT", "MKV"], [record_of("MKT"), record_of("MKV", (MEAN, LOGITS))])
        known = store.get(["MKT", "MKV", "MKL"], [MEAN, LOGITS])
        assert [record is not None for record in known] == [False, True, False]
        assert_right([known[1]], ["MKV"], (MEAN, LOGITS))


def test_values_of_any_size_and_a_second_write(location):
    huge = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    scalar = np.ones(1, dtype=np.float32)
    with RecordStore(location, NAMESPACE) as store:
        store.put(["MKT", "MKV"], [{RESIDUES: huge}, {RESIDUES: scalar}])
        store.put(["MKT"], [{RESIDUES: huge + 1}])  # what is there stays: reruns give the same bits
        first, second = store.get(["MKT", "MKV"], [RESIDUES])
    np.testing.assert_array_equal(first[RESIDUES], huge, strict=True)
    np.testing.assert_array_equal(second[RESIDUES], scalar, strict=True)


@pytest.mark.parametrize(
    "value",
    [np.array([1, np.nan], np.float32), np.array([np.inf], np.float32), np.ones(3), np.empty(0, np.float32)],
    ids=["nan", "inf", "float64", "empty"],
)
def test_a_bad_value_is_refused_with_its_whole_batch(location, value):
    with RecordStore(location, NAMESPACE) as store:
        with pytest.raises(ValueError, match="Only finite float32"):
            store.put(["MKT", "MKV"], [record_of("MKT"), {MEAN: value}])
        with pytest.raises(ValueError, match="shorter"):
            store.put(["MKT", "MKV"], [record_of("MKT")])
        assert store.get(["MKT", "MKV"], [MEAN]) == [None, None]


def test_fingerprint_and_numerics_keep_records_apart_and_the_name_does_not(location):
    fill(location, ["MKT"])
    for other in (Namespace("toy", "sha256:01", "fp32"), Namespace("toy", "sha256:00", "bf16")):
        with RecordStore(location, other) as store:
            assert store.get(["MKT"], [MEAN]) == [None]
    with RecordStore(location, Namespace("another name", "sha256:00", "fp32")) as store:
        assert_right(store.get(["MKT"], [MEAN]), ["MKT"])


def test_files_hold_no_sequence_no_pickle_and_little_else(location):
    sequences = sequences_of(400)
    with RecordStore(location, NAMESPACE) as store:
        store.put(sequences, [record_of(s, (MEAN, LOGITS)) for s in sequences])
        with store.claim(["MKTAYIAKQRQISFVKSHFSRQ"], [MEAN]):
            found = [path for path in location.rglob("*") if path.is_file()]
            content = b"".join(path.read_bytes() for path in found)
    assert len(found) <= 10
    assert not any(s.encode() in content for s in [*sequences, "MKTAYIAKQRQISFVKSHFSRQ"])
    raw = sum(value.nbytes for s in sequences for value in record_of(s, (MEAN, LOGITS)).values())
    assert sum(path.stat().st_size for path in store.folder.rglob("*.sqlite")) < 1.5 * raw + 65536  # WAL is gone


@pytest.mark.parametrize("width", [320, 480, 640, 1280, 2560])
def test_disk_use_is_little_above_that_of_the_vectors(location, width):
    sequences = sequences_of(512)
    with RecordStore(location, NAMESPACE) as store:
        for start in range(0, 512, 32):
            batch = sequences[start : start + 32]
            store.put(batch, [{MEAN: vector_of(s, width)} for s in batch])
    size = sum(path.stat().st_size for path in location.rglob("*") if path.is_file())
    assert size <= 1.15 * 512 * width * 4


def test_the_manifest_tells_people_what_is_stored(location):
    folder = fill(location, ["MKT"])
    fill(location, ["MKV"], namespace=Namespace("same weights", "sha256:00", "fp32"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["models"] == ["same weights", "toy"]
    assert (manifest["fingerprint"], manifest["numerics"], manifest["format"]) == ("sha256:00", "fp32", 1)
    assert manifest["created"].startswith("20")
    assert {"skesm", "numpy", "python", "sqlite"} == manifest["versions"].keys()


def test_a_store_can_be_pickled_while_open(location):
    fill(location, ["MKT"])
    with RecordStore(location, NAMESPACE) as store:
        store.get(["MKT"], [MEAN])
        with pickle.loads(pickle.dumps(store)) as copy:
            assert_right(copy.get(["MKT"], [MEAN]), ["MKT"])


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["str", "Path", "Memory of str", "Memory of Path"])
def test_joblib_clears_the_store_and_an_open_store_goes_on(tmp_path, kind):
    place = tmp_path / "cache"
    memory = {
        "str": lambda: str(place),
        "Path": lambda: place,
        "Memory of str": lambda: joblib.Memory(str(place), verbose=0),
        "Memory of Path": lambda: joblib.Memory(place, verbose=0),
    }[kind]()
    cleared = memory if isinstance(memory, joblib.Memory) else joblib.Memory(str(place), verbose=0)
    location = resolve_location(memory)
    with RecordStore(location, NAMESPACE) as store:
        store.put(["MKT"], [record_of("MKT")])
        assert find_location(place) == location
        cleared.reduce_size(bytes_limit=0)
        assert_right(store.get(["MKT"], [MEAN]), ["MKT"])
        cleared.clear(warn=False)
        assert not location.exists()
        assert store.get(["MKT"], [MEAN]) == [None]
        store.put(["MKT"], [record_of("MKT")])
        assert_right(store.get(["MKT"], [MEAN]), ["MKT"])


def test_no_memory_and_what_is_no_memory(tmp_path):
    assert resolve_location(None) is None
    assert resolve_location(joblib.Memory(None)) is None
    with pytest.raises(TypeError, match=r"memory must be None, a path or a joblib\.Memory, got int"):
        resolve_location(3)
    (tmp_path / "file").write_text("")
    with (
        RecordStore(resolve_location(tmp_path / "file"), NAMESPACE) as store,
        pytest.raises(StoreError, match="must be a folder"),
    ):
        store.put(["MKT"], [record_of("MKT")])


def test_looking_up_makes_no_files(tmp_path):
    with RecordStore(tmp_path / "cache", NAMESPACE) as store:
        assert store.get(["MKT"], [MEAN]) == [None]
    assert not (tmp_path / "cache").exists()


# -- exactly once ------------------------------------------------------------------------------------------------------


def test_claims_share_out_and_check_again_what_is_stored(location):
    with RecordStore(location, NAMESPACE) as one, RecordStore(location, NAMESPACE) as two:
        one.put(["A"], [record_of("A")])
        with one.claim(["A", "C", "D"], [MEAN]) as mine:
            assert mine == [1, 2]
            with two.claim(["D", "E", "A", "C"], [MEAN]) as others:
                assert others == [1]
            assert not two.wait(["C", "D"], [MEAN], timeout=0.05)
            assert two.wait(["C", "E"], [MEAN], timeout=30)  # E is nobody's
            one.put(["C", "D"], [record_of("C"), record_of("D")])
            assert two.wait(["C", "D"], [MEAN], timeout=30)
        with two.claim(["C", "D"], [MEAN]) as others:
            assert others == []
        with two.claim(["C", "D"], [MEAN, LOGITS]) as others:
            assert others == [0, 1]


def test_a_failing_holder_frees_its_claims(location):
    with RecordStore(location, NAMESPACE) as one, RecordStore(location, NAMESPACE) as two:
        with pytest.raises(KeyboardInterrupt), one.claim(["A"], [MEAN]):
            raise KeyboardInterrupt
        with two.claim(["A"], [MEAN]) as mine:
            assert mine == [0]
        assert os.listdir(two.folder / "claims") == []


def test_eight_processes_compute_a_thousand_shared_sequences_once(tmp_path, location):
    log = tmp_path / "log"
    start, go = os.pipe()

    def work(seed):
        os.read(start, 1)
        drive(location, random.Random(seed).sample(sequences_of(1000), 1000), log, delay=0.01)

    children = [fork(work, seed) for seed in range(8)]
    os.write(go, b"." * 8)  # all at once
    assert [status_of(child) for child in children] == [0] * 8
    os.close(start)
    os.close(go)
    assert sorted(log.read_text().split()) == sorted(sequences_of(1000))


def test_threads_compute_shared_sequences_once(tmp_path, location):
    log = tmp_path / "log"
    sequences = sequences_of(300)
    orders = [random.Random(seed).sample(sequences, 200) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(drive, location, order, log, delay=0.005) for order in orders]:
            done.result(timeout=60)
    assert sorted(log.read_text().split()) == sorted({s for order in orders for s in order})


def test_threads_may_share_one_store(location):
    sequences = sequences_of(400)
    with RecordStore(location, NAMESPACE) as store:

        def work(start):
            batch = sequences[start : start + 50]
            store.put(batch, [record_of(s) for s in batch])
            assert_right(store.get(batch, [MEAN]), batch)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(0, 400, 50)))
        assert_right(store.get(sequences, [MEAN]), sequences)


@pytest.mark.parametrize("forks", [False, True], ids=["alone", "its forked child lives on"])
def test_no_claim_survives_a_killed_holder(tmp_path, location, forks):
    holder = start_process("hold", location, 10, int(forks))
    child = int(holder.stdout.readline())
    try:
        with RecordStore(location, NAMESPACE) as store:
            with store.claim(sequences_of(10), [MEAN]) as mine:
                assert mine == []
            waiter = threading.Timer(0.1, holder.kill)
            waiter.start()
            assert store.wait(sequences_of(10), [MEAN], timeout=30)
            with store.claim(sequences_of(10), [MEAN]) as mine:
                assert mine == list(range(10))
            assert os.listdir(store.folder / "claims") == []
    finally:
        if forks:
            os.kill(child, signal.SIGKILL)
        finish(holder)


def test_killed_at_any_moment_the_rerun_does_what_is_left(tmp_path, location):
    batch, n = 25, 800
    rng = random.Random(0)
    log = tmp_path / "log"
    log.touch()
    for _ in range(6):
        size = log.stat().st_size
        child = fork(functools.partial(drive, delay=0.02), location, sequences_of(n), log)
        while log.stat().st_size == size:  # until it has begun a batch
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert status_of(child) == signal.SIGKILL
    drive(location, sequences_of(n), log, batch=batch)
    computed = log.read_text().split()
    assert len(computed) > n  # at least one kill hit a batch
    assert set(computed) == set(sequences_of(n))
    assert n <= len(computed) <= n + 6 * batch  # at most one batch again for each kill
    assert [report.sound for report in verify(location)] == [True]


def test_a_forked_process_may_go_on_with_an_open_store(location):
    with RecordStore(location, NAMESPACE) as store:
        store.put(["A"], [record_of("A")])

        def work():
            assert_right(store.get(["A"], [MEAN]), ["A"])
            store.put(["C"], [record_of("C")])

        child = fork(work)
        store.put(["D"], [record_of("D")])
        assert status_of(child) == 0
        assert_right(store.get(["A", "C", "D"], [MEAN]), ["A", "C", "D"])


# -- damage ------------------------------------------------------------------------------------------------------------


def overwrite(path, start, content):
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)


def make_foreign(path):
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


DAMAGES = {
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut to one page": lambda path: os.truncate(path, 4096),
    "emptied": lambda path: os.truncate(path, 0),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("not a database\n" * 1000),
    "zeroed inside": lambda path: overwrite(path, 4096, bytes(8 * 4096)),
    "another program's": make_foreign,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("opened", [False, True], ids=["closed", "open"])
def test_a_damaged_file_is_kept_aside_and_computed_again(location, damage, opened):
    sequences = sequences_of(500)
    folder = fill(location, sequences)
    path = folder / "records.sqlite"
    with RecordStore(location, NAMESPACE) as store, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if opened:
            assert_right(store.get(sequences, [MEAN]), sequences)
        DAMAGES[damage](path)
        for _ in range(3):  # some damage shows only when it is written to
            for sequence, record in zip(sequences, store.get(sequences, [MEAN]), strict=True):
                if record is not None:
                    assert_right([record], [sequence])
            with store.claim(sequences, [MEAN]) as mine:
                batch = [sequences[i] for i in mine]
                store.put(batch, [record_of(s) for s in batch])
        assert_right(store.get(sequences, [MEAN]), sequences)
    assert {warning.category for warning in caught} == {StoreWarning}
    if damage in ("zeroed", "text", "another program's"):
        (aside,) = (path for path in folder.glob("records.sqlite.damaged-*") if path.name[-4:] not in ("-wal", "-shm"))
        assert aside.stat().st_size > 0
    with RecordStore(location, NAMESPACE) as store:
        assert_right(store.get(sequences, [MEAN]), sequences)


def test_a_flipped_bit_counts_as_missing(location):
    sequences = sequences_of(50)
    folder = fill(location, sequences)
    path = folder / "records.sqlite"
    place = path.read_bytes().index(vector_of(sequences[7]).tobytes()[:32])
    overwrite(path, place, bytes([path.read_bytes()[place] ^ 1]))
    (report,) = verify(location)
    assert (report.records, report.damaged, report.sound) == (50, 1, False)
    with RecordStore(location, NAMESPACE) as store:
        with pytest.warns(StoreWarning, match="1 values in .* do not agree with their checksums"):
            records = store.get(sequences, [MEAN])
        assert [i for i, record in enumerate(records) if record is None] == [7]
        with store.claim(sequences, [MEAN]) as mine:
            assert mine == [7]
            store.put([sequences[7]], [record_of(sequences[7])])
        assert_right(store.get(sequences, [MEAN]), sequences)
    assert verify(location)[0].sound


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE record SET start = (SELECT start FROM record WHERE sequence = :b) WHERE sequence = :a",
        "UPDATE record SET (start, checksum) = (SELECT start, checksum FROM record WHERE sequence = :b)"
        " WHERE sequence = :a",
        "UPDATE record SET output = 'mean@2' WHERE sequence = :a",
        "UPDATE record SET shape = '2,32' WHERE sequence = :a",
        "UPDATE record SET block = 77 WHERE sequence = :a",
    ],
    ids=["value", "value and checksum", "output", "shape", "no such block"],
)
def test_values_that_changed_places_count_as_missing(location, change):
    folder = fill(location, ["MKT", "MKV"])
    connection = sqlite3.connect(folder / "records.sqlite")
    connection.execute(change, {"a": sequence_digest("MKT"), "b": sequence_digest("MKV")})
    connection.commit()
    connection.close()
    with RecordStore(location, NAMESPACE) as store:
        with pytest.warns(StoreWarning):
            first = store.get(["MKT"], [MEAN]) + store.get(["MKT"], [OutputSpec("mean", 2)])
        assert first == [None, None]
        assert_right(store.get(["MKV"], [MEAN]), ["MKV"])


def test_the_file_of_another_model_never_answers(location):
    other = Namespace("other", "sha256:01", "fp32")
    with RecordStore(location, other) as store:
        store.put(["MKT"], [{MEAN: np.zeros(WIDTH, np.float32)}])
    folder = fill(location, ["MKV"])
    shutil.copy(store.folder / "records.sqlite", folder / "records.sqlite")
    with RecordStore(location, NAMESPACE) as store, pytest.warns(StoreWarning, match="records of another model"):
        assert store.get(["MKT", "MKV"], [MEAN]) == [None, None]


def test_a_file_that_is_replaced_or_removed_while_open(tmp_path, location):
    with RecordStore(tmp_path / "other", NAMESPACE) as store:
        store.put(["MKL"], [record_of("MKL")])
    with RecordStore(location, NAMESPACE) as mine:
        mine.put(["MKT"], [record_of("MKT")])
        os.replace(store.folder / "records.sqlite", mine.folder / "records.sqlite")
        # SQLite may take the journal of the old file for one of the new file: which records are found is open.
        for sequence, record in zip(["MKT", "MKL"], mine.get(["MKT", "MKL"], [MEAN]), strict=True):
            if record is not None:
                assert_right([record], [sequence])
        (mine.folder / "records.sqlite").unlink()
        mine.put(["MKV"], [record_of("MKV")])
        assert_right(mine.get(["MKV"], [MEAN]), ["MKV"])


def test_a_store_from_the_future_is_left_alone(location):
    folder = fill(location, ["MKT"])
    path = folder / "records.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE record ADD COLUMN something")
    connection.execute("PRAGMA user_version=2")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    with RecordStore(location, NAMESPACE) as store:
        with pytest.raises(StoreError, match="format 2, and this skesm knows 1: upgrade skesm"):
            store.get(["MKT"], [MEAN])
        with pytest.raises(StoreError, match="format 2"):
            store.put(["MKT"], [record_of("MKT")])
    assert path.read_bytes() == content
    (location / "store.json").write_text('{"format": 9}')
    with RecordStore(location, Namespace("new", "sha256:02", "fp32")) as store:
        with pytest.raises(StoreError, match="format 9"):
            store.get(["MKT"], [MEAN])
        with pytest.raises(StoreError, match="format 9"), store.claim(["MKT"], [MEAN]):
            pass
    with pytest.raises(StoreError, match="format 9"):
        info(location)


@pytest.mark.parametrize("name", ["store.json", "manifest.json", "models.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"format": 1', b"[1]"])
def test_damaged_small_files_are_kept_aside(location, name, content):
    folder = fill(location, ["MKT"])
    remember_model(location, "toy", NAMESPACE)
    path = (folder if name == "manifest.json" else location) / name
    path.write_bytes(content)

    def use():
        with RecordStore(location, NAMESPACE) as store:
            assert_right(store.get(["MKT"], [MEAN]), ["MKT"])
        recall_model(location, "toy", "fp32")

    with pytest.warns(StoreWarning, match="is not a JSON object. It was renamed"):
        use()
    remember_model(location, "toy", NAMESPACE)
    assert json.loads(path.read_text())
    assert len(list(path.parent.glob(f"{name}.damaged-*"))) == 1


# -- no room, no permission --------------------------------------------------------------------------------------------


def use_without_storing(location, sequences, unknown):
    """Look up what is known, and put what is unknown: one warning, nothing raised, nothing lost."""
    with warnings.catch_warnings(record=True) as caught, RecordStore(location, NAMESPACE) as store:
        warnings.simplefilter("always")
        assert_right(store.get(sequences, [MEAN]), sequences)
        left = unknown
        while left:
            with store.claim([*sequences, *left], [MEAN]) as mine:
                assert mine == list(range(len(sequences), len(sequences) + len(mine)))
                portion = left[: len(mine)]
                store.put(portion, [record_of(s) for s in portion])
            left = left[len(mine) :]
        assert store.get(unknown, [MEAN]) == [None] * len(unknown)
        assert_right(store.get(sequences, [MEAN]), sequences)
        remember_model(location, "toy", NAMESPACE)
    assert [str(w.message).partition(" (")[0] for w in caught] == [f"nothing can be stored in {location}"]


def test_a_file_size_limit_stops_storing_not_the_work(location):
    sequences, unknown = sequences_of(100), sequences_of(2000, start=100)
    folder = fill(location, sequences)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit = (folder / "records.sqlite").stat().st_size + 65536
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        use_without_storing(location, sequences, unknown)

    assert status_of(fork(work)) == 0
    with RecordStore(location, NAMESPACE) as store:
        assert_right(store.get(sequences, [MEAN]), sequences)
        store.put(unknown, [record_of(s) for s in unknown])
        assert_right(store.get(unknown, [MEAN]), unknown)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk_stops_storing_not_the_work(small_disk):
    location = resolve_location(small_disk)
    sequences, unknown = sequences_of(100), sequences_of(100, start=100)
    fill(location, sequences)
    with open(small_disk / "rest", "wb", buffering=0) as rest, contextlib.suppress(OSError):
        while rest.write(bytes(4096)):
            pass
    use_without_storing(location, sequences, unknown)
    (small_disk / "rest").unlink()
    with RecordStore(location, NAMESPACE) as store:
        store.put(unknown, [record_of(s) for s in unknown])
        assert_right(store.get([*sequences, *unknown], [MEAN]), [*sequences, *unknown])


@pytest.mark.parametrize("empty", [False, True], ids=["with records", "empty"])
def test_a_read_only_folder_is_read(empty):
    with tempfile.TemporaryDirectory() as folder:
        location = resolve_location(folder)
        location.mkdir(parents=True)
        sequences = [] if empty else sequences_of(100)
        if not empty:
            fill(location, sequences)
        paths = [Path(folder), *Path(folder).rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)

        def work():
            if os.geteuid() == 0:  # root may write anywhere
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            use_without_storing(location, sequences, ["MKT"])
            if not empty:
                assert verify(location)[0].sound

        assert status_of(fork(work)) == 0
        for path in paths:
            path.chmod(0o755)


# -- models by name ----------------------------------------------------------------------------------------------------


def test_a_model_is_recalled_by_name_and_numerics(location):
    assert recall_model(location, "toy", "fp32") is None
    remember_model(location, "toy", NAMESPACE, {"n_layers": 6})
    remember_model(location, "toy", Namespace("toy", "sha256:0b", "bf16"))
    known = recall_model(location, "toy", "fp32")
    assert (known.model, known.fingerprint, known.numerics) == ("toy", "sha256:00", "fp32")
    assert known.details == {"n_layers": 6}
    assert recall_model(location, "toy", "bf16").fingerprint == "sha256:0b"
    assert recall_model(location, "toy", "int8") is None
    assert recall_model(location, "other", "fp32") is None
    remember_model(location, "toy", Namespace("toy", "sha256:01", "fp32"))  # the weights have changed
    assert recall_model(location, "toy", "fp32").fingerprint == "sha256:01"
    assert recall_model(location, "toy", "bf16").fingerprint == "sha256:0b"


def test_models_are_remembered_by_many_at_once(location):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: remember_model(location, f"m{i}", NAMESPACE), range(40)))
    assert all(recall_model(location, f"m{i}", "fp32") for i in range(40))


# -- maintenance -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_models(location):
    fill(location, sequences_of(30), (MEAN, LOGITS))
    fill(location, sequences_of(5), namespace=Namespace("other", "sha256:01", "fp32"))
    return location


def test_info_says_what_is_stored_by_model(two_models):
    found = {each.models: each for each in info(two_models)}
    toy = found[("toy",)]
    assert (toy.sequences, toy.outputs) == (30, {"logits": 30, "mean@1": 30})
    assert toy.value_bytes == sum(v.nbytes for s in sequences_of(30) for v in record_of(s, (MEAN, LOGITS)).values())
    assert (toy.fingerprint, toy.numerics, toy.problem) == ("sha256:00", "fp32", None)
    assert toy.disk_bytes > toy.value_bytes
    assert found[("other",)].sequences == 5
    assert info(two_models.parents[1]) == info(two_models)  # the value of memory means the same


def test_verify_tells_of_a_broken_file_and_changes_nothing(two_models):
    (toy,) = (each for each in info(two_models) if "toy" in each.models)
    (toy.folder / "records.sqlite").write_bytes(b"nonsense" * 1000)
    before = sorted(two_models.rglob("*"))
    reports = {report.models: report for report in verify(two_models)}
    assert not reports[("toy",)].sound
    assert "not a database" in reports[("toy",)].problem
    assert reports[("other",)].sound
    assert sorted(two_models.rglob("*")) == before
    assert "not a database" in next(each.problem for each in info(two_models) if "toy" in each.models)


def test_prune_drops_one_model(two_models):
    with pytest.raises(StoreError, match=r"nothing is stored for 'else'\. Stored: other, toy"):
        prune(two_models, model="else")
    with RecordStore(two_models, NAMESPACE) as store:
        with store.claim(["MKT"], [MEAN]), pytest.raises(StoreError, match="being computed"):
            prune(two_models, model="toy")
        report = prune(two_models, model="toy")
        assert report.folders == (store.folder,)
        assert report.freed_bytes > 0
        assert store.get(sequences_of(1), [MEAN]) == [None]
    assert [each.models for each in info(two_models)] == [("other",)]


def test_export_to_npz(two_models, tmp_path):
    path = tmp_path / "out.npz"
    assert export(two_models, path, model="toy") == 60
    with np.load(path, allow_pickle=False) as file:
        rows = {digest: row for row, digest in enumerate(file["mean@1/sequence"])}
        assert len(rows) == 30
        for sequence in sequences_of(30):
            row = rows[sequence_digest(sequence).hex()]
            assert file["mean@1/length"][row] == len(sequence)
            np.testing.assert_array_equal(file["mean@1/values"][row], vector_of(sequence), strict=True)
        for row, digest in enumerate(file["logits/sequence"]):
            (sequence,) = (s for s in sequences_of(30) if sequence_digest(s).hex() == digest)
            start, end = file["logits/offsets"][row : row + 2]
            np.testing.assert_array_equal(file["logits/values"][start:end], record_of(sequence, (LOGITS,))[LOGITS])


@pytest.mark.parametrize("equal_lengths", [False, True])
def test_export_of_every_kind_of_output(location, tmp_path, equal_lengths):
    """Also of those whose shape varies in more than the first axis: sizes of sequences do not decide the layout."""
    model = find_registered("esm2_t6_8M_UR50D")
    names = ["contacts", "contact_profile", "attentions@2", "attention_received@2", "attention_heads@2", "logit_means"]
    outputs = [
        *parse_outputs(names, n_layers=6),
        OutputSpec("mutated", 1, "MKT"),
        replace(LOGITS, windows=Windows(4, 2)),
    ]
    outputs += [MEAN, RESIDUES, OutputSpec("mask_logits")]
    sequences = ["MKTAY", "GSHMS", "WWWWW"] if equal_lengths else ["MKTAY", "G", "WWW"]
    rng = np.random.default_rng(0)
    records = {
        sequence_digest(sequence).hex(): {
            output: rng.random(
                (2, 20) if output.kind == "mask_logits" else output.shape(len(sequence), model), dtype=np.float32
            )
            for output in outputs
        }
        for sequence in sequences
    }
    with RecordStore(location, NAMESPACE) as store:
        store.put(sequences, list(records.values()))
    assert export(location, tmp_path / "out.npz") == 3 * len(outputs)
    layouts = {}
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        for output in outputs:
            name = str(output)
            layouts[output.kind] = "shapes" if f"{name}/shapes" in file else "rows" if f"{name}/offsets" in file else ""
            for row, digest in enumerate(file[f"{name}/sequence"]):
                value = file[f"{name}/values"]
                if layouts[output.kind]:
                    value = value[slice(*file[f"{name}/offsets"][row : row + 2])]
                    value = value.reshape(file[f"{name}/shapes"][row]) if layouts[output.kind] == "shapes" else value
                else:
                    value = value[row]
                np.testing.assert_array_equal(value, records[str(digest)][output], strict=True, err_msg=name)
    assert layouts == {
        **dict.fromkeys(["mean", "mutated", "attention_heads"], ""),
        **dict.fromkeys(["residues", "logits", "logit_means", "mask_logits", "attention_received"], "rows"),
        **dict.fromkeys(["contacts", "contact_profile", "attentions"], "shapes"),
    }


def test_export_to_parquet(two_models, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"
    assert export(two_models, path, model="toy") == 60
    frame = pandas.read_parquet(path).set_index(["output", "sequence"])
    for sequence in sequences_of(30):
        for output, value in record_of(sequence, (MEAN, LOGITS)).items():
            row = frame.loc[(str(output), sequence_digest(sequence).hex())]
            assert (row["length"], tuple(row["shape"])) == (len(sequence), value.shape)
            np.testing.assert_array_equal(np.array(row["values"]).reshape(row["shape"]), value, strict=True)


def test_export_refuses_what_is_not_clear_or_not_whole(two_models, tmp_path):
    with pytest.raises(ValueError, match=r"must end in .npz or .parquet"):
        export(two_models, tmp_path / "out.csv", model="toy")
    with pytest.raises(StoreError, match="2 models match, name one by its fingerprint"):
        export(two_models, tmp_path / "out.npz")
    (toy,) = (each for each in info(two_models) if "toy" in each.models)
    connection = sqlite3.connect(toy.folder / "records.sqlite")
    connection.execute("UPDATE record SET checksum = checksum + 1 WHERE output = 'logits'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="does not agree with its checksum"):
        export(two_models, tmp_path / "out.npz", model="toy")
    assert list(tmp_path.glob("*out*")) == []
    with pytest.raises(StoreError, match="there is no skesm store"):
        info(tmp_path / "nowhere")


# -- the processes of the tests ----------------------------------------------------------------------------------------

if __name__ == "__main__":
    task, where, *rest = sys.argv[1:]
    if task == "hold":
        count, forks = map(int, rest)
        with RecordStore(Path(where), NAMESPACE) as held_store, held_store.claim(sequences_of(count), [MEAN]) as held:
            assert held == list(range(count))
            pid = os.fork() if forks else os.getpid()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            print(pid, flush=True)
            time.sleep(60)


def test_forks_beside_a_busy_store_do_not_hang(tmp_path: Path) -> None:
    """Each fork closes the store's file, so that the thread opens it again and again."""
    code = """
import os, sys, threading
import numpy as np
from pathlib import Path
from skesm.outputs.spec import Namespace, OutputSpec
from skesm.cache import RecordStore
output, done = OutputSpec("mean", 1), threading.Event()
def work():
    with RecordStore(Path(sys.argv[1]), Namespace("m", "f", "fp32")) as store:
        while not done.is_set():
            store.put(["MKT"], [{output: np.ones(4, np.float32)}])
            store.get(["MKT"], [output])
thread = threading.Thread(target=work)
thread.start()
for _ in range(150):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
done.set()
thread.join()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
