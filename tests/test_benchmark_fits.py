"""Classifiers, tests against shuffled targets, and fits that are kept, of `compare`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.parallel import delayed

from skesm import AminoAcidComposition, OneHotSequence
from skesm.benchmark import (
    CLASSIFIERS,
    _sized_heads,
    compare,
    learning_curve,
    make_heads,
)
from skesm.benchmark.fits.threads import one_complaint_less
from skesm.benchmark.runs.texts import what_the_model_adds
from skesm.model_selection import DistinctSequenceKFold, LowToHighSplit

COMPOSITION = {"composition": AminoAcidComposition()}

Problem = tuple[list[str], np.ndarray]


class TestClassifiers:
    def test_scores_are_those_of_scikit_learn_used_directly(self, problem: Problem) -> None:
        X, y = problem
        labels = np.where(y > np.median(y), "weak", "stable")  # the second in sorted order is positive
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
        comparison = compare(X, labels, {"one-hot": OneHotSequence(55)}, {"logistic": head}, splits={"random": 3})
        assert comparison.classes == ("stable", "weak")
        assert comparison.main_score == "auroc"
        folds = list(DistinctSequenceKFold(3, random_state=0).split(X))
        pipeline = make_pipeline(OneHotSequence(55), head)
        both = cross_val_predict(pipeline, np.array(X, dtype=object), labels, cv=folds, method="predict_proba")
        rows = comparison.predictions.query("head == 'logistic'").set_index("row").sort_index()
        np.testing.assert_allclose(rows["predicted"], both[:, 1], atol=1e-4)
        scores = comparison.scores.query("head == 'logistic'").set_index(["score", "fold"])["value"]
        for number, (_, test) in enumerate(folds):
            truth, probability = labels[test] == "weak", rows["predicted"][test].to_numpy()
            assert scores["auroc", number] == pytest.approx(roc_auc_score(truth, probability))
            assert scores["ap", number] == pytest.approx(average_precision_score(truth, probability))
            assert scores["mcc", number] == pytest.approx(matthews_corrcoef(truth, probability >= 0.5))
        chance = comparison.summary().set_index("features").loc["none"]
        assert chance["mean"] == chance["low"] == chance["high"] == 0.5

    def test_all_fit_and_rank(self) -> None:
        generator = np.random.default_rng(0)
        X = generator.normal(size=(60, 3))
        y = X[:, 0] + 0.1 * generator.normal(size=60) > 0
        for name, head in make_heads(CLASSIFIERS).items():
            assert roc_auc_score(y[40:], head.fit(X[:40], y[:40]).predict_proba(X[40:])[:, 1]) > 0.7, name

    def test_a_learning_curve_has_both_classes_in_every_draw(self, problem: Problem) -> None:
        y = np.arange(60) % 4 == 0
        curve = learning_curve(problem[0], y, COMPOSITION, ["logistic"], sizes=(8,), draws=5)
        assert curve["folds"].tolist() == [5, 5]


class TestPermutations:
    def test_shuffled_targets_tell_a_signal_from_none(self, problem: Problem) -> None:
        X, y = problem
        truth = dict(zip(X, y, strict=True))
        oracle = FunctionTransformer(lambda rows: np.array([[truth[x]] for x in rows]))
        noise = FunctionTransformer(lambda rows: np.array([[hash(x) % 1] for x in rows], dtype=float))
        features = {"oracle": oracle, "constant": noise}
        for scores in (["spearman"], ["rmse"]):  # an error is better if it is lower
            tests = compare(X, y, features, {"ridge": Ridge()}, scores=scores, permutations=9).permutations
            p = tests.set_index("features")["p"]
            assert p["oracle"] == pytest.approx(1 / 10)
            assert np.isnan(p["constant"]) if scores == ["spearman"] else p["constant"] > 0.2
        assert tests["permutations"].tolist() == [9, 9]

    def test_only_the_first_seed(self, problem: Problem) -> None:
        tests = compare(*problem, COMPOSITION, seeds=[3, 1], permutations=2).permutations
        assert tests["seed"].tolist() == [3]


class TestResume:
    def test_finished_fits_are_found(self, problem: Problem, tmp_path: Path) -> None:
        X, y = problem
        first = compare(X, y, COMPOSITION, {"ridge": Ridge()}, permutations=2, resume=tmp_path)
        assert first.fits_found == 0
        again = compare(X, y, COMPOSITION, {"ridge": Ridge(), "tree": DecisionTreeRegressor()}, resume=tmp_path)
        assert again.fits_found == 5  # of the mean predictor; a test of shuffled targets has other fits
        again = compare(X, y, COMPOSITION, {"ridge": Ridge()}, permutations=2, resume=tmp_path)
        assert again.fits_found == 10
        for name in ("scores", "predictions", "permutations", "costs"):
            one, other = getattr(first, name), getattr(again, name)
            pd.testing.assert_frame_equal(
                one.drop(columns="feature_seconds", errors="ignore"),
                other.drop(columns="feature_seconds", errors="ignore"),
                check_exact=True,
            )

    @pytest.mark.parametrize("change", ["y", "features", "head", "seeds", "scores", "splits"])
    def test_what_changes_a_fit_is_fitted(self, problem: Problem, tmp_path: Path, change: str) -> None:
        X, y = problem
        one: dict[str, Any] = {"features": COMPOSITION, "heads": {"head": Ridge()}}
        compare(X, y, **one, resume=tmp_path)
        others: dict[str, dict[str, Any]] = {
            "y": {"y": y + np.arange(60) * 1e-12},
            "features": {"features": {"composition": OneHotSequence(55)}},
            "head": {"heads": {"head": Ridge(2.0)}},
            "seeds": {"seeds": [1]},
            "scores": {"scores": ["mae"]},
            "splits": {"splits": {"random": 4}},
        }
        found = compare(**{"X": X, "y": y, **one, **others[change]}, resume=tmp_path).fits_found
        assert found == (5 if change in ("head", "features") else 0)  # those of the mean predictor

    def test_a_broken_file_is_fitted_again(self, problem: Problem, tmp_path: Path) -> None:
        first = compare(*problem, COMPOSITION, resume=tmp_path)
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes()[:100])
        again = compare(*problem, COMPOSITION, resume=tmp_path)
        assert again.fits_found == 0
        pd.testing.assert_frame_equal(first.scores, again.scores, check_exact=True)

    def test_a_head_without_a_name_is_always_fitted(self, problem: Problem, tmp_path: Path) -> None:
        head = {"head": make_pipeline(FunctionTransformer(lambda X: X), Ridge())}
        for _ in range(2):
            found = compare(*problem, COMPOSITION, head, resume=tmp_path).fits_found
        assert found == 5


def test_the_report_asks_whether_the_model_helps(problem: Problem) -> None:
    X, y = problem
    truth = dict(zip(X, y, strict=True))

    def know(rows: Sequence[str], share: float) -> np.ndarray:
        return np.array([[share * truth[x] + (1 - share) * (sum(map(ord, x)) % 7)] for x in rows])

    features = {
        "mutated": FunctionTransformer(partial(know, share=1.0)),
        "one-hot": FunctionTransformer(partial(know, share=0.0)),
    }
    comparison = compare(X, y, features, {"ridge": Ridge()}, splits={"random": 5, "high": LowToHighSplit()})
    assert what_the_model_adds(comparison, "random", "spearman").startswith("1.00 with it (mutated), ")
    assert ": it helps (p = " in what_the_model_adds(comparison, "random", "spearman")
    assert "A single fold cannot tell" in what_the_model_adds(comparison, "high", "spearman")
    assert what_the_model_adds(compare(X, y, COMPOSITION), "random", "spearman") is None


def test_scikit_learn_does_not_complain_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs exchange filters of warnings with one another. A thread that finds none blames the caller."""
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_, **__: shown.append(str(message)))
    job, arguments, _ = delayed(len)([1, 2])
    with one_complaint_less():
        assert job(*arguments) == 2  # the suite makes errors of warnings
        with warnings.catch_warnings():
            warnings.resetwarnings()  # the state that another thread leaves for a moment
            assert job(*arguments) == 2
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert shown == ["something else"]
    with pytest.raises(UserWarning, match="should be used with"):
        job(*arguments)


@pytest.mark.parametrize("n_rows", [5, 8, 12])
def test_heads_that_are_tuned_take_a_few_rows(n_rows: int) -> None:
    """Folds of one row have no R², and no 20 neighbours."""
    X = np.random.default_rng(0).normal(size=(n_rows, 3))
    for name in ("ridge", "elastic-net", "svr", "knn"):
        assert np.isfinite(make_heads([name])[name].fit(X, X[:, 0]).predict(X[:2])).all()


def test_a_gaussian_process_is_tuned_on_a_draw_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are fitted; the kernel is that of a few, and the parameters are what they were."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = X[:, 0] + np.sin(3 * X[:, 1])
    monkeypatch.setattr(_sized_heads, "MOST_TUNED", 40)
    process = make_heads(["gp"])["gp"][-1]
    before = clone(process).get_params()
    process.fit(X, y)
    assert str(process.get_params()) == str(before)
    assert len(process.X_train_) == 60
    drawn = np.sort(np.random.default_rng(0).choice(60, 40, replace=False))
    few = clone(process).fit(X[drawn], y[drawn])
    assert few.kernel_ == process.kernel_ != process.kernel
    monkeypatch.setattr(_sized_heads, "MOST_TUNED", 60)
    assert clone(process).fit(X, y).kernel_ != few.kernel_
