"""A request for outputs of sequences, and its distinct sequences with the rows that need each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from skesm._messages import first_and_more
from skesm.exceptions import BackendError, PartialResultError
from skesm.outputs.spec import OutputSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """Sequences, and the outputs that are requested for each.

    Attributes
    ----------
    sequences : sequence of str
        Clean sequences, repeats allowed.
    outputs : sequence of OutputSpec
        Outputs that the records must hold.
    prefetch : sequence of OutputSpec
        Further outputs to store for sequences that go through the model. Ignored without a store.
    rows : sequence of sequence of int, optional
        For each sequence the rows of X that need it. Errors name them if it fails. By default its own place.
    """

    sequences: Sequence[str] = field(repr=False)  # confidential
    outputs: Sequence[OutputSpec]
    prefetch: Sequence[OutputSpec] = ()
    rows: Sequence[Sequence[int]] | None = None

    def rows_of(self, place: int) -> Sequence[int]:
        """Rows of X that need the sequence at a place."""
        return (place,) if self.rows is None else self.rows[place]


class Distinct:
    """The distinct sequences of a request, in the order of their first places.

    Attributes
    ----------
    sequences : list of str
    """

    def __init__(self, request: Request) -> None:
        places: dict[str, int] = {}
        self._request = request
        self._inverse = [places.setdefault(sequence, len(places)) for sequence in request.sequences]
        self.sequences = list(places)

    def __len__(self) -> int:
        return len(self.sequences)

    def first_row(self, index: int) -> int:
        """The first row of X that needs a distinct sequence."""
        return self._request.rows_of(self._inverse.index(index))[0]

    def places(self, indices: Collection[int]) -> list[int]:
        """Places in the request of some distinct sequences."""
        chosen = set(indices)
        return [place for place, index in enumerate(self._inverse) if index in chosen]

    def spread(self, values: Mapping[int, T]) -> list[T | None]:
        """The value of each sequence of the request. Repeats share a value. None where there is none."""
        return [values.get(index) for index in self._inverse]

    def causes(self, failed: Mapping[int, BackendError]) -> dict[int, BackendError]:
        """Reasons for failed rows of X, from reasons for failed distinct sequences."""
        return {
            row: failed[index]
            for place, index in enumerate(self._inverse)
            if index in failed
            for row in self._request.rows_of(place)
        }


def partial_result(causes: Mapping[int, BackendError], n_rows: int, results: object) -> PartialResultError:
    """Make the error that names the failed rows of X, and carries the finished ones."""
    ordered = dict(sorted(causes.items()))
    shown = first_and_more((f"row {row}: {cause}" for row, cause in ordered.items()), "; ")
    return PartialResultError(
        f"{len(ordered)} of {n_rows} rows of X failed, all others are finished: {shown}", ordered, results
    )
