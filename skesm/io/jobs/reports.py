"""The result of a file, and the estimated cost of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FileReport:
    """The result of computing a file.

    Attributes
    ----------
    output : str
        The file that was written.
    rows : int
        Rows in it.
    columns : int
        Features of a row.
    missing : int
        Rows of the input that are not in it: those that were dropped, and those that failed. `missing_file` tells why.
    missing_file : str or None
        Beside the output. None if nothing is missing.
    resumed : int
        Rows that an interrupted run had finished.
    hits, computed : int
        Distinct sequences that were answered by the record store, and that went through the model.
    seconds : float
    unchanged : bool
        Whether the output was there already, complete and of the same rows and settings.
    notes : sequence of str
        Columns that were chosen by well-known names.
    failed : int
        Rows on which the backend failed. The next call tries them again.
    """

    output: str
    rows: int
    columns: int
    missing: int
    missing_file: str | None
    resumed: int
    hits: int
    computed: int
    seconds: float
    unchanged: bool = False
    notes: Sequence[str] = ()
    failed: int = 0


@dataclass(frozen=True)
class FilePlan:
    """The estimated cost of a file.

    Attributes
    ----------
    rows, residues : int
        Of the rows that can be used.
    unusable : int
        Rows that cannot be used.
    stored : int
        Distinct sequences that the record store can answer.
    to_compute : int
        Distinct sequences that would go through the model.
    requests : int or None
        Requests that would be sent. None for a model on this machine.
    columns : int
        Features of a row.
    output_bytes : int
        Bytes of the features, about the size of the output.
    hours : float or None
        At the given rate, if nothing were stored.
    notes : sequence of str
        Columns that were chosen by well-known names.
    """

    rows: int
    residues: int
    unusable: int
    stored: int
    to_compute: int
    requests: int | None
    columns: int
    output_bytes: int
    hours: float | None
    notes: Sequence[str] = ()
