"""How an estimator makes its rows: the outputs that it needs, and the function from one record to one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from skesm.features.common.masked import masked_logits, masked_requests
from skesm.features.common.summaries import MASKED
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.derived import sources
from skesm.outputs.spec import OutputSpec, Record
from skesm.sequences.variants import distinct_rows

#: From a distinct sequence and its record to the numbers of one row, or to one number.
Row = Callable[[str, Record], ArrayLike]


@dataclass(frozen=True)
class Recipe:
    """The columns of an estimator, and how to make them.

    Attributes
    ----------
    columns : sequence of str
        Names of the columns.
    outputs : sequence of OutputSpec
        Outputs of the model for each sequence. ``mask_logits`` needs a pass for each masked residue.
    row : callable
        Makes the row from a sequence and its record. With ``mask_logits`` and other outputs it is called once for each
        record. Columns of outputs that are not in the record are then NaN.
    shared : Request, optional
        Records that all rows need, such as the record of the reference. They are fetched first.
    row_from_shared : callable, optional
        Makes `row` from the records of `shared`, or from no records if `shared` is None.
    known : mapping of str to float
        Sequences with a value that is known beforehand.
    """

    columns: Sequence[str]
    outputs: Sequence[OutputSpec]
    row: Row
    shared: Request | None = None
    row_from_shared: Callable[[Sequence[Record]], Row] | None = None
    known: Mapping[str, float] = field(default_factory=dict, repr=False)

    def requests(self, sequences: Sequence[str], prefetch: Sequence[OutputSpec], *, stored: bool) -> Iterator[Request]:
        """Everything that `make_rows` fetches.

        If there is a store (`stored`), the records that all rows share answer later requests too. Their sequences are
        left out there, so that a plan counts them once.
        """
        own = self._own_request(sequences, prefetch)
        if self.shared is not None:
            yield self.shared
        shared = self.shared if stored else None
        if own is not None:
            yield _without(own, shared)
        if MASKED in self.outputs:
            for _, request in masked_requests(list(self._unknown_rows(sequences))):
                yield _without(request, shared)

    def make_rows(
        self, run: Run, sequences: Sequence[str], prefetch: Sequence[OutputSpec], dtype: type[np.floating]
    ) -> np.ndarray:
        """Compute the columns of clean sequences, in their order. Rows are NaN where the backend failed."""
        row = self.row
        if self.row_from_shared is not None:
            row = self.row_from_shared(run.fetch_reference(self.shared) if self.shared is not None else [])
        features = np.full((len(sequences), len(self.columns)), np.nan, dtype=dtype)
        places = self._unknown_rows(sequences)
        in_pieces = MASKED in self.outputs and len(self.outputs) > 1

        def write(sequence: str, record: Record) -> bool:
            # Each row goes into the result as its record arrives: a list of rows would hold the features twice.
            if rows := places.get(sequence):
                values = np.reshape(row(sequence, record), len(self.columns))
                if in_pieces:
                    written = features[rows[0]]
                    values = np.where(np.isnan(written), values, written)
                features[rows if len(rows) > 1 else rows[0]] = values
            return True

        own = self._own_request(sequences, prefetch)
        features[list(self._fetch_rows(run, write, own, places))] = np.nan
        for sequence, value in self.known.items():
            features[[place for place, other in enumerate(sequences) if other == sequence]] = value
        return features

    def _fetch_rows(
        self, run: Run, write: Callable[[str, Record], bool], own: Request | None, places: dict[str, list[int]]
    ) -> Iterator[int]:
        """Write the rows of distinct sequences from their own records and masked copies. Yield rows that failed."""
        if own is not None:
            yield from (place for place, written in enumerate(run.fetch(own, write)) if not written)
        if MASKED in self.outputs:
            for sequence, logits in zip(places, masked_logits(run, places), strict=True):
                if logits is None:
                    yield from places[sequence]
                else:
                    write(sequence, {MASKED: logits})
        if not self.outputs:
            for sequence in places:
                write(sequence, {})

    def _own_request(self, sequences: Sequence[str], prefetch: Sequence[OutputSpec]) -> Request | None:
        outputs = [output for output in self.outputs if output != MASKED]
        return Request(sequences, outputs, prefetch) if outputs else None

    def _unknown_rows(self, sequences: Sequence[str]) -> dict[str, list[int]]:
        """Distinct sequences without a known value, and their rows."""
        return {sequence: rows for sequence, rows in distinct_rows(sequences).items() if sequence not in self.known}


def _without(request: Request, shared: Request | None) -> Request:
    """The request less the sequences that the records of a shared request answer."""
    if shared is None or not any(
        set(asked) <= set(shared.outputs) for asked in (request.outputs, sources(request.outputs))
    ):
        return request
    known = set(shared.sequences)
    kept = [place for place, sequence in enumerate(request.sequences) if sequence not in known]
    # errors name rows of X, so those that stay keep their numbers
    return replace(
        request,
        sequences=[request.sequences[place] for place in kept],
        rows=[request.rows_of(place) for place in kept],
    )
