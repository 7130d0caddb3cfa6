"""The interface between a backend, the record store and the estimators.

A backend is a scikit-learn estimator (its parameters can be set and searched), keeps no weights, clients or files as
attributes, and may be used by several threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sklearn.base import BaseEstimator

from skesm._typing import Constraints
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError
from skesm.outputs.spec import Namespace, OutputSpec, Record


@dataclass(frozen=True)
class Batch:
    """Finished, validated records.

    Attributes
    ----------
    indices : sequence of int
        Places in the `sequences` that were handed to `Backend.run`.
    records : sequence of Record
        One for each index, holding every output that was asked for.
    """

    indices: Sequence[int]
    records: Sequence[Record]


@dataclass(frozen=True)
class RequestPlan:
    """The requests that a run would send.

    Attributes
    ----------
    requests : int
        Requests, if nothing has to be sent again.
    sequences : int
        Distinct sequences in them.
    residues : int
        Their residues.
    refused : int
        Distinct sequences that the service is known not to take. They are not sent.
    batch_size : int
        Sequences in a request, at most.
    """

    requests: int
    sequences: int
    residues: int
    refused: int
    batch_size: int


class Model(ABC):
    """One model of a backend: its shape, the identity of its records, its forward passes, and their price.

    Attributes
    ----------
    name : str
        Name or path, as the user gave it.
    """

    name: str

    @property
    @abstractmethod
    def numerics(self) -> str:
        """Numerics of the records, see `Namespace`. Known without the weights."""

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """Shape of the model, found without loading weights."""

    @abstractmethod
    def namespace(self) -> Namespace:
        """Everything that the values of the records depend on. It may read the weights."""

    @abstractmethod
    def run(
        self, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        """Compute `outputs` for distinct, clean `sequences`, as `Backend.run` does."""

    @abstractmethod
    def plan(self, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> RequestPlan | None:
        """Count the requests of `run`. None if it sends nothing."""


class Backend(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """Turns clean sequences into records.

    A backend is a scikit-learn estimator: its parameters can be set and searched. It keeps no weights, clients or files
    as attributes, and several threads may use it at once. It answers the outputs of the model. Outputs that are derived
    from others, and sequences in windows, never reach it.

    Examples
    --------
    A backend that answers every sequence with its number of residues:

    >>> import numpy as np
    >>> from skesm import ESM2Embedder
    >>> from skesm.backends import Backend, Batch, ModelSpec, Namespace
    >>> class Lengths(Backend):
    ...     numerics = "fp32"
    ...     def spec(self, model):
    ...         return ModelSpec(model, n_layers=1, width=2, n_heads=1, ffn_width=8)
    ...     def namespace(self, model):
    ...         return Namespace(model, "lengths, version 1", self.numerics)
    ...     def run(self, model, sequences, outputs, *, n_jobs=None):
    ...         for place, sequence in enumerate(sequences):
    ...             value = np.full(2, len(sequence), dtype=np.float32)
    ...             yield Batch([place], [{output: value for output in outputs}])
    >>> ESM2Embedder("any", backend=Lengths()).transform(["MKT", "MKTAY"])
    array([[3., 3.],
           [5., 5.]], dtype=float32)
    """

    _parameter_constraints: ClassVar[Constraints] = {}

    @property
    @abstractmethod
    def numerics(self) -> str:
        """Numerics of the records, see `Namespace`. Known without the weights."""

    @abstractmethod
    def spec(self, model: str) -> ModelSpec:
        """Shape of `model`, found without loading weights."""

    @abstractmethod
    def namespace(self, model: str) -> Namespace:
        """Everything that the values of this model's records depend on."""

    @abstractmethod
    def run(
        self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        """Compute `outputs` for distinct, clean `sequences`. Yield batches as they finish, in any order.

        Every sequence is answered exactly once, or the iterator raises. Batches that it has yielded before stay
        valid. A batch is computed or requested whether or not the earlier ones were taken, but no worker runs more than
        one batch ahead of the consumer. Closing the iterator stops the work promptly.
        """

    def plan(self, model: str, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> RequestPlan | None:
        """Count the requests of `run`. None if it sends nothing, as on this machine."""
        return None

    def model(self, name: str) -> Model:
        """One model of this backend.

        Examples
        --------
        >>> from skesm.backends import LocalBackend
        >>> LocalBackend().model("skesm-mini").spec.width
        192
        """
        return _BoundModel(self, name)


@dataclass(frozen=True)
class _BoundModel(Model):
    backend: Backend
    name: str

    @property
    def numerics(self) -> str:
        return self.backend.numerics

    @property
    def spec(self) -> ModelSpec:
        return self.backend.spec(self.name)

    def namespace(self) -> Namespace:
        return self.backend.namespace(self.name)

    def run(
        self, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        return self.backend.run(self.name, sequences, outputs, n_jobs=n_jobs)

    def plan(self, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> RequestPlan | None:
        return self.backend.plan(self.name, sequences, outputs)


def answers(batch: Batch, unanswered: set[int]) -> Iterator[tuple[int, Record]]:
    """Places and records of a batch. A place is taken from `unanswered`, where it must be.

    Raises
    ------
    BackendError
        If the batch answers a sequence that was not asked for, or was answered before.
    """
    if len(batch.indices) != len(batch.records):
        raise BackendError(f"the backend answered {len(batch.indices)} sequences with {len(batch.records)} records")
    for place, record in zip(batch.indices, batch.records, strict=True):
        if place not in unanswered:
            raise BackendError("the backend answered a sequence twice, or one that it was not asked for")
        unanswered.remove(place)
        yield place, record
