"""One call of an estimator: its requests, their costs, and the rows that failed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence, Sized
from typing import Protocol, TypeVar

from skesm._typing import Memory
from skesm.backends.base import Model
from skesm.backends.costs import RunInfo, add_costs
from skesm.exceptions import BackendError, PartialResultError, PartialResultWarning
from skesm.fetch.records import Answer, fetch, keep
from skesm.fetch.request import Request, partial_result
from skesm.fetch.windows import count_long
from skesm.outputs.spec import Record
from skesm.outputs.types import Windows

T = TypeVar("T")

# Not attributes of the estimators: transform does not change an estimator, so threads may share it.
last_runs: weakref.WeakKeyDictionary[object, RunInfo] = weakref.WeakKeyDictionary()


class Fetches(Protocol):
    """The parameters of an estimator that decide how its records are fetched."""

    memory: Memory
    on_error: str
    n_jobs: int | None
    verbose: bool | int | str


class Run:
    """One call of an estimator: its requests, their total cost, and the rows that failed."""

    def __init__(self, estimator: Fetches, model: Model, windows: Windows | None = None) -> None:
        self.spec = model.spec
        self._estimator = estimator
        self._model = model
        self._windows = windows
        self._costs: list[RunInfo] = []
        self._causes: dict[int, BackendError] = {}

    def fetch(self, request: Request, reduce: Callable[[str, Record], T]) -> list[T | None]:
        """Fetch and reduce the records of a request, in its order. None where the backend failed."""
        values, causes = self._fetch(request, reduce)
        self._causes = {**causes, **self._causes}
        return values

    def fetch_reference(self, request: Request) -> list[Record]:
        """Fetch records that every row needs: of the reference, or of masked copies of it."""
        records, causes = self._fetch(request, keep)
        if causes:
            cause = next(iter(causes.values()))
            raise BackendError(f"the backend failed on the reference, which every row needs: {cause}") from cause
        return [record for record in records if record is not None]

    def _fetch(
        self, request: Request, reduce: Callable[[str, Record], T]
    ) -> tuple[list[T | None], dict[int, BackendError]]:
        estimator = self._estimator
        causes: dict[int, BackendError] = {}
        answer: Answer[T]
        try:
            answer = fetch(
                request,
                reduce,
                model=self._model,
                memory=estimator.memory,
                windows=self._windows,
                n_jobs=estimator.n_jobs,
                verbose=estimator.verbose,
            )
        except PartialResultError as error:
            causes, answer = dict(error.causes), error.results
        self._costs.append(answer.info)
        return answer.values, causes

    def finish(self, values: Sized, sequences: Sequence[str]) -> None:
        """Note the costs for `cache_info`. Raise or warn if rows failed, which have NaN (or None) in `values`."""
        windowed = count_long(sequences, self._windows)
        last_runs[self._estimator] = add_costs(len(values), self._costs, windowed=windowed)
        if self._causes:
            error = partial_result(self._causes, len(values), values)
            if self._estimator.on_error == "raise":
                raise error
            warnings.warn(f"{error}: NaN", PartialResultWarning, stacklevel=4)
