"""Splitters, clusters and the leakage report, against definitions written out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline

from skesm import OneHotSequence
from skesm.datasets import load_gb1_stability
from skesm.exceptions import InvalidSequenceError
from skesm.model_selection import (
    DistinctSequenceKFold,
    IdentityClusterKFold,
    LowToHighSplit,
    MutationCountSplit,
    PositionKFold,
    _clusters,
    _distances,
    distance_to_training,
    identity_clusters,
    leakage,
)

REFERENCE = "MKTAYIAKQR"
ALPHABET = "ACDEFGHIKLMNPQRSTVWY"


def mutant(*mutations: tuple[int, str]) -> str:
    residues = list(REFERENCE)
    for position, residue in mutations:
        residues[position] = residue
    return "".join(residues)


SINGLES = [mutant((position, residue)) for position in range(10) for residue in "GW"]


def edit_distance(a: str, b: str) -> int:
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def random_sequences(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(ALPHABET[:4]), size=rng.integers(1, 30))) for _ in range(n)]


# splitters ------------------------------------------------------------------------------------------------------------


def test_repeats_stay_in_one_fold() -> None:
    X = [*SINGLES, *SINGLES[::-1], " mgtayiakqr ", SINGLES[2]]
    folds = list(DistinctSequenceKFold(4, random_state=1).split(X))
    for train, test in folds:
        clean = np.array([x.strip().upper() for x in X])
        assert not set(clean[train]) & set(clean[test])
        assert sorted([*train, *test]) == list(range(len(X)))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(X)))


@pytest.mark.parametrize("scheme", ["random", "modulo", "contiguous"])
def test_positions_are_tested_once_and_never_trained_on(scheme: str) -> None:
    splitter = PositionKFold(5, reference=REFERENCE, scheme=scheme, random_state=0)
    tested = []
    for train, test in splitter.split(SINGLES):
        positions = [{row // 2 for row in rows} for rows in (train, test)]
        assert not positions[0] & positions[1]
        assert len(positions[1]) == 2
        tested += test.tolist()
    assert sorted(tested) == list(range(len(SINGLES)))
    assert splitter.get_n_splits() == 5


def test_schemes_follow_the_chain() -> None:
    def positions_of(scheme: str) -> list[list[int]]:
        folds = PositionKFold(3, reference=REFERENCE, scheme=scheme).split(SINGLES)
        return [sorted({int(row) // 2 for row in test}) for _, test in folds]

    assert positions_of("modulo") == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert positions_of("contiguous") == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert positions_of("random") != positions_of("contiguous")


def test_rows_on_both_sides_are_left_out_and_the_wild_type_is_trained_on() -> None:
    X = [REFERENCE, mutant((0, "G")), mutant((9, "G")), mutant((0, "W"), (9, "W")), mutant((0, "W"), (1, "W"))]
    folds = list(PositionKFold(2, reference=REFERENCE, scheme="contiguous").split(X))
    assert [[rows.tolist() for rows in fold] for fold in folds] == [[[0, 2], [1, 4]], [[0, 1, 4], [2]]]


def test_without_a_reference_the_consensus_is_taken() -> None:
    given, learnt = (
        [test.tolist() for _, test in PositionKFold(5, reference=r, scheme="modulo").split(SINGLES)]
        for r in (REFERENCE, None)
    )
    assert given == learnt


def test_few_mutations_train_and_many_test() -> None:
    X = [REFERENCE, *SINGLES[:3], mutant((0, "G"), (1, "G")), mutant((0, "G"), (1, "G"), (2, "G"))]
    train, test = next(MutationCountSplit(reference=REFERENCE).split(X))
    assert (train.tolist(), test.tolist()) == ([0, 1, 2, 3], [4, 5])
    train, test = next(MutationCountSplit(2, reference=REFERENCE).split(X))
    assert (train.tolist(), test.tolist()) == ([0, 1, 2, 3, 4], [5])


def test_low_values_train_and_high_ones_test() -> None:
    y = np.arange(20.0)[::-1]
    train, test = next(LowToHighSplit(quantile=0.75).split(SINGLES, y))
    assert y[train].max() < y[test].min()
    assert len(test) == 5
    train, test = next(LowToHighSplit(threshold=10).split(SINGLES, y))
    assert (y[train].max(), y[test].min()) == (10, 11)
    for threshold in (None, 5):  # low values are wanted: the lowest are tested
        train, test = next(LowToHighSplit(threshold, higher_is_better=False).split(SINGLES, y))
        assert y[train].min() > y[test].max() >= 3
        assert len(train) > len(test)


@pytest.mark.parametrize(
    ("splitter", "y", "message"),
    [
        (DistinctSequenceKFold(21), None, "X has 20 distinct sequences"),
        (PositionKFold(11, reference=REFERENCE), None, "X has 10 mutated positions"),
        (PositionKFold(2, reference=REFERENCE, scheme="blocks"), None, "scheme must be one of random, modulo"),
        (PositionKFold(2, reference=REFERENCE + "A"), None, "20 of 20 rows|11 residues"),
        (MutationCountSplit(3, reference=REFERENCE), None, "a test set has no rows. Set max_train between"),
        (MutationCountSplit(0, reference=REFERENCE), None, "a training set has no rows"),
        (LowToHighSplit(), None, "needs y"),
        (LowToHighSplit(), [1.0], "y has shape"),
        (LowToHighSplit(), [float("nan")] * 20, "not finite in row 0"),
        (LowToHighSplit(), [1.0] * 20, "a test set has no rows. Too many rows have one value"),
        (IdentityClusterKFold(2, identity=1.5), None, "between 0 and 1"),
        (IdentityClusterKFold(2, method="blast"), None, "exact, mmseqs2"),
        (IdentityClusterKFold(2, identity=0.5), None, "X has 1 cluster at identity 0.5"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(splitter: object, y: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(splitter.split(SINGLES, y))  # type: ignore[attr-defined]


def test_rows_that_are_no_sequences_are_named() -> None:
    with pytest.raises(InvalidSequenceError, match="row 1"):
        list(DistinctSequenceKFold(2).split(["MKT", None, "MRT"]))


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda rows: pd.DataFrame({"seq": rows})])
def test_every_column_of_strings_is_split(kind: object) -> None:
    folds = list(PositionKFold(5, reference=REFERENCE, scheme="modulo").split(kind(SINGLES)))  # type: ignore[operator]
    assert len(folds) == 5


def test_splitters_work_in_scikit_learn() -> None:
    X, y = load_gb1_stability(return_X_y=True)
    wild_type = load_gb1_stability().wild_type
    model = make_pipeline(OneHotSequence(len(wild_type)), Ridge())
    cv = PositionKFold(5, reference=wild_type, random_state=0)
    scores = cross_val_score(model, X, y, cv=cv)
    assert len(scores) == 5
    search = GridSearchCV(model, {"ridge__alpha": [0.1, 10.0]}, cv=cv).fit(X, y)
    assert search.n_splits_ == 5


def test_messages_show_no_sequence() -> None:
    with pytest.raises(ValueError, match="test set") as caught:
        list(MutationCountSplit(3, reference=REFERENCE).split(SINGLES))
    assert REFERENCE not in str(caught.value)


# clusters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [1, 2, 50])
@pytest.mark.parametrize("identity", [0.3, 0.5, 0.8, 1.0])
def test_clusters_are_those_of_all_pairs(identity: float, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single linkage over pairs whose identity, by a table filled by hand, is large enough."""
    monkeypatch.setattr(_clusters, "_LARGE", large)
    monkeypatch.setattr(_distances, "_DISTANCES_HELD", 1000)  # several blocks
    X = random_sequences(60, seed=3)
    X += X[:3]
    clusters = identity_clusters(X, identity)
    links = {i: {i} for i in range(len(X))}
    for i, j in combinations(range(len(X)), 2):
        similar = edit_distance(X[i], X[j]) <= (1 - identity) * max(len(X[i]), len(X[j])) + 1e-9
        if similar and links[i] is not links[j]:
            links[i] |= links[j]
            for k in links[i]:
                links[k] = links[i]
    for i, j in combinations(range(len(X)), 2):
        assert (clusters[i] == clusters[j]) == (links[i] is links[j])
    assert clusters[0] == 0
    assert set(clusters) == set(range(clusters.max() + 1))


def test_no_relative_crosses_a_fold_of_clusters() -> None:
    X = random_sequences(80, seed=5)
    for train, test in IdentityClusterKFold(4, identity=0.6).split(X):
        for i in test:
            for j in train:
                assert edit_distance(X[i], X[j]) > 0.4 * max(len(X[i]), len(X[j])) - 1e-9


@pytest.mark.mmseqs2
def test_mmseqs2_separates_families() -> None:
    rng = np.random.default_rng(0)
    families = ["".join(rng.choice(list(ALPHABET), size=120)) for _ in range(5)]
    X = [f[:k] + "A" + f[k + 1 :] for f in families for k in (10, 50, 90)]
    assert identity_clusters(X, 0.5, method="mmseqs2").tolist() == [i // 3 for i in range(15)]


def test_mmseqs2_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="method='exact'"):
        identity_clusters(["MKT", "MRT"], 0.5, method="mmseqs2")


# leakage --------------------------------------------------------------------------------------------------------------


def test_distances_to_training_are_those_of_the_table() -> None:
    X, training = random_sequences(25, seed=7), random_sequences(40, seed=8)
    X += ["".join(random_sequences(4, seed=9)), training[0][:-2] + "WW"]  # far from all, and close to one
    expected = [min(edit_distance(x, t) for t in training) for x in X]
    assert distance_to_training(X, training).tolist() == expected
    assert distance_to_training(training, training).tolist() == [0] * 40


def test_random_folds_of_single_mutants_leak_positions() -> None:
    X, y = load_gb1_stability(return_X_y=True)
    reference = load_gb1_stability().wild_type
    random = leakage(X, y, cv=KFold(5, shuffle=True, random_state=0), reference=reference)
    unseen = leakage(X, y, cv=PositionKFold(5, reference=reference, random_state=0), reference=reference)
    assert all(report.seen_positions > 0.9 for report in random)
    assert all("PositionKFold" in report.warnings()[0] for report in random)
    assert all(report.seen_positions == 0 and report.warnings() == [] for report in unseen)
    assert all(report.duplicates == 0 for report in random + unseen)
    assert sum(report.n_test for report in unseen) == len(X)
    assert {report.median_distance for report in unseen} == {2.0}
    assert list(pd.DataFrame(random)["fold"]) == [0, 1, 2, 3, 4]


def test_duplicates_across_a_split_are_counted() -> None:
    X = ["MKT", "MRT", "MKT", "WWWWW"]
    (report,) = leakage(X, cv=[(np.array([0, 1]), np.array([2, 3]))])
    assert (report.duplicates, report.neighbours, report.median_distance) == (0.5, 0.5, 2.5)
    assert np.isnan(report.seen_positions)
    assert "DistinctSequenceKFold" in report.warnings()[0]


def test_a_reference_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidSequenceError, match="residues"):
        leakage(["MKT", "MRT"], cv=2, reference="MKTA")
