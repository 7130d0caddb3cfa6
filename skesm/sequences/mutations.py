"""Mutations as text, ``A23V:K40R``, applied to a reference sequence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import overload

from skesm.exceptions import InvalidSequenceError
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, split_residues
from skesm.sequences.clean import clean_reference, column_of, refuse_rows

_SUBSTITUTION = re.compile(r"([A-Z])(-?\d+)([A-Z])")
_STOP = re.compile(r"[A-Z]-?\d+(?:\*|TER|STOP)")
_LENGTH_CHANGE = re.compile(r".*(?:DEL|INS|DUP|FS).*|-\d+[A-Z]+|[A-Z]+-?\d+-|[A-Z]{2,}-?\d+[A-Z]*|[A-Z]-?\d+[A-Z]{2,}")
_THREE_LETTERS = re.compile(r"(?:P\.)?\(?[A-Z]{3}\d+(?:[A-Z]{3}|=)\)?")
_SEPARATORS = re.compile(r"[\s:/,;_+]+")

#: How tables spell the reference itself, in lower case.
_WILD_TYPE = {"", "wt", "_wt", "wildtype", "wild type", "wild-type", "wild_type"}

#: More offsets than these say nothing.
_MOST_OFFSETS = 3

#: (wild-type residue, position, new residue)
_Mutation = tuple[str, int, str]


@overload
def apply_mutations(  # type: ignore[overload-overlap]  # one text is not a column of letters
    reference: str, mutations: str, offset: int = 1
) -> str: ...
@overload
def apply_mutations(reference: str, mutations: Iterable[str], offset: int = 1) -> list[str]: ...
def apply_mutations(reference: str, mutations: str | Iterable[str], offset: int = 1) -> str | list[str]:
    """Apply substitutions such as ``A23V`` to a reference sequence.

    A mutation is written as wild-type residue, position, new residue. Several mutations of one row are separated by
    ``:``, ``/``, ``,``, ``;``, ``+``, ``_`` or white space. An empty text or ``WT`` stands for the reference itself.
    Lower case is raised.

    Parameters
    ----------
    reference : str
        The sequence to which the mutations refer.
    mutations : str, or list, tuple, 1-D array or Series of str
        One text, or one text a row.
    offset : int, default=1
        Position of the first residue of `reference`, in the numbering of `mutations`. Set 2 if the initiator methionine
        is counted but is not part of `reference`.

    Returns
    -------
    sequences : str, or list of str
        One sequence for one text, or a list with one sequence a row.

    Raises
    ------
    InvalidSequenceError
        If the reference is not a sequence, or rows cannot be applied: the reference has another residue at a position,
        a position lies outside, a position is mutated twice, or a row holds something other than substitutions
        (insertions, deletions, stop codons). The message names rows and positions. It names the offset that fits all
        rows, if there is one.
    TypeError
        If `offset` is not a whole number.

    See Also
    --------
    skesm.ESM2VariantScorer : Zero-shot scores of variants against a reference.

    Examples
    --------
    >>> from skesm import apply_mutations
    >>> apply_mutations("MKTAY", ["K2R", "K2R:A4G", "WT"])
    ['MRTAY', 'MRTGY', 'MKTAY']
    >>> apply_mutations("KTAY", "A4G", offset=2)
    'KTGY'
    >>> apply_mutations("KTAY", ["K2R", "A4G"])
    Traceback (most recent call last):
        ...
    skesm.exceptions.InvalidSequenceError: 2 of 2 rows of mutations cannot be used:
      row 0, position 2: the reference has another residue there
      row 1, position 4: the reference has another residue there
    offset=2 would fit all rows
    """
    rows = [mutations] if isinstance(mutations, str) else column_of(mutations, "mutations")
    sequences, problems, advice = read_mutations(reference, rows, offset)
    try:
        refuse_rows(problems, len(rows), "mutations")
    except InvalidSequenceError as error:
        raise (InvalidSequenceError(f"{error}\n{advice}", error.rows) if advice else error) from None
    return sequences[0] if isinstance(mutations, str) else sequences


def read_mutations(reference: str, rows: Sequence[object], offset: int = 1) -> tuple[list[str], dict[int, str], str]:
    """Apply the mutations of rows as far as they can be used. Readers of files then name lines.

    Returns
    -------
    sequences : list of str
        One a row. Empty for a row that cannot be used.
    problems : dict of int to str
        By row, each begins with ``:`` or with ``, position 3:``.
    advice : str
        Other offsets that would fit all rows. Empty if there is none, or no problem.

    Examples
    --------
    >>> read_mutations("MKTAY", ["K2R", "K3R"])
    (['MRTAY', ''], {1: ', position 3: the reference has another residue there'}, '')
    """
    if not isinstance(offset, Integral) or isinstance(offset, bool):
        raise TypeError(f"offset must be a whole number, not {type(offset).__name__}")
    clean = clean_reference(reference, long_sequences="window", max_length=None, unknown_residues="error")
    residues = split_residues(clean)
    problems: dict[int, str] = {}
    parsed: list[list[_Mutation]] = []
    for number, row in enumerate(rows):
        found, problem = _parse(row)
        problem = problem or _misfit(residues, found, int(offset))
        if problem:
            problems[number] = problem
        parsed.append(found)
    sequences = [
        "" if number in problems else _replace(residues, found, int(offset)) for number, found in enumerate(parsed)
    ]
    return sequences, problems, _advise_offset(residues, parsed, int(offset)) if problems else ""


def name_mutations(sequence: str, reference: str, offset: int = 1) -> str:
    """Write the differences of two clean sequences of equal length as `apply_mutations` reads them.

    Examples
    --------
    >>> name_mutations("MRTGY", "MKTAY"), name_mutations("MKTAY", "MKTAY")
    ('K2R:A4G', 'WT')
    """
    pairs = zip(split_residues(reference), split_residues(sequence), strict=True)
    return ":".join(f"{old}{place}{new}" for place, (old, new) in enumerate(pairs, offset) if old != new) or "WT"


def _parse(row: object) -> tuple[list[_Mutation], str]:
    """(the mutations of a row, "") or ([], problem)."""
    if row is None or type(row).__name__ in ("NAType", "NaTType") or (isinstance(row, Real) and row != row):
        return [], ": a missing value. Write 'WT' for the reference itself, or remove the row"
    if not isinstance(row, str):
        return [], f": of type {type(row).__name__}. Give a str such as 'A23V'"
    text = row.strip()
    if text.lower() in _WILD_TYPE:
        return [], ""
    mutations: list[_Mutation] = []
    tokens = [token for token in _SEPARATORS.split(text.upper()) if token]
    if any(map(_LENGTH_CHANGE.fullmatch, tokens)):
        return [], ": insertions and deletions are not supported, only substitutions. Pass the whole sequence instead"
    for place, token in enumerate(tokens, 1):
        match = _SUBSTITUTION.fullmatch(token)
        if match is None:
            return [], f", mutation {place}: {_explain(token)}"
        old, position, new = match.groups()
        if new not in AMINO_ACIDS + AMBIGUOUS:
            return [], f", mutation {place}: the new residue is {new!r}, which is not an amino acid"
        mutations.append((old, int(position), new))
    positions = [position for _, position, _ in mutations]
    twice = next((p for i, p in enumerate(positions) if p in positions[:i]), None)
    if twice is not None:
        return [], f", position {twice}: mutated twice. Keep one of the two"
    return mutations, ""


def _explain(token: str) -> str:
    if _STOP.fullmatch(token):
        return "a stop codon, which is not a substitution. Remove the row"
    if _THREE_LETTERS.fullmatch(token):
        return "write residues as one letter, without 'p.': 'A23V' for 'p.Ala23Val'"
    return "not a substitution. Write wild-type residue, position and new residue, as in 'A23V'"


def _misfit(residues: list[str], mutations: list[_Mutation], offset: int) -> str:
    last = offset + len(residues) - 1
    for old, position, _ in mutations:
        if not offset <= position <= last:
            return f", position {position}: outside the reference, which has positions {offset} to {last}"
        if residues[position - offset] != old:
            return f", position {position}: the reference has another residue there"
    return ""


def _advise_offset(residues: list[str], rows: list[list[_Mutation]], given: int) -> str:
    """Name other offsets that fit all mutations. Empty if none fits, or too many."""
    fitting: set[int] | None = None
    for old, position in {(old, position) for row in rows for old, position, _ in row}:
        here = {position - index for index, residue in enumerate(residues) if residue == old}
        fitting = here if fitting is None else fitting & here
    offsets = sorted((fitting or set()) - {given}, key=lambda offset: (abs(offset - given), offset))
    if not offsets or len(offsets) > _MOST_OFFSETS:
        return ""
    return f"{' or '.join(f'offset={offset}' for offset in offsets)} would fit all rows"


def _replace(residues: list[str], mutations: list[_Mutation], offset: int) -> str:
    changed = list(residues)
    for _, position, new in mutations:
        changed[position - offset] = new
    return "".join(changed)
