"""Sentences of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skesm._messages import plural
from skesm._typing import Document
from skesm.benchmark._comparison import Comparison
from skesm.benchmark._scores import ERRORS, name_score
from skesm.benchmark.runs.config import RunConfig
from skesm.benchmark.runs.data import RunData

#: Differences with a larger p are noise.
NOISE = 0.05

#: The question of each split, for a reader who meets it for the first time.
SPLITS = {
    "random": "Random folds. Repeats of a sequence stay together. In a library of variants, most positions that are "
    "tested were mutated in training too.",
    "groups": "Folds of whole groups of the file's group column.",
    "unseen positions": "Folds of positions. Test variants are mutated at positions that were not mutated in training.",
    "modulo positions": "Positions dealt in turn along the chain (ProteinGym's modulo folds).",
    "contiguous positions": "Segments of the chain (ProteinGym's contiguous folds), the hardest split by position.",
    "more mutations": "Trained on variants with one mutation, tested on variants with more.",
    "low to high": "Trained on the worse 80 % of the measured values, tested on the best 20 %: can variants be ranked "
    "that are better than all that were seen?",
    "clusters": "Folds of clusters at 50 % sequence identity.",
}

_SCORES = {
    "spearman": "Spearman's rank correlation of predicted and measured values: 1 is a perfect order, 0 is chance.",
    "pearson": "Pearson's linear correlation of predicted and measured values: 1 is a perfect line, 0 is chance.",
    "r2": "R², the share of the variance that is explained: 1 is perfect, 0 is no better than the mean.",
    "rmse": "RMSE, the root of the mean squared error in the target's unit: lower is better.",
    "mae": "Mean absolute error in the target's unit: lower is better.",
    "ndcg": "NDCG of the best tenth: 1 if the best rows are ranked first.",
    "recall": "Share of the best tenth that is among the tenth of the best predictions: 0.1 is chance.",
    "auroc": "AUROC, the chance that a positive row is ranked above a negative one: 1 is perfect, 0.5 is chance.",
    "ap": "Average precision, the share of positives among the rows ranked first. Chance is their share of all rows.",
    "mcc": "Matthews correlation of predicted and measured classes: 1 is perfect, 0 is chance.",
    "brier": "Brier score, the mean squared error of the probability: lower is better.",
}

#: What each head is, for a reader who meets it for the first time.
HEADS = {
    "ridge": "ridge regression, a weighted sum of the columns",
    "elastic-net": "elastic net, a weighted sum of some of the columns",
    "svr": "support vector machine with an RBF kernel",
    "random-forest": "random forest, the mean of 300 decision trees",
    "xgboost": "gradient-boosted decision trees (XGBoost)",
    "knn": "mean of the nearest training rows",
    "gp": "Gaussian process with an RBF kernel",
    "logistic": "logistic regression",
    "random-forest-classifier": "random forest of 300 decision trees",
    "xgboost-classifier": "gradient-boosted decision trees (XGBoost)",
    "knn-classifier": "classes of the nearest training rows",
}

_FEATURES = {
    "embeddings": "the protein language model's mean over all residues",
    "mutated": "the protein language model at the mutated positions, beside the reference there",
    "logits": "mean and sum of the protein language model's predictions",
    "zero-shot": "the model's own score of the mutation, without any training (wild-type marginals)",
    "masked-marginal": "the model's own score of the mutation, with the position hidden",
    "mutant-marginal": "the model's own score of the mutation, in the variant",
    "random-weights": "the same model before any training: a baseline of the sequence alone",
    "random-weights-mutated": "the same model before any training, at the mutated positions",
    "one-hot": "a column for each amino acid at each position",
    "augmented": "one-hot and the zero-shot score",
    "composition": "share of each amino acid, position ignored",
    "length": "number of residues",
    "position": "which positions are mutated",
    "substitution": "which amino acids are replaced by which",
    "position+substitution": "which positions are mutated, from and to which amino acid, without a model",
    "blosum62": "how much BLOSUM62, hydropathy, volume and charge change, without a model",
}

_FULL_NAMES = {"spearman": "Spearman's rank correlation", "pearson": "Pearson's correlation"}

NO_MODEL = "none"
#: Features that come from a trained protein language model.
_OF_MODEL = ("embeddings", "mutated", "logits", "zero-shot", "masked-marginal", "mutant-marginal", "augmented")


def explain_score(name: str) -> str:
    """One sentence on a score."""
    return _SCORES.get(name, name)


def explain_features(names: Sequence[str]) -> dict[str, str]:
    """A line on each part of the features that were compared."""
    parts = [part for name in names for part in _parts(name)]
    lines = {part: _FEATURES[part] for part in dict.fromkeys(parts) if part in _FEATURES}
    return {**lines, NO_MODEL: "the mean of the training rows, the least that a model must beat"}


def _parts(name: str) -> list[str]:
    rest, found = name, []
    if "position+substitution" in rest:
        rest = rest.replace("position+substitution", "").strip("+").replace("++", "+")
        found.append("position+substitution")
    return [*filter(None, rest.split("+")), *found]


def best_of(comparison: Comparison, split: str, score: str) -> tuple[str, str]:
    """The best pair of a split, in two parts: its name, and how good it is."""
    summary = comparison.summary(score)
    rows = summary[(summary["split"] == split) & summary["within_noise"]]
    if rows.empty:
        return "", f"{name_score(score)} is not defined."
    top = rows.loc[rows["difference"].abs().idxmin()]
    interval = f"{name_score(score)} {top['mean']:.2f} (95 % interval {top['low']:.2f} to {top['high']:.2f})"
    others = len(rows) - 1
    noise = {0: "No other row is as good.", 1: "One other row is within noise of it."}
    text = noise.get(others, f"{others} other rows are within noise of it.")
    return f"{top['features']} with {top['head']}", f"{interval}. {text}"


def what_the_model_adds(comparison: Comparison, split: str, score: str) -> str | None:
    """The best pair with the language model beside the best without. None if the split lacks one of them."""
    summary = comparison.summary(score).dropna(subset="mean")
    summary = summary[(summary["split"] == split) & (summary["features"] != NO_MODEL)]
    with_model = [bool({*_parts(name)} & {*_OF_MODEL}) for name in summary["features"]]
    kinds = [summary[with_model], summary[[not used for used in with_model]]]
    if any(rows.empty for rows in kinds):
        return None
    sign = -1 if score in ERRORS else 1
    one, other = (rows.loc[(sign * rows["mean"]).idxmax()] for rows in kinds)
    p = comparison.compare_pairs(split, (one["features"], one["head"]), (other["features"], other["head"]), score)
    values = f"{one['mean']:.2f} with it ({one['features']}), {other['mean']:.2f} without ({other['features']})"
    if p != p:  # one fold has no test
        return f"{values}. A single fold cannot tell whether that is noise"
    if p > NOISE:
        return f"{values}: no difference beyond noise (p = {p:.2g})"
    better = sign * (one["mean"] - other["mean"]) > 0
    return f"{values}: it {'helps' if better else 'does not help, the other is better'} (p = {p:.2g})"


def methods(config: RunConfig, data: RunData, manifest: Document, comparison: Comparison) -> str:
    """A paragraph for a paper."""
    versions, facts = manifest["versions"], manifest["data"]
    sizes = f"{plural(facts['rows'], 'row')}, {plural(facts['distinct_sequences'], 'distinct sequence')}"
    folds = _list(f"{split} ({count})" for split, count in _folds_by_split(comparison).items())
    tests = (
        f" Permutation tests shuffled the target {config.permutations} times (scikit-learn's permutation_test_score)."
        if config.permutations
        else ""
    )
    features = [name for name in dict.fromkeys(comparison.costs["features"]) if name != NO_MODEL]
    packages = f"scikit-learn {versions['scikit-learn']}"
    if any(head.startswith("xgboost") for head in config.heads):
        packages += f", XGBoost {versions['xgboost']}"
    tuned = "Scalers, penalties and other tuned settings" if not config.classifies else "Scalers and tuned settings"
    return (
        f"Features were computed by skesm {versions['skesm']} with the checkpoint {manifest['model']['name']} "
        f"(fingerprint {manifest['model']['fingerprint'][:16]}, {manifest['model']['numerics']}). "
        f"Sets of features ({_list(features)}) with {_list(HEADS[head].partition(',')[0] for head in config.heads)} "
        f"were compared by cross-validation ({packages}) on "
        f"{data.title} ({sizes}; SHA-256 {facts['sha256'][:16]}), with these splits and numbers of folds: {folds}, and "
        f"with {plural(len(config.seeds), 'seed')} ({', '.join(map(str, config.seeds))}). {tuned} were fitted on the "
        f"training rows of each fold. The score is {_FULL_NAMES.get(config.main_score, name_score(config.main_score))}"
        f"{', lower is better' if config.main_score in ERRORS else ''}. Intervals are percentiles of 500 bootstrap "
        "samples of the test rows. Differences were tested by the corrected resampled t-test (Nadeau and Bengio 2003)."
        f"{tests}"
    )


def _folds_by_split(comparison: Comparison) -> dict[str, int]:
    counts = comparison.leakage.groupby("split", sort=False).size()
    return {str(split): int(count) for split, count in counts.items()}


def _list(names: Iterable[str]) -> str:
    *most, last = list(names)
    return f"{', '.join(most)} and {last}" if most else last


def not_done(classifies: bool) -> str:
    """Limits of every run of this kind."""
    other = "Regressors" if classifies else "Classifiers"
    return (
        "The scores are of one data set. The best row was chosen among all rows on the same folds, so expect a little "
        f"less on new data. {other} were not compared. No structure, alignment or other language model was compared."
    )
