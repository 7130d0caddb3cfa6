"""Comparisons: scores against scikit-learn used directly, splits, intervals, tables, manifest, plots, runs, replays."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from scipy.stats import t as student
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from skesm import AminoAcidComposition, ESM2Embedder, ESM2LogitSummarizer, OneHotSequence, SubstitutionEncoder
from skesm.backends import LocalBackend
from skesm.benchmark import (
    FEATURES,
    HEADS,
    RandomWeightsBackend,
    compare,
    make_features,
    make_heads,
)
from skesm.benchmark._features import _makers
from skesm.benchmark._resampling import draw_weights, resample
from skesm.benchmark._scores import CLASS_SCORES, SCORES, ndcg, recall, score_function
from skesm.benchmark.fits.computed import compute_once
from skesm.benchmark.runs.config import SPLITS, RunConfig
from skesm.benchmark.runs.texts import NO_MODEL, explain_features, explain_score
from skesm.benchmark.runs.texts import SPLITS as SENTENCES_ON_SPLITS
from skesm.datasets import load_gb1_stability
from skesm.exceptions import InvalidSequenceError
from skesm.model_selection import DistinctSequenceKFold, LowToHighSplit, PositionKFold

COMPOSITION = {"composition": AminoAcidComposition()}
FLAT = {"flat": DummyRegressor()}
WILD_TYPE = load_gb1_stability().wild_type

Problem = tuple[list[str], np.ndarray]


def fold_of(comparison: object) -> np.ndarray:
    """The fold of each row, of the mean predictor."""
    rows = comparison.predictions[comparison.predictions["features"] == "none"]
    return rows.set_index("row")["fold"].sort_index().to_numpy()


class TestFeatures:
    def test_every_name_makes_columns(self, problem: Problem, tiny_checkpoint: Path, tmp_path: Path) -> None:
        X, _ = problem
        features, notes = make_features(FEATURES, X, model=str(tiny_checkpoint), reference=WILD_TYPE, memory=tmp_path)
        assert set(features) == set(FEATURES)
        assert next(iter(features)) == "mutated"  # its passes serve the others
        assert notes == []
        widths = {name: transformer.fit(X).transform(X).shape[1] for name, transformer in features.items()}
        assert widths["augmented"] == widths["one-hot"] + 1 == 55 * 20 + 1
        assert widths["mutated"] == 2 * widths["embeddings"]
        assert features["mutated"].cache_info().computed == 61
        assert features["embeddings"].cache_info().computed == features["logits"].cache_info().computed == 0
        assert features["random-weights-mutated"].cache_info().computed == 61
        assert features["random-weights"].cache_info().computed == 0
        assert widths["random-weights"] == widths["embeddings"]
        assert widths["masked-marginal"] == widths["mutant-marginal"] == widths["zero-shot"] == 1

    def test_sums_stand_side_by_side(self, problem: Problem) -> None:
        X, _ = problem
        features, _ = make_features(["position+substitution", "composition+length"], X, reference=WILD_TYPE)
        assert isinstance(features["position+substitution"], SubstitutionEncoder)
        expected = AminoAcidComposition().transform(X)
        columns = features["composition+length"].fit_transform(X)
        np.testing.assert_array_equal(columns[:, :20], expected)
        assert (columns[:, 20] == 55).all()

    def test_what_does_not_line_up_is_left_out(self) -> None:
        _, notes = make_features(["one-hot"], ["A" * 100, "A" * 90])
        assert notes == ["one-hot: 1 of 2 sequences is padded at the end to 100 residues"]
        features, notes = make_features(["one-hot", "composition"], ["A" * 100, "A" * 89])
        assert list(features) == ["composition"]
        assert notes == ["one-hot: left out, because lengths run from 89 to 100 residues"]
        features, notes = make_features(["mutated+length"], ["MKT", "MKTA"], reference="MKT")
        assert features == {}
        assert notes == ["mutated+length: left out, because 1 of 2 sequences do not have the reference's length"]

    def test_random_weights_are_the_shape_without_the_training(self, problem: Problem, tiny_checkpoint: Path) -> None:
        X, model = problem[0][:3], str(tiny_checkpoint)
        one, again, other = (ESM2Embedder(model, backend=RandomWeightsBackend(seed)).transform(X) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        trained = ESM2Embedder(model).transform(X)
        assert one.shape == trained.shape
        for different in (other, trained):
            assert np.abs(one - different).max() > 0.1
        # only the shape of the model matters, and the store tells seeds and models apart
        names = [RandomWeightsBackend(seed).namespace(model).fingerprint for seed in (0, 0, 1)]
        assert names[0] == names[1] != names[2]
        assert names[0] != LocalBackend().namespace(model).fingerprint

    @pytest.mark.parametrize(("name", "message"), [("size", "'size' is unknown"), ("length+length", "twice")])
    def test_errors(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_features([name], ["MKT"])


class TestHeads:
    def test_all_fit(self) -> None:
        generator = np.random.default_rng(0)
        X = generator.normal(size=(45, 3))
        y = X[:, 0] + 0.1 * generator.normal(size=45)
        for name, head in make_heads().items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a kernel's length may end at its bound
                assert spearmanr(head.fit(X[:30], y[:30]).predict(X[30:]), y[30:]).statistic > 0.6, name

    def test_ridge_does_not_depend_on_units(self) -> None:
        generator = np.random.default_rng(0)
        X, y = generator.normal(size=(50, 8)), generator.normal(size=50)
        one, other = (make_heads(["ridge"])["ridge"].fit(X * unit, y).predict(X * unit) for unit in (1e-5, 1e5))
        np.testing.assert_allclose(one, other, rtol=1e-8)

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match=r"'lasso' is unknown\. Choose from ridge"):
            make_heads(["lasso"])
        assert list(make_heads()) == list(HEADS)


class TestCompare:
    def test_scores_are_those_of_scikit_learn_used_directly(self, problem: Problem) -> None:
        X, y = problem
        heads = {"ridge": make_pipeline(StandardScaler(), Ridge()), "tree": DecisionTreeRegressor(random_state=3)}
        features = {"one-hot": OneHotSequence(55), "substitution": SubstitutionEncoder(WILD_TYPE)}
        comparison = compare(X, y, features, heads, splits={"random": 4}, seeds=[3])
        folds = list(DistinctSequenceKFold(4, random_state=3).split(X))
        for f, h in [(f, h) for f in features for h in heads]:
            # 64-bit sums of 32-bit columns, constant ones left out: nothing but rounding may differ
            expected = cross_val_predict(make_pipeline(features[f], heads[h]), np.array(X, dtype=object), y, cv=folds)
            rows = comparison.predictions.query("features == @f and head == @h").set_index("row")
            if h == "ridge":
                np.testing.assert_allclose(rows["predicted"].sort_index(), expected, atol=1e-4)
            scores = comparison.scores.query("features == @f and head == @h").set_index(["score", "fold"])["value"]
            for number, (_, test) in enumerate(folds):
                predicted = rows["predicted"][test].to_numpy()
                assert scores["spearman", number] == spearmanr(y[test], predicted).statistic
                assert scores["rmse", number] == pytest.approx(root_mean_squared_error(y[test], predicted))

    def test_esm2_features_match_a_pipeline_fitted_in_each_fold(self, problem: Problem, tiny_checkpoint: Path) -> None:
        """Features before the split, joined by name, are those of a FeatureUnion inside it: nothing leaks."""
        X, y = problem
        model = str(tiny_checkpoint)
        features, _ = make_features(["embeddings+logits"], X, model=model)
        comparison = compare(X, y, features, {"ridge": Ridge()}, splits={"plain": KFold(3)})
        union = FeatureUnion([("e", ESM2Embedder(model)), ("l", ESM2LogitSummarizer(model))])
        inside = cross_val_predict(make_pipeline(union, Ridge()), np.array(X, dtype=object), y, cv=KFold(3))
        found = comparison.predictions.query("head == 'ridge'").set_index("row")["predicted"].sort_index()
        np.testing.assert_allclose(found, inside, rtol=1e-5, atol=1e-6)
        assert comparison.costs["columns"].tolist() == [42, 0]
        assert comparison.forward_passes == 120

    def test_a_second_comparison_computes_no_sequence(
        self, problem: Problem, tiny_checkpoint: Path, tmp_path: Path
    ) -> None:
        X, y = problem
        for computed in (61, 0):
            features, _ = make_features(
                ["embeddings", "mutated"], X, model=str(tiny_checkpoint), reference=WILD_TYPE, memory=tmp_path
            )
            assert compare(X, y, features).forward_passes == computed

    def test_each_transformer_that_learns_nothing_runs_once(self, problem: Problem) -> None:
        calls = []

        def columns(X: list[str]) -> np.ndarray:
            calls.append(len(X))
            return np.array([[len(x), x.count("A")] for x in X], dtype=float)

        heads = {"ridge": Ridge(), "tree": DecisionTreeRegressor(random_state=0)}
        compare(*problem, {"a": FunctionTransformer(columns)}, heads, splits={"x": 5, "y": 3}, seeds=[0, 1])
        assert calls == [60]

    def test_numbers_do_not_depend_on_jobs(self, problem: Problem) -> None:
        features = {"substitution": SubstitutionEncoder(WILD_TYPE), **COMPOSITION}
        one, four = (compare(*problem, features, ["ridge", "xgboost"], n_jobs=n) for n in (1, 4))
        pd.testing.assert_frame_equal(one.predictions, four.predictions, check_exact=True)
        pd.testing.assert_frame_equal(one.scores, four.scores, check_exact=True)

    def test_test_sets_need_not_cover_every_row(self, problem: Problem) -> None:
        X, y = problem
        doubles = [X[i][:1] + "W" + X[i][2:] for i in range(5)]
        splits = {"positions": PositionKFold(3, reference=WILD_TYPE), "low to high": LowToHighSplit()}
        rows = [*X, *doubles]
        result = compare(rows, [*y, *y[:5]], COMPOSITION, splits=splits, reference=WILD_TYPE)
        tested = result.predictions[result.predictions["features"] == "none"].groupby("split")["row"].nunique()
        assert tested["positions"] < len(rows)
        assert 0 < tested["low to high"] <= 13
        assert (result.leakage.query("split == 'positions'")["seen_positions"] == 0).all()
        assert result.summary().query("split == 'low to high'")["p"].isna().all()  # one fold

    def test_seeds(self, problem: Problem) -> None:
        splits = {"random": 5, "fixed": KFold(3), "modulo": PositionKFold(3, reference=WILD_TYPE, scheme="modulo")}
        result = compare(*problem, COMPOSITION, splits=splits, seeds=[0, 1])
        runs = result.scores.groupby("split")["seed"].unique()
        assert {split: list(seeds) for split, seeds in runs.items()} == {"random": [0, 1], "fixed": [0], "modulo": [0]}
        again = compare(*problem, COMPOSITION, splits=splits, seeds=[0, 1])
        pd.testing.assert_frame_equal(result.scores, again.scores, check_exact=True)
        folds = result.predictions.query("split == 'random' and features == 'none'").pivot(index="row", columns="seed")
        assert (folds["fold"][0] != folds["fold"][1]).any()

    def test_replicates_of_a_sequence_share_a_fold(self, problem: Problem) -> None:
        X, y = problem
        replicates = X + [f" {x.lower()}\n" for x in X]  # the same sequences to the model
        folds = fold_of(compare(replicates, np.concatenate([y, y]), COMPOSITION))
        np.testing.assert_array_equal(folds[:60], folds[60:])
        assert len(set(folds)) == 5

    def test_groups_share_a_fold(self, problem: Problem) -> None:
        groups = np.arange(60) // 6
        folds = fold_of(compare(*problem, COMPOSITION, splits={"groups": GroupKFold(5)}, groups=groups))
        assert all(len(set(folds[groups == g])) == 1 for g in range(10))

    def test_leakage_is_measured_and_told(self, problem: Problem) -> None:
        X, y = problem
        result = compare([*X, *X], [*y, *y], COMPOSITION, splits={"plain": KFold(2)}, reference=WILD_TYPE)
        assert (result.leakage["duplicates"] == 1).all()
        assert result.warnings[0].startswith("split plain, seed 0, fold 0: 100% of the test sequences")
        assert (result.predictions["distance"] == 0).all()

    def test_constant_predictions_are_nan_without_a_warning(self, problem: Problem) -> None:
        comparison = compare(*problem, COMPOSITION, FLAT)
        assert comparison.summary()["mean"].isna().all()
        assert comparison.table()["random"].tolist() == ["-", "-"]
        assert not comparison.summary()["within_noise"].any()
        rmse = comparison.summary("rmse").set_index("features")["mean"]
        assert comparison.best()[0] == rmse.idxmin()

    def test_best_has_the_highest_mean_spearman(self, problem: Problem) -> None:
        X, y = problem
        truth = dict(zip(X, y, strict=True))
        oracle = FunctionTransformer(lambda rows: np.array([[truth[x]] for x in rows]))
        comparison = compare(X, y, {**COMPOSITION, "oracle": oracle}, {"ridge": Ridge()})
        assert comparison.best() == ("oracle", "ridge")
        summary = comparison.summary().set_index("features")
        assert summary.loc["oracle", ["mean", "low", "high", "difference"]].tolist() == pytest.approx([1, 1, 1, 0])
        assert summary["within_noise"].tolist() == [False, True, False]
        assert "1.00 [1.00, 1.00]*" in comparison.to_text()

    def test_p_is_of_the_corrected_resampled_t_test(self, problem: Problem) -> None:
        """Nadeau and Bengio 2003: the variance grows by n_test / n_train."""
        result = compare(*problem, {"substitution": SubstitutionEncoder(WILD_TYPE), **COMPOSITION}, seeds=[0, 1])
        wide = result.scores.query("score == 'rmse'").pivot(index=["seed", "fold"], columns="features", values="value")
        best = wide.mean().idxmin()
        other = next(name for name in ("substitution", "composition") if name != best)
        difference = (wide[other] - wide[best]).to_numpy()
        statistic = difference.mean() / np.sqrt(difference.var(ddof=1) * (1 / 10 + 12 / 48))
        row = result.summary("rmse").set_index("features").loc[other]
        assert row["difference"] == pytest.approx(-difference.mean())
        assert row["p"] == pytest.approx(2 * student.sf(abs(statistic), 9))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"y": np.zeros(59)}, "y has shape"),
            ({"y": np.full(60, np.nan)}, "NaN"),
            ({"features": {"none": AminoAcidComposition()}}, "cannot be named 'none'"),
            ({"features": {"short": FunctionTransformer(lambda X: np.zeros((3, 1)))}}, "3 rows for 60"),
            ({"splits": {"a": 61}}, "cannot make n_splits=61"),
            ({"groups": [1, 2]}, "groups has shape"),
            ({"scores": ["accuracy"]}, "scores of regressors must be one or several of spearman"),
            ({"heads": ["lasso"]}, "'lasso' is unknown"),
            ({"heads": ["ridge", "logistic"]}, "'logistic' predicts classes and 'ridge' predicts values"),
            ({"heads": ["logistic"]}, "y has 60 classes, and two are compared here"),
            ({"heads": ["logistic"], "y": np.arange(60) < 2}, "2 training rows of class True|1 training rows"),
            ({"heads": {"svm": LinearSVC()}, "y": np.arange(60) < 30}, "'svm' gives no probabilities"),
            ({"heads": ["logistic"], "y": np.arange(60) < 30, "scores": ["rmse"]}, "scores of classifiers must be"),
        ],
    )
    def test_errors(self, problem: Problem, change: dict[str, object], message: str) -> None:
        arguments = {"X": problem[0], "y": problem[1], "features": COMPOSITION, **change}
        with pytest.raises(ValueError, match=message):
            compare(**arguments)

    def test_foreign_letters_are_refused(self) -> None:
        """Upper-casing "ı" first would make it a residue, "I"."""
        with pytest.raises(InvalidSequenceError, match="row 1, position 2"):
            compare(["MKV", "Mı"], [0, 1], COMPOSITION)


class TestScores:
    @pytest.mark.parametrize("name", [*SCORES, *CLASS_SCORES])
    def test_weighted_resampling_is_resampling(self, name: str) -> None:
        generator = np.random.default_rng(0)
        if name in SCORES:
            measured = generator.integers(0, 12, 40).astype(float)  # with ties
            predicted = measured + generator.normal(size=40)
        else:
            measured = generator.integers(0, 2, 40).astype(float)
            predicted = (generator.integers(0, 8, 40) + 3 * measured) / 10
        weights = draw_weights(40, 20)
        found = resample(name, [(np.arange(40), measured, predicted)], weights, True)
        samples = [np.repeat(np.arange(40), w.astype(int)) for w in weights]
        function = score_function(name, True)
        np.testing.assert_allclose(found, [function(measured[s], predicted[s]) for s in samples], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("name", ["auroc", "mcc"])
    def test_a_sample_of_one_class_has_no_score(self, name: str) -> None:
        measured, predicted = np.array([0.0, 1.0]), np.array([0.2, 0.7])
        fold = (np.arange(2), measured, predicted)
        found = resample(name, [fold], np.array([[2.0, 0.0], [1.0, 1.0]]), True)
        assert np.isnan(found[0])
        assert found[1] == 1
        assert np.isnan(score_function(name, True)(np.zeros(2), predicted))

    def test_the_top_is_where_it_is_wanted(self) -> None:
        measured = np.arange(20.0)
        assert recall(measured, measured) == ndcg(measured, measured) == 1
        assert recall(measured, -measured) == 0
        only_low_is_found = np.where(measured < 2, measured, 10.0)
        assert score_function("recall", higher_is_better=False)(measured, only_low_is_found) == 1
        assert score_function("recall", higher_is_better=True)(measured, only_low_is_found) == 0


def test_folds_share_computed_features_and_no_object() -> None:
    """Threads that fit one object at a time got in each other's way: scikit-learn sets attributes on it."""
    computed = compute_once("composition", AminoAcidComposition(), ["MKT", "MRT"])
    mine = clone(computed)
    assert mine is not computed
    assert mine.matrix is computed.matrix


def test_every_name_has_a_maker_and_a_sentence() -> None:
    """Who adds features, a score or a split writes a line on it for the report."""
    assert set(_makers("skesm-mini", None, 10, {"backend": "local"}, ())) == set(FEATURES)
    assert explain_features(FEATURES).keys() == {*FEATURES, NO_MODEL}
    assert all(explain_score(name) != name for name in (*SCORES, *CLASS_SCORES))
    assert set(SENTENCES_ON_SPLITS) == set(SPLITS)
    splits, left_out = RunConfig(splits=SPLITS).make_splits("MKT", aligned=True, grouped=True)
    assert (set(splits), left_out) == (set(SPLITS), {})
