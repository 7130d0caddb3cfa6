"""Comparisons: scores against scikit-learn used directly, splits, baselines, tables, manifest, plot."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, cross_val_predict
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skesm import ESM2Embedder, ESM2LogitSummarizer
from skesm.benchmark import (
    AminoAcidComposition,
    OneHotSequence,
    baseline_features,
    compare,
    data_digest,
    default_regressors,
    esm2_features,
    make_manifest,
    plot_predictions,
)
from skesm.datasets import load_gb1_stability
from skesm.exceptions import InvalidSequenceError

COMPOSITION = {"composition": AminoAcidComposition()}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def problem() -> tuple[list[str], np.ndarray]:
    """60 seeded rows of the GB1 data."""
    sequences, y = load_gb1_stability(return_X_y=True)
    chosen = np.random.default_rng(0).choice(len(y), 60, replace=False)
    return list(sequences[chosen]), y[chosen]


class TestBaselines:
    def test_composition_counts_residues(self) -> None:
        fractions = AminoAcidComposition().transform(["AACD", "wy ", "AX"])
        names = list(AminoAcidComposition().get_feature_names_out())
        expected = np.zeros((3, 20), dtype=np.float32)
        for row, letter, fraction in [(0, "A", 0.5), (0, "C", 0.25), (0, "D", 0.25), (1, "W", 0.5), (1, "Y", 0.5)]:
            expected[row, names.index(f"fraction_{letter}")] = fraction
        expected[2, names.index("fraction_A")] = 0.5  # X counts in the length
        assert fractions.dtype == np.float32
        np.testing.assert_array_equal(fractions, expected)

    def test_one_hot_puts_ones_at_named_columns(self) -> None:
        encoder = OneHotSequence(length=3)
        columns = encoder.get_feature_names_out()
        found = [list(columns[row == 1]) for row in encoder.transform(["MKV", "mk", "MXV"])]
        assert found == [["1M", "2K", "3V"], ["1M", "2K"], ["1M", "3V"]]

    @pytest.mark.parametrize("letter", ["ı", "K\u0301", "Ｋ"])
    def test_look_alikes_are_not_residues(self, letter: str) -> None:
        assert AminoAcidComposition().transform([letter])[0, :].sum() == pytest.approx(letter.count("K") / len(letter))

    def test_mask_is_one_unknown_residue(self) -> None:
        np.testing.assert_array_equal(OneHotSequence(3).transform(["A<mask>C"]), OneHotSequence(3).transform(["AXC"]))

    def test_longer_than_the_columns_is_an_error(self) -> None:
        with pytest.raises(InvalidSequenceError, match=r"1 sequences .* row 1 with 4 residues") as caught:
            OneHotSequence(3).transform(["MKV", "MKVA"])
        assert caught.value.rows == (1,)

    @pytest.mark.parametrize(
        ("X", "message"), [("MKV", "wrap it in a list"), (["MKV", None], "row 1"), ([["A", "C"]], "shape")]
    )
    def test_bad_input(self, X: object, message: str) -> None:
        with pytest.raises(InvalidSequenceError, match=message):
            AminoAcidComposition().transform(X)

    def test_one_hot_is_left_out_where_columns_do_not_line_up(self) -> None:
        padded, notes = baseline_features(["A" * 100, "A" * 90])
        assert list(padded) == ["one-hot", "composition"]
        assert notes == ["one-hot: 1 of 2 sequences padded at the end to 100 residues"]
        without, notes = baseline_features(["A" * 100, "A" * 89])
        assert list(without) == ["composition"]
        assert notes == ["one-hot: left out, since lengths run from 89 to 100 residues"]
        assert baseline_features(["A" * 100, "C" * 100])[1] == []


class TestCompare:
    def test_scores_are_those_of_scikit_learn_used_directly(self, problem: tuple[list[str], np.ndarray]) -> None:
        X, y = problem
        regressors = {"ridge": make_pipeline(StandardScaler(), Ridge()), "tree": DecisionTreeRegressor(random_state=0)}
        comparison = compare(X, y, {"one-hot": OneHotSequence(55), **COMPOSITION}, regressors, cv=4, random_state=3)

        groups = np.unique(X, return_inverse=True)[1]
        folds = list(GroupKFold(4, shuffle=True, random_state=3).split(X, y, groups))
        one_hot = np.array([[residue == a for residue in x for a in "ACDEFGHIKLMNPQRSTVWY"] for x in X], dtype=float)
        one_hot = one_hot[:, np.ptp(one_hot, axis=0) > 0]
        composition = np.array([[x.count(a) / 55 for a in "ACDEFGHIKLMNPQRSTVWY"] for x in X])
        composition = composition[:, np.ptp(composition, axis=0) > 0]
        expected = {
            ("one-hot", "ridge"): cross_val_predict(regressors["ridge"], one_hot, y, cv=folds),
            ("one-hot", "tree"): cross_val_predict(regressors["tree"], one_hot, y, cv=folds),
            ("composition", "ridge"): cross_val_predict(regressors["ridge"], composition, y, cv=folds),
            ("composition", "tree"): cross_val_predict(regressors["tree"], composition.astype(np.float32), y, cv=folds),
            ("none", "mean"): cross_val_predict(DummyRegressor(), composition, y, cv=folds),
        }
        assert [(row.features, row.model) for row in comparison.rows] == list(expected)
        for row, table_row in zip(comparison.rows, comparison.table, strict=True):
            predicted = expected[row.features, row.model]
            # float32 features against float64 ones: 1e-7 relative, grown by the solve
            np.testing.assert_allclose(comparison.predictions[row.features, row.model], predicted, atol=1e-4)
            rmse = [root_mean_squared_error(y[test], predicted[test]) for _, test in folds]
            np.testing.assert_allclose(row.rmse, rmse, atol=1e-4)
            assert table_row["rmse_mean"] == pytest.approx(np.mean(rmse), abs=1e-4)
            assert table_row["rmse_sd"] == pytest.approx(np.std(rmse, ddof=1), abs=1e-4)
            if row.model == "mean":
                assert np.isnan(row.spearman).all()
            else:
                rho = [spearmanr(y[test], predicted[test]).statistic for _, test in folds]
                np.testing.assert_allclose(row.spearman, rho, atol=1e-2)  # equal predictions may part by rounding
        for number, (_, test) in enumerate(folds):
            assert (comparison.fold[test] == number).all()

    def test_esm2_features_match_a_pipeline_fitted_in_each_fold(
        self, problem: tuple[list[str], np.ndarray], tiny_checkpoint: Path
    ) -> None:
        """Features before the split, joined by name, are those of a FeatureUnion inside it: nothing leaks."""
        X, y = problem
        model = str(tiny_checkpoint)
        comparison = compare(X, y, esm2_features(model), {"ridge": Ridge()}, cv=KFold(3))
        union = FeatureUnion([("e", ESM2Embedder(model)), ("l", ESM2LogitSummarizer(model))])
        inside = cross_val_predict(make_pipeline(union, Ridge()), X, y, cv=KFold(3))
        np.testing.assert_allclose(comparison.predictions["embeddings+logits", "ridge"], inside, rtol=1e-5, atol=1e-6)
        assert [row.n_columns for row in comparison.rows] == [40, 2, 42, 0]

    def test_a_second_comparison_computes_no_sequence(
        self, problem: tuple[list[str], np.ndarray], tiny_checkpoint: Path, tmp_path: Path
    ) -> None:
        X, y = problem
        for computed in (60, 0):
            features = esm2_features(str(tiny_checkpoint), memory=tmp_path)
            compare(X, y, features, {"ridge": Ridge()})
            assert features["embeddings"].cache_info().computed == computed
            assert features["logits"].cache_info().computed == 0  # from the embedder's pass

    def test_each_transformer_runs_once(self, problem: tuple[list[str], np.ndarray]) -> None:
        calls = []

        def features(X: list[str]) -> np.ndarray:
            calls.append(len(X))
            return np.array([[len(x), x.count("A")] for x in X], dtype=float)

        given = {"a": FunctionTransformer(features), "aa": ("a", "a")}
        compare(*problem, given, {"ridge": Ridge(), "tree": DecisionTreeRegressor()}, cv=5)
        assert calls == [60]

    def test_numbers_do_not_depend_on_jobs(self, problem: tuple[list[str], np.ndarray]) -> None:
        one, four = (
            compare(*problem, {"one-hot": OneHotSequence(55), **COMPOSITION}, default_regressors(1), n_jobs=n)
            for n in (1, 4)
        )
        assert list(one.predictions) == list(four.predictions)
        for name in one.predictions:
            np.testing.assert_array_equal(one.predictions[name], four.predictions[name])

    def test_seed_changes_the_folds(self, problem: tuple[list[str], np.ndarray]) -> None:
        folds = [compare(*problem, COMPOSITION, {}, random_state=seed).fold for seed in (0, 0, 1)]
        np.testing.assert_array_equal(folds[0], folds[1])
        assert (folds[0] != folds[2]).any()

    def test_folds_follow_sequences_not_row_order(self, problem: tuple[list[str], np.ndarray]) -> None:
        X, y = problem
        order = np.random.default_rng(1).permutation(len(X))
        shuffled = compare([X[i] for i in order], y[order], COMPOSITION, {})
        np.testing.assert_array_equal(shuffled.fold, compare(X, y, COMPOSITION, {}).fold[order])

    def test_replicates_of_a_sequence_share_a_fold(self, problem: tuple[list[str], np.ndarray]) -> None:
        X, y = problem
        replicates = X + [f" {x.lower()}\n" for x in X]  # the same sequences to the model
        fold = compare(replicates, np.concatenate([y, y]), COMPOSITION, {}).fold
        np.testing.assert_array_equal(fold[:60], fold[60:])
        assert len(set(fold)) == 5

    def test_groups_share_a_fold(self, problem: tuple[list[str], np.ndarray]) -> None:
        groups = np.arange(60) // 6
        fold = compare(*problem, COMPOSITION, {}, groups=groups).fold
        assert all(len(set(fold[groups == g])) == 1 for g in range(10))

    def test_constant_predictions_are_nan_without_a_warning(self, problem: tuple[list[str], np.ndarray]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            comparison = compare(*problem, COMPOSITION, {"flat": DummyRegressor()})
        assert all(np.isnan(row.spearman).all() for row in comparison.rows)
        assert [line.split()[3] for line in comparison.to_text().splitlines()[2:]] == ["-", "-"]
        assert comparison.best().rmse.mean() == min(row.rmse.mean() for row in comparison.rows)

    def test_best_has_the_highest_mean_spearman(self, problem: tuple[list[str], np.ndarray]) -> None:
        X, y = problem
        truth = dict(zip(X, y, strict=True))
        oracle = FunctionTransformer(lambda rows: np.array([[truth[x]] for x in rows]))
        best = compare(X, y, {**COMPOSITION, "oracle": oracle}, {"ridge": Ridge()}).best()
        assert (best.features, best.model) == ("oracle", "ridge")
        assert best.spearman.min() == pytest.approx(1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"y": np.zeros(59)}, "y has shape"),
            ({"y": np.full(60, np.nan)}, "NaN"),
            ({"features": {"scaled": StandardScaler()}}, "StandardScaler learns from data"),
            ({"features": {"none": AminoAcidComposition()}}, "cannot be named 'none'"),
            ({"features": {"both": ("a", "b")}}, "must join names"),
            ({"features": {**COMPOSITION, "b": ("composition",), "c": ("b",)}}, "'c' must join names"),
            ({"features": {"short": FunctionTransformer(lambda X: np.zeros((3, 1)))}}, "3 rows for 60"),
            ({"cv": 61}, "cannot make 61 folds of 60 groups"),
            ({"cv": 1}, "cannot make 1 folds"),
            ({"groups": [1, 2]}, "groups has shape"),
            ({"cv": ShuffleSplit(2, random_state=0)}, "every row exactly once"),
        ],
    )
    def test_errors(self, problem: tuple[list[str], np.ndarray], change: dict[str, object], message: str) -> None:
        arguments = {"X": problem[0], "y": problem[1], "features": COMPOSITION, "regressors": {}, **change}
        with pytest.raises(ValueError, match=message):
            compare(**arguments)

    def test_foreign_letters_reach_the_model_as_they_are(self, tiny_checkpoint: Path) -> None:
        """Upper-casing "ı" first would make it a residue, "I"."""
        with pytest.raises(InvalidSequenceError, match="row 1, position 2"):
            compare(["MKV", "Mı"], [0, 1], esm2_features(str(tiny_checkpoint)), {}, cv=2)


class TestFiles:
    def test_csv_files_hold_the_numbers(self, problem: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
        comparison = compare(*problem, COMPOSITION, {"ridge": Ridge()})
        comparison.to_csv(tmp_path / "table.csv")
        comparison.predictions_to_csv(tmp_path / "predictions.csv", np.arange(100, 160))
        with (tmp_path / "table.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for written, row in zip(rows, comparison.table, strict=True):
            assert (written["features"], written["model"]) == (row["features"], row["model"])
            assert float(written["rmse_mean"]) == pytest.approx(row["rmse_mean"], abs=1e-6)
        assert rows[-1]["spearman_mean"] == "nan"
        with (tmp_path / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["row"]) for row in rows] == list(range(100, 160))
        np.testing.assert_array_equal([int(row["fold"]) for row in rows], comparison.fold)
        np.testing.assert_allclose(
            [float(row["composition | ridge"]) for row in rows],
            comparison.predictions["composition", "ridge"],
            atol=1e-6,
        )

    def test_plot_is_a_png_of_the_chosen_row(self, problem: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
        comparison = compare(*problem, COMPOSITION, {"ridge": Ridge()})
        figure = plot_predictions(comparison, target="ΔΔG (kcal/mol)", title="GB1")
        axes = figure.axes[0]
        assert axes.get_xlabel() == "measured ΔΔG (kcal/mol)"
        assert f"Spearman {comparison.best().spearman.mean():.2f}" in axes.get_title()
        assert axes.get_aspect() == 1
        points = axes.collections[0].get_offsets()
        predicted = comparison.predictions["composition", "ridge"]
        inside = np.isin(predicted, points[:, 1])
        np.testing.assert_array_equal(points[:, 0], comparison.y[inside])
        figure.savefig(tmp_path / "a.png")
        plot_predictions(comparison, comparison.rows[-1]).savefig(tmp_path / "mean.png")
        for name in ("a.png", "mean.png"):
            assert (tmp_path / name).read_bytes().startswith(PNG)

    def test_wild_predictions_are_drawn_on_the_edge(self, problem: tuple[list[str], np.ndarray]) -> None:
        X, y = problem
        wild = FunctionTransformer(lambda rows: np.array([[1e6 if x == X[0] else 0.0] for x in rows]))

        class Echo(DummyRegressor):  # type: ignore[misc]
            def predict(self, matrix: np.ndarray) -> np.ndarray:
                return super().predict(matrix) + matrix[:, 0]

        comparison = compare(X, y, {"wild": wild}, {"echo": Echo()})
        axes = plot_predictions(comparison, comparison.rows[0]).axes[0]
        assert axes.get_ylim()[1] < 1e6
        assert "1 predicted beyond the axes" in [text.get_text() for text in axes.get_legend().get_texts()]
        assert axes.get_xlim() == axes.get_ylim()

    def test_manifest_is_strict_json_and_describes_estimators(self, problem: tuple[list[str], np.ndarray]) -> None:
        manifest = make_manifest(
            *problem,
            features=esm2_features("skesm-mini", memory="somewhere"),
            regressors=default_regressors(7),
            parameters={"folds": 5},
            model={"name": "skesm-mini"},
        )
        text = json.dumps(manifest, allow_nan=False)
        assert "somewhere" not in text  # where records are kept changes no number
        assert manifest["data"]["rows"] == 60
        assert manifest["data"]["sha256"] == data_digest(*problem)
        assert manifest["features"]["embeddings"]["class"] == "ESM2Embedder"
        assert manifest["features"]["embeddings+logits"] == ["embeddings", "logits"]
        assert manifest["regressors"]["xgboost"]["steps"][1][1]["random_state"] == 7
        assert {"skesm", "python", "numpy", "xgboost"} <= set(manifest["versions"])

    def test_digest_is_of_the_data_not_of_their_form(self) -> None:
        expected = hashlib.sha256(b"MKV\t0.1\nACD\t-2.0\n").hexdigest()
        assert data_digest(["MKV", " acd\n"], np.array([0.1, -2])) == expected
        assert data_digest(["ACD", "MKV"], [-2, 0.1]) != expected
