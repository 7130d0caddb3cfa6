"""`load_variants`: a user's own table of variants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skesm._optional import import_optional
from skesm._typing import Dataset
from skesm.datasets._bunch import make_dataset, shares_docs, string_array
from skesm.exceptions import InputFileError
from skesm.io._columns import ANY_VARIANT, SEQUENCE_COLUMNS, is_known, place_of
from skesm.io._files import name_of, open_bytes, refuse_lines
from skesm.io._tables import RawTable, count_problems, numbers, read_raw
from skesm.sequences.alphabet import count_residues
from skesm.sequences.clean import clean_reference, find_problems
from skesm.sequences.mutations import name_mutations, read_mutations

_PARQUET = b"PAR1"
_SEQUENCE = "sequence"
_REMEDY = "\nCorrect these rows, or leave them out: invalid='drop'"


@shares_docs
def load_variants(
    path: str | os.PathLike[str],
    *,
    reference: str | None = None,
    sequence_column: str | None = None,
    mutation_column: str | None = None,
    target_column: str | None = None,
    id_column: str | None = None,
    offset: int = 1,
    invalid: str = "raise",
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Dataset:
    r"""Load variants of a protein from a file of your own: CSV, spreadsheet, Parquet or FASTA.

    Rows hold sequences, or mutations of a reference such as ``A23V:K40R``, or both. Every row is checked before
    anything is returned. If a row has both, the mutations must make the sequence.

    Parameters
    ----------
    path : str or path-like
        A table of text with a header, an ``.xlsx`` file, a Parquet file, or FASTA. Text may be compressed with gzip.
        Columns of FASTA are ``id``, and fields such as ``label=1.5`` or ``mutation=A23V`` in its headers.
    reference : str or None, default=None
        The sequence that mutations refer to. It is needed with `mutation_column`. Without, rows of its length get the
        names of their mutations.
    sequence_column : str or None, default=None
        Column of sequences. If neither this nor `mutation_column` is given, a column of a well-known name is taken:
        ``sequence``, ``seq``, ``mutated_sequence`` and others, or with a reference ``mutant``, ``mutation`` and others.
        A FASTA file has one column of sequences.
    mutation_column : str or None, default=None
        Column of mutations, see `skesm.apply_mutations`.
    target_column : str or None, default=None
        Column of measured values.
    id_column : str or None, default=None
        Column of names.
    offset : int, default=1
        Position of the first residue of `reference`, in the numbering of the mutations.
    invalid : {"raise", "drop"}, default="raise"
        How to treat rows that cannot be used. ``"drop"`` leaves them out and lists them in `dropped`.
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, Series, or None
            Measured values.
        mutations : ndarray of str, shape (n,), dtype object, or None
            Mutations of each row. ``"WT"`` is the reference itself. None without a reference, or if not all rows have
            its length.
        wild_type : str or None
            The reference.
        ids : list of str or None
            Names of the rows.
        lines : list of int
            Line of each row in the file, counted from 1.
        dropped : dict of int to str
            Lines that were left out, each with its problem.
        taken : dict of str to str
            Columns that were read, by the parameter that names them.
        {columns}

    Raises
    ------
    InputFileError
        If the file cannot be read, has no such column, or has rows that cannot be used. The message names lines.
    InvalidSequenceError
        If the reference is not a sequence.
    ValueError
        If `mutation_column` is given without `reference`, or `invalid` is not one of the allowed values.

    See Also
    --------
    skesm.io.read_table : Sequences and targets of a table, without a reference.
    skesm.apply_mutations : Mutations of a list.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skesm.datasets import load_variants
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "plate_7.csv")
    ...     _ = path.write_text("mutant,activity\nK2R,0.5\nK2R:A4G,1.25\nWT,1\n")
    ...     columns = {"mutation_column": "mutant", "target_column": "activity"}
    ...     plate = load_variants(path, reference="MKTAY", **columns)
    >>> plate.data.tolist(), plate.target.tolist()
    (['MRTAY', 'MRTGY', 'MKTAY'], [0.5, 1.25, 1.0])
    """
    if mutation_column is not None and reference is None:
        raise ValueError("mutation_column needs a reference: the sequence that the mutations refer to")
    wild_type = None
    if reference is not None:
        wild_type = clean_reference(reference, long_sequences="window", max_length=None, unknown_residues="error")
    found = read_variants(
        path,
        wild_type=wild_type,
        sequence_column=sequence_column,
        mutation_column=mutation_column,
        target_column=target_column,
        others=() if id_column is None else (id_column,),
        offset=offset,
        invalid=invalid,
    )
    mutations = None
    if wild_type is not None and all(count_residues(each) == count_residues(wild_type) for each in found.sequences):
        mutations = string_array([name_mutations(sequence, wild_type, offset) for sequence in found.sequences])
    y = found.y
    return make_dataset(
        found.sequences,
        None if y is None else y.tolist(),
        target_name=found.names.get("target_column", "target"),
        descr=f"{len(found.sequences):,} variants of {name_of(path)}",
        return_X_y=return_X_y,
        as_frame=as_frame,
        mutations=mutations,
        wild_type=wild_type,
        ids=found.others.get(id_column or "id"),
        lines=found.lines,
        dropped=found.dropped,
        taken=found.names,
    )


@dataclass(frozen=True)
class Variants:
    """Rows of a file that can be used."""

    sequences: list[str]
    y: NDArray[np.float64] | None
    others: dict[str, list[str]]  # other columns that were asked for, and the ids of FASTA
    lines: list[int]
    dropped: dict[int, str]
    names: dict[str, str]  # of the columns in the file, by parameter


def read_variants(
    path: str | os.PathLike[str],
    *,
    wild_type: str | None,
    sequence_column: str | None,
    mutation_column: str | None,
    target_column: str | None,
    others: Sequence[str] = (),
    offset: int = 1,
    max_length: int | None = None,
    invalid: str,
) -> Variants:
    """Read and check rows of sequences or mutations. `target_column` may be `ANY_TARGET`."""
    if invalid not in ("raise", "drop"):
        raise ValueError(f"invalid must be 'raise' or 'drop', not {invalid!r}")
    name = name_of(path)
    looked_for = None
    if sequence_column is None and mutation_column is None:
        looked_for = ANY_VARIANT
    wanted = [c for c in (looked_for, sequence_column, mutation_column, target_column, *others) if c is not None]
    raw, fasta = _read(path, wanted, sequence_column or looked_for or _SEQUENCE)
    if not raw.lines:
        raise InputFileError(f"{name} holds no rows")
    if fasta and sequence_column is None:
        sequence_column = looked_for or _SEQUENCE
    elif looked_for is not None and is_known(raw.names[looked_for], SEQUENCE_COLUMNS):
        sequence_column = looked_for
    elif looked_for is not None:
        if wild_type is None:
            column = raw.names[looked_for]
            raise ValueError(
                f"{name} has no sequences, but mutations in the column {column!r}. Give the sequence that they refer "
                "to: reference='SEQUENCE'"
            )
        mutation_column = looked_for
    sequences, problems = _sequences(raw, sequence_column, mutation_column, wild_type, offset, max_length)
    if sequence_column is not None and sequence_column == looked_for and mutation_column is None:
        _refuse_references(name, _SEQUENCE if fasta else raw.names[looked_for], sequences, wild_type)
    y = None
    if target_column is not None:
        y, bad = numbers(raw, target_column)
        problems = bad | problems
    problems = dict(sorted((raw.problems | problems).items()))
    if invalid == "raise":
        refuse_lines(name, problems, len(raw.lines), _REMEDY)
    kept = [row for row, line in enumerate(raw.lines) if line not in problems]
    if not kept:
        raise InputFileError(f"{name}: none of {len(raw.lines)} rows can be used: {count_problems(problems)}")
    columns = [*others, *(["id"] if fasta else [])]
    chosen = {
        "sequence_column": None if fasta else sequence_column,
        "mutation_column": mutation_column,
        "target_column": target_column,
    }
    return Variants(
        sequences=[sequences[row].strip().upper() for row in kept],
        y=None if y is None else y[kept],
        others={column: [raw.columns[column][row] for row in kept] for column in columns},
        lines=[raw.lines[row] for row in kept],
        dropped=problems,
        names={role: raw.names[column] for role, column in chosen.items() if column is not None},
    )


def _refuse_references(name: str, column: str, sequences: Sequence[str], wild_type: str | None) -> None:
    """Raise if a column that was found by its name holds no variant, as in tables of a sequence and its mutations."""
    if len(sequences) > 1 and all(sequence.strip().upper() == wild_type for sequence in sequences):
        raise InputFileError(
            f"{name}: every row has the reference in column {column!r}. Name the column of mutations: "
            "mutation_column='NAME'. If there is none, give sequence_column too"
        )


def _read(path: str | os.PathLike[str], wanted: list[str], sequence_column: str) -> tuple[RawTable, bool]:
    """(the wanted columns, whether the file is FASTA)."""
    with open_bytes(path) as file:
        parquet = file.peek(len(_PARQUET)).startswith(_PARQUET)
    if not parquet:
        return read_raw(path, wanted, sequence_column)
    import_optional("pyarrow", extra="parquet")
    from pyarrow import parquet as reader

    with reader.ParquetFile(path) as table:
        header = table.schema_arrow.names
        names = {column: header[place_of(header, column, name_of(path))] for column in wanted}
        found = table.read(columns=list(names.values()))
    columns = {
        c: ["" if cell is None else str(cell) for cell in found.column(named).to_pylist()] for c, named in names.items()
    }
    return RawTable(list(range(1, found.num_rows + 1)), columns, names), False


def _sequences(
    raw: RawTable,
    sequence_column: str | None,
    mutation_column: str | None,
    wild_type: str | None,
    offset: int,
    max_length: int | None,
) -> tuple[list[str], dict[int, str]]:
    """Sequences of the rows, and the problems by line."""
    given: list[str] | None = None
    problems: dict[int, str] = {}
    if sequence_column is not None:
        given = raw.columns[sequence_column]
        problems = find_problems(given, max_length=max_length)
    if mutation_column is not None:
        assert wild_type is not None, "checked by the caller"
        made, misfits, advice = read_mutations(wild_type, raw.columns[mutation_column], offset)
        problems |= {row: f"{problem}{f' ({advice})' if advice else ''}" for row, problem in misfits.items()}
        if given is not None:
            for row, (expected, sequence) in enumerate(zip(made, given, strict=True)):
                if row not in problems and expected != sequence.strip().upper():
                    problems[row] = ": the mutations do not make the sequence from the reference"
        else:
            problems |= {r: p for r, p in find_problems(made, max_length=max_length).items() if r not in problems}
        given = made
    assert given is not None, "checked by the caller"
    return given, {raw.lines[row]: problem for row, problem in problems.items()}
