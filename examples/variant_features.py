"""Tables of docs/variants.md: features and zero-shot scores of variants, cross-validated.

    python examples/variant_features.py [--model skesm-mini] [--memory cache] [--data folder]

GB1 is bundled. GFP is read from the folder `--data` (or fetched), see ``skesm.datasets.fetch_fluorescence``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from skesm import ESM2Embedder, ESM2VariantScorer
from skesm.benchmark import compare, make_features
from skesm.datasets import fetch_fluorescence, load_gb1_stability
from skesm.model_selection import PositionKFold

GFP_ROWS = 1000
FEATURES = (
    *("embeddings", "mutated", "position+substitution", "mutated+position+substitution"),
    *("embeddings+mutated+position+substitution+blosum62", "one-hot", "composition"),
)


def features_table(
    title: str, X: Sequence[str], y: NDArray[np.float64], reference: str, folds: int, options: argparse.Namespace
) -> None:
    features, _ = make_features(FEATURES, X, model=options.model, reference=reference, memory=options.memory)
    splits = {"random": 5, "unseen positions": PositionKFold(folds, reference=reference)}
    heads = ["ridge", "svr"]
    result = compare(X, y, features, heads, splits=splits, reference=reference, n_jobs=options.n_jobs)
    print(f"\n{title}\n\n{result.to_text()}")


def scores_table(
    title: str,
    X: Sequence[str],
    y: NDArray[np.float64],
    reference: str,
    strategies: Sequence[str],
    options: argparse.Namespace,
) -> None:
    print(f"\n{title}\n\n| strategy | Spearman | passes |\n|---|---|---|")
    for strategy in strategies:
        scorer = ESM2VariantScorer(
            options.model, strategy=strategy, reference=reference, memory=options.memory, n_jobs=options.n_jobs
        )
        correlation = spearmanr(y, scorer.predict(X)).statistic
        print(f"| {strategy} | {correlation:+.2f} | {scorer.cache_info().distinct:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="skesm-mini")
    parser.add_argument("--memory", help="folder of the record store")
    parser.add_argument("--data", help="folder that holds fluorescence.valid.csv")
    parser.add_argument("--n-jobs", type=int, default=1)
    options = parser.parse_args()

    gb1 = load_gb1_stability()
    X, y = list(gb1.data), gb1.target
    features_table("GB1", X, y, gb1.wild_type, 5, options)
    strategies = ["wt_marginal", "masked_marginal", "mutant_marginal", "pll_ratio"]
    scores_table("GB1, zero-shot", X, y, gb1.wild_type, strategies, options)

    X, y = fetch_fluorescence(subset="valid", data_home=options.data, return_X_y=True)
    whole = np.flatnonzero([len(sequence) == len(max(X, key=len)) for sequence in X])
    chosen = np.random.default_rng(0).choice(whole, GFP_ROWS, replace=False)
    X, y = [X[i] for i in chosen], y[chosen]
    reference = ESM2Embedder(options.model, pooling="mutated").fit(X).reference_
    # two folds: of variants with several mutations, few have all of them in one fifth of the positions
    features_table(f"GFP, {GFP_ROWS} rows of full length", X, y, reference, 2, options)
    scores_table(f"GFP, {GFP_ROWS} rows of full length, zero-shot", X, y, reference, strategies[:3], options)


if __name__ == "__main__":
    main()
