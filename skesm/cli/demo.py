"""``skesm demo`` and ``skesm benchmark``: features of ESM-2 beside baselines, on bundled data or a user's own file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from skesm._messages import plural
from skesm._typing import Options
from skesm.backends.resolve import BACKENDS
from skesm.cli.arguments import at_least_two, name_columns, positive, reference_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from skesm.benchmark import Run, RunConfig
    from skesm.cli.arguments import Commands

_DATA_HELP = (
    "table with a header line: separated by commas, semicolons or tabs, or the first sheet of an .xlsx file, or FASTA "
    "with fields such as label=1.5 in its headers. May be compressed with gzip"
)
#: Options of both commands that are settings of a run, and not set by default.
_SETTINGS = (
    *("data", "sequence_column", "mutation_column", "target_column", "offset", "group_column", "reference"),
    *("drop_invalid", "rows", "model", "backend", "features", "heads", "splits", "folds", "seeds"),
    "higher_is_better",
    *("threshold", "permutations", "learning_curve", "layer_profile"),
)

_NAMES: Options = {"type": lambda text: tuple(text.split(",")), "metavar": "A,B"}
#: Finished fits, and the record store, in a run's folder.
_FITS, _STORE = "fits", "store"


def add_demo(commands: Commands) -> None:
    """Add the command ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="compare ESM-2 features with baselines on measured data",
        description="Cross-validate ridge regression and XGBoost on ESM-2 features and on baselines that know nothing "
        "of proteins. Without --data: the stability of 813 single mutants of protein G's B1 domain.",
    )
    _add_data(parser)
    _add_model(parser)
    runs = parser.add_argument_group("comparison")
    _add_runs(runs, "skesm-demo")
    runs.add_argument("--seed", type=int, dest="seed", help="seed of folds, subset and XGBoost (default: 0)")
    parser.set_defaults(run=_demo, usage_error=parser.error)


def add_benchmark(commands: Commands) -> None:
    """Add the command ``benchmark``."""
    parser = commands.add_parser(
        "benchmark",
        help="compare features, heads and splits on your data, and write a report that can be replayed",
        description="Compare features and regressors on the same folds of several splits, and write a folder with a "
        "report, tables, figures and a manifest.",
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings. Options override them")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="MANIFEST",
        help="repeat a run and compare its scores bit by bit. --data says where the data are now",
    )
    _add_data(parser)
    _add_model(parser)
    runs = parser.add_argument_group("comparison")
    runs.add_argument("--splits", help="names such as random,unseen positions. An unknown name lists all", **_NAMES)
    runs.add_argument(
        "--seeds",
        type=_numbers,
        metavar="0,1",
        help="each seed makes other folds (default: 0)",
    )
    runs.add_argument(
        "--lower-is-better", dest="higher_is_better", action="store_const", const=False, help="low values are wanted"
    )
    runs.add_argument(
        "--threshold", type=float, metavar="VALUE", help="with classifiers as heads: rows above it are positive"
    )
    runs.add_argument(
        "--permutations", type=positive, metavar="N", help="test every row against N shuffled targets (slow)"
    )
    runs.add_argument(
        "--learning-curve", type=_numbers, metavar="8,24", help="score against so many training rows, first head"
    )
    runs.add_argument(
        "--layer-profile", help="score of every layer for poolings such as mean,mutated, first head", **_NAMES
    )
    _add_runs(runs, "skesm-benchmark")
    parser.set_defaults(run=_benchmark, usage_error=parser.error, seed=None)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


_numbers.__name__ = "list of whole numbers"  # argparse names it in its errors


def _reference(text: str) -> str | None:
    """The given letters, or the only sequence of a file."""
    try:
        return reference_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", metavar="FILE", help=_DATA_HELP)
    data.add_argument(
        "--sequence-column", metavar="NAME", help="of sequences in --data (default: a well-known name, such as seq)"
    )
    data.add_argument(
        "--mutations-column",
        metavar="NAME",
        help="of mutations of --reference, such as A23V:K40R (default: a well-known name, such as mutant, in a table "
        "without sequences)",
    )
    data.add_argument(
        "--target-column",
        metavar="NAME",
        help="of measured values in --data (default: a well-known name, such as label or fitness)",
    )
    data.add_argument("--offset", type=int, metavar="N", help="position of the reference's first residue (default: 1)")
    data.add_argument(
        "--reference",
        metavar="SEQUENCE|FILE",
        type=_reference,
        help="wild type of a library of substitutions in --data, or a FASTA file that holds it: adds features of the "
        "mutated positions, and tests on unseen positions",
    )
    data.add_argument(
        "--group-column",
        metavar="NAME",
        help="rows of one value stay in one fold. Without --data only 'position'",
    )
    data.add_argument("--rows", type=positive, metavar="N", help="random subset, drawn with the first seed")
    data.add_argument(
        "--drop-invalid",
        action="store_const",
        const=True,
        help="leave out rows of --data without a target, with a bad sequence, or of another length than --reference",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--model", help="registry name, Hub repository id or checkpoint folder (default: skesm-mini)")
    model.add_argument("--backend", choices=tuple(BACKENDS), help="where it runs (default: local)")
    model.add_argument(
        "--memory",
        type=Path,
        metavar="FOLDER",
        help="record store: each sequence goes through the model once, ever (default: store in --output)",
    )


def _add_runs(runs: argparse._ActionsContainer, output: str) -> None:
    runs.add_argument("--features", help="names, and sums such as mutated+one-hot. An unknown name lists all", **_NAMES)
    runs.add_argument("--heads", help="names such as ridge,svr. An unknown name lists all", **_NAMES)
    runs.add_argument("--folds", type=at_least_two, metavar="K", help="folds of the cross-validation (default: 5)")
    runs.add_argument(
        "--n-jobs",
        "--jobs",
        type=int,
        default=-1,
        metavar="N",
        help="threads that fit. Changes no number (default: one per CPU)",
    )
    replayed = ", or the folder of the replayed run with -replay behind it" if output == "skesm-benchmark" else ""
    runs.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"for the results (default: {output}{replayed}). A run that was interrupted continues there",
    )
    runs.set_defaults(folder=Path(output))
    runs.add_argument("--quiet", action="store_true", help="no progress bar")


def _demo(args: argparse.Namespace) -> None:
    from skesm.benchmark import RunConfig

    of_file = ("sequence_column", "mutations_column", "target_column", "offset", "reference", "drop_invalid")
    if args.data is None and any(getattr(args, name) is not None for name in of_file):
        args.usage_error("options of columns, --offset, --reference and --drop-invalid need --data")
    if args.data is None and args.group_column not in (None, "position"):
        args.usage_error("without --data, --group-column can only be 'position'")
    settings = _settings(args)
    if args.group_column:
        settings["splits"] = ("random", "groups")
    if args.seed is not None:
        settings["seeds"] = (args.seed,)
    _run(args, RunConfig(**settings))


def _benchmark(args: argparse.Namespace) -> None:
    from skesm.benchmark import RunConfig

    settings = _settings(args)
    if args.replay is not None:
        if set(settings) - {"data"} or args.config:
            args.usage_error(
                "--replay takes its settings from the manifest. Give only --data, --memory, --output and --n-jobs"
            )
        _replay(args)
        return
    from_file = RunConfig.from_toml(args.config).as_dict() if args.config else {}
    if "heads" in settings:
        from_file.pop("scores", None)  # those of the file's heads
    _run(args, RunConfig.from_mapping({**from_file, **settings}, "settings"))


def _replay(args: argparse.Namespace) -> None:
    from skesm.benchmark import replay

    before = args.replay if args.replay.is_dir() else args.replay.parent
    output: Path = args.output or before.resolve().with_name(f"{before.resolve().name}-replay")
    if output.resolve() == before.resolve():
        args.usage_error("--output is the folder of the run that is replayed: choose another one")
    memory = args.memory or output / _STORE
    found = replay(
        args.replay, data=args.data, memory=memory, n_jobs=args.n_jobs, verbose=False if args.quiet else "auto"
    )
    print(found.to_text())
    _write(output, found.run)


def _settings(args: argparse.Namespace) -> Options:
    """Options that were given."""
    given = {**vars(args), "mutation_column": args.mutations_column}
    return {name: given[name] for name in _SETTINGS if given.get(name) is not None}


def _run(args: argparse.Namespace, config: RunConfig) -> None:
    from skesm.benchmark.runs.data import load_data
    from skesm.benchmark.runs.run import check_extras, run_benchmark
    from skesm.io import count_problems

    check_extras(config)  # before the expensive part: all that can be known to fail
    data = load_data(config)
    output: Path = args.output or args.folder
    output.mkdir(parents=True, exist_ok=True)
    print(f"{data.title}: {plural(len(data.sequences), 'sequence')}, target {data.target}")
    if data.columns:
        print(name_columns(data.columns))
    if data.dropped:
        print(f"left out {plural(len(data.dropped), 'row')}: {count_problems(data.dropped)}")
    print(f"model {config.model}, {config.folds} folds, seed {', '.join(map(str, config.seeds))}")
    run = run_benchmark(
        config,
        memory=args.memory or output / _STORE,
        resume=output / _FITS,
        n_jobs=args.n_jobs,
        verbose=False if args.quiet else "auto",
        data=data,
    )
    print(f"\n{run.comparison.to_text()}\n")
    print(
        f"Mean {config.main_score} over folds [95 % interval, bootstrap over rows]. * is within noise of the best of "
        "its column."
    )
    seconds = run.comparison.costs.drop_duplicates("features")["feature_seconds"].sum()
    passes = plural(run.manifest["run"]["forward_passes"], "forward pass", "forward passes")
    distinct = plural(run.manifest["data"]["distinct_sequences"], "distinct sequence")
    print(f"{passes} for {distinct}. Features took {seconds:.1f} s.")
    if run.comparison.fits_found:
        print(f"{plural(run.comparison.fits_found, 'fit')} found in {output / _FITS}, finished by an earlier run.")
    if run.profile is not None:
        print(_describe_layers(run.profile))
    for note in run.notes:
        print(f"Note: {note}")
    for kind, name, reason in run.not_done:
        if kind != "analysis" or "not asked for" not in reason:
            print(f"Not done: {kind} {name!r}: {reason}")
    for warning in run.comparison.warnings:
        print(f"Leakage: {warning}")
    _write(output, run)


def _describe_layers(profile: DataFrame) -> str:
    """The best layer and pooling, and how much that says."""
    best = profile.loc[profile["mean"].idxmax()]
    alike = int(profile["within_noise"].sum())
    others = "No other is" if alike == 1 else f"{alike} of {len(profile)} layers and poolings are"
    return f"Best layer: {best.layer}, pooled by {best.pooling} ({best['mean']:.2f}). {others} within noise of it."


def _write(output: Path, run: Run) -> None:
    for path in run.write(output):
        print(f"wrote {path}")
