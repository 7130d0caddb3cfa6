"""The command line. The only package that prints.

Each command is a module. Its ``add_`` function adds a parser to the others and sets ``run`` to the function that does
the work, and stands in `_COMMANDS`. ``run`` returns the exit status, or None for 0. A failure is raised.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from skesm import __version__
from skesm.cli.arguments import HelpFormatter, examples, one_line
from skesm.cli.cache import add_cache
from skesm.cli.completion import add_completion, commands_of
from skesm.cli.demo import add_benchmark, add_demo
from skesm.cli.doctor import add_doctor
from skesm.cli.files import add_embed, add_logits, add_score
from skesm.cli.models import add_models
from skesm.cli.propose import add_propose
from skesm.cli.reproduce import add_reproduce
from skesm.exceptions import SkesmError

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments after the program's name. None takes the arguments of the process.

    Returns
    -------
    status : int
        0, or 1 after an error, which is one line on stderr, or if the backend failed on a row. Wrong usage ends the
        process with status 2.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warning_printer(vars(args))  # put back by catch_warnings
            status: int = args.run(args) or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest is written when Python ends
        return 0
    except (SkesmError, ValueError, OSError) as error:
        if args.traceback:
            raise
        print(f"skesm: error: {one_line(error, vars(args))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("skesm: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.traceback:
            raise
        print(f"skesm: error: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
        print("This is a fault of skesm: please report the output of `skesm --traceback …`.", file=sys.stderr)
        return 1
    return status


def _warning_printer(options: Collection[str]) -> Callable[..., None]:
    """Shows a warning as one line for people, without the place in the code, and the same one once."""
    shown = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        line = one_line(message, options)
        if line not in shown:
            shown.add(line)
            print(f"skesm: warning: {line}", file=sys.stderr)

    return show


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skesm",
        description="ESM-2 features of proteins for scikit-learn.",
        epilog=examples("embed proteins.fasta features.csv", "doctor"),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"skesm {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    add_completion(commands, parser)
    for name, line in _EXAMPLES.items():  # of commands whose own modules give none
        if not commands.choices[name].epilog:
            commands.choices[name].epilog = f"example: skesm {line}"
    return parser


def help_texts() -> dict[str, str]:
    """The help of every command, by its name, for the documentation.

    Examples
    --------
    >>> help_texts()["skesm cache merge"].startswith("usage: skesm cache merge")
    True
    """
    return {" ".join(("skesm", *each.path)): each.parser.format_help() for each in commands_of(_parser())}


def _add_serve(commands: Commands) -> None:
    from skesm.server import add_serve_parser

    add_serve_parser(commands, lambda text: print(text, flush=True))


_COMMANDS = (
    *(
        add_embed,
        add_logits,
        add_score,
        add_demo,
        add_benchmark,
        add_reproduce,
        add_propose,
        add_models,
        add_cache,
        _add_serve,
        add_doctor,
    ),
)

_EXAMPLES = {
    "demo": "demo --data my_variants.csv --sequence-column seq --target-column activity",
    "benchmark": "benchmark --data my_variants.csv --sequence-column seq --target-column activity",
    "serve": "serve --model esm2-650m --device cuda --memory /data/records",
}
