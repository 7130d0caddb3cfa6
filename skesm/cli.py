"""The command line: ``skesm demo``, ``models``, ``cache`` and ``serve``. The only module that prints.

A command is a function that adds its parser to the others and sets ``run`` to the function that does the work; it
stands in `_COMMANDS`. ``run`` returns nothing: what goes wrong is raised.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skesm import __version__
from skesm._messages import first_and_more
from skesm._optional import import_optional
from skesm.exceptions import InvalidSequenceError, SkesmError, StoreError

if TYPE_CHECKING:
    from skesm.benchmark import Comparison

_DEMO_EXTRAS = ("xgboost", "matplotlib")
_GB1_GROUPS = "position"
_BYTES_PUBLISHED = 4  # a weight: the published checkpoints are float32
_DEFAULT_SEQUENCE_COLUMN, _DEFAULT_TARGET_COLUMN = "seq", "label"  # as in TAPE's files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    status : int
        0, or 1 after an error of which one line was written to stderr. Wrong usage ends the process with status 2.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warning_printer()  # put back by catch_warnings
            args.run(args)
    except (SkesmError, ValueError, OSError) as error:
        if args.traceback:
            raise
        print(f"skesm: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skesm: interrupted", file=sys.stderr)
        return 130
    return 0


def _warning_printer() -> Callable[..., None]:
    """Shows a warning as one line for people, without the place in the code, and the same one once."""
    shown = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        line = _one_line(message)
        if line not in shown:
            shown.add(line)
            print(f"skesm: warning: {line}", file=sys.stderr)

    return show


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skesm", description="ESM-2 features of proteins for scikit-learn.")
    parser.add_argument("--version", action="version", version=f"skesm {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    return parser


# demo -----------------------------------------------------------------------------------------------------------------


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="compare ESM-2 features with baselines on measured data",
        description="Cross-validate XGBoost and ridge regression on ESM-2 features and on baselines that know nothing "
        "of proteins. Without --data: the stability of 813 single mutants of protein G's B1 domain.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="FILE", help="CSV (or .tsv) file with a header line")
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
    data.add_argument("--rows", type=_positive, metavar="N", help="random subset, drawn with --seed")
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
        type=_at_least_two,
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
    if args.data is None and (args.sequence_column or args.target_column or args.reference):
        args.usage_error("--sequence-column, --target-column and --reference need --data")
    if args.data is None and args.group_column not in (None, _GB1_GROUPS):
        args.usage_error(f"without --data, --group-column can only be {_GB1_GROUPS!r}")
    # Before the expensive part: all that can be known to fail.
    for module in _DEMO_EXTRAS:
        import_optional(module, "demo")
    data = _read_csv_data(args) if args.data else _load_gb1(args)
    if args.rows is not None:
        data = data.subset(args.rows, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    from skesm.benchmark import baseline_features, compare, default_regressors, esm2_features

    print(f"{data.title}: {len(data.sequences)} sequences, target {data.target}")
    print(f"model {args.model}, {args.folds} folds, seed {args.seed}")
    baselines, notes = baseline_features(data.sequences)
    memory = args.memory or args.output / "store"
    reference = data.reference
    others = sum(len(sequence.strip()) != len(reference.strip()) for sequence in data.sequences) if reference else 0
    if others:
        notes.append(
            f"mutated: left out, since {others} of {len(data.sequences)} sequences have not the reference's length"
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


def _read_csv_data(args: argparse.Namespace) -> _Data:
    from skesm.benchmark import read_table

    target = args.target_column or _DEFAULT_TARGET_COLUMN
    table = read_table(args.data, args.sequence_column or _DEFAULT_SEQUENCE_COLUMN, target, args.group_column)
    groups = None if table.groups is None else np.array(table.groups)
    return _Data(
        args.data.name, target, table.sequences, table.y, groups, table.lines, f"lines of {args.data}", args.reference
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


# models ---------------------------------------------------------------------------------------------------------------


def _add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the checkpoints known by name")
    parser.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> None:
    from skesm.esm2.spec import REGISTRY

    print(f"{'name':<20}{'layers':>8}{'width':>7}{'parameters':>12}{'on disk':>9}  weights")
    for spec in sorted(REGISTRY.values(), key=lambda spec: spec.n_parameters):
        if spec.repository is None:
            file = resources.files("skesm.esm2") / "weights" / spec.name / "model.safetensors"
            with resources.as_file(file) as path:
                n_bytes = path.stat().st_size
            source = "bundled, for trying and teaching"
        else:
            n_bytes = spec.n_parameters * _BYTES_PUBLISHED
            source = f"Hub: {spec.repository}"
        parameters = f"{spec.n_parameters / 1e6:,.1f} M"
        print(f"{spec.name:<20}{spec.n_layers:>8}{spec.width:>7}{parameters:>12}{_size(n_bytes):>9}  {source}")


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


# cache ----------------------------------------------------------------------------------------------------------------


def _add_cache(commands: Any) -> None:
    parser = commands.add_parser("cache", help="look after a record store, the folder that is given as memory")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], help_text: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=help_text, description=help_text)
        action.add_argument("path", type=Path, metavar="PATH", help="the folder given as memory")
        action.set_defaults(run=run)
        return action

    add("info", _cache_info, "what is stored, by model")
    add("verify", _cache_verify, "compare every value with its checksum; exit status 1 if one is damaged")
    prune = add("prune", _cache_prune, "remove everything that is stored for a model")
    prune.add_argument("--model", required=True, help="a name or fingerprint that `skesm cache info` shows")
    export = add("export", _cache_export, "write what is stored for a model to a .npz or .parquet file")
    export.add_argument("file", type=Path, metavar="FILE", help="the file to write; its ending says which kind")
    export.add_argument("--model", help="a name or fingerprint; needed if the store holds several")


def _cache_info(args: argparse.Namespace) -> None:
    from skesm.cache import info

    found = info(args.path)
    if not found:
        print(f"{args.path} holds no records")
    for each in found:
        print(f"{', '.join(each.models)}  {each.numerics}  fingerprint {each.fingerprint}")
        print(f"  {each.sequences:,} sequences, {_size(each.disk_bytes)} on disk, since {each.created}")
        for output, count in sorted(each.outputs.items()):
            print(f"  {output:<16}{count:>10,}")
        if each.problem:
            print(f"  cannot be read: {each.problem}")


def _cache_verify(args: argparse.Namespace) -> None:
    from skesm.cache import verify

    reports = verify(args.path)
    for report in reports:
        state = "sound" if report.sound else f"{report.damaged:,} damaged"
        print(f"{', '.join(report.models)}: {report.records:,} values checked, {report.problem or state}")
    damaged = [report for report in reports if not report.sound]
    if damaged:
        raise StoreError(f"{len(damaged)} of {len(reports)} models have damaged records; they will be computed again")


def _cache_prune(args: argparse.Namespace) -> None:
    from skesm.cache import prune

    report = prune(args.path, model=args.model)
    print(f"removed {args.model}: {_size(report.freed_bytes)} freed")


def _cache_export(args: argparse.Namespace) -> None:
    from skesm.cache import export

    print(f"wrote {export(args.path, args.file, model=args.model):,} values to {args.file}")


# serve ----------------------------------------------------------------------------------------------------------------


def _add_serve(commands: Any) -> None:
    from skesm.server import add_serve_parser

    add_serve_parser(commands, lambda text: print(text, flush=True))


# ----------------------------------------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _at_least_two(text: str) -> int:
    return _whole_number(text, 2)


def _whole_number(text: str, lowest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} up, not {text!r}")
    return number


_COMMANDS = (_add_demo, _add_models, _add_cache, _add_serve)
