"""One use of an estimator: one or several journeys on the road."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, PartialResultError, PartialResultWarning
from skesm.fetch.records import RunInfo, keep, partial_result, travel
from skesm.fetch.windows import refuse_pairwise
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import Windows
from skesm.sequences.alphabet import count_residues

T = TypeVar("T")

# Not attributes of the estimators: transform leaves an estimator as it was, so that threads may share it.
last_runs: weakref.WeakKeyDictionary[Any, RunInfo] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Journey:
    """Sequences and what is asked of them."""

    sequences: Sequence[str] = field(repr=False)  # confidential
    outputs: Sequence[OutputSpec]
    prefetch: Sequence[OutputSpec] = ()

    def parts(self, windows: Windows | None) -> Iterator[tuple[Sequence[int], Journey]]:
        """The same in journeys of sequences that fit in a pass and of those that are cut into windows.

        Yields
        ------
        places : sequence of int
            Which of the sequences these are.
        journey : Journey
            Its outputs have windows, or none.
        """
        places = range(len(self.sequences))
        if windows is None:
            yield places, self
            return
        fits = [count_residues(sequence) <= windows.size for sequence in self.sequences]
        if all(fits):
            yield places, self
            return
        short, long = ([place for place, fit in enumerate(fits) if fit == wanted] for wanted in (True, False))
        refuse_pairwise((*self.outputs, *self.prefetch), windows, long)
        if short:
            yield short, replace(self, sequences=[self.sequences[place] for place in short])
        yield (
            long,
            Journey(
                [self.sequences[place] for place in long],
                [replace(output, windows=windows) for output in self.outputs],
                [replace(output, windows=windows) for output in self.prefetch],
            ),
        )


class Run:
    """One use of an estimator: its journeys on the road, what they cost together, and which rows failed."""

    def __init__(self, estimator: Any, backend: Backend, spec: ModelSpec, windows: Windows | None = None) -> None:
        self.spec = spec
        self._estimator = estimator
        self._backend = backend
        self._windows = windows
        self._costs: list[RunInfo] = []
        self._causes: dict[int, BackendError] = {}

    def travel(
        self, journey: Journey, reduce: Callable[[str, Record], T], rows: Sequence[Sequence[int]] | None = None
    ) -> list[T | None]:
        """What `reduce` makes of the records of a journey's sequences, in their order; None where the backend failed.

        `rows` are those of X that need a sequence, by default its own place.
        """
        values, causes = self._travel(journey, reduce, rows)
        self._causes = {**causes, **self._causes}
        return values

    def travel_reference(self, journey: Journey) -> list[Record]:
        """Records of what every row needs: the reference, or masked copies of it."""
        records, causes = self._travel(journey, keep, None)
        if causes:
            cause = next(iter(causes.values()))
            raise BackendError(f"the backend failed on the reference, which every row needs: {cause}") from cause
        return [record for record in records if record is not None]

    def _travel(
        self, journey: Journey, reduce: Callable[[str, Record], T], rows: Sequence[Sequence[int]] | None
    ) -> tuple[list[T | None], dict[int, BackendError]]:
        def reduce_whole(sequence: str, record: Record) -> T:
            return reduce(sequence, {replace(output, windows=None): value for output, value in record.items()})

        estimator = self._estimator
        values: list[T | None] = [None] * len(journey.sequences)
        causes: dict[int, BackendError] = {}
        for places, part in journey.parts(self._windows):
            try:
                answer = travel(
                    part.sequences,
                    part.outputs,
                    reduce if part is journey else reduce_whole,
                    backend=self._backend,
                    model=model_name(estimator.model),
                    memory=estimator.memory,
                    prefetch=part.prefetch,
                    n_jobs=estimator.n_jobs,
                    verbose=bool(estimator.verbose),
                    rows=rows if part is journey else [(place,) if rows is None else rows[place] for place in places],
                )
            except PartialResultError as error:
                causes.update(error.causes)
                answer = error.results
            for place, value in zip(places, answer.values, strict=True):
                values[place] = value
            self._costs.append(answer.info)
        return values, causes

    def finish(self, values: Sized, *, windowed: int) -> None:
        """Note the costs, for `cache_info`; raise or warn if rows failed, whose `values` are NaN (or None)."""
        last_runs[self._estimator] = RunInfo(
            rows=len(values),
            distinct=sum(cost.distinct for cost in self._costs),
            hits=sum(cost.hits for cost in self._costs),
            computed=sum(cost.computed for cost in self._costs),
            windowed=windowed,
        )
        if self._causes:
            error = partial_result(self._causes, len(values), values)
            if self._estimator.on_error == "raise":
                raise error
            warnings.warn(f"{error}: NaN", PartialResultWarning, stacklevel=4)


def model_name(model: Any) -> str:
    """Name or path of a model, as the parameter gives it."""
    return model if isinstance(model, str) else str(model.__fspath__())
