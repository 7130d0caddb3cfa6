"""Sequences that are too long for one pass: cut into windows that overlap, and put together again.

Each window goes through the model as a sequence of its own, with a start and an end token, which no residue's row
contains. A residue in several windows gets the mean of its rows, each weighted by the residue's distance to the
nearer end of that window (1 for a residue at the end): near an end a window sees least of a residue's surroundings.
Means and maxima over the sequence are over these merged rows. What start and end tokens represent is averaged over the
windows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from skesm.backends.base import Backend, Batch, answers
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, InvalidSequenceError, PartialResultError
from skesm.outputs.spec import (
    ATTENTION_KINDS,
    CONTACT_PROFILE,
    CONTACTS,
    FloatArray,
    OutputSpec,
    Record,
    Windows,
    validate_record,
)
from skesm.sequences.alphabet import count_residues, split_residues

#: What pairs of residues have: a pair that no window holds has no value.
PAIRWISE = (CONTACTS, CONTACT_PROFILE, *ATTENTION_KINDS)


def refuse_pairwise(outputs: Sequence[OutputSpec], windows: Windows, rows: Sequence[int]) -> None:
    """Raise for outputs of pairs of residues; `rows` are those that would be cut."""
    kinds = sorted({output.kind for output in outputs if output.kind in PAIRWISE})
    if kinds:
        raise InvalidSequenceError(
            f"{', '.join(kinds)}: not available for sequences in windows, which do not hold every pair of residues. "
            f"{len(rows)} sequences have more than max_length={windows.size} residues, the first is row {rows[0]}: "
            "remove them, or raise max_length",
            rows,
        )


def bounds(length: int, windows: Windows) -> list[tuple[int, int]]:
    """First and one past the last residue of each window: as few as there can be, evenly spaced.

    Examples
    --------
    >>> bounds(10, Windows(size=6, overlap=2))
    [(0, 6), (4, 10)]
    >>> bounds(11, Windows(size=6, overlap=2))
    [(0, 6), (2, 8), (5, 11)]
    """
    n_windows = 1 + max(0, -(-(length - windows.size) // (windows.size - windows.overlap)))
    last = max(0, length - windows.size)
    starts = [round(i * last / max(1, n_windows - 1)) for i in range(n_windows)]
    return [(start, min(length, start + windows.size)) for start in starts]


def cut(sequence: str, windows: Windows) -> list[str]:
    """The windows of a sequence, in order.

    Examples
    --------
    >>> cut("MKT<mask>YIAKQR", Windows(size=6, overlap=2))
    ['MKT<mask>YI', 'YIAKQR']
    """
    residues = split_residues(sequence)
    return ["".join(residues[begin:end]) for begin, end in bounds(len(residues), windows)]


def merge(parts: Sequence[FloatArray], length: int, windows: Windows) -> FloatArray:
    """Rows of windows, (residues, …) each, to rows of the whole sequence, (length, …)."""
    total = np.zeros((length, *parts[0].shape[1:]))
    weights = np.zeros(length)
    for part, (begin, end) in zip(parts, bounds(length, windows), strict=True):
        place = np.arange(end - begin)
        weight = np.minimum(place + 1, place[::-1] + 1).astype(np.float64)
        total[begin:end] += (weight * part.T).T
        weights[begin:end] += weight
    merged: FloatArray = (total.T / weights).T.astype(np.float32)
    return merged


def run_windows(
    backend: Backend, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None
) -> Generator[Batch, None, None]:
    """Do what `Backend.run` does, for outputs with windows.

    A window that several sequences have, such as copies of one with a residue masked, is computed once.
    """
    work = _Work(sequences, outputs, backend.spec(model))
    unanswered = set(range(len(work.distinct)))
    try:
        with closing(backend.run(model, work.distinct, work.plain, n_jobs=n_jobs)) as batches:
            for batch in batches:
                finished = [whole for place, record in answers(batch, unanswered) for whole in work.add(place, record)]
                if finished:
                    yield Batch([index for index, _ in finished], [record for _, record in finished])
    except PartialResultError as error:
        causes = {index: cause for place, cause in error.causes.items() for index in work.users[place]}
        raise PartialResultError(f"{len(causes)} of {len(sequences)} sequences failed", causes) from error


class _Work:
    """Which windows are needed, and those that are there and wait for others.

    Attributes
    ----------
    distinct : list of str
        The windows, each once.
    plain : list of OutputSpec
        What is asked of them.
    users : list of list of int
        For each window the sequences that have it.
    """

    def __init__(self, sequences: Sequence[str], outputs: Sequence[OutputSpec], spec: ModelSpec) -> None:
        (windows,) = {output.windows for output in outputs}
        assert windows is not None, "sequences that fit need no windows"
        self._windows = windows
        self._lengths = [count_residues(sequence) for sequence in sequences]
        self._outputs = outputs
        self._spec = spec
        self.plain = [replace(output, windows=None) for output in outputs]
        places: dict[str, int] = {}
        self._needs = [[places.setdefault(w, len(places)) for w in cut(sequence, windows)] for sequence in sequences]
        self.distinct = list(places)
        self.users: list[list[int]] = [[] for _ in places]
        for index, needs in enumerate(self._needs):
            for place in set(needs):
                self.users[place].append(index)
        self._lacking = [len(set(needs)) for needs in self._needs]
        self._waited_for = [len(users) for users in self.users]
        self._kept: dict[int, Record] = {}

    def add(self, place: int, record: Record) -> Iterator[tuple[int, Record]]:
        """Take a window's record; give those of the sequences that lacked only this one, with their indices."""
        try:
            validate_record(record, self.plain, count_residues(self.distinct[place]), self._spec)
        except ValueError as error:
            raise BackendError(f"{self._spec.name}: the answer for a window is wrong: {error}") from error
        self._kept[place] = record
        for index in self.users[place]:
            self._lacking[index] -= 1
            if not self._lacking[index]:
                yield index, self._whole(index)

    def _whole(self, index: int) -> Record:
        parts = [self._kept[place] for place in self._needs[index]]
        record: dict[OutputSpec, FloatArray] = {}
        for output, plain in zip(self._outputs, self.plain, strict=True):
            values = [part[plain] for part in parts]
            if output.kind in ("cls", "eos"):
                record[output] = np.stack(values).mean(axis=0, dtype=np.float64).astype(np.float32)
            else:
                record[output] = merge(values, self._lengths[index], self._windows)
        for place in set(self._needs[index]):
            self._waited_for[place] -= 1
            if not self._waited_for[place]:
                del self._kept[place]
        return record
