"""Files of sequences to files of features: real files, and processes that are killed."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from skesm import ESM2Embedder, ESM2LogitSummarizer, ESM2VariantScorer, apply_mutations, compute_outputs
from skesm.backends import LocalBackend
from skesm.cli import main
from skesm.exceptions import InputFileError, SuspiciousSequenceWarning
from skesm.io import plan_file, transform_file

ROOT = Path(__file__).parents[1]
IDS = ["P1", "sp|P12345|X", "a/b", "P4", "P1b"]
SEQUENCES = ["MKTAYIAKQRGSH", "MKTAYGG", "GSHMSLFDFF", "MKTAYIAKQRGSH", "AW"]
ENDINGS = [".parquet", ".npz", ".npy", ".csv", ".csv.gz", ".h5"]


def write_fasta(path: Path, ids: list[str] = IDS, sequences: list[str] = SEQUENCES) -> Path:
    path.write_text(
        "".join(f">{i} described\n{s[:5]}\n{s[5:].lower()}*\n" for i, s in zip(ids, sequences, strict=True))
    )
    return path


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "proteins.fasta")


@pytest.fixture
def embedder(tiny_checkpoint: Path) -> ESM2Embedder:
    return ESM2Embedder(tiny_checkpoint, layers=(1, 2))


def read(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """(ids, features, names of features) of an output."""
    name = path.name
    if name.endswith(".parquet"):
        frame = pd.read_parquet(path)
        wide = [column for column in frame if column not in ("id", "features")]
        values = frame[wide].to_numpy() if wide else np.stack(frame["features"])
        return frame["id"].tolist(), values, wide
    if name.endswith(".npz"):
        with np.load(path) as file:
            return file["ids"].tolist(), file["features"], file["feature_names"].tolist()
    if name.endswith(".npy"):
        return path.with_name(f"{name}.ids.txt").read_text().splitlines(), np.load(path), []
    if name.endswith(".h5"):
        with h5py.File(path) as file:
            arrays = list(file.values())
            return [array.attrs["original_id"] for array in arrays], np.stack([array[()] for array in arrays]), []
    frame = pd.read_csv(path, dtype={"id": str})
    return frame["id"].tolist(), frame.iloc[:, 1:].to_numpy(np.float32), frame.columns[1:].tolist()


# formats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_has_the_rows_in_order(ending: str, fasta: Path, tmp_path: Path, embedder: ESM2Embedder) -> None:
    output = tmp_path / f"features{ending}"
    report = transform_file(embedder, fasta, output)
    assert (report.rows, report.columns, report.missing, report.computed) == (5, 80, 0, 4)
    ids, values, names = read(output)
    assert ids == IDS
    np.testing.assert_array_equal(values, embedder.transform(SEQUENCES))
    assert values.dtype == np.float32
    assert names in ([], embedder.get_feature_names_out().tolist())
    described = json.loads((tmp_path / f"features{ending}.json").read_text())
    assert described["model"] == str(embedder.model)
    assert described["fingerprint"] == LocalBackend().namespace(embedder.model).fingerprint
    assert described["numerics"] == "fp32"
    assert described["outputs"] == ["mean@1", "mean@2"]
    kept = {"proteins.fasta", output.name, f"{output.name}.json"}
    if ending == ".npy":
        kept.add("features.npy.ids.txt")
    assert {path.name for path in tmp_path.iterdir()} == kept  # neither parts nor temporary files
    first = output.read_bytes()
    output.unlink()
    transform_file(embedder, fasta, output)
    assert output.read_bytes() == first


def test_parquet_is_read_by_others(fasta: Path, tmp_path: Path, embedder: ESM2Embedder) -> None:
    expected = embedder.transform(SEQUENCES)
    transform_file(embedder, fasta, tmp_path / "list.parquet")
    schema = parquet.read_schema(tmp_path / "list.parquet")
    assert schema.field("features").type == pa.list_(pa.float32(), 80)
    assert json.loads(schema.metadata[b"skesm"])["numerics"] == "fp32"
    frame = pl.read_parquet(tmp_path / "list.parquet")
    assert frame["id"].to_list() == IDS
    np.testing.assert_array_equal(frame["features"].to_numpy(), expected)
    transform_file(embedder, fasta, tmp_path / "wide.parquet", wide=True)
    ids, values, names = read(tmp_path / "wide.parquet")
    assert ids == IDS
    assert names == embedder.get_feature_names_out().tolist()
    np.testing.assert_array_equal(values, expected)


def test_h5_as_protspace_and_biotrainer_read_it(fasta: Path, tmp_path: Path, embedder: ESM2Embedder) -> None:
    """Arrays at the root; the first names rows by key and the model by an attribute, the second by ``original_id``."""
    transform_file(embedder, fasta, tmp_path / "features.h5")
    with h5py.File(tmp_path / "features.h5") as file:
        assert file.attrs["model_name"] == str(embedder.model)
        assert all(isinstance(item, h5py.Dataset) and item.ndim == 1 for item in file.values())
        assert list(file) == ["P1", "sp|P12345|X", "a%2Fb", "P4", "P1b"]
        assert [item.attrs["original_id"] for item in file.values()] == IDS


def test_residues(fasta: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [record["residues@2"] for record in compute_outputs(SEQUENCES, "residues@-1", tiny_checkpoint)]
    command = ["embed", "--residues", "--quiet", "--model", str(tiny_checkpoint), str(fasta)]
    for name in ("r.parquet", "r.h5"):
        assert main([*command, str(tmp_path / name)]) == 0
    frame = pl.read_parquet(tmp_path / "r.parquet")
    for found, array in zip(frame["residues"].to_list(), expected, strict=True):
        np.testing.assert_array_equal(np.array(found, dtype=np.float32), array)
    with h5py.File(tmp_path / "r.h5") as file:
        for found, array in zip(file.values(), expected, strict=True):
            np.testing.assert_array_equal(found[()], array)
    assert main([*command, str(tmp_path / "r.csv")]) == 1
    assert "values of residues are written to .parquet or .h5 only" in capsys.readouterr().err


# input ----------------------------------------------------------------------------------------------------------------


def as_gzip(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    path = folder / "proteins.fa.gz"
    path.write_bytes(gzip.compress(write_fasta(folder / "plain").read_bytes()))
    return path, {}, IDS


def as_csv(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    path = folder / "table.csv"
    pd.DataFrame({"name": IDS, "y": range(5), "seq": SEQUENCES}).to_csv(path, index=False, sep=";")
    return path, {"sequence_column": "seq", "id_column": "name"}, IDS


def as_tsv(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    path = folder / "table.tsv"
    pd.DataFrame({"sequence": SEQUENCES, "y": range(5)}).to_csv(path, index=False, sep="\t")
    return path, {}, ["2", "3", "4", "5", "6"]  # lines


def as_parquet(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    path = folder / "table.parquet"
    pd.DataFrame({"sequence": SEQUENCES, "id": IDS}).to_parquet(path)
    return path, {}, IDS


def as_lines(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    path = folder / "sequences.txt"
    path.write_text("\n".join([*SEQUENCES[:2], "", *SEQUENCES[2:]]))
    return path, {}, ["1", "2", "4", "5", "6"]


def as_sheet(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    path = folder / "table.xlsx"
    pd.DataFrame({"sequence": SEQUENCES, "id": IDS}).to_excel(path, index=False)
    return path, {}, IDS


@pytest.mark.parametrize("make", [as_gzip, as_csv, as_tsv, as_parquet, as_lines, as_sheet])
def test_files_as_people_have_them(make: Callable[[Path], Any], tmp_path: Path, embedder: ESM2Embedder) -> None:
    path, columns, expected = make(tmp_path)
    transform_file(embedder, path, tmp_path / "out.npz", **columns)
    ids, values, _ = read(tmp_path / "out.npz")
    assert ids == expected
    np.testing.assert_array_equal(values, embedder.transform(SEQUENCES))


def test_standard_input_and_several_files(tmp_path: Path, fasta: Path, tiny_checkpoint: Path) -> None:
    second = write_fasta(tmp_path / "more.fasta", ["Q1"], ["MKV"])
    done = run(
        "embed", "-", str(second), "out.npz", "--model", str(tiny_checkpoint), cwd=tmp_path, text=fasta.read_text()
    )
    assert done.returncode == 0, done.stderr
    assert "6 rows of 40 features in out.npz: 5 sequences computed" in done.stdout
    assert done.stderr == ""  # no bar: it is no terminal
    assert read(tmp_path / "out.npz")[0] == [*IDS, "Q1"]


def run(*arguments: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "skesm", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# rows that cannot be used, and rows that fail -------------------------------------------------------------------------


def test_bad_rows_are_refused_before_anything_is_computed(
    tmp_path: Path, embedder: ESM2Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("id,sequence\na,MKT\nb,MK-T\nc,\nd,MKTAYJ\ne,MKV\n")
    with pytest.raises(
        InputFileError, match=r"3 of 5 rows cannot be used:\n.*line 3 \(id 'b'\), position 3: '-' is a gap"
    ) as error:
        transform_file(embedder, path, tmp_path / "out.npz")
    assert error.value.lines == (3, 4, 5)
    assert list(tmp_path.iterdir()) == [path]
    status = main(["embed", str(path), str(tmp_path / "out.npz"), "--drop-invalid", "--model", str(embedder.model)])
    assert status == 0
    assert "3 rows left out, as --drop-invalid asks: see" in capsys.readouterr().err
    assert read(tmp_path / "out.npz")[0] == ["a", "e"]
    with (tmp_path / "out.npz.missing.tsv").open() as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["id"], row["line"]) for row in listed] == [("b", "3"), ("c", "4"), ("d", "5")]
    assert all(row["reason"] for row in listed)
    assert not (tmp_path / "out.npz.parts").exists()
    assert "MK-T" not in (tmp_path / "out.npz.missing.tsv").read_text()


def test_rows_that_the_backend_fails_on_are_named_and_tried_again(
    fasta: Path, tmp_path: Path, tiny_checkpoint: Path, refusing: LocalBackend
) -> None:
    output = tmp_path / "out.parquet"
    report = transform_file(ESM2Embedder(tiny_checkpoint, backend=refusing), fasta, output)
    assert (report.rows, report.missing, report.failed) == (4, 1, 1)
    assert read(output)[0] == IDS[:-1]
    assert (tmp_path / "out.parquet.missing.tsv").read_text().splitlines()[1].split("\t") == ["P1b", "", "", "refused"]
    embedder = ESM2Embedder(tiny_checkpoint)
    again = transform_file(embedder, fasta, output)
    assert (again.rows, again.missing, again.failed, again.resumed, again.computed) == (5, 0, 0, 4, 1)
    np.testing.assert_array_equal(read(output)[1], embedder.transform(SEQUENCES))
    assert not (tmp_path / "out.parquet.missing.tsv").exists()
    assert not (tmp_path / "out.parquet.parts").exists()


def test_repeated_ids_and_outputs_that_cannot_be_written(tmp_path: Path, embedder: ESM2Embedder) -> None:
    path = write_fasta(tmp_path / "twice.fasta", ["a", "a"], SEQUENCES[:2])
    with pytest.raises(InputFileError, match=r"line 4: the id 'a' is used twice"):
        transform_file(embedder, path, tmp_path / "out.h5")
    with pytest.warns(SuspiciousSequenceWarning, match="1 id of several rows.* Give each row an id of its own"):
        transform_file(embedder, path, tmp_path / "out.csv")
    with pytest.raises(ValueError, match=r"the ending must be one of \.parquet, "):
        transform_file(embedder, path, tmp_path / "out.txt")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        transform_file(embedder, path, tmp_path / "none" / "out.csv")


def test_a_path_as_x_names_the_reader(embedder: ESM2Embedder) -> None:
    with pytest.raises(ValueError, match=r"skesm\.io\.read_fasta\(path\)\.sequences"):
        embedder.transform(Path("proteins.fasta"))


def test_what_looks_like_dna_is_named_by_id(tmp_path: Path, embedder: ESM2Embedder) -> None:
    path = write_fasta(tmp_path / "dna.fasta", ["a", "b"], ["MKV", "ACGTTGCA" * 4])
    with pytest.warns(UserWarning, match="1 of 2 sequences look like DNA or RNA.*: ids b"):
        transform_file(embedder, path, tmp_path / "out.csv")


# plans, logits, scores ------------------------------------------------------------------------------------------------


def test_plan(fasta: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, memory=tmp_path / "memory")
    embedder.transform(SEQUENCES[:1])
    plan = plan_file(embedder, fasta, rate=45 / 3600)
    assert (plan.rows, plan.residues, plan.stored, plan.to_compute) == (5, 45, 1, 3)
    assert (plan.requests, plan.output_bytes, plan.hours) == (None, 5 * 40 * 4, 1.0)
    command = ["embed", str(fasta), str(tmp_path / "out.csv"), "--model", str(tiny_checkpoint), "--plan"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to_compute"] == 4
    assert main(command) == 0
    assert "5 rows, 45 residues" in capsys.readouterr().out
    assert not (tmp_path / "out.csv").exists()


def test_logits(fasta: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    statistics = ("log_likelihood", "mean")
    command = ["logits", str(fasta), str(tmp_path / "out.csv"), "--model", str(tiny_checkpoint)]
    assert main([*command, "--statistics", ",".join(statistics), "--quiet"]) == 0
    ids, values, names = read(tmp_path / "out.csv")
    summarizer = ESM2LogitSummarizer(tiny_checkpoint, statistics=statistics)
    assert ids == IDS
    assert names == summarizer.get_feature_names_out().tolist()
    np.testing.assert_array_equal(values, summarizer.transform(SEQUENCES))


def test_score_of_mutations(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = "MKTAYIAKQR"
    write_fasta(tmp_path / "wt.fasta", ["wt"], [reference])
    table = tmp_path / "library.csv"
    mutants = ["K2R", "K2R:A4G", "WT", "A4W"]
    pd.DataFrame({"mutant": mutants}).to_csv(table, index=False)
    output = tmp_path / "scores.csv"
    command = ["score", str(table), str(output), "--model", str(tiny_checkpoint)]
    command += ["--reference", str(tmp_path / "wt.fasta"), "--mutations-column", "mutant"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 4
    frame = pd.read_csv(output)
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=reference)
    np.testing.assert_array_equal(frame["masked_marginal"], scorer.predict(apply_mutations(reference, mutants)))
    assert reference not in Path(f"{output}.json").read_text()  # it is confidential
    pd.DataFrame({"mutant": [*mutants, "Q2R", "K99R"]}).to_csv(table, index=False)
    assert main([*command, "--drop-invalid", "--quiet"]) == 0
    lines = Path(f"{output}.missing.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[2:] for line in lines] == [
        ["6", "position 2: the reference has another residue there"],
        ["7", "position 99: outside the reference, which has positions 1 to 10"],
    ]


def test_scores_share_the_passes_of_the_reference(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Over chunks, and in an interrupted run, without a store that the user gave."""
    reference = "".join(np.random.default_rng(1).choice(list("LAGVSERTIDPKQNFYMHWC"), 1000))
    variants = [f"{reference[:i]}W{reference[i + 1 :]}" for i in (3, 500)] * 20
    path = write_fasta(tmp_path / "v.fasta", [f"v{i}" for i in range(40)], variants)
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=reference)
    report = transform_file(scorer, path, tmp_path / "scores.npz")
    assert report.computed == 2
    assert scorer.memory is None
    np.testing.assert_array_equal(read(tmp_path / "scores.npz")[1][:, 0], scorer.predict(variants))


def test_variants_of_another_length_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = write_fasta(tmp_path / "v.fasta", ["a", "b"], ["MKTAW", "MKTAWW"])
    with pytest.raises(InputFileError, match=r"line 4 \(id 'b'\): such rows do not have the reference's 5 residues"):
        transform_file(ESM2VariantScorer(tiny_checkpoint, reference="MKTAY"), path, tmp_path / "scores.csv")


def test_a_file_without_one_good_row(tmp_path: Path, embedder: ESM2Embedder) -> None:
    (tmp_path / "bad.txt").write_text("M-T\n")
    with pytest.raises(InputFileError, match="no row can be used"):
        transform_file(embedder, tmp_path / "bad.txt", tmp_path / "out.csv", invalid="drop")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.txt", "out.csv.missing.tsv"}
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InputFileError, match="there are no rows"):
        transform_file(embedder, tmp_path / "none.txt", tmp_path / "out.csv")


def test_a_service_answers(
    fasta: Path,
    tmp_path: Path,
    start_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And a plan tells the requests."""
    monkeypatch.setenv("BIOLM_TOKEN", "anything")
    command = ["embed", str(fasta), str(tmp_path / "out.npz"), "--backend", "biolm", "--model", "skesm-mini"]
    with start_server("--model", "skesm-mini") as server:
        monkeypatch.setenv("BIOLM_BASE_API_URL", f"{server.url}/api/v3")
        assert main([*command, "--plan", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["requests"] == 1
        assert main([*command, "--quiet"]) == 0
    ids, values, _ = read(tmp_path / "out.npz")
    assert ids == IDS
    np.testing.assert_allclose(values, ESM2Embedder("skesm-mini").transform(SEQUENCES), atol=1e-5)
    assert "anything" not in (tmp_path / "out.npz.json").read_text()


def test_a_row_that_failed_is_no_row_that_was_left_out(
    tmp_path: Path, start_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status tells them apart: a script may go on after rows that it asked to leave out."""
    monkeypatch.setenv("BIOLM_TOKEN", "anything")
    path = write_fasta(tmp_path / "p.fasta", ["a", "b", "c"], ["MKTAY", "MKTAYMKTAY", "MK-T"])
    output = tmp_path / "out.npz"
    command = ["embed", str(path), str(output), "--backend", "biolm", "--model", "skesm-mini", "--drop-invalid"]
    with start_server("--model", "skesm-mini", "--max-length", "9") as server:
        monkeypatch.setenv("BIOLM_BASE_API_URL", f"{server.url}/api/v3")
        assert main(command) == 1
    told = capsys.readouterr().err
    assert f"skesm: 1 row left out, as --drop-invalid asks: see {output}.missing.tsv\n" in told
    assert f"skesm: 1 row failed: see {output}.missing.tsv, and give the same command again to try once more\n" in told
