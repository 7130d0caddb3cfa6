"""What a newcomer meets on the way from a file to a table: columns, ids, remedies, and weights that are gone."""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.cache import RecordStore, keep_open, open_store
from skesm.cli import main
from skesm.exceptions import CheckpointNotFoundError, InputFileError, SuspiciousSequenceWarning
from skesm.features.recipe import Recipe
from skesm.fetch.request import Request
from skesm.io import plan_file, read_table, transform_file
from skesm.outputs.spec import Namespace, OutputSpec

DNA = "ACGT" * 8


@pytest.fixture
def embedder(tiny_checkpoint: Path) -> ESM2Embedder:
    return ESM2Embedder(tiny_checkpoint)


@pytest.mark.parametrize(
    ("header", "sequences", "ids"),
    [
        ("Entry\tEntry Name\tSequence\tLength", "Sequence", "Entry"),  # UniProt's table
        ("mutant\tmutated_sequence\tDMS_score", "mutated_sequence", None),  # ProteinGym's
        ("seq\tname\tsequence", "sequence", "name"),  # the first of the known names, not of the columns
    ],
)
def test_well_known_columns(
    header: str, sequences: str, ids: str | None, tmp_path: Path, embedder: ESM2Embedder
) -> None:
    names = header.split("\t")
    row = {name: f"cell{i}" for i, name in enumerate(names)} | {sequences: "MKTAY"}
    path = tmp_path / "table.tsv"
    path.write_text(f"{header}\n" + "\t".join(row.values()) + "\n")
    report = transform_file(embedder, path, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as file:
        assert file["ids"].tolist() == ["2" if ids is None else row[ids]]
    note = " ".join(report.notes)
    assert (f"sequences are from the column {sequences!r}" in note) == (sequences != "sequence")
    assert (f"ids are from the column {ids!r}" in note) == (ids is not None)
    assert plan_file(embedder, path).notes == transform_file(embedder, path, tmp_path / "out.npz").notes == report.notes
    assert read_table(path).sequences == ["MKTAY"]


def test_an_unknown_column_is_asked_for(tmp_path: Path, embedder: ESM2Embedder) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,MKT\n")
    for call in (lambda: transform_file(embedder, path, tmp_path / "out.npz"), lambda: read_table(path)):
        with pytest.raises(InputFileError, match=r"Name it: sequence_column='NAME'\. Its columns are 'a', 'b'"):
            call()


def test_the_command_says_which_column_and_speaks_of_its_own_options(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = tmp_path / "table.csv", ["--model", str(tiny_checkpoint)]
    path.write_text("name,seq\na,MKT\nb,MK-T\nc,MKTAYMKTAY\n")
    command = ["embed", str(path), str(tmp_path / "out.npz"), *model, "--max-length", "9"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2 of 3 rows cannot be used: " in error
    assert error.endswith("Correct them, or leave them out: --drop-invalid\n")
    assert "Set --long-sequences window to compute it in parts" in error
    assert "invalid=" not in error
    assert main([*command, "--drop-invalid"]) == 0  # the user asked for it
    told = capsys.readouterr()
    assert "1 row of 40 features" in told.out
    assert "1 sequence computed" in told.out
    assert "table.csv: sequences are from the column 'seq', ids are from the column 'name'" in told.err
    assert f"skesm: 2 rows left out, as --drop-invalid asks: see {tmp_path / 'out.npz.missing.tsv'}\n" in told.err
    assert main([*command, "--drop-invalid", "--plan"]) == 0
    assert "1 distinct sequence to compute\n" in capsys.readouterr().out  # there is no store to speak of
    assert main([*command, "--pooling", "mutatd"]) == 1
    assert "did you mean 'mutated'?" in capsys.readouterr().err
    assert main(["embed", str(path), str(tmp_path / "out.parquet"), *model, "--shard", "1/2"]) == 1
    assert "is the name of a file, but the parts are written into a folder" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


def test_repeated_ids_are_named(tmp_path: Path, embedder: ESM2Embedder) -> None:
    path = tmp_path / "proteins.fasta"
    path.write_text("".join(f">P{i % 8}\nMKT\n" for i in range(15)))
    with pytest.warns(SuspiciousSequenceWarning, match="7 ids of several rows: 'P0', 'P1', .*'P4' and 2 more"):
        report = transform_file(embedder, path, tmp_path / "out.npz")
    assert report.rows == 15


def test_warnings_point_at_the_line_of_the_user(embedder: ESM2Embedder, tmp_path: Path) -> None:
    path = tmp_path / "dna.txt"
    path.write_text(DNA)
    calls = (
        lambda: embedder.transform([DNA]),
        lambda: make_pipeline(embedder, StandardScaler()).fit([DNA]),
        lambda: transform_file(embedder, path, tmp_path / "out.npz"),
    )
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        _, first = inspect.getsourcelines(call)
        assert {warning.filename for warning in caught} == {__file__}
        assert {warning.lineno for warning in caught} == {first}


def test_rows_keep_their_numbers_when_the_reference_is_left_out() -> None:
    mean = OutputSpec("mean", 1)
    recipe = Recipe(["a"], [mean], lambda *_: 0.0, shared=Request(["MKT"], [mean]))
    _, own = recipe.requests(["MKT", "MKV"], (), stored=True)
    assert (own.sequences, own.rows_of(0)) == (["MKV"], (1,))


def test_a_store_answers_without_the_weights(tmp_path: Path, make_checkpoint: Any) -> None:
    """`skesm embed` does what ``transform`` does: stored rows need no weights, and a row that is not there does."""
    folder = make_checkpoint(1, 24, 2, seed=6)
    path, store = tmp_path / "some.txt", tmp_path / "store"
    path.write_text("MKTAY\nGSH\n")
    embedder = ESM2Embedder(folder, memory=store)
    transform_file(embedder, path, tmp_path / "with.parquet")
    (folder / "model.safetensors").unlink()
    report = transform_file(embedder, path, tmp_path / "without.parquet")
    assert (report.hits, report.computed) == (2, 0)
    assert (tmp_path / "with.parquet").read_bytes() == (tmp_path / "without.parquet").read_bytes()
    described = [json.loads((tmp_path / f"{name}.parquet.json").read_text()) for name in ("with", "without")]
    assert described[0]["fingerprint"] == described[1]["fingerprint"]
    assert plan_file(embedder, path).stored == 2
    path.write_text("MKTAY\nGSH\nMKV\n")
    with pytest.raises(CheckpointNotFoundError):
        transform_file(embedder, path, tmp_path / "more.parquet")
    with pytest.raises(CheckpointNotFoundError):
        transform_file(ESM2Embedder(folder), path, tmp_path / "more.parquet")


def test_one_store_stays_open_for_one_namespace(tmp_path: Path) -> None:
    mine, other = Namespace("toy", "sha256:00", "fp32"), Namespace("toy", "sha256:01", "fp32")
    with keep_open(tmp_path, mine):
        with open_store(tmp_path, mine) as first, open_store(tmp_path, mine) as second:
            assert first is second
        with open_store(tmp_path, other) as third:
            assert third.namespace == other
    with open_store(tmp_path, mine) as fourth:
        assert fourth is not first
        assert isinstance(fourth, RecordStore)


def test_a_command_offers_only_what_its_estimator_takes(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, wrong in (("embed", "optimal"), ("logits", "optimal"), ("score", "truncate")):
        arguments = ["in.fasta", str(tmp_path / "out.csv"), "--model", str(tiny_checkpoint), "--long-sequences", wrong]
        with pytest.raises(SystemExit) as stop:
            main([command, *arguments, *(["--reference", "MKT"] if command == "score" else [])])
        assert stop.value.code == 2
        assert "invalid choice" in capsys.readouterr().err
