"""What bfloat16 does to a library of near-identical variants.

    python tests/perf/bench_fidelity.py [--model CHECKPOINT ...] [--json results.json]

In such a library the signal is what differs. Features are therefore compared by their fidelity: from the float32 and
the bfloat16 features, each side's own mean over the library is subtracted; then the cosine of each pair of rows. A
constant shift costs nothing, a drowned difference does. The plain cosine stands beside it, to show how little it says.
What matters in the end follows: Spearman's correlation of cross-validated predictions from either kind of features.

Weights: the bundled skesm-mini (trained); random ones of published shapes; and random ones with outliers, see
`altered_checkpoint`. `--model` adds a checkpoint of yours. Layers: the middle one, and the last.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import random_checkpoint, write_results
from numpy.typing import NDArray

from skesm import ESM2Embedder
from skesm.backends import LocalBackend
from skesm.datasets import fetch_fluorescence, load_gb1_stability
from skesm.esm2.checkpoints.checkpoint import find_spec

#: Share of channels that carry outliers, and two at least: few, and the same ones in all layers, as in trained language
#: models (Dettmers et al., "LLM.int8()", NeurIPS 2022), where they are about twenty times larger than the rest.
OUTLIER_SHARE, OUTLIER_GAIN = 0.01, 20.0
#: What each block adds to such a channel of the residual stream, whatever the sequence: it reaches 56 to 63 times the
#: median of all before and after the last block. Published ESM-2 has 69 to 71 and 58 (8M), 61 to 75 and 64 to 77
#: (150M), 120 to 143 and 143 to 151 (650M), in the same channel for each of two sequences, by hosted answers;
#: skesm-mini has 4.
MASSIVE_BIAS, MASSIVE_CHANNELS = 3.0, 2
#: Degrees of freedom of the Student t distribution that scales the rows of weights: the fewer, the heavier the tail.
TAIL = 3

Features = NDArray[np.float32]


def altered_checkpoint(folder: Path, model: str, kind: str) -> Path:
    """A random checkpoint of a registry model's shape, with outliers as trained models have them.

    ``"outlier gains"``: each row (output channel) of every block's matrices is scaled by |t| / √3, t drawn from
    Student's t distribution of three degrees of freedom, which leaves the mean square as it was. One channel in a
    hundred has 20 times the LayerNorm gain before attention and before the feed-forward network. The LayerNorm after
    the last block is left alone: the cosine of features with such channels would hide what happens to the others.

    ``"massive channels"``: two channels of the residual stream grow with each block to a value that hardly depends on
    the sequence and exceeds all others (Sun et al., "Massive activations in large language models", COLM 2024), as in
    published ESM-2.
    """
    from safetensors.torch import load_file, save_file

    target = folder / f"{model}-{kind.replace(' ', '-')}"
    if target.exists():
        return target
    shutil.copytree(random_checkpoint(folder, model), target)
    rng = np.random.default_rng(0)
    width = find_spec(model).width
    outliers = rng.choice(width, max(2, round(OUTLIER_SHARE * width)), replace=False)
    tensors = load_file(target / "model.safetensors")
    for name in sorted(name for name in tensors if "encoder.layer." in name):
        tensor = tensors[name]
        if kind == "massive channels":
            if name.endswith("output.dense.bias") and "attention" not in name:
                tensor[outliers[:MASSIVE_CHANNELS]] += MASSIVE_BIAS
        elif name.endswith("weight") and tensor.ndim == 2:
            scale = np.abs(rng.standard_t(TAIL, len(tensor))) / np.sqrt(TAIL / (TAIL - 2))
            tensor *= tensor.new_tensor(scale)[:, None]
        elif name.endswith("LayerNorm.weight"):
            tensor[outliers] *= OUTLIER_GAIN
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def weight_sets(folder: Path, models: Sequence[str] = ()) -> dict[str, str]:
    """Checkpoints by what they are called in the tables."""
    sets = {"skesm-mini, trained": "skesm-mini"}
    for model in ("esm2_t6_8M_UR50D", "esm2_t30_150M_UR50D"):
        size = model.split("_")[2]
        sets[f"{size}, random"] = str(random_checkpoint(folder, model))
        for kind in ("outlier gains", "massive channels"):
            sets[f"{size}, {kind}"] = str(altered_checkpoint(folder, model, kind))
    return sets | {model: model for model in models}


def library_for(model: str, variants: Sequence[str], deep: int) -> Sequence[str]:
    """The variants that a model is measured on: the first `deep` if it has more than 12 layers, to save time."""
    return variants[:deep] if find_spec(model).n_layers > 12 else variants


def gfp_variants(data_home: Path | None, n: int, seed: int = 0) -> tuple[list[str], NDArray[np.float64], str]:
    """`n` distinct GFP variants, their log fluorescence, and the wild type."""
    gfp = fetch_fluorescence(subset="valid", data_home=data_home)
    _, first = np.unique(gfp.data.astype(str), return_index=True)
    chosen = np.random.default_rng(seed).choice(np.sort(first), n, replace=False)
    return gfp.data[chosen].tolist(), gfp.target[chosen], gfp.wild_type


def cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each pair of rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.einsum("ij,ij->i", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def fidelity(exact: Features, low: Features) -> dict[str, float]:
    """Mean and least cosine over the library, after subtracting each side's mean and (``plain``) without."""
    centred = cosines(exact - exact.mean(axis=0, dtype=np.float64), low - low.mean(axis=0, dtype=np.float64))
    plain = cosines(exact, low)
    named = {"mean": centred.mean(), "min": centred.min(), "plain_mean": plain.mean(), "plain_min": plain.min()}
    return {name: round(float(value), 6) for name, value in named.items()}


def compute(sequences: Sequence[str], dtype: str, threads: int, **options: object) -> Features:
    backend = LocalBackend(engine="torch", device="cpu", dtype=dtype, num_threads=threads)
    return ESM2Embedder(backend=backend, **options).transform(sequences)


def by_layer(model: str, sequences: Sequence[str], threads: int) -> dict[str, dict[str, float]]:
    """Fidelity of mean pooling at the middle layer and the last."""
    last = find_spec(model).n_layers
    layers = [last // 2, last]
    exact, low = (
        np.split(compute(sequences, dtype, threads, model=model, layers=layers), 2, axis=1)
        for dtype in ("float32", "bfloat16")
    )
    return {f"layer {layer}": fidelity(x, y) for layer, x, y in zip(layers, exact, low, strict=True)}


def cross_validate(exact: Features, low: Features, y: NDArray[np.float64], threads: int) -> dict[str, dict[str, float]]:
    """Spearman's correlation of out-of-fold predictions, five times five folds, the same for both kinds of features.

    ``difference_sd`` is the spread, over the five shufflings, of the difference; ``shuffling_sd`` that of the float32
    figure itself.
    """
    from scipy.stats import spearmanr
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBRegressor

    regressors = {
        "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))),
        "XGBoost": XGBRegressor(n_estimators=100, max_depth=4, learning_rate=0.1, n_jobs=threads, random_state=0),
    }
    results = {}
    for name, regressor in regressors.items():
        scores = np.array(
            [
                [
                    spearmanr(cross_val_predict(regressor, X, y, cv=KFold(5, shuffle=True, random_state=seed)), y)[0]
                    for X in (exact, low)
                ]
                for seed in range(5)
            ]
        )
        difference = scores[:, 1] - scores[:, 0]
        results[name] = {
            "float32": round(scores[:, 0].mean(), 4),
            "bfloat16": round(scores[:, 1].mean(), 4),
            "difference": round(difference.mean(), 4),
            "difference_sd": round(difference.std(ddof=1), 4),
            "shuffling_sd": round(scores[:, 0].std(ddof=1), 4),
        }
    return results


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"| {title} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.4f}' for column in columns)} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", default=[], help="a further checkpoint; may be repeated")
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--deep", type=int, default=100, help="variants for models of more than 12 layers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-home", type=Path, help="folder of fluorescence.valid.csv (default: fetched)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    sequences, _, wild_type = gfp_variants(args.data_home, args.variants)
    gb1 = load_gb1_stability()
    gfp, fluorescence, _ = gfp_variants(args.data_home, 1000)

    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in weight_sets(Path(folder), args.model).items():
            for layer, row in by_layer(model, library_for(model, sequences, args.deep), args.threads).items():
                table[f"{name}, {layer}"] = row
        for library, rows, reference in (
            ("GFP", [s for s in sequences if len(s) == len(wild_type)], wild_type),
            ("GB1", gb1.data.tolist(), gb1.wild_type),
        ):
            options = {"model": "skesm-mini", "pooling": "mutated", "reference": reference}
            pair = [compute(rows, dtype, args.threads, **options) for dtype in ("float32", "bfloat16")]
            table[f"skesm-mini, trained, {library}, pooling='mutated'"] = fidelity(*pair)
    print_table("fidelity of bfloat16", table)

    predictions: dict[str, dict[str, float]] = {}
    for library, rows, y in (("GB1", gb1.data.tolist(), gb1.target), ("GFP", gfp, fluorescence)):
        poolings = {"mean": {}, "mutated": {"reference": gb1.wild_type}} if library == "GB1" else {"mean": {}}
        for pooling, options in poolings.items():
            pair = [
                compute(rows, dtype, args.threads, model="skesm-mini", pooling=pooling, **options)
                for dtype in ("float32", "bfloat16")
            ]
            for regressor, row in cross_validate(*pair, y, args.threads).items():
                predictions[f"{library}, {pooling}, {regressor}"] = row
    print_table("Spearman, five-fold", predictions)
    write_results(args.json, {"variants": args.variants, "deep": args.deep, "fidelity": table, "spearman": predictions})


if __name__ == "__main__":
    main()
