"""``skesm propose``: the variants to make next, from a table of those that were measured."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skesm import __version__
from skesm._typing import Document, Estimator
from skesm.cli.arguments import HelpFormatter, add_model, examples, name_columns, positive, reference_of
from skesm.sequences.alphabet import ALPHABETICAL

if TYPE_CHECKING:
    from pandas import DataFrame

    from skesm.design import ProposalPlan

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands

_TEXT = """
MEASURED is a table (.csv, .tsv, .xlsx, .parquet) or FASTA file with mutations of the reference, or sequences, and a
measured value. The default pipeline for variants (skesm.variant_pipeline) is fitted on it, and predicts the candidates.
These are all single mutants of the reference, or with --combine combinations of the mutations in MEASURED. The best are
written to OUTPUT (.csv). Measured variants are not proposed again. OUTPUT.json has the settings, the seed and digests.
"""


_EXAMPLE = "plate_7.csv next.csv --reference wild_type.fasta"


def add_propose(commands: Commands) -> None:
    """Add the command ``propose``."""
    parser = commands.add_parser(
        "propose",
        help="choose the variants to make next, from those that were measured",
        description=f"Choose the variants to make next.\n{_TEXT}",
        epilog=examples(
            f"propose {_EXAMPLE} --mutations-column mutant --target-column activity",
            f"propose {_EXAMPLE} --target-column ddg --lower-is-better --combine 2,3 --number 48",
            f"propose {_EXAMPLE} --target-column activity --plan",
        ),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("measured", metavar="MEASURED", help="file of variants with measured values")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the table to write, .csv")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--reference", metavar="SEQUENCE|FILE", required=True, help="the wild type, or a FASTA file that holds it"
    )
    data.add_argument(
        "--target-column",
        metavar="NAME",
        help="column of measured values (default: a well-known name, such as label or fitness)",
    )
    data.add_argument(
        "--mutations-column",
        metavar="NAME",
        help="column of mutations, such as A23V:K40R (default: a well-known name, such as mutant, in a table without "
        "sequences)",
    )
    data.add_argument(
        "--sequence-column", metavar="NAME", help="column of sequences (default: a well-known name, such as seq)"
    )
    data.add_argument("--offset", type=int, default=1, help="position of the reference's first residue (default: 1)")
    data.add_argument("--drop-invalid", action="store_true", help="leave out rows that cannot be used")
    batch = parser.add_argument_group("batch")
    batch.add_argument("-n", "--number", type=positive, default=24, metavar="N", help="variants (default: 24)")
    batch.add_argument("--lower-is-better", action="store_true", help="low values are wanted")
    batch.add_argument("--positions", type=_numbers, metavar="P,P", help="positions to mutate (default: all)")
    batch.add_argument("--amino-acids", default=ALPHABETICAL, metavar="LETTERS", help="new amino acids")
    batch.add_argument("--combine", type=_numbers, metavar="K,K", help="combine K mutations of those in MEASURED")
    batch.add_argument(
        "--strategy", choices=("greedy", "ucb", "thompson"), default="greedy", help="how to rank (default: greedy)"
    )
    batch.add_argument("--beta", type=float, default=1.0, help="weight of the deviation with ucb (default: 1)")
    batch.add_argument(
        "--diversity", type=float, default=0.8, help="0 to 1: how far to spread over positions (default: 0.8)"
    )
    batch.add_argument("--seed", type=int, default=0, help="of thompson's draws (default: 0)")
    add_model(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--plan", action="store_true", help="estimate the computation and the requests, and do nothing")
    run.add_argument("--quiet", action="store_true", help="show no progress, print no report")
    run.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_propose)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers separated by commas, not {text!r}") from None


def _propose(args: argparse.Namespace) -> None:
    from skesm.datasets import load_variants
    from skesm.design import plan_proposal, propose
    from skesm.io._columns import ANY_TARGET

    reference = reference_of(args.reference)
    if reference is None:
        raise ValueError("give a --reference")
    measured = load_variants(
        args.measured,
        reference=reference,
        sequence_column=args.sequence_column,
        mutation_column=args.mutations_column,
        target_column=args.target_column or ANY_TARGET,
        offset=args.offset,
        invalid="drop" if args.drop_invalid else "raise",
    )
    pipeline = _pipeline(args, measured.wild_type)
    candidates = _candidates(args, measured)
    if args.plan:
        plan = plan_proposal(pipeline.fit(measured.data, measured.target), candidates)
        print(json.dumps(asdict(plan)) if args.json else _describe_plan(plan))
        return
    start = time.perf_counter()
    pipeline.fit(measured.data, measured.target)
    table = propose(
        pipeline,
        candidates,
        args.number,
        strategy=args.strategy,
        diversity=args.diversity,
        maximize=not args.lower_is_better,
        beta=args.beta,
        exclude=set(measured.data),
        random_state=args.seed,
        verbose=False if args.quiet else "auto",
    )
    _write(args.output, table)
    report = {
        "skesm": __version__,
        "output": str(args.output),
        "measured": len(measured.data),
        "left_out": len(measured.dropped),
        "columns": measured.taken,
        "candidates": len(candidates),
        "proposed": len(table["sequence"]),
        "strategy": args.strategy,
        "diversity": args.diversity,
        "maximize": not args.lower_is_better,
        "beta": args.beta,
        "seed": args.seed,
        "model": args.model,
        "backend": args.backend,
        "reference": _digest([measured.wild_type]),
        "data": _digest(f"{s}\t{y!r}" for s, y in zip(measured.data, measured.target.tolist(), strict=True)),
        "table": hashlib.sha256(args.output.read_bytes()).hexdigest(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    args.output.with_name(f"{args.output.name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(report))
    elif not args.quiet:
        _print(table, report)


def _pipeline(args: argparse.Namespace, reference: str) -> Estimator:
    from skesm import variant_pipeline

    pipeline = variant_pipeline(reference, model=args.model, backend=args.backend, memory=args.memory, n_jobs=args.jobs)
    if args.strategy != "greedy":
        from sklearn.linear_model import BayesianRidge

        pipeline.set_params(regressor=BayesianRidge())  # ridge regression that knows a deviation
    return pipeline


def _candidates(args: argparse.Namespace, measured: Any) -> Any:
    from skesm.design import combine_mutations, single_variants

    if args.combine is None:
        return single_variants(
            measured.wild_type, positions=args.positions, amino_acids=args.amino_acids, offset=args.offset
        )
    if measured.mutations is None:
        raise ValueError("--combine needs variants of the reference's length")
    letters, wanted = set(args.amino_acids.upper()), set(args.positions or ())
    single = [mutation for row in measured.mutations if row != "WT" for mutation in row.split(":")]
    chosen = [m for m in dict.fromkeys(single) if m[-1] in letters and (not wanted or int(m[1:-1]) in wanted)]
    return combine_mutations(measured.wild_type, chosen, sizes=args.combine, offset=args.offset)


def _write(path: Path, table: DataFrame) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*(table[column] for column in table), strict=True))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _print(table: DataFrame, report: Document) -> None:
    print(f"{'mutations':<24}{'predicted':>12}" + (f"{'deviation':>12}" if "deviation" in table else ""))
    for row, name in enumerate(table["mutations"]):
        deviation = f"{table['deviation'][row]:>12.3f}" if "deviation" in table else ""
        print(f"{name:<24}{table['predicted'][row]:>12.3f}{deviation}")
    print(name_columns(report["columns"]))
    print(
        f"{report['proposed']} of {report['candidates']:,} candidates in {report['output']}, chosen after "
        f"{report['measured']:,} measured variants, {report['seconds']:.1f} s"
    )


def _describe_plan(plan: ProposalPlan) -> str:
    sent = "nothing would be sent" if plan.requests is None else f"{plan.requests:,} requests would be sent"
    return (
        f"{plan.candidates:,} candidates, {plan.residues:,} residues\n"
        f"{plan.to_compute:,} sequences to compute, {plan.stored:,} in memory\n{sent}"
    )
