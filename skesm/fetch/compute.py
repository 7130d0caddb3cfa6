"""Distinct sequences through a model, each answer checked."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from skesm.backends.base import Model, answers
from skesm.exceptions import BackendError, PartialResultError
from skesm.fetch.request import Distinct
from skesm.outputs.derived import derive, sources
from skesm.outputs.spec import OutputSpec, Record, validate_record
from skesm.sequences.alphabet import count_residues


class Computation:
    """Run a model on a request's distinct sequences.

    Attributes
    ----------
    distinct : Distinct
    computed : int
        Number of answered sequences.
    failed : dict of int to BackendError
        The reason for each sequence without an answer.
    """

    def __init__(self, distinct: Distinct, model: Model, n_jobs: int | None) -> None:
        self.computed = 0
        self.failed: dict[int, BackendError] = {}
        self.distinct = distinct
        self._model = model
        self._spec = model.spec
        self._n_jobs = n_jobs

    def run(self, indices: Sequence[int], outputs: Sequence[OutputSpec]) -> Generator[dict[int, Record], None, None]:
        """Yield records of some distinct sequences, by index, as they finish. Failed sequences go to `failed`."""
        unanswered = set(range(len(indices)))  # the model numbers the sequences that it gets
        sequences = [self.distinct.sequences[i] for i in indices]
        asked = sources(outputs)
        try:
            # Close it here, because a backend's workers and requests end with it. The garbage collector may be late.
            with closing(self._model.run(sequences, asked, n_jobs=self._n_jobs)) as batches:
                for batch in batches:
                    fresh = {indices[place]: record for place, record in answers(batch, unanswered)}
                    for index, record in fresh.items():
                        self._check(index, record, asked)
                        fresh[index] = derive(record, outputs, self.distinct.sequences[index])
                    self.computed += len(fresh)
                    yield fresh
                    del batch, fresh  # the records of one batch can fill the memory
        except PartialResultError as error:
            self.failed.update((indices[place], cause) for place, cause in error.causes.items())
            unanswered -= error.causes.keys()
        if unanswered:
            raise BackendError(f"the backend did not answer {len(unanswered)} of {len(indices)} sequences")

    def _check(self, index: int, record: Record, outputs: Sequence[OutputSpec]) -> None:
        try:
            validate_record(record, outputs, count_residues(self.distinct.sequences[index]), self._spec)
        except ValueError as error:
            row = self.distinct.first_row(index)
            raise BackendError(f"{self._spec.name}: the answer for row {row} of X is wrong: {error}") from error
