"""``skesm embed``, ``logits`` and ``score``: files of sequences to files of features."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from skesm._messages import plural
from skesm._typing import Options
from skesm.backends.local import NUMERICS
from skesm.cli.arguments import HelpFormatter, add_model, examples, positive, reference_of, size
from skesm.features.variant_scorer import STRATEGIES
from skesm.outputs.kinds import ALL_POOLINGS

if TYPE_CHECKING:
    from skesm.backends import Backend
    from skesm.cli.arguments import Commands
    from skesm.io.jobs.reports import FilePlan, FileReport
    from skesm.io.jobs.work import Work

_LONG, _LONG_VARIANTS = ("error", "truncate", "window"), ("error", "window", "optimal")

_FORMATS = """
INPUT is a FASTA file, a table (.csv, .tsv, .xlsx, .parquet), or text with a sequence on each line. Text may be
compressed with gzip, and '-' is the standard input. The id of a row is the first word of its FASTA header, the id
column of a table, or else the number of its line.

The ending of OUTPUT says the format: .csv, .csv.gz, .npz, .npy (ids in OUTPUT.ids.txt), .parquet or .h5. The last two
need the extras parquet and h5. Rows have the order of the input. The file gets its name when it is complete. Beside
it, OUTPUT.json tells where the features come from, and OUTPUT.missing.tsv names the rows that are missing, if there are
any.

An interrupted run goes on where it was if you give the same command again. With --memory, no sequence is ever computed
twice, in whichever file it is.

The exit status is 0 if all rows of the input are in the output, but for those that --drop-invalid leaves out. It is 1
if the backend failed on a row, or after an error.
"""


def add_embed(commands: Commands) -> None:
    """Add the command ``embed``."""
    parser = _add(
        commands,
        "embed",
        "write the features of the sequences in a file to a file",
        "embed proteins.fasta features.csv",
        "embed proteins.fasta features.npz --model esm2-650m --layers 20,33 --pooling mean,max --memory cache",
        "embed variants.csv features.csv --sequence-column seq --id-column name --drop-invalid",
        "embed proteins.fasta residues.h5 --residues",
        "embed proteins.fasta features.csv --plan --rate 5000",
        "embed proteins.fasta folder/ --shard 3/10 --memory cache-3",
    )
    parser.set_defaults(make=_make_embedder)
    features = parser.add_argument_group("features")
    features.add_argument("--layers", type=_numbers, default=(-1,), help="layers, such as -1 (default) or 20,33")
    poolings = f"mean (default), {', '.join(name for name in ALL_POOLINGS if name != 'mean')}"
    features.add_argument("--pooling", type=_names, default=("mean",), help=poolings)
    features.add_argument("--residues", action="store_true", help="a row for each residue, without pooling")
    _add_reference(features, "the sequence that --pooling mutated compares with, or a FASTA file that holds it")


def add_logits(commands: Commands) -> None:
    """Add the command ``logits``."""
    parser = _add(
        commands,
        "logits",
        "write statistics of the model's predictions for the sequences in a file",
        "logits proteins.fasta logits.csv",
        "logits proteins.fasta logits.csv --statistics log_likelihood,pseudo_perplexity",
    )
    parser.set_defaults(make=_make_summarizer, reference=None)
    parser.add_argument(
        "--statistics", type=_names, default=("mean", "sum"), help="statistics, separated by commas (default: mean,sum)"
    )


def add_score(commands: Commands) -> None:
    """Add the command ``score``."""
    parser = _add(
        commands,
        "score",
        "write zero-shot scores of variants against a reference",
        "score variants.fasta scores.csv --reference wild_type.fasta",
        "score library.csv scores.csv --reference wild_type.fasta --mutations-column mutant",
        long=_LONG_VARIANTS,
    )
    parser.set_defaults(make=_make_scorer)
    parser.add_argument("--strategy", choices=STRATEGIES, default="masked_marginal", help="default: masked_marginal")
    _add_reference(parser, "the sequence that variants are compared with, or a FASTA file that holds it", required=True)
    parser.add_argument(
        "--mutations", action="store_true", help="rows are mutations of the reference, such as A23V:K40R"
    )
    parser.add_argument("--mutations-column", metavar="NAME", help="the column of a table that holds mutations")
    parser.add_argument("--offset", type=int, default=1, help="position of the reference's first residue (default: 1)")


def _add(
    commands: Commands, name: str, text: str, *lines: str, long: tuple[str, ...] = _LONG
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.\n{_FORMATS}",
        epilog=examples(*lines),
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a file of sequences. Several are read in turn")
    parser.add_argument("output", metavar="OUTPUT", help="the file to write, or a folder for Parquet parts")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--sequence-column", metavar="NAME", help="column of a table (default: sequence, seq, …)")
    rows.add_argument("--id-column", metavar="NAME", help="column of a table (default: id, name, …, if there is one)")
    rows.add_argument("--drop-invalid", action="store_true", help="leave out rows that cannot be used, and list them")
    rows.add_argument("--shard", metavar="I/N", help="compute one of N parts. OUTPUT is a folder that all share")
    rows.add_argument("--wide", action="store_true", help="Parquet: a column for each feature")
    model = add_model(parser, jobs="CPU threads, or processes with --processes")
    model.add_argument("--device", help="for the model on this machine: cpu, cuda, cuda:1, mps")
    model.add_argument("--dtype", choices=tuple(NUMERICS), help="of matrix products (default: float32)")
    model.add_argument("--long-sequences", choices=long, default="error", help="how to treat those (default: error)")
    model.add_argument("--max-length", type=positive, default=1022, metavar="N", help="residues (default: 1022)")
    model.add_argument("--unknown-residues", choices=("error", "X"), default="error", help="X reads the letter J as X")
    model.add_argument("--processes", action="store_true", help="compute in several processes, not threads")
    output = parser.add_argument_group("run")
    output.add_argument("--plan", action="store_true", help="estimate the computation and the requests, and do nothing")
    output.add_argument("--rate", type=float, metavar="R", help="with --plan: residues a second, to tell the hours")
    output.add_argument("--quiet", action="store_true", help="show no progress, print no report")
    output.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _add_reference(parser: argparse._ActionsContainer, text: str, *, required: bool = False) -> None:
    parser.add_argument("--reference", metavar="SEQUENCE|FILE", required=required, help=text)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers separated by commas, not {text!r}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


# estimators -----------------------------------------------------------------------------------------------------------


def _shared(args: argparse.Namespace) -> Options:
    """Parameters of every estimator."""
    return {
        "model": args.model,
        "backend": _backend(args),
        "memory": args.memory,
        "long_sequences": args.long_sequences,
        "max_length": args.max_length,
        "unknown_residues": args.unknown_residues,
        "n_jobs": args.jobs,
        "verbose": False,
    }


def _backend(args: argparse.Namespace) -> str | Backend:
    from skesm.backends import LocalBackend, ParallelBackend

    backend: str | Backend = args.backend
    if args.device is not None or args.dtype is not None:
        if backend == "biolm":
            raise ValueError("--device and --dtype are for models on this machine, not for --backend biolm")
        engine = "auto" if backend == "local" else backend
        backend = LocalBackend(engine, args.device or "auto", args.dtype or "float32")
    return ParallelBackend(backend) if args.processes else backend


def _make_embedder(args: argparse.Namespace) -> Work:
    from skesm import ESM2Embedder
    from skesm.features.compute_outputs import OutputReader
    from skesm.io.jobs.work import Work

    shared = _shared(args)
    if not args.residues:
        reference = reference_of(args.reference)
        return Work(ESM2Embedder(layers=args.layers, pooling=args.pooling, reference=reference, **shared))
    outputs = [f"residues@{layer}" for layer in args.layers]
    reader = OutputReader(shared.pop("model"), window_overlap=None, on_error="raise", **shared)
    reader.outputs = outputs
    return Work(reader)


def _make_summarizer(args: argparse.Namespace) -> Work:
    from skesm import ESM2LogitSummarizer
    from skesm.io.jobs.work import Work

    return Work(ESM2LogitSummarizer(statistics=args.statistics, **_shared(args)))


def _make_scorer(args: argparse.Namespace) -> Work:
    from skesm import ESM2VariantScorer
    from skesm.io.jobs.work import Work

    shared = _shared(args)
    if args.mutations_column is not None:
        args.mutations, args.sequence_column = True, args.mutations_column
    reference = reference_of(args.reference)
    scorer = ESM2VariantScorer(strategy=args.strategy, reference=reference, **shared)
    return Work(scorer, mutations_of=reference if args.mutations else None, offset=args.offset)


# runs -----------------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from skesm.io import Shard, plan_file, transform_file, transform_folder

    work = args.make(args)
    columns = {"sequence_column": args.sequence_column, "id_column": args.id_column}
    shard = None if args.shard is None else Shard.parse(args.shard)
    if args.plan:
        plan = plan_file(work, args.inputs, shard=shard, rate=args.rate, **columns)
        print(json.dumps(asdict(plan)) if args.json else _describe_plan(plan, has_store=args.memory is not None))
        return 0
    options: Options = {**columns, "wide": args.wide, "verbose": False if args.quiet else "auto"}
    options["invalid"] = "drop" if args.drop_invalid else "raise"
    if shard is not None or _is_folder(args.output):
        reports = transform_folder(work, args.inputs, args.output, shard=shard, **options)
    else:
        reports = [transform_file(work, args.inputs, args.output, **options)]
    if args.json:
        print(json.dumps([asdict(report) for report in reports] if len(reports) > 1 else asdict(reports[0])))
    elif not args.quiet:
        for report in reports:
            print(_describe(report))
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        print(f"skesm: {note}", file=sys.stderr)
    for report in reports:
        for line in _describe_missing(report):
            print(f"skesm: {line}", file=sys.stderr)
    return int(any(report.failed for report in reports))


def _is_folder(output: str) -> bool:
    return output.endswith(("/", "\\")) or Path(output).is_dir()


def _describe(report: FileReport) -> str:
    rows = f"{plural(report.rows, 'row')} of {plural(report.columns, 'feature')} in {report.output}"
    if report.unchanged:
        return f"{rows}: complete already, nothing was computed"
    counts = [f"{plural(report.computed, 'sequence')} computed"]
    counts += [f"{report.hits:,} from the record store"] if report.hits else []
    counts += [f"{plural(report.resumed, 'row')} from an interrupted run"] if report.resumed else []
    rate = report.rows / report.seconds if report.seconds else 0.0
    return f"{rows}: {', '.join(counts)}, {report.seconds:.1f} s, {rate:,.0f} rows a second"


def _describe_missing(report: FileReport) -> list[str]:
    """Which rows are not in the output, and why."""
    lines = []
    if dropped := report.missing - report.failed:
        lines.append(f"{plural(dropped, 'row')} left out, as --drop-invalid asks: see {report.missing_file}")
    if report.failed:
        again = "give the same command again to try once more"
        lines.append(f"{plural(report.failed, 'row')} failed: see {report.missing_file}, and {again}")
    return lines


def _describe_plan(plan: FilePlan, *, has_store: bool) -> str:
    stored = f", {plan.stored:,} in the record store" if has_store else ""
    lines = [
        f"{plural(plan.rows, 'row')}, {plural(plan.residues, 'residue')}",
        f"{plural(plan.to_compute, 'distinct sequence')} to compute{stored}",
        "nothing would be sent" if plan.requests is None else f"{plural(plan.requests, 'request')} would be sent",
        f"{plural(plan.columns, 'feature')} of a row, {size(plan.output_bytes)} in all",
    ]
    if plan.unusable:
        lines.insert(1, f"{plural(plan.unusable, 'row')} cannot be used")
    if plan.hours is not None:
        rest = ", if all were to be computed" if plan.stored else ""
        lines.append(f"{plan.hours:,.2f} hours at this rate{rest}")
    return "\n".join([*lines, *plan.notes])
