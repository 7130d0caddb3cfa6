"""Any accepted input to a list of clean sequences, or an error that names the rows.

Rows are counted from 0, as NumPy and pandas do. Positions in a sequence are counted from 1, as residues are. Messages
show no sequence, only the one character that is not a residue.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

import numpy as np

from skesm._messages import MOST_SHOWN, first_and_more, warn
from skesm._typing import Column
from skesm.exceptions import InvalidSequenceError, SuspiciousSequenceWarning, TruncationWarning
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, MASK_SYMBOL, count_residues, split_residues

_CLEAN = re.compile(f"(?:[{AMINO_ACIDS}{AMBIGUOUS}]|{MASK_SYMBOL})+")
#: Most rows are clean as they are. One class of letters is matched several times faster than an alternative.
_PLAIN = re.compile(f"[{AMINO_ACIDS}{AMBIGUOUS}]+")

#: Texts that a missing value becomes, in lower case: np.array([..., np.nan]), .astype(str), spreadsheets, databases.
_MISSING_TEXTS = {"nan", "none", "null", "missing", "na", "<na>", "nat", "n/a", "#n/a", "<missing>"}
#: Those that are also peptides of the 20 amino acids. "NULL" and "NONE" would hold U or O.
_MISSING_OR_PEPTIDE = {text for text in _MISSING_TEXTS if set(text.upper()) <= set(AMINO_ACIDS)}
_MISSING_LENGTH = max(map(len, _MISSING_TEXTS))
#: Beside rows of this length or more, a peptide that reads like a missing value is suspicious.
_LONG_PROTEIN = 20

#: Letters of DNA and RNA, in rows that are too long to be such a peptide by chance.
_NUCLEOTIDES = re.compile("[ACGTUN]{20,}")
_LEAST_DIFFERENT = 3  # "GGGG…" and "AGAGAG…" are plausible linkers

_MUTATIONS = re.compile(r"[A-Z]-?\d+[A-Z*](?:[\s:/,;_+]+[A-Z]-?\d+[A-Z*])*", re.IGNORECASE)
_FILE_NAME = re.compile(
    r".+\.(?:csv|tsv|tab|txt|xlsx?|parquet|feather|json|fa|faa|fas|fasta|fna|pdb|cif|npy|npz)(?:\.(?:gz|bz2|xz|zip))?",
    re.IGNORECASE,
)

#: Ways to treat sequences that are too long. Not every estimator has all three.
LONG_SEQUENCES = ("error", "truncate", "window")

#: Ways that need the whole sequence. Estimators cut windows out of it.
KEPT_WHOLE = ("window", "optimal")


def clean_sequences(
    X: Column,  # scikit-learn's name
    *,
    long_sequences: str = "error",
    max_length: int | None = 1022,
    unknown_residues: str = "error",
    choices: Collection[str] = LONG_SEQUENCES,
) -> list[str]:
    r"""Check and normalise the rows of X.

    White space at the ends is removed, and lower case becomes upper case. Nothing else is changed unless a parameter
    says so.

    A missing value that became text is refused: ``nan``, ``None``, ``null``, ``missing``, ``NA``, ``<NA>``, ``NaT``,
    ``n/a``, in any spelling. The spelling decides about the peptides among these words: ``NAN``, ``NA``, ``NAT`` and
    ``MISSING`` are peptides if they are in capitals and all other rows are in capitals too. A warning says so if all
    other rows have 20 residues or more. ``NULL`` and ``NONE`` are always refused.

    Rows of 20 letters or more that hold only ``A C G T U N`` are used, with a warning that they look like DNA or RNA.

    Parameters
    ----------
    X : list, tuple, 1-D array, Series, or one-column array, DataFrame or Table of str
        n sequences.
    long_sequences : {"error", "truncate", "window"}
        How to treat sequences of more than `max_length` residues. ``"truncate"`` keeps the first residues and warns.
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

    Warns
    -----
    SuspiciousSequenceWarning
        If rows look like DNA, RNA or a missing value.
    TruncationWarning
        If sequences were cut.

    Examples
    --------
    >>> clean_sequences([" mktay\n", "GSX"])
    ['MKTAY', 'GSX']
    >>> clean_sequences(["MK TAY"])
    Traceback (most recent call last):
        ...
    skesm.exceptions.InvalidSequenceError: 1 of 1 rows of X cannot be used:
      row 0, position 3: white space inside the sequence. Remove it
    """
    rows = column_of(X)
    if not rows:
        raise InvalidSequenceError("X has no rows: at least one sequence is needed")
    missing = _missing_texts(rows)
    sequences: list[str] = []
    problems: dict[int, str] = {}
    truncated: list[int] = []
    limit = None if long_sequences in KEPT_WHOLE else max_length
    for number, row in enumerate(rows):
        sequence, problem = ("", _MISSING) if number in missing else _clean(row, unknown_residues)
        if not problem and limit is not None and (length := count_residues(sequence)) > limit:
            if long_sequences == "truncate":
                sequence = _truncate(sequence, limit)
                truncated.append(number)
            else:
                problem = _too_long(length, limit, choices)
        if problem:
            problems[number] = problem
        sequences.append(sequence)
    refuse_rows(problems, len(rows), "X")
    _warn_of_suspicious(sequences)
    if truncated:
        warn(
            f"{len(truncated)} of {len(rows)} sequences have more than max_length={max_length} residues. Only the "
            f"first {max_length} are used: rows {first_and_more(truncated, ', ')}",
            TruncationWarning,
        )
    return sequences


def is_plain(text: str) -> bool:
    """Whether a text is a clean sequence as it is, without masks. False does not mean that it has a problem.

    Examples
    --------
    >>> is_plain("MKTAY"), is_plain("mktay")
    (True, False)
    """
    return _PLAIN.fullmatch(text) is not None


def problem_of(text: str) -> str:
    """Describe the problem of one text, where no missing values are expected. Empty if it is a sequence.

    ``J`` is accepted, because the estimator decides about it.

    Examples
    --------
    >>> problem_of("MKJT"), problem_of("MK1")
    ('', ", position 3: '1' is not an amino acid. Remove it or correct the row")
    """
    return _clean(text, "X")[1]


def find_problems(
    rows: Sequence[object],
    *,
    max_length: int | None = None,
    unknown_residues: str = "error",
    choices: Collection[str] = (),
) -> dict[int, str]:
    """Find rows that `clean_sequences` would refuse, each with its problem. Readers of files then name lines.

    Examples
    --------
    >>> find_problems(["MKT", "nan", "MK-T"])[2]
    ", position 3: '-' is a gap. Remove gaps with s.replace('-', '')"
    """
    missing = _missing_texts(rows)
    problems = {}
    for number, row in enumerate(rows):
        sequence, problem = ("", _MISSING) if number in missing else _clean(row, unknown_residues)
        if not problem and max_length is not None and (length := count_residues(sequence)) > max_length:
            problem = _too_long(length, max_length, choices)
        if problem:
            problems[number] = problem
    return problems


def clean_reference(reference: str, *, long_sequences: str, max_length: int | None, unknown_residues: str) -> str:
    """Check and normalise a parameter that is a sequence, as `clean_sequences` does with the rows of X."""
    sequence, problem = ("", _MISSING) if _missing_texts([reference]) else _clean(reference, unknown_residues)
    if problem:
        raise InvalidSequenceError(f"reference{problem}")
    if (
        max_length is not None
        and long_sequences not in KEPT_WHOLE
        and (length := count_residues(sequence)) > max_length
    ):
        if long_sequences == "error":
            raise InvalidSequenceError(
                f"reference: {length} residues, more than max_length={max_length}. Raise max_length"
            )
        warn(
            f"the reference has {length} residues. Only its first max_length={max_length} are used",
            TruncationWarning,
        )
        return _truncate(sequence, max_length)
    return sequence


def refuse_rows(problems: dict[int, str], n_rows: int, name: str) -> None:
    """Raise InvalidSequenceError if rows have problems. A problem begins with ``:`` or with ``, position 3:``."""
    if problems:
        raise InvalidSequenceError(
            f"{len(problems)} of {n_rows} rows of {name} cannot be used:{_listed(problems)}", list(problems)
        )


def column_of(X: Column, name: str = "X") -> list[object]:
    """The rows of X as a list, whatever holds them."""
    if isinstance(X, os.PathLike) or (isinstance(X, str) and _is_file_name(X)):
        raise InvalidSequenceError(
            f"{name} is the path of a file: read the file first and pass its column of strings, for example "
            "pandas.read_csv(path)['sequence'] or skesm.io.read_fasta(path).sequences"
        )
    if isinstance(X, str | bytes):
        raise InvalidSequenceError(f"{name} is a single string. Its letters would be taken as rows: wrap it in a list")
    if isinstance(X, list | tuple):
        return list(X)
    if hasattr(X, "to_pylist"):
        return _arrow_column(X, name)
    if not hasattr(X, "__array__") and not hasattr(X, "to_numpy"):
        raise InvalidSequenceError(
            f"{name} is a {type(X).__name__}: pass a list, tuple, 1-D array, Series, or one-column DataFrame of strings"
        )
    array = X.to_numpy() if hasattr(X, "to_numpy") else X
    if not isinstance(array, np.ma.MaskedArray):  # its list has None for masked values
        array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise _not_a_column(array.shape, name)
    rows: list[object] = array.tolist()
    return rows


def _arrow_column(X: Any, name: str) -> list[object]:
    """Rows of a pyarrow Array, ChunkedArray, or Table of one column, dictionary-encoded or not."""
    if hasattr(X, "num_columns"):
        if X.num_columns != 1:
            raise _not_a_column((X.num_rows, X.num_columns), name)
        X = X.column(0)
    rows: list[object] = X.to_pylist()
    return rows


def _not_a_column(shape: tuple[int, ...], name: str) -> InvalidSequenceError:
    return InvalidSequenceError(
        f"{name} has shape {shape}, but one column of sequences is needed. To use one column of a table: "
        "ColumnTransformer([('esm2', ESM2Embedder(), 'name of the column')])"
    )


def _is_file_name(text: str) -> bool:
    return bool(_FILE_NAME.fullmatch(text.strip())) and "\n" not in text


def _missing_texts(rows: Sequence[object]) -> set[int]:
    """Rows of text that stands for a missing value, by the rule that `clean_sequences` documents."""
    words = {
        number: row.strip()
        for number, row in enumerate(rows)
        if isinstance(row, str) and len(row) <= 2 * _MISSING_LENGTH and row.strip().lower() in _MISSING_TEXTS
    }
    peptides = {n for n, word in words.items() if word.isupper() and word.lower() in _MISSING_OR_PEPTIDE}
    if peptides:
        others = (row for number, row in enumerate(rows) if isinstance(row, str) and number not in peptides)
        if not all(row.replace(MASK_SYMBOL, "").upper() == row.replace(MASK_SYMBOL, "") for row in others):
            peptides = set()
    return set(words) - peptides


def looks_like_nucleotides(sequence: str) -> bool:
    """Whether a clean sequence may be DNA or RNA.

    Examples
    --------
    >>> looks_like_nucleotides("ACGTTGCAACGTTGCAACGT"), looks_like_nucleotides("ACGT")
    (True, False)
    """
    return bool(_NUCLEOTIDES.fullmatch(sequence)) and len(set(sequence) - {"N"}) >= _LEAST_DIFFERENT


def _warn_of_suspicious(sequences: list[str]) -> None:
    """Warn of rows that are legal, but look like something other than a protein."""
    nucleotides = [number for number, sequence in enumerate(sequences) if looks_like_nucleotides(sequence)]
    if nucleotides:
        warn(
            f"{len(nucleotides)} of {len(sequences)} sequences look like DNA or RNA: their letters are A, C, G, T, U "
            f"and N only. Translate them to protein first: rows {first_and_more(nucleotides, ', ')}",
            SuspiciousSequenceWarning,
        )
    words = [n for n, s in enumerate(sequences) if len(s) <= _MISSING_LENGTH and s.lower() in _MISSING_OR_PEPTIDE]
    others = [len(s) for n, s in enumerate(sequences) if n not in words] if words else []
    if others and min(others) >= _LONG_PROTEIN:
        warn(
            f"{len(words)} of {len(sequences)} sequences read like a missing value, such as 'NA' or 'NAN'. They are "
            f"used as peptides. If a value is missing there, remove the row: rows {first_and_more(words, ', ')}",
            SuspiciousSequenceWarning,
        )


_MISSING = (
    ": the text of a missing value. Remove the row. (Write a peptide of these letters in capitals, like all other rows)"
)


def _clean(row: object, unknown_residues: str) -> tuple[str, str]:
    """(clean sequence, "") or ("", problem and remedy)."""
    if type(row) is str and is_plain(row):
        return row, ""
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
        return "", ": empty. Remove the row"
    if _MUTATIONS.fullmatch(sequence):
        return "", ": mutations, not a sequence. Apply them with skesm.apply_mutations(reference, mutations)"
    if _is_file_name(sequence):
        return "", ": the name of a file, not a sequence. Read the file first"
    return "", _first_problem(sequence)


def _too_long(length: int, limit: int, choices: Collection[str]) -> str:
    remedies = {"window": "compute it in parts", "truncate": f"use the first {limit}"}
    offered = [f"set long_sequences={c!r} to {effect}" for c, effect in remedies.items() if c in choices]
    advice = ", ".join([*offered, "or raise max_length" if offered else "raise max_length"])
    return f": {length} residues, more than max_length={limit}. {advice[0].upper()}{advice[1:]}"


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
        return "white space inside the sequence. Remove it"
    if character == "*":
        if last:
            return "'*' at the end, a stop codon. Remove it with s.rstrip('*')"
        return "'*' inside the sequence, a stop codon. The protein ends there: cut the row there, or remove it"
    if character in "-.":
        return f"{character!r} is a gap. Remove gaps with s.replace({character!r}, '')"
    if character == ">":
        return "'>' begins the header of a FASTA file. A row is one sequence without its header"
    if character == "J":
        return "'J' (Leu or Ile) is unknown to ESM-2. Set unknown_residues='X' to read it as any residue"
    if not character.isascii():
        name = unicodedata.name(character, "unnamed")
        return f"U+{ord(character):04X} ({name}) is not an ASCII letter. Retype the sequence"
    return f"{character!r} is not an amino acid. Remove it or correct the row"


def _describe(row: object) -> str:
    if row is np.ma.masked:
        return "a masked value. Remove the row"
    if row is None or type(row).__name__ in ("NAType", "NaTType"):
        return "a missing value. Remove the row"
    if isinstance(row, Real) and row != row:
        return "a missing value (NaN). Remove the row"
    if isinstance(row, bytes | bytearray):
        return "bytes. Decode them with b.decode('ascii')"
    return f"of type {type(row).__name__}. Give a str of one-letter residues"


def _truncate(sequence: str, max_length: int) -> str:
    return "".join(split_residues(sequence)[:max_length])


def _listed(problems: dict[int, str]) -> str:
    """The first rows with their problems, and the numbers of some of the others."""
    lines = first_and_more((f"row {number}{problem}" for number, problem in problems.items()), "\n  ")
    others = list(problems)[MOST_SHOWN:]
    return f"\n  {lines}" + (f": rows {first_and_more(others, ', ')}" if others else "")
