"""Which parts `variant_pipeline` should have: the table of docs/variants.md, and the choice by the rule written there.

    python tests/perf/bench_variant_pipeline.py                  # GB1 and 300 rows of GFP, both bundled
    python tests/perf/bench_variant_pipeline.py --gfp fluorescence.valid.csv \
        --blat blat.csv --blat-reference blat.fasta --rows 600   # what the page shows

GFP is TAPE's file with columns ``seq`` and ``label``. BLAT is Stiffler et al. 2015 with columns ``mutant`` and
``fitness``, mutants as ``M1A`` in the reference's positions.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from skesm import apply_mutations
from skesm.benchmark import compare, make_features
from skesm.datasets import load_gb1_stability, load_gfp_fluorescence
from skesm.exceptions import DemoModelWarning
from skesm.io import read_fasta, read_table
from skesm.model_selection import PositionKFold

#: Rows without the language model: what it must beat. They are not candidates.
BASELINES = ("one-hot", "position+substitution", "position+substitution+blosum62")
#: Sums that hold the language model, among which the rule chooses.
CANDIDATES = (
    "embeddings",
    "mutated",
    "mutated+position+substitution",
    "mutated+blosum62",
    "mutated+position+substitution+blosum62",
    "embeddings+mutated+position+substitution+blosum62",
)
#: The last but one with weights that were never trained.
CONTROL = "random-weights-mutated+position+substitution+blosum62"

#: Candidates this close to the best mean are as good.
MARGIN = 0.01
SPLITS = ("random", "unseen positions")


class Library(NamedTuple):
    """Variants of one protein with measured values."""

    name: str
    reference: str
    sequences: list[str]
    y: np.ndarray
    position_folds: int  # fewer where variants have several mutations, which fall on both sides of a split


def libraries(arguments: argparse.Namespace) -> list[Library]:
    gb1, gfp = load_gb1_stability(), load_gfp_fluorescence()
    found = [Library("GB1", gb1.wild_type, list(gb1.data), -gb1.target, 5)]
    sequences, y = list(gfp.data), gfp.target
    if arguments.gfp:
        table = read_table(arguments.gfp, "seq", "label")
        sequences, y = table.sequences, table.y
    kept = [i for i, sequence in enumerate(sequences) if len(sequence) == len(gfp.wild_type)]
    found.append(Library("GFP", gfp.wild_type, [sequences[i] for i in kept], np.asarray(y)[kept], 2))
    if arguments.blat:
        reference = read_fasta(arguments.blat_reference).sequences[0]
        with open(arguments.blat, newline="") as file:
            rows = list(csv.DictReader(file))
        variants = apply_mutations(reference, [row["mutant"] for row in rows])
        found.append(Library("BLAT", reference, variants, np.array([float(row["fitness"]) for row in rows]), 5))
    return [draw(library, arguments.rows) for library in found]


def draw(library: Library, rows: int) -> Library:
    if len(library.y) <= rows:
        return library
    chosen = np.sort(np.random.default_rng(0).choice(len(library.y), rows, replace=False))
    return library._replace(sequences=[library.sequences[i] for i in chosen], y=library.y[chosen])


def measure(library: Library, arguments: argparse.Namespace, memory: Path) -> pd.DataFrame:
    """Mean Spearman correlation of each row and split; a fold without one counts as 0."""
    names = [*BASELINES, *CANDIDATES, CONTROL]
    features, _ = make_features(
        names, library.sequences, model=arguments.model, reference=library.reference, memory=memory
    )
    comparison = compare(
        library.sequences,
        library.y,
        {name: features[name] for name in names},
        ["ridge"],
        splits={"random": 5, "unseen positions": PositionKFold(library.position_folds, reference=library.reference)},
        seeds=arguments.seeds,
        scores=["spearman"],
        reference=library.reference,
        resume=memory / "fits",
        n_jobs=arguments.n_jobs,
    )
    scores = comparison.scores[(comparison.scores["score"] == "spearman") & (comparison.scores["head"] == "ridge")]
    table = scores.assign(value=scores["value"].fillna(0)).pivot_table(
        index="features", columns="split", values="value", sort=False
    )
    summary = comparison.summary()
    half = ((summary["high"] - summary["low"]) / 2).groupby(summary["split"]).median()
    n_train = int(comparison.leakage.groupby("split")["n_train"].mean()["unseen positions"])
    print(
        f"{library.name}: {len(library.y)} rows, half an interval "
        f"{' | '.join(f'{half[split]:.2f}' for split in SPLITS)}, {n_train} training rows with unseen positions, "
        f"{comparison.forward_passes} forward passes, {comparison.fits_found} fits found",
        flush=True,
    )
    columns = comparison.costs.set_index("features")["columns"]
    return pd.DataFrame({split: table[split] for split in SPLITS}).assign(columns=columns.reindex(table.index))


def choose(means: pd.Series, columns: pd.Series) -> str:
    """The rule of docs/variants.md: of the candidates within the margin of the best, the one with fewest columns."""
    candidates = means[list(CANDIDATES)]
    near = candidates[candidates >= candidates.max() - MARGIN]
    return str(columns[near.index].idxmin())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="skesm-mini")
    parser.add_argument("--gfp", type=Path, help="TAPE's fluorescence file; by default the 300 bundled rows")
    parser.add_argument("--blat", type=Path)
    parser.add_argument("--blat-reference", type=Path)
    parser.add_argument("--rows", type=int, default=600, help="most rows of a library, drawn with seed 0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the folds")
    parser.add_argument("--memory", type=Path, help="record store and finished fits; a temporary folder by default")
    parser.add_argument("--n-jobs", type=int, default=2)
    arguments = parser.parse_args()
    if (arguments.blat is None) != (arguments.blat_reference is None):
        parser.error("--blat and --blat-reference go together")
    warnings.simplefilter("ignore", DemoModelWarning)
    with tempfile.TemporaryDirectory() as folder:
        memory = arguments.memory or Path(folder)
        tables = {each.name: measure(each, arguments, memory) for each in libraries(arguments)}
    means = pd.concat([table[split] for table in tables.values() for split in SPLITS], axis=1).mean(axis=1)
    chosen = choose(means, next(iter(tables.values()))["columns"])
    print(f"\nmodel {arguments.model}, folds of seeds {arguments.seeds}, ridge\n")
    print(f"| features | {' | '.join(tables)} | mean |\n|---|{'---|' * (len(tables) + 1)}")
    for name in means.index:
        cells = (" \\| ".join(f"{table.loc[name, split]:.2f}" for split in SPLITS) for table in tables.values())
        shown = f"**{name}**" if name == chosen else name
        print(f"| {shown} | {' | '.join(cells)} | {means[name]:.3f} |")
    print(f"\nchosen by the rule: {chosen}")


if __name__ == "__main__":
    main()
