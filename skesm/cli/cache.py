"""``skesm cache``: the maintenance of a record store."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from skesm.cli.arguments import HelpFormatter, examples, size
from skesm.exceptions import StoreError

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands


def add_cache(commands: Commands) -> None:
    """Add the command ``cache``."""
    parser = commands.add_parser(
        "cache",
        help="look after a record store, the folder that is given as memory",
        epilog=examples("cache info cache", "cache merge all node1 node2"),
        formatter_class=HelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str, example: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: skesm cache {name} {example}",
        )
        action.add_argument("path", type=Path, metavar="PATH", help="the folder given as memory")
        action.set_defaults(run=run)
        return action

    add("info", _cache_info, "list the stored values, by model", "cache")
    add("verify", _cache_verify, "compare all values with their checksums (exit status 1 if one is damaged)", "cache")
    prune = add(
        "prune",
        _cache_prune,
        "remove a model, or the values that were least recently used",
        "cache --older-than 90d --max-size 20GB",
    )
    prune.add_argument("--model", help="a name or fingerprint from `skesm cache info`. Alone: all of its values")
    prune.add_argument("--older-than", metavar="AGE", help="remove values not used for so long, such as 90d or 12w")
    prune.add_argument("--max-size", metavar="SIZE", help="remove the least recently used until this is left: 20GB")
    merge = add("merge", _cache_merge, "add all records of other stores to a store", "all node1 node2")
    merge.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="a store to read")
    export = add(
        "export", _cache_export, "write the stored values of a model to a .npz or .parquet file", "cache values.parquet"
    )
    export.add_argument("file", type=Path, metavar="FILE", help="the file to write. Its ending says which kind")
    export.add_argument("--model", help="a name or fingerprint. Needed if the store holds several")


def _cache_info(args: argparse.Namespace) -> None:
    from skesm.cache import info

    found = info(args.path)
    if not found:
        print(f"{args.path} holds no records")
    for each in found:
        print(f"{', '.join(each.models)}  {each.numerics}  fingerprint {each.fingerprint}")
        print(f"  {each.sequences:,} sequences, {size(each.disk_bytes)} on disk, since {each.created}")
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
        raise StoreError(f"{len(damaged)} of {len(reports)} models have damaged records. They will be computed again")


def _cache_prune(args: argparse.Namespace) -> None:
    from skesm.cache import prune

    report = prune(args.path, model=args.model, older_than=args.older_than, max_size=args.max_size)
    print(f"removed {report.values:,} values: {size(report.freed_bytes)} freed")


def _cache_merge(args: argparse.Namespace) -> None:
    from skesm.cache import merge

    report = merge(args.path, *args.sources)
    print(f"added {report.added:,} values: {report.known:,} were there, {report.damaged:,} damaged ones were left out")


def _cache_export(args: argparse.Namespace) -> None:
    from skesm.cache import export

    print(f"wrote {export(args.path, args.file, model=args.model):,} values to {args.file}")
