"""One use of an estimator: one or several journeys on the road."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from skesm._outputs import OutputSpec, Record
from skesm._road import Answer, RunInfo, partial_result, travel
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, PartialResultError, PartialResultWarning

# Not attributes of the estimators: transform leaves an estimator as it was, so that threads may share it.
last_runs: weakref.WeakKeyDictionary[Any, RunInfo] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Journey:
    """Sequences and what is asked of them."""

    sequences: Sequence[str] = field(repr=False)  # confidential
    outputs: Sequence[OutputSpec]
    prefetch: Sequence[OutputSpec] = ()


class Run:
    """One use of an estimator: its journeys on the road, what they cost together, and which rows failed."""

    def __init__(self, estimator: Any, backend: Backend, spec: ModelSpec) -> None:
        self.spec = spec
        self._estimator = estimator
        self._backend = backend
        self._costs: list[RunInfo] = []
        self._causes: dict[int, BackendError] = {}

    def travel(self, journey: Journey, rows: Sequence[Sequence[int]] | None = None) -> Answer:
        """Records of a journey's sequences, None where the backend failed.

        `rows` are those of X that need a sequence, by default its own place.
        """
        try:
            answer = self._travel(journey, rows)
        except PartialResultError as error:
            self._causes = {**error.causes, **self._causes}
            answer = error.results
        self._costs.append(answer.info)
        return answer

    def travel_reference(self, journey: Journey) -> list[Record]:
        """Records of what every row needs: the reference, or masked copies of it."""
        try:
            answer = self._travel(journey, None)
        except PartialResultError as error:
            cause = next(iter(error.causes.values()))
            raise BackendError(f"the backend failed on the reference, which every row needs: {cause}") from cause
        self._costs.append(answer.info)
        return [record for record in answer.records if record is not None]

    def _travel(self, journey: Journey, rows: Sequence[Sequence[int]] | None) -> Answer:
        estimator = self._estimator
        return travel(
            journey.sequences,
            journey.outputs,
            backend=self._backend,
            model=model_name(estimator.model),
            memory=estimator.memory,
            prefetch=journey.prefetch,
            n_jobs=estimator.n_jobs,
            verbose=bool(estimator.verbose),
            rows=rows,
        )

    def finish(self, values: NDArray[Any]) -> None:
        """Note the costs, for `cache_info`; raise or warn if rows failed, whose `values` are NaN."""
        last_runs[self._estimator] = RunInfo(
            rows=len(values),
            distinct=sum(cost.distinct for cost in self._costs),
            hits=sum(cost.hits for cost in self._costs),
            computed=sum(cost.computed for cost in self._costs),
        )
        if self._causes:
            error = partial_result(self._causes, len(values), values)
            if self._estimator.on_error == "raise":
                raise error
            warnings.warn(f"{error}: NaN", PartialResultWarning, stacklevel=4)


def model_name(model: Any) -> str:
    """Name or path of a model, as the parameter gives it."""
    return model if isinstance(model, str) else str(model.__fspath__())
