"""``skesm demo``: features of ESM-2 beside baselines, on bundled data or on a user's own file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skesm._messages import first_and_more
from skesm._optional import import_optional
from skesm.cli.arguments import at_least_two, positive
from skesm.exceptions import InvalidSequenceError

if TYPE_CHECKING:
    from skesm.benchmark import Comparison

_DEMO_EXTRAS = ("xgboost", "matplotlib")
_GB1_GROUPS = "position"
_DEFAULT_SEQUENCE_COLUMN, _DEFAULT_TARGET_COLUMN = "seq", "label"  # as in TAPE's files


_DATA_HELP = (
    "table with a header line: separated by commas, semicolons or tabs, or the first sheet of an .xlsx file; or FASTA "
    "with fields such as label=1.5 in its headers. May be compressed with gzip"
)


def add_demo(commands: Any) -> None:
    """Add the command ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="compare ESM-2 features with baselines on measured data",
        description="Cross-validate XGBoost and ridge regression on ESM-2 features and on baselines that know nothing "
        "of proteins. Without --data: the stability of 813 single mutants of protein G's B1 domain.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="FILE", help=_DATA_HELP)
    data.add_argument("--sequence-column", metavar="NAME", help=f"in --data (default: {_DEFAULT_SEQUENCE_COLUMN})")
    data.add_argument("--target-column", metavar="NAME", help=f"in --data (default: {_DEFAULT_TARGET_COLUMN})")
    data.add_argument(
        "--reference",
        metavar="SEQUENCE",
        help="wild type of a library of substitutions in --data: adds features of the mutated positions",
    )
    data.add_argument(
        "--group-column",
        metavar="NAME",
        help=f"rows of one value stay in one fold; without --data only {_GB1_GROUPS!r}, to test on unseen positions",
    )
    data.add_argument("--rows", type=positive, metavar="N", help="random subset, drawn with --seed")
    data.add_argument(
        "--drop-invalid",
        action="store_true",
        help="leave out rows of --data without a target or with a bad sequence, and list their lines",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default="skesm-mini",
        help="registry name, Hub repository id or checkpoint folder (default: %(default)s)",
    )
    model.add_argument(
        "--backend",
        default="local",
        choices=("local", "numpy", "torch", "biolm"),
        help="where it runs (default: %(default)s)",
    )
    model.add_argument(
        "--memory",
        type=Path,
        metavar="FOLDER",
        help="record store: each sequence goes through the model once, ever (default: store in --output)",
    )
    runs = parser.add_argument_group("comparison")
    runs.add_argument(
        "--folds",
        type=at_least_two,
        default=5,
        metavar="K",
        help="folds of the cross-validation (default: %(default)s)",
    )
    runs.add_argument("--seed", type=int, default=0, help="seed of folds, subset and XGBoost (default: %(default)s)")
    runs.add_argument(
        "--n-jobs",
        type=int,
        default=-1,
        metavar="N",
        help="threads that fit folds; changes no number (default: one per CPU)",
    )
    runs.add_argument(
        "--output",
        type=Path,
        default=Path("skesm-demo"),
        metavar="FOLDER",
        help="for the results (default: %(default)s)",
    )
    runs.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_demo, usage_error=parser.error)


@dataclass(frozen=True)
class _Data:
    """What a demo compares on. `places` tells a user where each row is in the source."""

    title: str
    target: str
    sequences: list[str]
    y: NDArray[np.float64]
    groups: NDArray[Any] | None
    row_numbers: NDArray[np.intp]
    places: str
    reference: str | None
    dropped: Mapping[int, str] = field(default_factory=dict)

    def subset(self, n_rows: int, seed: int) -> _Data:
        """Random rows, in their original order."""
        if n_rows > len(self.sequences):
            raise ValueError(f"--rows {n_rows}: the data have only {len(self.sequences)} rows")
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.sequences), size=n_rows, replace=False))
        return replace(
            self,
            sequences=[self.sequences[i] for i in chosen],
            y=self.y[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            row_numbers=self.row_numbers[chosen],
        )


def _demo(args: argparse.Namespace) -> None:
    if args.data is None and (args.sequence_column or args.target_column or args.reference or args.drop_invalid):
        args.usage_error("--sequence-column, --target-column, --reference and --drop-invalid need --data")
    if args.data is None and args.group_column not in (None, _GB1_GROUPS):
        args.usage_error(f"without --data, --group-column can only be {_GB1_GROUPS!r}")
    # Before the expensive part: all that can be known to fail.
    for module in _DEMO_EXTRAS:
        import_optional(module, "demo")
    data = _read_users_data(args) if args.data else _load_gb1(args)
    if args.rows is not None:
        data = data.subset(args.rows, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    from skesm.benchmark import baseline_features, compare, default_regressors, esm2_features
    from skesm.io import count_problems

    print(f"{data.title}: {len(data.sequences)} sequences, target {data.target}")
    if data.dropped:
        print(f"left out {len(data.dropped)} rows: {count_problems(data.dropped)}")
    print(f"model {args.model}, {args.folds} folds, seed {args.seed}")
    baselines, notes = baseline_features(data.sequences)
    memory = args.memory or args.output / "store"
    reference = data.reference
    others = sum(len(sequence.strip()) != len(reference.strip()) for sequence in data.sequences) if reference else 0
    if others:
        notes.append(
            f"mutated: left out, since {others} of {len(data.sequences)} sequences do not have the reference's length"
        )
        reference = None
    protein_features = esm2_features(
        args.model, reference=reference, backend=args.backend, memory=memory, verbose=not args.quiet
    )
    features = {**protein_features, **baselines}
    computing = {name: feature for name, feature in protein_features.items() if not isinstance(feature, tuple)}
    regressors = default_regressors(args.seed)
    try:
        comparison = compare(
            data.sequences,
            data.y,
            features,
            regressors,
            cv=args.folds,
            groups=data.groups,
            random_state=args.seed,
            n_jobs=args.n_jobs,
            verbose=not args.quiet,
        )
    except InvalidSequenceError as error:
        raise InvalidSequenceError(_with_places(error, data), error.rows) from error

    print()
    print(comparison.to_text())
    print()
    print("Mean ± standard deviation over folds; seconds to fit and predict, all folds.")
    computed = sum(feature.cache_info().computed for feature in computing.values())
    seconds = sum({row.features: row.feature_seconds for row in comparison.rows if row.features in computing}.values())
    print(f"{computed} forward passes for {len(set(data.sequences))} sequences; features took {seconds:.1f} s.")
    for note in notes:
        print(f"Note: {note}")
    manifest = _demo_manifest(args, data, features, regressors)
    for path in _write_demo(args.output, data, comparison, manifest):
        print(f"wrote {path}")


def _load_gb1(args: argparse.Namespace) -> _Data:
    from skesm.datasets import load_gb1_stability

    gb1 = load_gb1_stability()
    return _Data(
        title="GB1 stability (Nisthal et al. 2019)",
        target="ΔΔG (kcal/mol)",
        sequences=list(gb1.data),
        y=gb1.target,
        groups=gb1.positions if args.group_column else None,
        row_numbers=np.arange(len(gb1.data)),
        places="rows",
        reference=gb1.wild_type,
    )


def _read_users_data(args: argparse.Namespace) -> _Data:
    from skesm import ESM2Embedder
    from skesm.io import read_table

    target = args.target_column or _DEFAULT_TARGET_COLUMN
    table = read_table(
        args.data,
        args.sequence_column or _DEFAULT_SEQUENCE_COLUMN,
        target,
        group_column=args.group_column,
        max_length=ESM2Embedder().max_length,
        invalid="drop" if args.drop_invalid else "raise",
    )
    assert table.y is not None  # a target was asked for
    return _Data(
        title=args.data.name,
        target=target,
        sequences=table.sequences,
        y=table.y,
        groups=None if table.groups is None else np.array(table.groups),
        row_numbers=table.lines,
        places=f"lines of {args.data}",
        reference=args.reference,
        dropped=table.dropped,
    )


def _with_places(error: InvalidSequenceError, data: _Data) -> str:
    """The error with the places in the source: rows are counted in the subset, after the header, from 0."""
    places = first_and_more((data.row_numbers[row] for row in error.rows), ", ", last=" ")
    return f"{error} ({data.places}: {places})" if places else str(error)


def _demo_manifest(args: argparse.Namespace, data: _Data, features: Any, regressors: Any) -> dict[str, Any]:
    from skesm.backends import resolve_backend
    from skesm.benchmark import make_manifest

    namespace = resolve_backend(args.backend).namespace(args.model)
    model = {"name": args.model, "fingerprint": namespace.fingerprint, "numerics": namespace.numerics}
    parameters = {
        "data": str(args.data) if args.data else data.title,
        "sequence_column": args.sequence_column or (_DEFAULT_SEQUENCE_COLUMN if args.data else None),
        "target_column": args.target_column or (_DEFAULT_TARGET_COLUMN if args.data else None),
        "group_column": args.group_column,
        "rows": args.rows,
        "folds": args.folds,
        "dropped_lines": sorted(data.dropped),
        "seed": args.seed,
        "backend": args.backend,
    }
    return make_manifest(
        data.sequences, data.y, features=features, regressors=regressors, parameters=parameters, model=model
    )


def _write_demo(output: Path, data: _Data, comparison: Comparison, manifest: dict[str, Any]) -> list[Path]:
    from skesm.benchmark import plot_predictions

    table, predictions, plot, document = (
        output / name for name in ("table.csv", "predictions.csv", "predictions.png", "manifest.json")
    )
    comparison.to_csv(table)
    comparison.predictions_to_csv(predictions, data.row_numbers)
    figure = plot_predictions(comparison, target=data.target, title=data.title)
    figure.savefig(plot, metadata={"Software": None})  # no version of matplotlib: the same bytes on every run
    document.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + os.linesep, encoding="utf-8")
    return [table, predictions, plot, document]
