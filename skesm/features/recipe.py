"""How an estimator makes its rows: what it asks of the model, and the function from one record to one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skesm.features.masked import masked_logits, masked_requests
from skesm.features.summaries import MASKED
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.spec import OutputSpec, Record
from skesm.sequences.variants import distinct_rows

#: From a distinct sequence and its record to the numbers of one row.
Row = Callable[[str, Record], NDArray[Any]]


@dataclass(frozen=True)
class Recipe:
    """The columns of an estimator, and how they are made.

    Attributes
    ----------
    columns : sequence of str
        Names of the columns.
    outputs : sequence of OutputSpec
        What is asked of the model for each sequence. ``mask_logits`` asks for a pass for each masked residue.
    row : callable
        From a sequence and its record to its row. A recipe with ``mask_logits`` and other outputs calls it with the
        record of each in turn; columns whose output is not in the record are NaN.
    shared : Request, optional
        What all rows need: records of the reference. They are fetched first.
    row_from_shared : callable, optional
        Makes `row` from the records of `shared` (none, if that is None).
    known : mapping of str to float
        Sequences whose value is known beforehand.
    """

    columns: Sequence[str]
    outputs: Sequence[OutputSpec]
    row: Row
    shared: Request | None = None
    row_from_shared: Callable[[Sequence[Record]], Row] | None = None
    known: Mapping[str, float] = field(default_factory=dict, repr=False)

    def requests(self, sequences: Sequence[str], prefetch: Sequence[OutputSpec]) -> Iterator[Request]:
        """Everything that `make_rows` fetches."""
        own = self._own_request(sequences, prefetch)
        yield from (request for request in (self.shared, own) if request is not None)
        if MASKED in self.outputs:
            yield from (request for _, request in masked_requests(list(self._unknown_rows(sequences))))

    def make_rows(
        self, run: Run, sequences: Sequence[str], prefetch: Sequence[OutputSpec], dtype: type[np.floating[Any]]
    ) -> NDArray[Any]:
        """The columns of clean sequences, in their order; NaN where the backend failed."""
        row = self.row
        if self.row_from_shared is not None:
            row = self.row_from_shared(run.fetch_reference(self.shared) if self.shared is not None else [])
        places = self._unknown_rows(sequences)
        parts = list(self._parts(run, row, sequences, prefetch))
        values = np.full((len(sequences), len(self.columns)), np.nan, dtype=dtype)
        for rows, *found in zip(places.values(), *parts, strict=True):
            if all(part is not None for part in found):
                values[rows] = _put_together(found)
        for sequence, rows in distinct_rows(sequences).items():
            if sequence in self.known:
                values[rows] = self.known[sequence]
        return values

    def _parts(
        self, run: Run, row: Row, sequences: Sequence[str], prefetch: Sequence[OutputSpec]
    ) -> Iterator[list[NDArray[Any] | None]]:
        """For each distinct sequence its row: from its own record, and from its masked copies."""
        places = self._unknown_rows(sequences)
        own = self._own_request(sequences, prefetch)
        if own is not None:
            found = run.fetch(own, row)
            yield [found[rows[0]] for rows in places.values()]
        if MASKED in self.outputs:
            masked = zip(places, masked_logits(run, places), strict=True)
            yield [None if logits is None else row(sequence, {MASKED: logits}) for sequence, logits in masked]
        if not self.outputs:
            yield [row(sequence, {}) for sequence in places]

    def _own_request(self, sequences: Sequence[str], prefetch: Sequence[OutputSpec]) -> Request | None:
        outputs = [output for output in self.outputs if output != MASKED]
        return Request(sequences, outputs, prefetch) if outputs else None

    def _unknown_rows(self, sequences: Sequence[str]) -> dict[str, list[int]]:
        """Distinct sequences whose value is not known beforehand, and their rows."""
        return {sequence: rows for sequence, rows in distinct_rows(sequences).items() if sequence not in self.known}


def _put_together(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    whole, *others = parts
    for other in others:
        whole = np.where(np.isnan(whole), other, whole)
    return whole
