"""Several stores into one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skesm import ESM2Embedder
from skesm.cache import MergeReport, RecordStore, info, merge, recall_model, resolve_location, sequence_digest, verify
from skesm.cli import main
from skesm.exceptions import StoreError, StoreWarning
from skesm.outputs.spec import Namespace, OutputSpec

MEAN, RESIDUES = OutputSpec("mean", 1), OutputSpec("residues", 1)
TOY = Namespace("toy", "sha256:00", "fp32")
ROOT = Path(__file__).resolve().parents[1]


def names(n: int, start: int = 0) -> list[str]:
    return [f"M{i:05d}".translate(str.maketrans("0123456789", "NPQRSTVWYM")) for i in range(start, start + n)]


def record(name: str, shift: float = 0.0) -> dict[OutputSpec, Any]:
    base = np.float32(sum(map(ord, name)) + shift)
    return {MEAN: np.full(64, base), RESIDUES: np.full((len(name), 64), base + 1)}


def fill(place: Path, sequences: list[str], namespace: Namespace = TOY, shift: float = 0.0) -> Path:
    location = resolve_location(place)
    assert location is not None
    with RecordStore(location, namespace) as store:
        store.put(sequences, [record(name, shift) for name in sequences])
        return store.folder


def known(place: Path, sequences: list[str], namespace: Namespace = TOY) -> int:
    location = resolve_location(place)
    assert location is not None
    with RecordStore(location, namespace) as store:
        found = store.get(sequences, [MEAN, RESIDUES])
    for name, each in zip(sequences, found, strict=True):
        for output, value in (each or {}).items():
            np.testing.assert_array_equal(value, record(name)[output], strict=True)
    return sum(each is not None for each in found)


def test_the_union_is_there_and_a_second_merge_adds_nothing(tmp_path: Path) -> None:
    a, b, target = tmp_path / "a", tmp_path / "b", tmp_path / "all"
    other = Namespace("other", "sha256:01", "bf16")
    fill(a, names(100))
    fill(b, names(100, 50))
    fill(b, names(10), other)
    fill(target, names(5))
    assert merge(target, a, b) == MergeReport(added=2 * (95 + 50 + 10), known=2 * (5 + 50), damaged=0)
    assert (known(target, names(150)), known(target, names(10), other)) == (150, 10)
    assert {each.models: each.sequences for each in info(target)} == {("toy",): 150, ("other",): 10}
    assert all(report.sound for report in verify(target))
    assert merge(target, a, b, target) == MergeReport(added=0, known=2 * (100 + 100 + 10), damaged=0)
    assert (known(a, names(150)), known(b, names(150))) == (100, 100)


def test_what_jobs_computed_is_found_through_the_merged_store(tmp_path: Path, tiny_checkpoint: Path) -> None:
    X = ["MKTAYIAK", "MKT", "GSHM"]
    for i, sequence in enumerate(X):
        ESM2Embedder(tiny_checkpoint, memory=tmp_path / str(i)).transform([sequence])
    merge(tmp_path / "all", *(tmp_path / str(i) for i in range(3)))
    embedder = ESM2Embedder(tiny_checkpoint, memory=tmp_path / "all")
    np.testing.assert_array_equal(embedder.transform(X), ESM2Embedder(tiny_checkpoint).transform(X))
    assert embedder.cache_info().hits == 3
    location = resolve_location(tmp_path / "all")
    assert location is not None
    assert recall_model(location, str(tiny_checkpoint), "fp32") is not None


def test_other_values_of_one_record_are_an_error_that_names_it(tmp_path: Path) -> None:
    fill(tmp_path / "a", names(3))
    fill(tmp_path / "b", names(1, 1), shift=0.5)
    merge(tmp_path / "all", tmp_path / "a")
    with pytest.raises(StoreError, match=f"record {sequence_digest(names(1, 1)[0]).hex()}, output mean@1"):
        merge(tmp_path / "all", tmp_path / "b")
    assert known(tmp_path / "all", names(3)) == 3


def test_damaged_values_are_left_out(tmp_path: Path) -> None:
    path = fill(tmp_path / "a", names(3)) / "records.sqlite"
    content = bytearray(path.read_bytes())
    content[content.index(record(names(3)[1])[RESIDUES].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.warns(StoreWarning, match="1 values in .* were left out"):
        assert merge(tmp_path / "all", tmp_path / "a") == MergeReport(added=5, known=0, damaged=1)
    assert known(tmp_path / "all", names(3)) == 2


def test_killed_at_any_moment_the_next_merge_adds_the_rest(tmp_path: Path) -> None:
    fill(tmp_path / "a", names(1500))
    code = (
        "import sys; from skesm.cache import _merge; _merge._BATCH_BYTES = 4096; print('go', flush=True);"
        "_merge.merge(sys.argv[1], sys.argv[2])"
    )
    for pause in (0.02, 0.1):
        command = [sys.executable, "-c", code, str(tmp_path / "all"), str(tmp_path / "a")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.kill()
        process.communicate()
    report = merge(tmp_path / "all", tmp_path / "a")
    assert report.added + report.known == 3000
    assert known(tmp_path / "all", names(1500)) == 1500
    assert verify(tmp_path / "all")[0].sound


def test_no_store_is_an_error_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no skesm store"):
        merge(tmp_path / "all", tmp_path / "nowhere")
    assert not (tmp_path / "all").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "a", names(3))
    assert main(["cache", "merge", str(tmp_path / "all"), str(tmp_path / "a")]) == 0
    assert "added 6 values: 0 were there" in capsys.readouterr().out
