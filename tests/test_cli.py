"""The command line, in this process and in processes of its own."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import skesm
from skesm import ESM2Embedder
from skesm._optional import install_line
from skesm.cli import main
from skesm.esm2.spec import REGISTRY

GFP = Path(skesm.__file__).parent / "datasets" / "data" / "gfp_fluorescence.csv"
FILES = ("leakage.csv", "predictions.csv", "predictions.png", "scores.csv", "scores.png", "table.csv")
PNG = b"\x89PNG\r\n\x1a\n"


def demo(output: Path, model: Path | str, *more: str) -> list[str]:
    small = ["--quiet", "--rows", "60", "--folds", "3", "--heads", "ridge"]
    return ["demo", *small, "--model", str(model), "--output", str(output), *more]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The error line, which is one line and all that stderr holds."""
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("skesm: error: ")
    return message


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "skesm", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(skesm.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


class TestDemo:
    def test_table_and_files(self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(demo(tmp_path, tiny_checkpoint, "--heads", "ridge,xgboost")) == 0
        out, err = capsys.readouterr()
        assert err == ""
        with (tmp_path / "table.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        features = ["mutated", "mutated+position+substitution", "embeddings", "position+substitution", "one-hot"]
        expected = [(f, h) for f in [*features, "composition"] for h in ("ridge", "xgboost")]
        expected.append(("none", "mean"))
        for split in ("random", "unseen positions"):
            assert [(row["features"], row["head"]) for row in table if row["split"] == split] == expected
        for row in table:
            if row["mean"] != "nan":
                printed = next(line for line in out.splitlines() if line.split()[:2] == [row["features"], row["head"]])
                assert f"{float(row['mean']):.2f} [{float(row['low']):.2f}, {float(row['high']):.2f}]" in printed
        assert "Leakage: split random, seed 0, fold 0: " in out
        assert "<h1>GB1 stability" in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "61 forward passes for 60 distinct sequences" in out  # and the wild type
        assert (tmp_path / "predictions.png").read_bytes().startswith(PNG)
        manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["data"]["rows"] == 60
        assert manifest["model"]["name"] == str(tiny_checkpoint)
        assert manifest["model"]["fingerprint"]
        assert manifest["parameters"]["seeds"] == [0]

    def test_same_bytes_in_another_process_with_other_threads(self, tmp_path: Path, tiny_checkpoint: Path) -> None:
        """All but the times."""
        runs = [
            run(*demo(tmp_path / name, tiny_checkpoint, "--n-jobs", n), cwd=tmp_path, OPENBLAS_NUM_THREADS=threads)
            for name, n, threads in (("a", "1", "1"), ("b", "2", "4"))
        ]
        assert [(r.returncode, r.stderr) for r in runs] == [(0, ""), (0, "")]
        for name in FILES:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
        manifests = [json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8")) for name in ("a", "b")]
        for manifest in manifests:
            del manifest["run"]
        assert manifests[0] == manifests[1]

    def test_a_users_file(self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """GFP variants, of 235 to 237 residues."""
        lines = GFP.read_text().splitlines()
        short = [i for i, line in enumerate(lines) if 0 < line.index(",") < 237 and i > 0][:3]
        chosen = ["protein,y", *lines[1:40], *(lines[i] for i in short)]
        data = tmp_path / "gfp.csv"
        data.write_text("\n".join(chosen) + "\n")
        columns = ["--data", str(data), "--sequence-column", "protein", "--target-column", "y"]
        assert main([*demo(tmp_path / "out", tiny_checkpoint, *columns), "--rows", "30", "--seed", "5"]) == 0
        out = capsys.readouterr().out
        assert "gfp.csv: 30 sequences, target y" in out
        rows = sorted(np.random.default_rng(5).choice(len(chosen) - 1, 30, replace=False))
        padded = sum(len(chosen[i + 1].split(",")[0]) < 237 for i in rows)
        assert padded
        assert f"one-hot: {padded} of 30 sequences are padded at the end to 237 residues" in out
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            predictions = list(csv.DictReader(file))
        assert {int(row["row"]) for row in predictions} == {int(i) + 2 for i in rows}  # lines of the file
        for row in predictions:
            assert float(row["measured"]) == pytest.approx(float(chosen[int(row["row"]) - 1].split(",")[1]), abs=1e-6)

    def test_mutated_positions_of_a_users_library(
        self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wild_type = "MKTAYIAKQR"
        rows = [f"{wild_type[:i]}{a}{wild_type[i + 1 :]},{i}" for i in range(10) for a in "GWE"]
        data = tmp_path / "library.csv"
        data.write_text("\n".join(["seq,label", *rows]) + "\n")
        arguments = [
            "demo",
            "--quiet",
            "--folds",
            "3",
            "--model",
            str(tiny_checkpoint),
            "--output",
            str(tmp_path / "out"),
        ]
        assert main([*arguments, "--data", str(data), "--reference", wild_type]) == 0
        assert sum(line.startswith("mutated ") for line in capsys.readouterr().out.splitlines()) == 2
        data.write_text("\n".join(["seq,label", *rows, "MKTAYIAKQ,1"]) + "\n")
        assert main([*arguments, "--data", str(data), "--reference", wild_type]) == 0
        out = capsys.readouterr().out
        assert "features 'mutated': 1 of 31 sequences do not have the reference's length" in out
        assert "split 'unseen positions': some sequences do not have" in out

    @pytest.mark.parametrize("form", ["semicolons", "UTF-16 text of tabs, gzip", "spreadsheet", "FASTA"])
    def test_files_as_people_have_them(
        self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], form: str
    ) -> None:
        rows = [("MKTAYIAKQR"[:i] + a + "MKTAYIAKQR"[i + 1 :], i + 0.5) for i in range(10) for a in "GWE"]
        frame = pd.DataFrame(rows, columns=["protein", "y"])
        if form == "semicolons":
            data = tmp_path / "library.csv"
            frame.to_csv(data, sep=";", decimal=",", index=False)
        elif form == "UTF-16 text of tabs, gzip":
            data = tmp_path / "library.txt.gz"
            frame.to_csv(data, sep="\t", encoding="utf-16", index=False)
        elif form == "spreadsheet":
            data = tmp_path / "library.xlsx"
            frame.to_excel(data, index=False)
        else:
            data = tmp_path / "library.fasta"
            data.write_text("".join(f">v{n} y={y}\n{sequence}\n" for n, (sequence, y) in enumerate(rows)))
        columns = ["--data", str(data), "--sequence-column", "protein", "--target-column", "y"]
        assert main([*demo(tmp_path / "out", tiny_checkpoint, *columns), "--rows", "30"]) == 0
        assert f"{data.name}: 30 sequences, target y" in capsys.readouterr().out
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            measured = {int(row["row"]): float(row["measured"]) for row in csv.DictReader(file)}
        assert [measured[row] for row in sorted(measured)] == [y for _, y in rows]

    def test_invalid_rows_are_left_out_counted_and_listed(
        self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = ["seq,label", *(f"MKTAYI{'A' * (n % 5)},{n}" for n in range(2, 32))]
        lines[3], lines[8], lines[20] = "MKT,", "MK-T,1", "nan,2"  # lines 4, 9, 21
        (tmp_path / "data.csv").write_text("\n".join(lines))
        arguments = ["--data", str(tmp_path / "data.csv"), "--drop-invalid"]
        assert main([*demo(tmp_path / "out", tiny_checkpoint, *arguments), "--rows", "27"]) == 0
        out = capsys.readouterr().out
        assert "left out 3 rows: 1 without a target (line 4), 2 with a bad sequence (lines 9, 21)" in out
        assert "data.csv: 27 sequences" in out
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            assert {int(row["row"]) for row in csv.DictReader(file)} == {*range(2, 32)} - {4, 9, 21}
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["parameters"]["dropped_lines"] == [4, 9, 21]

    def test_positions_are_kept_together(self, tmp_path: Path, tiny_checkpoint: Path) -> None:
        assert main(demo(tmp_path, tiny_checkpoint, "--group-column", "position")) == 0
        positions = skesm.datasets.load_gb1_stability().positions
        with (tmp_path / "predictions.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "groups"]
        fold_of = {(positions[int(row["row"])], row["fold"]) for row in rows}
        assert len(fold_of) == len({position for position, _ in fold_of})

    def test_a_log_file_gets_no_progress_bar(self, tmp_path: Path, tiny_checkpoint: Path) -> None:
        arguments = [a for a in demo(tmp_path / "out", tiny_checkpoint) if a != "--quiet"]
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert not {"fits", "60/60", "it/s"} & set(re.split(r"[\s:|,\[]+", done.stderr))
        assert "it/s" not in done.stdout

    def test_bundled_model_by_default_and_its_warning_once(self, tmp_path: Path) -> None:
        done = run("demo", "--quiet", "--rows", "30", "--folds", "2", "--heads", "ridge", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("skesm: warning: skesm-mini is a small demo model")
        more = {"manifest.json", "report.html", "costs.csv", "predictions_unseen_positions.png", "store"}
        more |= {"errors.png", "not_done.csv", "scores.parquet", "fits"}
        assert {*FILES, *more} == {path.name for path in (tmp_path / "skesm-demo").iterdir()}


class TestBenchmark:
    def test_a_config_and_its_replay(
        self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "run.toml"
        config.write_text(
            f"""model = "{tiny_checkpoint}"\nrows = 60\nfolds = 3\nsplits = ["random", "contiguous positions"]
features = ["mutated+length", "position"]\nheads = ["ridge"]\nscores = ["rmse"]\nhigher_is_better = false"""
        )
        output = ["--quiet", "--output", str(tmp_path / "out")]
        assert main(["benchmark", str(config), "--seeds", "0,1", *output]) == 0
        assert "Mean rmse over folds" in capsys.readouterr().out
        again = ["--quiet", "--output", str(tmp_path / "again"), "--memory", str(tmp_path / "out" / "store")]
        assert main(["benchmark", "--replay", str(tmp_path / "out" / "manifest.json"), *again]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "|" in line]
        assert len(lines) == 2 * 3
        assert all(line.startswith("identical") for line in lines)
        assert (tmp_path / "again" / "scores.csv").read_bytes() == (tmp_path / "out" / "scores.csv").read_bytes()
        with pytest.raises(SystemExit):
            main(["benchmark", "--replay", str(tmp_path / "out"), "--output", str(tmp_path / "out")])
        assert "choose another one" in capsys.readouterr().err

    def test_a_run_says_what_it_left_out_in_the_words_of_the_command_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = tmp_path / "data.csv"
        data.write_text("seq,label\nMKV,1\nMK,2\nMAV,3\nMKL,4\nAKV,2\nMKI,4\n")
        arguments = ["--data", str(data), "--reference", "MKV", "--drop-invalid", "--features", "position,one-hot"]
        more = ["--heads", "ridge", "--folds", "2", "--splits", "random,more mutations,groups", "--quiet"]
        assert main(["benchmark", *arguments, *more, "--output", str(tmp_path / "out")]) == 0
        out = capsys.readouterr().out
        assert "left out 1 row: 1 of another length than the reference (line 3)" in out
        assert "Not done: split 'groups': no column of groups is named (--group-column)" in out
        assert "Not done: split 'more mutations': MutationCountSplit: a test set has no rows" in out
        assert 'the score says little about new positions: add --splits "random,unseen positions"' in out
        # beside the replayed run by default
        assert main(["benchmark", "--replay", str(tmp_path / "out"), "--quiet"]) == 0
        assert (tmp_path / "out-replay" / "report.html").is_file()
        assert main(["benchmark", *arguments, *more, "--output", str(tmp_path / "out")]) == 0
        assert "6 fits found in" in capsys.readouterr().out

    def test_the_best_layer_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--rows", "40", "--features", "composition", "--heads", "ridge", "--folds", "2", "--quiet"]
        more = ["--splits", "random", "--layer-profile", "mean", "--output", str(tmp_path / "out")]
        assert main(["benchmark", *arguments, *more]) == 0
        profile = pd.read_csv(tmp_path / "out" / "layer_profile.csv")
        best = profile["mean"].idxmax()
        out = capsys.readouterr().out
        assert f"Best layer: {profile.layer[best]}, pooled by mean ({profile['mean'][best]:.2f}). " in out
        assert "within noise of it.\n" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--features", "size"], "'size' is unknown"),
            (["--heads", "lasso"], "heads: 'lasso' is unknown"),
            (["--splits", "more mutations", "--rows", "20"], "none of the splits can be made: more mutations: Mut"),
            (["--replay", "nothing.json"], "there is no file of a run at nothing.json"),
            (["nothing.toml"], "there is no file of settings at nothing.toml"),
        ],
    )
    def test_errors(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        assert main(["benchmark", "--quiet", "--output", str(tmp_path / "out"), *arguments]) == 1
        assert message in error_of(capsys)


class TestErrors:
    def test_a_file_as_reference_of_a_benchmark(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        wild_type = tmp_path / "wild_type.fasta"
        wild_type.write_text(">a\nMKV\n>b\nMKT\n")
        with pytest.raises(SystemExit):
            main(["benchmark", "--reference", str(wild_type)])
        assert "holds 2 sequences. Give one" in capsys.readouterr().err
        wild_type.write_text(">a\nMKV\n")
        table = tmp_path / "table.csv"
        table.write_text("seq,label\nMKVA,1\nMKVC,2\n")
        assert main(["benchmark", "--data", str(table), "--reference", str(wild_type)]) == 1
        assert "length" in error_of(capsys)

    @pytest.mark.parametrize(
        ("text", "more", "message"),
        [
            ("seq,label\nMKV,1\n", ["--target-column", "y"], "no column 'y'. Its columns are 'seq', 'label'"),
            ("seq,ddg\nMKV,1\n", [], "measured values. Name it: --target-column NAME. Its columns are 'seq', 'ddg'"),
            (
                "mutant,label\nM1V,1\n",
                [],
                "mutations in the column 'mutant'. Give the sequence that they refer to: --reference",
            ),
            ("mutant,label\nA1V,1\n", ["--reference", "MKV"], "line 2, position 1: the reference has another residue"),
            ("seq,label\nMKV,1\nMKL,high\n", [], "line 3: column 'label' is not a finite number"),
            ("seq,label\nMKV,1\nMKL,2\n", [], "--rows 60: the data have only 2 rows"),
            ("seq,label\nMKV,1\nMKL,2\n", ["--rows", "2"], "cannot make n_splits=3 folds: X has 2 distinct sequences"),
            ("seq,label\nMKV,1\nMKL,2\nMK1,3\nMKA,3\n", ["--rows", "2"], "line 4, position 3"),
            ("seq,label\nM1V,1\nMKL,\n", ["--drop-invalid"], "none of 2 rows can be used"),
        ],
    )
    def test_bad_files(
        self,
        tmp_path: Path,
        tiny_checkpoint: Path,
        capsys: pytest.CaptureFixture[str],
        text: str,
        more: list[str],
        message: str,
    ) -> None:
        data = tmp_path / "data.csv"
        data.write_text(text)
        assert main([*demo(tmp_path / "out", tiny_checkpoint, "--data", str(data)), *more]) == 1
        assert message in error_of(capsys)

    def test_bad_sequences_are_found_in_the_whole_file(
        self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Also in rows that were not drawn; rows of a random subset would mean nothing to the user."""
        bad_lines = (7, 24)
        lines = ["seq,label", *(f"MKV{'1' if n in bad_lines else 'A'}SECRET{'A' * n},{n}" for n in range(2, 32))]
        (tmp_path / "data.csv").write_text("\n".join(lines))
        arguments = demo(tmp_path / "out", tiny_checkpoint, "--data", str(tmp_path / "data.csv"))
        assert not {*bad_lines} & {*(np.random.default_rng(0).choice(30, 6, replace=False) + 2)}
        assert main([*arguments, "--rows", "6"]) == 1
        message = error_of(capsys)
        assert f"{tmp_path / 'data.csv'}: 2 of 30 rows cannot be used: line 7, position 4: '1' is not" in message
        assert "line 24, position 4" in message
        assert "SECRET" not in message
        assert not (tmp_path / "out").exists()

    def test_a_sequence_that_is_too_long_is_a_bad_row(
        self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "data.csv").write_text(f"seq,label\nMKV,1\n{'S' * 1023},2\nMKL,3\n")
        assert main(demo(tmp_path / "out", tiny_checkpoint, "--data", str(tmp_path / "data.csv"))) == 1
        assert "line 3: 1023 residues, more than max_length=1022" in error_of(capsys)

    def test_no_file(self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(demo(tmp_path, tiny_checkpoint, "--data", str(tmp_path / "none.csv"))) == 1
        assert "there is no file" in error_of(capsys)

    def test_no_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model").mkdir()
        assert main(demo(tmp_path / "out", tmp_path / "model")) == 1
        assert "config.json" in error_of(capsys)

    def test_output_is_a_file(self, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "out").write_text("")
        assert main(demo(tmp_path / "out", tiny_checkpoint)) == 1
        assert "out" in error_of(capsys)

    def test_traceback_on_request(self, tmp_path: Path, tiny_checkpoint: Path) -> None:
        with pytest.raises(FileNotFoundError):
            main(["--traceback", *demo(tmp_path, tiny_checkpoint, "--data", str(tmp_path / "none.csv"))])

    @pytest.mark.parametrize("package", ["xgboost", "matplotlib", "pandas", "rapidfuzz"])
    def test_missing_extra(self, tmp_path: Path, package: str) -> None:
        """Before anything is computed; the package is hidden from a process of its own."""
        hide = f"import sys; sys.modules[{package!r}] = None; from skesm.cli import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", hide, "demo", "--output", str(tmp_path / "out")],
            env={**os.environ, "PYTHONPATH": str(Path(skesm.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.strip() == f"skesm: error: {package} is not installed: {install_line('benchmark')}"
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["unknown"],
            ["demo", "--folds", "1"],
            ["demo", "--rows", "0"],
            ["demo", "--rows", "many"],
            ["demo", "--target-column", "y"],
            ["demo", "--drop-invalid"],
            ["demo", "--group-column", "batch"],
            ["demo", "--backend", "cloud"],
        ],
    )
    def test_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "usage: skesm" in capsys.readouterr().err


class TestOtherCommands:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(["--version"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out == f"skesm {skesm.__version__}\n"

    def test_models_lists_the_registry_by_size(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        assert [line[0] for line in lines] == sorted(REGISTRY, key=lambda name: REGISTRY[name].n_parameters)
        by_name = {line[0]: line for line in lines}
        assert by_name["esm2_t33_650M_UR50D"][1:7] == ["33", "1280", "651.0", "M", "2.6", "GB"]
        assert "bundled," in by_name["skesm-mini"]


# cache ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    folder = tmp_path / "memory"
    ESM2Embedder(tiny_checkpoint, memory=folder, prefetch="logit_means").transform(["MKTAYI", "GSHMSL", "MKTAYI"])
    return folder


def test_cache_info_tells_what_is_stored(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "2 sequences" in printed
    assert "fp32" in printed
    assert [line.split() for line in printed.splitlines()[2:]] == [["logit_means", "2"], ["mean@2", "2"]]


def test_cache_verify_finds_damage(store: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "verify", str(store)]) == 0
    assert "4 values checked, sound" in capsys.readouterr().out
    file = next(store.rglob("records.sqlite"))
    content = bytearray(file.read_bytes())
    place = content.index(ESM2Embedder(tiny_checkpoint).transform(["MKTAYI"]).tobytes()[:16])
    content[place] ^= 1
    file.write_bytes(content)
    assert main(["cache", "verify", str(store)]) == 1
    assert "damaged" in capsys.readouterr().err


def test_cache_prune_and_export(store: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = store.parent / "values.npz"
    assert main(["cache", "export", str(store), str(target)]) == 0
    assert "wrote 4 values" in capsys.readouterr().out
    assert len(np.load(target).files) > 0
    assert main(["cache", "prune", str(store), "--model", "no-such-model"]) == 1
    assert main(["cache", "prune", str(store), "--model", str(tiny_checkpoint)]) == 0
    capsys.readouterr()
    assert main(["cache", "info", str(store)]) == 0
    assert "no records" in capsys.readouterr().out


def test_cache_of_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err
