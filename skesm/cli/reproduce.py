"""``skesm reproduce``: a published figure again, beside the published one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from skesm.cli.arguments import HelpFormatter, add_model, examples

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands

_TEXT = """
Fetch an assay of ProteinGym, score its variants by masked marginals without training, and put the rank correlation
beside the published one, with the digests of data and weights. ASSAY is a name such as BLAT_ECOLX_Stiffler_2015, or
biolm-tutorial. Without ASSAY, the published figures that are known here are listed.
"""


def add_reproduce(commands: Commands) -> None:
    """Add the command ``reproduce``."""
    parser = commands.add_parser(
        "reproduce",
        help="compute a published figure again, and show both",
        description=f"Compute a published figure again.\n{_TEXT}",
        epilog=examples(
            "reproduce",
            "reproduce BLAT_ECOLX_Stiffler_2015 --model esm2-8m,esm2-35m --memory cache",
            "reproduce MY_ASSAY --folder my_assays --model skesm-mini --output figures.json",
        ),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("assay", nargs="?", metavar="ASSAY", help="name of the assay")
    data = parser.add_argument_group("data")
    data.add_argument("--folder", metavar="FOLDER", help="assays of your own in ProteinGym's form. Nothing is fetched")
    data.add_argument("--data-home", metavar="FOLDER", help="of fetched files (default: $SKESM_DATA or ~/skesm_data)")
    data.add_argument("--offline", action="store_true", help="use no network for data. A missing file is an error")
    add_model(
        parser,
        memory="record store: an interrupted run goes on where it was",
        type=lambda text: text.split(","),
        default=["esm2_t6_8M_UR50D"],
        metavar="A,B",
        help="names that `skesm models` lists, or folders (default: esm2_t6_8M_UR50D)",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the result (default: ASSAY.json)")
    run.add_argument("--quiet", action="store_true", help="show no progress, print no report")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_reproduce)


def _reproduce(args: argparse.Namespace) -> None:
    from skesm.reproduce import reproduce

    if args.assay is None:
        _list(args.json)
        return
    results = []
    for model in args.model:
        result = reproduce(
            args.assay,
            model=model,
            folder=args.folder,
            data_home=args.data_home,
            download_if_missing=not args.offline,
            backend=args.backend,
            memory=args.memory,
            n_jobs=args.jobs,
            verbose=False if args.quiet else "auto",
        )
        results.append(result.as_dict())
        if not (args.quiet or args.json):
            print(result.to_text())
    output: Path = args.output or Path(f"{args.assay}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(results))
    elif not args.quiet:
        print(f"wrote {output}")


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from skesm.reproduce import PUBLISHED

    if as_json:
        print(json.dumps([asdict(row) for row in PUBLISHED]))
        return
    print(f"{'assay':<28}{'model':<22}{'metric':<10}{'published':>16}")
    for row in PUBLISHED:
        figure = f"{row.value:g}" + ("" if row.spread is None else f" ± {row.spread:g}")
        print(f"{row.assay:<28}{row.model:<22}{row.metric:<10}{figure:>16}")
    print("Other assays and sizes of ProteinGym: their figures are fetched.")
