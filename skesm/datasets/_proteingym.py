"""ProteinGym's substitution assays, with its table of assays, its folds, and its published zero-shot scores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from skesm._messages import first_and_more
from skesm._optional import import_optional
from skesm._typing import Dataset, Document
from skesm.datasets._bunch import columns_of, make_dataset, shares_docs, string_array
from skesm.datasets._download import Downloads
from skesm.datasets._fetched import Fetched, OwnFiles
from skesm.datasets._sources import ASSAYS, FOLDS, MEASUREMENTS, ZERO_SHOT
from skesm.exceptions import DatasetError
from skesm.sequences.mutations import read_mutations

_MUTANT, _SEQUENCE, _SCORE, _BIN = "mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"
_FOLD = "fold_"
_MOST_NAMES = 5


@shares_docs
def fetch_proteingym(
    name: str,
    *,
    folds: Literal["singles", "multiples"] | None = None,
    folder: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: bool | int | str = "auto",
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Dataset:
    """Load a substitution assay of ProteinGym by its name.

    Measurements of variants of one protein, as ProteinGym [1]_ collected and oriented them: a higher value always means
    a fitter variant. The archive holds all 217 assays (about 1 GB unpacked). It is fetched on first use, kept in
    `data_home`, and checked by SHA-256 at every use. Each row is checked: its mutations, applied to the reference of
    the table of assays, make its sequence.

    Parameters
    ----------
    name : str
        Name of the assay, such as ``"BLAT_ECOLX_Stiffler_2015"``, see `fetch_proteingym_table`.
    folds : {"singles", "multiples"} or None, default=None
        With ProteinGym's folds for supervised learning, which come in archives of their own. ``"singles"`` are the
        single mutants, with random, modulo and contiguous folds. ``"multiples"`` are rows with several mutations, with
        random folds. None are all rows, without folds.
    folder : str or path-like, default=None
        A folder of assays of your own in ProteinGym's form: ``DMS_substitutions.csv``, and the files that it names.
        Nothing is fetched then, and digests are computed, not compared.
    {fetching}
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, or Series
            Measured score.
        fit : ndarray of shape (n,), bool
            Whether ProteinGym calls the variant fit.
        mutations : ndarray of str, shape (n,), dtype object
            Mutations of each row, such as ``"A1P:D2N"``.
        wild_type : str
            The reference.
        folds : dict of str to ndarray of shape (n,), int
            Number of the fold by the name of the scheme: ``"random_5"``, ``"modulo_5"``, ``"contiguous_5"`` of single
            mutants, ``"rand_multiples"`` of others. Empty without `folds`.
        assay : dict of str to str
            The assay's row in the table of assays.
        {fetched}

    Raises
    ------
    {raises}

    See Also
    --------
    fetch_proteingym_table : Names of the assays, and the facts on each.

    Notes
    -----
    Files that are unpacked already are read from ``data_home/DMS_ProteinGym_substitutions/NAME.csv``, where ``unzip``
    leaves them. Nobody published the digests of these, so they are learnt at the first use.

    References
    ----------
    .. [1] P. Notin et al., "ProteinGym: Large-Scale Benchmarks for Protein Fitness Prediction and Design", NeurIPS 36,
       64331-64379 (2023). https://www.proteingym.org

    Examples
    --------
    >>> from skesm.datasets import fetch_proteingym
    >>> blat = fetch_proteingym("BLAT_ECOLX_Stiffler_2015")  # doctest: +SKIP
    >>> blat.data.shape  # doctest: +SKIP
    (4996,)
    """
    if folds not in (None, *FOLDS):
        raise ValueError(f"folds must be 'singles', 'multiples' or None, got {folds!r}")
    downloads = Downloads(data_home, download_if_missing, n_retries, delay, verbose)
    fetched = Fetched(downloads) if folder is None else OwnFiles(Path(folder))
    assay = _find(fetched.rows(ASSAYS), name)
    filename, wild_type = assay["DMS_filename"], assay["target_seq"].strip().upper()
    rows = fetched.rows_of_member(MEASUREMENTS if folds is None else FOLDS[folds], filename)
    mutants, sequences, scores, bins = columns_of(rows, (_MUTANT, _SEQUENCE, _SCORE, _BIN), filename)
    _check(filename, wild_type, mutants, sequences)
    schemes = [column for column in rows[0] if column.startswith(_FOLD)] if folds else []
    return make_dataset(
        sequences,
        [float(score) for score in scores],
        target_name=_SCORE,
        descr="proteingym.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        fit=np.array([float(value) == 1 for value in bins]),
        mutations=string_array(mutants),
        wild_type=wild_type,
        folds={
            scheme.removeprefix(_FOLD): np.array([int(float(row[scheme])) for row in rows], dtype=np.int64)
            for scheme in schemes
        },
        assay=assay,
        **fetched.entries(),
    )


@shares_docs
def fetch_proteingym_table(
    *,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: bool | int | str = "auto",
    as_frame: bool = False,
) -> Dataset:
    """Load ProteinGym's table of substitution assays: one row for each of 217 assays.

    Parameters
    ----------
    {fetching}
    as_frame : bool, default=False
        If True, return a pandas DataFrame. Its cells are text, as in the file.

    Returns
    -------
    table : dict of str to dict of str to str, or DataFrame
        Rows by the names of the assays (``DMS_id``). Among the columns are ``target_seq``, ``seq_len``,
        ``DMS_total_number_mutants``, ``includes_multiple_mutants``, ``selection_type``, ``title`` and ``jo`` (the DOI).

    Raises
    ------
    {raises}

    See Also
    --------
    fetch_proteingym : The rows of one assay.

    Examples
    --------
    >>> from skesm.datasets import fetch_proteingym_table
    >>> table = fetch_proteingym_table()  # doctest: +SKIP
    >>> table["BLAT_ECOLX_Stiffler_2015"]["seq_len"]  # doctest: +SKIP
    '286'
    """
    fetched = Fetched(Downloads(data_home, download_if_missing, n_retries, delay, verbose))
    rows = fetched.rows(ASSAYS)
    names = columns_of(rows, ("DMS_id",), ASSAYS)[0]
    if as_frame:
        return import_optional("pandas", extra="demo").DataFrame(rows, index=names)
    return dict(zip(names, rows, strict=True))


def fetch_published_scores(downloads: Downloads) -> tuple[dict[str, dict[str, str]], Document]:
    """ProteinGym's table of zero-shot Spearman correlations: rows by assay, and the entries of a Bunch."""
    fetched = Fetched(downloads)
    rows = fetched.rows(ZERO_SHOT)
    names = columns_of(rows, ("DMS ID",), ZERO_SHOT)[0]
    return dict(zip(names, rows, strict=True)), fetched.entries()


def _find(table: list[dict[str, str]], name: str) -> dict[str, str]:
    """The row of an assay. An error names assays that begin like it."""
    names = columns_of(table, ("DMS_id", "DMS_filename", "target_seq"), ASSAYS)[0]
    if name in names:
        return table[names.index(name)]
    protein = name.upper().split("_")[0]
    alike = [other for other in names if other.upper().startswith(protein)] or names
    raise ValueError(
        f"ProteinGym has no substitution assay {name!r}. It has {first_and_more(alike, ', ', most=_MOST_NAMES)}. "
        "fetch_proteingym_table() lists all"
    )


def _check(filename: str, wild_type: str, mutants: list[str], sequences: list[str]) -> None:
    """Refuse rows whose mutations do not make their sequence."""
    made, problems, _ = read_mutations(wild_type, mutants)
    wrong = [
        row
        for row, (expected, sequence) in enumerate(zip(made, sequences, strict=True))
        if row in problems or expected != sequence.strip().upper()
    ]
    if wrong:
        listed = first_and_more((f"row {row}{problems.get(row, ': another sequence')}" for row in wrong), "\n  ")
        raise DatasetError(
            f"{filename}: the mutations of {len(wrong)} of {len(mutants)} rows do not make their sequences from the "
            f"reference:\n  {listed}"
        )
