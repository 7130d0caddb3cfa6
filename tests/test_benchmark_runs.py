"""Curves, figures, manifests, runs as folders, runs that were interrupted, and replays."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.preprocessing import FunctionTransformer

from skesm import AminoAcidComposition, ESM2Embedder, SubstitutionEncoder
from skesm.benchmark import (
    RunConfig,
    best_layers,
    compare,
    data_digest,
    layer_profile,
    learning_curve,
    make_features,
    make_heads,
    make_manifest,
    plot_errors,
    plot_predictions,
    plot_scan,
    plot_scores,
    replay,
    run_benchmark,
)
from skesm.datasets import load_gb1_stability
from skesm.exceptions import InputFileError
from skesm.model_selection import PositionKFold

COMPOSITION = {"composition": AminoAcidComposition()}
GB1 = load_gb1_stability()
WILD_TYPE = GB1.wild_type
PNG = b"\x89PNG\r\n\x1a\n"

Problem = tuple[list[str], np.ndarray]


class TestCurves:
    def test_more_rows_help(self) -> None:
        gb1 = load_gb1_stability()
        features = {"substitution": SubstitutionEncoder(gb1.wild_type)}
        curve = learning_curve(gb1.data, gb1.target, features, sizes=(8, 200, 5000), draws=3)
        curve = curve[curve["head"] == "ridge"].set_index("n_train")
        assert list(curve.index) == [8, 200]  # there are no 5,000 rows
        assert curve.loc[200, "mean"] > curve.loc[8, "mean"] + 0.2
        with pytest.raises(ValueError, match=r"sizes: all of \[900\]"):
            learning_curve(gb1.data, gb1.target, features, sizes=(900,))

    def test_a_profile_costs_one_pass_for_each_sequence(
        self, problem: Problem, tiny_checkpoint: Path, tmp_path: Path
    ) -> None:
        X, y = problem
        poolings = {"poolings": ("mean", "max", "mutated"), "reference": WILD_TYPE}
        profile = layer_profile(X, y, model=str(tiny_checkpoint), memory=tmp_path, cv=3, **poolings)
        assert list(zip(profile["layer"], profile["pooling"], strict=True)) == [
            (layer, pooling) for pooling in ("mean", "max", "mutated") for layer in (0, 1, 2)
        ]
        everything = ESM2Embedder(
            str(tiny_checkpoint),
            layers=(0, 1, 2),
            pooling=("mean", "max", "mutated"),
            reference=WILD_TYPE,
            memory=tmp_path,
        )
        assert everything.plan(X).to_compute == 0
        chosen = best_layers(profile)
        assert chosen["layer"].is_monotonic_increasing
        assert profile["mean"].max() in chosen["mean"].to_numpy()


class TestFigures:
    def test_plot_is_a_png_of_the_chosen_row(self, problem: Problem, tmp_path: Path) -> None:
        comparison = compare(*problem, COMPOSITION)
        figure = plot_predictions(comparison, target="ΔΔG (kcal/mol)", title="GB1")
        axes = figure.axes[0]
        assert axes.get_xlabel() == "measured ΔΔG (kcal/mol)"
        mean = comparison.summary().set_index("features").loc["composition", "mean"]
        assert f"Spearman {mean:.2f}" in axes.get_title()
        assert axes.get_aspect() == 1
        figure.savefig(tmp_path / "a.png")
        plot_predictions(comparison, "none", "mean").savefig(tmp_path / "mean.png")
        plot_scores(comparison).savefig(tmp_path / "scores.png")
        for name in ("a.png", "mean.png", "scores.png"):
            assert (tmp_path / name).read_bytes().startswith(PNG)
        with pytest.raises(ValueError, match="has no composition with mean"):
            plot_predictions(comparison, "composition", "mean")

    def test_wild_predictions_are_drawn_on_the_edge(self, problem: Problem) -> None:
        X, y = problem
        wild = FunctionTransformer(lambda rows: np.array([[1e6 if x == X[0] else 0.0] for x in rows]))

        class Echo(DummyRegressor):  # type: ignore[misc]
            def predict(self, matrix: np.ndarray) -> np.ndarray:
                return super().predict(matrix) + matrix[:, 0]

        comparison = compare(X, y, {"wild": wild}, {"echo": Echo()})
        axes = plot_predictions(comparison, "wild", "echo").axes[0]
        assert axes.get_ylim()[1] < 1e6
        assert "1 predicted beyond the axes" in [text.get_text() for text in axes.get_legend().get_texts()]
        assert axes.get_xlim() == axes.get_ylim()

    def test_a_scan_is_drawn_measured_beside_predicted(self, problem: Problem) -> None:
        X, y = problem
        comparison = compare(X, y, {"substitution": SubstitutionEncoder(WILD_TYPE)})
        figure = plot_scan(comparison, X, WILD_TYPE, target="ΔΔG (kcal/mol)")
        measured, predicted = (axes.images[0].get_array() for axes in figure.axes[:2])
        assert measured.shape == predicted.shape == (20, len(WILD_TYPE))
        assert np.ma.count(np.ma.masked_invalid(measured)) == 60
        place = next(i for i, (a, b) in enumerate(zip(X[0], WILD_TYPE, strict=True)) if a != b)
        row = "GAVLIMCFYWPSTNQHKRDE".index(X[0][place])
        assert measured[row, place] == y[0]
        of_first = comparison.predictions.query("row == 0 and head == 'ridge'")["predicted"].item()
        assert predicted[row, place] == of_first
        assert plot_scan(comparison, [WILD_TYPE] * 60, WILD_TYPE) is None  # no single mutant
        shifted = plot_scan(comparison, X, WILD_TYPE, offset=2).axes[0]
        assert (shifted.get_xticks()[0], shifted.get_xticklabels()[0].get_text()) == (8, "10")

    def test_panels_of_many_splits_stay_readable(self, problem: Problem) -> None:
        """Three in a row: six in a row were too small on any page."""
        X, y = problem
        splits = {str(n): PositionKFold(n, reference=WILD_TYPE) for n in range(2, 6)}
        comparison = compare(X, y, COMPOSITION, splits=splits)
        figure = plot_scores(comparison)
        assert [axes.get_title() for axes in figure.axes] == ["2", "3", "4", "5", "", ""]
        assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
        assert figure.get_size_inches()[0] < 13

    def test_errors_are_grouped_by_distance(self, problem: Problem) -> None:
        X, y = problem
        splits = {"random": 5, "positions": PositionKFold(4, reference=WILD_TYPE)}
        comparison = compare(X, y, COMPOSITION, splits=splits)
        axes = plot_errors(comparison, target="ΔΔG").axes[0]
        assert axes.get_xlabel().startswith("substitutions")
        rows = comparison.predictions.query("head == 'ridge' and split == 'random'")
        medians = (rows["measured"] - rows["predicted"]).abs().groupby(rows["distance"]).median()
        np.testing.assert_allclose(axes.lines[0].get_ydata(), medians)


class TestManifest:
    def test_is_strict_json_and_describes_estimators(self, problem: Problem) -> None:
        features, _ = make_features(["embeddings", "embeddings+logits"], problem[0], memory="somewhere")
        manifest = make_manifest(
            *problem,
            features=features,
            regressors=make_heads(["xgboost"], random_state=7),
            parameters={"folds": 5},
            model={"name": "skesm-mini"},
        )
        text = json.dumps(manifest, allow_nan=False)
        assert "somewhere" not in text  # where records are kept changes no number
        assert manifest["data"]["rows"] == 60
        assert manifest["data"]["sha256"] == data_digest(*problem)
        assert manifest["features"]["embeddings"]["class"] == "ESM2Embedder"
        assert manifest["regressors"]["xgboost"]["steps"][1][1]["random_state"] == 7
        assert {"skesm", "python", "numpy", "xgboost"} <= set(manifest["versions"])

    def test_digest_is_of_the_data_not_of_their_form(self) -> None:
        expected = hashlib.sha256(b"MKV\t0.1\nACD\t-2.0\n").hexdigest()
        assert data_digest(["MKV", " acd\n"], np.array([0.1, -2])) == expected
        assert data_digest(["ACD", "MKV"], [-2, 0.1]) != expected


class TestRuns:
    CONFIG = RunConfig(
        rows=60,
        features=("position+substitution", "composition"),
        heads=("ridge",),
        splits=("random", "groups", "unseen positions"),
        learning_curve=(8, 24),
    )

    def test_a_run_is_a_folder_that_can_be_replayed(self, tmp_path: Path) -> None:
        run = run_benchmark(self.CONFIG)
        assert ("split", "groups", "no column of groups is named (--group-column)") in run.not_done
        run.write(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert {"scan.png", "errors.png", "learning_curve.png", "not_done.csv", "learning_curve.csv"} <= names
        report = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert report.count("<img") == len(run.figures())
        assert "http" not in report.replace("http-equiv", "")  # nothing is fetched
        assert "Nadeau" in report
        for head in self.CONFIG.heads:
            assert f"<b>{head}</b>: " in report  # every head is explained
        assert '<td class="text">position+<wbr>substitution</td>' in report  # a phone is narrow
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), run.comparison.scores)
        manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["hardware"]["cores"] >= 1
        assert set(manifest["digests"]["features"]) == {"composition"}  # positions are learnt in each fold
        assert "random, seed 0" in manifest["digests"]["splits"]
        found = replay(tmp_path / "manifest.json")
        assert found.identical
        assert found.reasons == ()
        assert {key: value for key, value in found.run.manifest.items() if key != "run"} == {
            key: value for key, value in run.manifest.items() if key != "run"
        }

    def test_layers_and_table_share_one_pass(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        """Whichever of the two needs more of a pass comes first."""
        common = {"rows": 40, "folds": 2, "heads": ("ridge",), "splits": ("random",), "model": str(tiny_checkpoint)}
        for number, (features, poolings) in enumerate(
            [(("mutated", "embeddings"), ("mean",)), (("embeddings",), ("mean", "mutated"))]
        ):
            config = RunConfig(features=features, layer_profile=poolings, **common)
            run = run_benchmark(config, memory=tmp_path / str(number))
            assert run.manifest["run"]["forward_passes"] == 41  # the reference is one
            assert len(run.profile) == 3 * len(poolings)

    def test_what_the_data_cannot_have_is_left_out_and_said(self, tmp_path: Path) -> None:
        """One impossible split must not cost the others."""
        config = RunConfig(
            rows=40,
            features=("composition",),
            heads=("ridge",),
            splits=("random", "more mutations", "clusters"),
            folds=3,
            learning_curve=(300,),
        )
        run = run_benchmark(config)
        assert [(kind, name) for kind, name, _ in run.not_done][:2] == [
            ("split", "more mutations"),
            ("split", "clusters"),
        ]
        reasons = {name: reason for _, name, reason in run.not_done}
        assert reasons["clusters"] == "cannot make n_splits=3 folds: X has 1 cluster at identity 0.5"
        assert "leave fewer than 20% of 40 rows" in reasons["learning curve"]
        run.write(tmp_path)
        assert "X has 1 cluster" in (tmp_path / "report.html").read_text(encoding="utf-8")
        with pytest.raises(ValueError, match="none of the splits can be made: more mutations"):
            run_benchmark(replace(config, splits=("more mutations",)))
        (tmp_path / "data.csv").write_text("seq,label\nMKV,1\nMKL,2\n")
        other = {"data": str(tmp_path / "data.csv"), "rows": None, "features": ("mutated",), "splits": ("random",)}
        with pytest.raises(ValueError, match="none of the features can be made: mutated"):
            run_benchmark(replace(config, folds=2, **other))

    def test_a_run_of_classifiers(self, tmp_path: Path) -> None:
        config = RunConfig(
            rows=60, features=("composition",), heads=("logistic",), splits=("random", "low to high"), threshold=0.5
        )
        run = run_benchmark(config)
        assert run.comparison.main_score == "auroc"
        assert ("split", "low to high", "classes have no order") in run.not_done
        run.write(tmp_path)
        report = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "which features predict ΔΔG (kcal/mol) &gt; 0.5?" in report
        with pytest.raises(ValueError, match=r"has \d+\. Say from where on .*--threshold"):
            run_benchmark(replace(config, threshold=None))
        with pytest.raises(ValueError, match="threshold makes two classes"):
            replace(config, heads=("ridge",), scores=None)
        with pytest.raises(ValueError, match="cannot be compared in one table"):
            replace(config, heads=("ridge", "logistic"))

    def test_rows_of_another_length_can_be_left_out(self, tmp_path: Path) -> None:
        data = tmp_path / "data.csv"
        data.write_text("seq,label\nMKV,1\nMK,2\nMAV,3\nMKL,4\nAKV,2\n")
        common = {"data": str(data), "reference": "MKV", "features": ("position",), "heads": ("ridge",), "folds": 2}
        run = run_benchmark(RunConfig(**common, drop_invalid=True, splits=("random",)))
        assert run.manifest["parameters"]["dropped_lines"] == [3]
        assert run.manifest["data"]["rows"] == 4

    def test_a_table_of_mutations_is_read_and_its_columns_are_written_down(self, tmp_path: Path) -> None:
        """Most tables of scans have mutants and no sequences, and nobody calls the target `label`."""
        data, fasta = tmp_path / "scan.csv", tmp_path / "scan.fasta"
        data.write_text("Mutant,DMS_score,well\nM3A,1,a\nM3C,2,a\nK4R,3,b\nK4A,1.5,b\n")
        fasta.write_text(">1 label=1\nAKV\n>2 label=2\nCKV\n>3 label=3\nMRV\n>4 label=1.5\nMAV\n")
        common = {"reference": "mkv", "features": ("position",), "heads": ("ridge",), "folds": 2}
        config = RunConfig(data=str(data), **common, offset=3, group_column="well", splits=("random", "groups"))
        run = run_benchmark(config)
        settings = run.manifest["parameters"]
        assert (settings["mutation_column"], settings["target_column"]) == ("Mutant", "DMS_score")
        assert run.data.title == "scan.csv"
        assert run.data.target == "DMS_score"
        assert run.data.sequences == ["AKV", "CKV", "MRV", "MAV"]
        run.write(tmp_path / "run")
        again = replay(tmp_path / "run")
        assert again.identical
        assert not again.reasons
        of_fasta = run_benchmark(RunConfig(data=str(fasta), **common, splits=("random",)))
        assert of_fasta.manifest["data"] == run.manifest["data"]

    def test_the_bundled_data_want_low_values(self, tmp_path: Path) -> None:
        """A positive ΔΔG destabilises: the best rows are the lowest, in scores of the top and in low to high."""
        config = RunConfig(rows=60, features=("position",), heads=("ridge",), splits=("low to high",))
        run = run_benchmark(config)
        assert run.manifest["parameters"]["higher_is_better"] is False
        assert not run.comparison.higher_is_better
        tested = run.comparison.predictions["measured"]
        assert tested.max() < np.median(run.data.y)
        assert RunConfig(data="file.csv").wants_high
        assert replace(config, higher_is_better=True).wants_high

    def test_a_killed_run_continues(self, tmp_path: Path) -> None:
        """SIGKILL leaves whole files of finished fits: the next run takes them, and ends as if nothing had happened."""
        settings = {
            "features": ["composition", "length", "position"],
            "heads": ["ridge", "knn"],
            "folds": 4,
            "rows": 300,
        }
        (tmp_path / "run.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in settings.items()))
        fits = tmp_path / "run" / "fits"
        command = [sys.executable, "-m", "skesm", "benchmark", "run.toml", "--quiet", "--jobs", "1", "--output", "run"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while len(list(fits.glob("[!.]*"))) < 2:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        kept = len(list(fits.glob("[!.]*.npz")))
        assert not (tmp_path / "run" / "manifest.json").exists()
        config = RunConfig.from_toml(tmp_path / "run.toml")
        run = run_benchmark(config, resume=fits)
        assert run.comparison.fits_found == 4 * kept >= 8
        assert kept < 14
        whole = run_benchmark(config)
        pd.testing.assert_frame_equal(whole.comparison.scores, run.comparison.scores, check_exact=True)

    def test_a_replay_says_what_differs_and_why(self, tmp_path: Path) -> None:
        config = RunConfig(rows=40, features=("composition",), heads=("ridge",), splits=("random",), folds=2)
        run_benchmark(config).write(tmp_path)
        scores = pd.read_csv(tmp_path / "scores.csv")
        scores.loc[0, "value"] += 0.25
        scores.to_csv(tmp_path / "scores.csv", index=False, na_rep="nan")
        manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
        assert len(manifest["versions"]["skesm source"]) == 16
        assert manifest["model"]["engine"] in ("numpy", "compiled", "torch")
        manifest["versions"]["numpy"] = "1.0"
        manifest["model"]["engine"] = "torch of another kind"
        manifest["digests"]["features"]["composition"] = "0"
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        found = replay(tmp_path)
        assert not found.identical
        text = found.to_text()
        assert "different  random | composition | ridge | spearman: 1 of 2 folds, by at most 0.25" in text
        assert "identical  random | composition | ridge | mae" in text
        assert "versions, numpy: 1.0 then, " in text
        assert "model, engine: torch of another kind then, " in text
        assert "digests, features: not the same for composition\n" in f"{text}\n"

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="heads: 'lasso' is unknown"):
            RunConfig(heads=("lasso",))
        with pytest.raises(ValueError, match="splits must not be empty"):
            RunConfig(splits=())
        (tmp_path / "a.toml").write_text('model = "skesm-mini"\nseed = 1')
        with pytest.raises(ValueError, match=r"unknown key 'seed'\. Keys are"):
            RunConfig.from_toml(tmp_path / "a.toml")
        (tmp_path / "manifest.json").write_text("[]")
        with pytest.raises(ValueError, match="is not the manifest of a run"):
            replay(tmp_path)
        for read in (RunConfig.from_toml, replay):
            with pytest.raises(InputFileError, match=r"there is no file .* at .*none\.toml"):
                read(tmp_path / "none.toml")
