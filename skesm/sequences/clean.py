"""Any accepted input to a list of clean sequences, or an error that names the rows.

Rows are counted from 0, as NumPy and pandas do; positions in a sequence from 1, as residues are. Messages show
no sequence: at most the one character that is not a residue.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Collection
from numbers import Real
from typing import Any

import numpy as np

from skesm.exceptions import InvalidSequenceError, TruncationWarning
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, MASK_SYMBOL, count_residues, split_residues

_CLEAN = re.compile(f"(?:[{AMINO_ACIDS}{AMBIGUOUS}]|{MASK_SYMBOL})+")
_ROWS_SHOWN = 5

#: What may happen to sequences that are too long; not every estimator has all three.
LONG_SEQUENCES = ("error", "truncate", "window")


def clean_sequences(
    X: Any,  # scikit-learn's name
    *,
    long_sequences: str = "error",
    max_length: int | None = 1022,
    unknown_residues: str = "error",
    choices: Collection[str] = LONG_SEQUENCES,
) -> list[str]:
    r"""Check and normalise the rows of X.

    White space at the ends is removed and lower case raised; nothing else is changed unless a parameter says so.

    Parameters
    ----------
    X : list, tuple, 1-D array, Series, or one-column array or DataFrame of str
        n sequences.
    long_sequences : {"error", "truncate", "window"}
        What happens to sequences of more than `max_length` residues; ``"truncate"`` keeps the first ones and warns,
        ``"window"`` keeps all.
    max_length : int or None
        None sets no limit.
    unknown_residues : {"error", "X"}
        ``"X"`` reads letters that the model does not know (``J``) as ``X``, any residue.
    choices : collection of str
        Values of `long_sequences` that the estimator has, to be named as remedies.

    Returns
    -------
    sequences : list of str, length n

    Raises
    ------
    InvalidSequenceError
        If X is not a column of strings, has no rows, or a row is not a sequence.

    Examples
    --------
    >>> clean_sequences([" mktay\n", "GSX"])
    ['MKTAY', 'GSX']
    >>> clean_sequences(["MK TAY"])
    Traceback (most recent call last):
        ...
    skesm.exceptions.InvalidSequenceError: 1 of 1 rows of X cannot be used:
      row 0, position 3: white space inside the sequence; remove it
    """
    rows = _column(X)
    if not rows:
        raise InvalidSequenceError("X has no rows: at least one sequence is needed")
    sequences: list[str] = []
    problems: dict[int, str] = {}
    truncated: list[int] = []
    limit = None if long_sequences == "window" else max_length
    for number, row in enumerate(rows):
        sequence, problem = _clean(row, unknown_residues)
        if not problem and limit is not None and (length := count_residues(sequence)) > limit:
            if long_sequences == "truncate":
                sequence = _truncate(sequence, limit)
                truncated.append(number)
            else:
                remedies = {"window": "compute it in parts", "truncate": f"use the first {limit}"}
                offered = [f"set long_sequences={c!r} to {what}, " for c, what in remedies.items() if c in choices]
                problem = f": {length} residues, more than max_length={limit}; {''.join(offered)}or raise max_length"
        if problem:
            problems[number] = problem
        sequences.append(sequence)
    if problems:
        raise InvalidSequenceError(
            f"{len(problems)} of {len(rows)} rows of X cannot be used:{_listed(problems)}", list(problems)
        )
    if truncated:
        warnings.warn(
            f"{len(truncated)} of {len(rows)} sequences have more than max_length={max_length} residues; only their "
            f"first {max_length} are used: rows {_first(truncated)}",
            TruncationWarning,
            stacklevel=4,
        )
    return sequences


def clean_reference(reference: str, *, long_sequences: str, max_length: int | None, unknown_residues: str) -> str:
    """Check and normalise a parameter that is a sequence, as `clean_sequences` does with the rows of X."""
    sequence, problem = _clean(reference, unknown_residues)
    if problem:
        raise InvalidSequenceError(f"reference{problem}")
    if max_length is not None and long_sequences != "window" and (length := count_residues(sequence)) > max_length:
        if long_sequences == "error":
            raise InvalidSequenceError(f"reference: {length} residues, more than max_length={max_length}")
        warnings.warn(
            f"the reference has {length} residues; only its first max_length={max_length} are used",
            TruncationWarning,
            stacklevel=4,
        )
        return _truncate(sequence, max_length)
    return sequence


def _column(X: Any) -> list[Any]:
    """The rows of X as a list, whatever holds them."""
    if isinstance(X, str | bytes):
        raise InvalidSequenceError("X is a single string, which would be read residue by residue: wrap it in a list")
    if isinstance(X, list | tuple):
        return list(X)
    if not hasattr(X, "__array__") and not hasattr(X, "to_numpy"):
        raise InvalidSequenceError(
            f"X is a {type(X).__name__}: pass a list, tuple, 1-D array, Series, or one-column DataFrame of strings"
        )
    array = X.to_numpy() if hasattr(X, "to_numpy") else np.asarray(X)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidSequenceError(
            f"X has shape {array.shape}: one column of sequences is needed. To take one column of a table use "
            "ColumnTransformer([('esm2', ESM2Embedder(), 'name of the column')])"
        )
    rows: list[Any] = array.tolist()
    return rows


def _clean(row: Any, unknown_residues: str) -> tuple[str, str]:
    """(clean sequence, "") or ("", what is wrong and the remedy)."""
    if not isinstance(row, str):
        return "", f": {_describe(row)}"
    sequence = row.strip()
    # upper() turns some foreign letters into residues: "ı" into "I", "ß" into "SS"
    if sequence.isascii():
        sequence = sequence.upper().replace(MASK_SYMBOL.upper(), MASK_SYMBOL)
        if unknown_residues == "X":
            sequence = sequence.replace("J", "X")
        if _CLEAN.fullmatch(sequence):
            return sequence, ""
    if not sequence:
        return "", ": empty; remove the row"
    return "", _first_problem(sequence)


def _first_problem(sequence: str) -> str:
    valid = _CLEAN.match(sequence) if sequence.isascii() else None
    place = valid.end() if valid else 0
    if not sequence.isascii():
        place = next(i for i, c in enumerate(sequence) if not c.isascii())
    character = sequence[place]
    position = count_residues(sequence[:place]) + 1
    only_stops_follow = not sequence[place:].strip("*")
    return f", position {position}: {_explain(character, last=only_stops_follow)}"


def _explain(character: str, *, last: bool) -> str:
    if character.isspace():
        return "white space inside the sequence; remove it"
    if character == "*":
        if last:
            return "'*' at the end, a stop codon; remove it with s.rstrip('*')"
        return "'*' inside the sequence, a stop codon; the protein ends there: cut or remove the row"
    if character in "-.":
        return f"{character!r} is a gap; remove gaps with s.replace({character!r}, '')"
    if character == ">":
        return "'>' begins the header of a FASTA file; a row is one sequence without its header"
    if character == "J":
        return "'J' (Leu or Ile) is unknown to ESM-2; set unknown_residues='X' to read it as any residue"
    if not character.isascii():
        name = unicodedata.name(character, "unnamed")
        return f"U+{ord(character):04X} ({name}) is no ASCII letter; retype the sequence"
    return f"{character!r} is not an amino acid; remove it or correct the row"


def _describe(row: Any) -> str:
    if row is None or type(row).__name__ in ("NAType", "NaTType"):
        return "a missing value; remove the row"
    if isinstance(row, Real) and row != row:
        return "a missing value (NaN); remove the row"
    if isinstance(row, bytes | bytearray):
        return "bytes; decode them with b.decode('ascii')"
    return f"of type {type(row).__name__}; give a str of one-letter residues"


def _truncate(sequence: str, max_length: int) -> str:
    return "".join(split_residues(sequence)[:max_length])


def _listed(problems: dict[int, str]) -> str:
    lines = [f"\n  row {number}{problem}" for number, problem in list(problems.items())[:_ROWS_SHOWN]]
    if len(problems) > _ROWS_SHOWN:
        lines.append(f"\n  and {len(problems) - _ROWS_SHOWN} more: rows {_first(list(problems)[_ROWS_SHOWN:])}")
    return "".join(lines)


def _first(rows: list[int], most: int = 10) -> str:
    return ", ".join(map(str, rows[:most])) + (" …" if len(rows) > most else "")
