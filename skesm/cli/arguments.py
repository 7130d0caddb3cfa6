"""Arguments and figures that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

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
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def examples(*lines: str) -> str:
    """The end of a help text: command lines without the program's name.

    >>> print(examples("models list"))
    example:
      skesm models list
    """
    return "\n".join([f"example{'s' if len(lines) > 1 else ''}:", *(f"  skesm {line}" for line in lines)])


def reference_of(given: str | None) -> str | None:
    """The reference that was given, or the only sequence of the file that was given."""
    if given is None or not Path(given).is_file():
        return given
    from skesm.io import read_fasta

    sequences = read_fasta(given).sequences
    if len(sequences) != 1:
        raise ValueError(f"--reference {given} holds {len(sequences)} sequences; one is needed")
    return sequences[0]
