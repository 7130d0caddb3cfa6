"""Arguments and figures that several commands share."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from skesm.backends.resolve import BACKENDS

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # has no public name


def positive(text: str) -> int:
    """Read a whole number from 1 up."""
    return _whole_number(text, 1)


def at_least_two(text: str) -> int:
    """Read a whole number from 2 up."""
    return _whole_number(text, 2)


def _whole_number(text: str, lowest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise argparse.ArgumentTypeError(f"must be a whole number from {lowest} up, not {text!r}")
    return number


def size(n_bytes: float) -> str:
    """A number of bytes as people read it."""
    if n_bytes < 1e6:
        return f"{n_bytes / 1e3:.0f} kB"
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


class HelpFormatter(argparse.HelpFormatter):
    """Fits paragraphs to the terminal, and leaves lists and examples as they are: their lines begin with a space."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = []
        for block in text.strip().split("\n\n"):
            prose = "\n" not in block or not re.search(r"^\s", block, re.MULTILINE)
            filled.append(super()._fill_text(block, width, indent) if prose else block)
        return "\n\n".join(filled)


def examples(*lines: str) -> str:
    """The end of a help text: command lines without the program's name.

    >>> print(examples("models list"))
    example:
      skesm models list
    """
    return "\n".join([f"example{'s' if len(lines) > 1 else ''}:", *(f"  skesm {line}" for line in lines)])


#: ``invalid='drop'``, ``max_length=1022``, ``memory=None``, ``max_length``: how messages write parameters of Python.
_PARAMETER = re.compile(r"\b([a-z]+(?:_[a-z]+)*)=('[^']*'|\d+|None)|\b([a-z]+(?:_[a-z]+)+)\b")


#: The content of a column, by the parameter that names it.
_HELD = {"sequence_column": "sequences", "mutation_column": "mutations", "target_column": "measured values"}

#: Parameters of Python whose option has another name.
_OPTION_NAMES = {"mutation_column": "mutations_column"}


def one_line(message: object, options: Collection[str] = ()) -> str:
    r"""A message of Python as a line of the terminal: lists are joined, and parameters become options of the command.

    >>> one_line("2 rows:\n  line 3\n  line 9\nCorrect them, or invalid='drop'", ["drop_invalid"])
    '2 rows: line 3; line 9. Correct them, or --drop-invalid'
    >>> one_line("set long_sequences='window', or raise max_length", ["long_sequences", "max_length"])
    'set --long-sequences window, or raise --max-length'
    >>> one_line("name its mutation_column", ["mutations_column"])
    'name its --mutations-column'
    >>> one_line("give memory another folder, or leave it out (memory=None)", ["memory"])
    'give memory another folder, or leave it out (no --memory)'
    """
    text = re.sub(r":\n\s+", ": ", str(message).strip())
    text = re.sub(r"(?<![.:;])\n\s+", "; ", text)
    text = re.sub(r"(?<![.:;])\n(?=[A-Z])", ". ", text)

    def as_option(match: re.Match[str]) -> str:
        name, value = match[1] or match[3], match[2]
        if name == "invalid" and "drop_invalid" in options:
            return "--drop-invalid"
        if name not in options:
            name = _OPTION_NAMES.get(name, name)
        if name not in options:
            return match[0]
        option = f"--{name.replace('_', '-')}"
        if value == "None":
            return f"no {option}"
        return option + ("" if value is None else f" {value.strip(chr(39))}")

    return " ".join(_PARAMETER.sub(as_option, text).split())


def name_columns(taken: Mapping[str, str]) -> str:
    """A line that says which columns of a file were read.

    >>> name_columns({"mutation_column": "mutant", "target_column": "fitness"})
    "mutations from column 'mutant', measured values from column 'fitness'"
    """
    return ", ".join(f"{_HELD[parameter]} from column {name!r}" for parameter, name in taken.items())


def add_model(
    parser: argparse.ArgumentParser,
    *,
    memory: str = "record store: no sequence is computed twice",
    jobs: str = "CPU threads",
    **options: Any,
) -> argparse._ArgumentGroup:
    """Add the options of the model: its name (with further `options`), its backend, record store and threads."""
    model = parser.add_argument_group("model")
    name = {"default": "esm2_t6_8M_UR50D", "help": "a name that `skesm models` lists, or a folder", **options}
    model.add_argument("--model", **name)
    model.add_argument("--backend", choices=tuple(BACKENDS), default="local", help="where the model runs")
    model.add_argument("--memory", metavar="FOLDER", help=memory)
    model.add_argument("--jobs", type=int, metavar="N", help=jobs)
    return model


def reference_of(given: str | None) -> str | None:
    """The reference that was given, or the only sequence of the file that was given.

    >>> reference_of("M" * 300) == "M" * 300
    True
    """
    if given is None or not os.path.isfile(given):  # Path.is_file fails on names of more than 255 letters
        return given
    from skesm.io import read_fasta

    sequences = read_fasta(given).sequences
    if len(sequences) != 1:
        raise ValueError(f"--reference {given} holds {len(sequences)} sequences. Give one")
    return sequences[0]
