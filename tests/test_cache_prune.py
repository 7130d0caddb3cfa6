"""Making a store smaller: by age, by size, beside running processes and after being killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skesm.cache import RecordStore, info, prune, verify
from skesm.cli import main
from skesm.exceptions import StoreError
from skesm.outputs.spec import Namespace, OutputSpec

MEAN = OutputSpec("mean", 1)
TOY = Namespace("toy", "sha256:00", "fp32")
OTHER = Namespace("other", "sha256:01", "fp32")
ROOT = Path(__file__).resolve().parents[1]
WIDTH = 1280


def names(n: int, start: int = 0) -> list[str]:
    return [f"M{i:05d}".translate(str.maketrans("0123456789", "NPQRSTVWYM")) for i in range(start, start + n)]


def value(name: str) -> Any:
    return np.full(WIDTH, sum(map(ord, name)), np.float32)


def fill(location: Path, sequences: list[str], namespace: Namespace = TOY) -> Path:
    with RecordStore(location, namespace) as store:
        store.put(sequences, [{MEAN: value(name)} for name in sequences])
        return store.folder


def known(location: Path, sequences: list[str], namespace: Namespace = TOY) -> int:
    with RecordStore(location, namespace) as store:
        found = store.get(sequences, [MEAN])
    for name, record in zip(sequences, found, strict=True):
        if record is not None:
            np.testing.assert_array_equal(record[MEAN], value(name))
    return sum(record is not None for record in found)


def change(folder: Path, query: str) -> None:
    with closing(sqlite3.connect(folder / "records.sqlite")) as connection, connection:
        connection.execute(query)


def days_used(folder: Path) -> set[int]:
    with closing(sqlite3.connect(folder / "records.sqlite")) as connection:
        today = int(time.time() // 86_400)
        return {today - day for (day,) in connection.execute("SELECT day FROM used")}


@pytest.fixture
def aged(tmp_path: Path) -> Path:
    """120 values that were used 100 days ago, and 120 of 10 days ago."""
    fill(tmp_path, names(120))
    folder = fill(tmp_path, names(120))
    change(folder, "UPDATE used SET day = day - 90")
    folder = fill(tmp_path, names(120, 120))
    change(folder, "UPDATE used SET day = day - 10")
    return tmp_path


def size_of(location: Path) -> int:
    return sum(path.stat().st_size for path in location.rglob("records.sqlite*"))


@pytest.mark.parametrize("age", ["90d", 90, timedelta(days=90), "12.8w", "2160h"])
def test_what_was_not_used_for_long_goes(aged: Path, age: Any) -> None:
    before = size_of(aged)
    report = prune(aged, older_than=age)
    assert report.values == 120
    assert before - size_of(aged) > 0.4 * before
    assert abs(report.freed_bytes - (before - size_of(aged))) <= 1 << 16  # what SQLite keeps beside the file
    assert known(aged, names(120)) == 0
    assert known(aged, names(120, 120)) == 120
    assert verify(aged)[0].sound
    assert prune(aged, older_than=age).values == 0


def test_reading_counts_as_use_and_writes_once_a_day(aged: Path) -> None:
    (folder,) = (each.folder for each in info(aged))
    assert days_used(folder) == {10, 100}
    assert known(aged, names(60)) == 60
    assert days_used(folder) == {0, 10, 100}
    assert prune(aged, older_than="90d").values == 120 - sum(known(aged, [name]) for name in names(120))
    assert known(aged, names(60)) == 60
    content = (folder / "records.sqlite").read_bytes()
    assert known(aged, names(60)) == 60
    assert (folder / "records.sqlite").read_bytes() == content


def test_the_least_recently_used_go_until_the_rest_fits(aged: Path) -> None:
    most = int(0.7 * size_of(aged))
    report = prune(aged, max_size=most)
    assert 0.5 * most < size_of(aged) <= most
    assert 0 < report.values < 120
    assert known(aged, names(120, 120)) == 120  # the older ones were enough
    assert prune(aged, max_size=most).values == 0
    assert prune(aged, max_size="1TB").values == 0
    assert prune(aged, max_size=0).values == 240 - report.values
    assert info(aged)[0].sequences == 0
    fill(aged, names(3))
    assert known(aged, names(3)) == 3


def test_a_size_is_that_of_all_models_unless_one_is_named(aged: Path) -> None:
    fill(aged, names(120), OTHER)
    prune(aged, model="other", max_size=0)
    assert {each.models: each.sequences for each in info(aged)} == {("toy",): 240, ("other",): 0}
    fill(aged, names(120), OTHER)
    prune(aged, max_size=size_of(aged) // 2)
    assert known(aged, names(120)) == 0
    assert known(aged, names(120), OTHER) == 120
    prune(aged, model="toy", older_than="5d")
    assert known(aged, names(240)) == 0


def test_a_store_of_an_older_version_ages_from_its_first_use(tmp_path: Path) -> None:
    folder = fill(tmp_path, names(50))
    change(folder, "DROP TABLE used")
    assert prune(tmp_path, older_than="1d").values == 0
    assert known(tmp_path, names(50)) == 50
    assert days_used(folder) == {0}


def test_damaged_files_that_were_set_aside_go_too(aged: Path) -> None:
    (folder,) = (each.folder for each in info(aged))
    aside = folder / "records.sqlite.damaged-20260101T000000-abcd"
    aside.write_bytes(bytes(100_000))
    prune(aged, older_than="90d")
    assert aside.exists()
    prune(aged, max_size=size_of(aged))
    assert not aside.exists()
    assert known(aged, names(120, 120)) == 120


def test_another_store_may_be_open_and_reading(aged: Path) -> None:
    with RecordStore(aged, TOY) as store:
        assert None not in store.get(names(240), [MEAN])
        with store.claim(["MKT"], [MEAN]) as mine:
            prune(aged, max_size=0)
            store.put([["MKT"][i] for i in mine], [{MEAN: value("MKT")}])
        assert store.get(names(240), [MEAN]) == [None] * 240
        assert known(aged, ["MKT"]) == 1


def test_killed_while_pruning_the_store_is_sound(tmp_path: Path) -> None:
    folder = fill(tmp_path, names(2000))
    change(folder, "UPDATE used SET day = day - 100")
    code = (
        "import sys; from skesm.cache import _prune; _prune._BLOCKS_AT_ONCE = 1; print('go', flush=True);"
        "_prune.prune(sys.argv[1], older_than='90d')"
    )
    for pause in (0.0, 0.02, 0.1):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.kill()
        process.communicate()
        assert verify(tmp_path)[0].sound
    prune(tmp_path, older_than="90d")
    assert known(tmp_path, names(2000)) == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"older_than": "soon"}, {"max_size": "much"}, {"older_than": -1}, {"max_size": -1}, {"max_size": "3d"}],
)
def test_what_is_not_clear_is_refused(aged: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"an age|a size|name the values to remove"):
        prune(aged, **options)
    assert known(aged, names(240)) == 240


def test_no_store_no_model_and_nothing_stored(aged: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(StoreError, match="there is no skesm store"):
        prune(tmp_path_factory.mktemp("empty"), older_than="1d")
    with pytest.raises(StoreError, match="nothing is stored for 'else'"):
        prune(aged, model="else", older_than="1d")


def test_the_command(aged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", str(aged), "--older-than", "90d", "--max-size", "20GB"]) == 0
    assert "removed 120 values" in capsys.readouterr().out
    assert known(aged, names(240)) == 120
