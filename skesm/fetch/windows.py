"""Sequences that are too long for one pass go through the model in windows (`skesm.outputs.windows`).

`split` separates the sequences that do not fit from those that do. They go to a `WindowedModel`, and the store keeps
their records under names that hold the windows. No other module knows about windows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from skesm.backends.base import Batch, Model, RequestPlan, answers
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, InvalidSequenceError, PartialResultError
from skesm.fetch.request import Distinct, Request
from skesm.outputs.kinds import KINDS
from skesm.outputs.spec import Namespace, OutputSpec, Record, validate_record
from skesm.outputs.types import FloatArray, Windows
from skesm.outputs.windows import cut
from skesm.sequences.alphabet import count_residues


@dataclass(frozen=True)
class Part:
    """Some distinct sequences of a request, and the model that they go to.

    Attributes
    ----------
    indices : sequence of int
        Indices of these sequences in `Distinct.sequences`.
    outputs, prefetch : sequence of OutputSpec
        Outputs of the request, under the names that the store uses.
    model : Model
    """

    indices: Sequence[int]
    outputs: Sequence[OutputSpec]
    prefetch: Sequence[OutputSpec]
    model: Model

    def rename(self, record: Record) -> Record:
        """The record under the names of the request."""
        if not isinstance(self.model, WindowedModel):
            return record
        return {replace(output, windows=None): value for output, value in record.items()}


def split(request: Request, distinct: Distinct, model: Model, windows: Windows | None) -> list[Part]:
    """Separate sequences that fit in a pass from those that are cut into windows.

    Raises
    ------
    InvalidSequenceError
        If an output of long sequences has no value in windows.
    """
    outputs, prefetch = request.outputs, request.prefetch
    indices = range(len(distinct))
    long = [i for i in indices if windows is not None and not _fits(distinct.sequences[i], windows)]
    if windows is None or not long:
        return [Part(indices, outputs, prefetch, model)]
    refuse_pairwise((*outputs, *prefetch), windows, distinct.places(long))
    named, further = ([replace(output, windows=windows) for output in some] for some in (outputs, prefetch))
    short = sorted(set(indices) - set(long))
    parts = [Part(short, outputs, prefetch, model)] if short else []
    return [*parts, Part(long, named, further, WindowedModel(model, windows))]


def count_long(sequences: Sequence[str], windows: Windows | None) -> int:
    """Count the sequences that are cut into windows."""
    return sum(not _fits(sequence, windows) for sequence in sequences) if windows is not None else 0


def _fits(sequence: str, windows: Windows) -> bool:
    return count_residues(sequence) <= windows.size


def refuse_pairwise(outputs: Sequence[OutputSpec], windows: Windows, rows: Sequence[int]) -> None:
    """Raise for outputs of pairs of residues. `rows` are the rows that would be cut."""
    kinds = sorted({output.kind for output in outputs if KINDS[output.kind].windows is None})
    if kinds:
        raise InvalidSequenceError(
            f"{', '.join(kinds)}: not available for sequences in windows, which do not hold every pair of residues. "
            f"{len(rows)} sequences have more than max_length={windows.size} residues, the first is row {rows[0]}: "
            "remove them, or raise max_length",
            rows,
        )


class WindowedModel(Model):
    """A model that computes long sequences in windows. The names of its outputs hold the windows.

    A window that several sequences share, such as masked copies of one sequence, is computed once.
    """

    def __init__(self, model: Model, windows: Windows) -> None:
        self.name = model.name
        self._model = model
        self._windows = windows

    @property
    def numerics(self) -> str:
        """The numerics of the wrapped model."""
        return self._model.numerics

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model."""
        return self._model.spec

    def namespace(self) -> Namespace:
        """The namespace of the wrapped model, because names of outputs hold the windows."""
        return self._model.namespace()

    def plan(self, sequences: Sequence[str], outputs: Sequence[OutputSpec]) -> RequestPlan | None:
        """Count the requests for the distinct windows."""
        distinct = list(dict.fromkeys(window for sequence in sequences for window in cut(sequence, self._windows)))
        return self._model.plan(distinct, _plain(outputs))

    def run(
        self, sequences: Sequence[str], outputs: Sequence[OutputSpec], *, n_jobs: int | None = None
    ) -> Generator[Batch, None, None]:
        """Compute the windows. Yield the record of each sequence when its last window is there."""
        work = _Work(sequences, outputs, self._windows, self.spec)
        unanswered = set(range(len(work.distinct)))
        try:
            with closing(self._model.run(work.distinct, work.plain, n_jobs=n_jobs)) as batches:
                for batch in batches:
                    found = answers(batch, unanswered)
                    finished = [whole for place, record in found for whole in work.add(place, record)]
                    if finished:
                        yield Batch([index for index, _ in finished], [record for _, record in finished])
        except PartialResultError as error:
            causes = {index: cause for place, cause in error.causes.items() for index in work.users[place]}
            raise PartialResultError(f"{len(causes)} of {len(sequences)} sequences failed", causes) from error


def _plain(outputs: Sequence[OutputSpec]) -> list[OutputSpec]:
    return [replace(output, windows=None) for output in outputs]


class _Work:
    """The windows that are needed, and the finished ones that wait for others.

    Attributes
    ----------
    distinct : list of str
        The windows, each once.
    plain : list of OutputSpec
        Outputs that are requested for each window.
    users : list of list of int
        For each window the sequences that contain it.
    """

    def __init__(
        self, sequences: Sequence[str], outputs: Sequence[OutputSpec], windows: Windows, spec: ModelSpec
    ) -> None:
        self._windows = windows
        self._lengths = [count_residues(sequence) for sequence in sequences]
        self._outputs = outputs
        self._spec = spec
        self.plain = _plain(outputs)
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
        """Take a window's record. Yield the index and record of each sequence that is complete now."""
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
            join = KINDS[output.kind].windows
            assert join is not None, "pairs of residues were refused"
            record[output] = join([part[plain] for part in parts], self._lengths[index], self._windows)
        for place in set(self._needs[index]):
            self._waited_for[place] -= 1
            if not self._waited_for[place]:
                del self._kept[place]
        return record
