"""Sequences that are too long for one pass go through the model in windows (`skesm.outputs.windows`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from skesm.backends.base import Backend, Batch, answers
from skesm.esm2.spec import ModelSpec
from skesm.exceptions import BackendError, InvalidSequenceError, PartialResultError
from skesm.outputs.kinds import KINDS
from skesm.outputs.spec import OutputSpec, Record, validate_record
from skesm.outputs.types import FloatArray, Windows
from skesm.outputs.windows import cut
from skesm.sequences.alphabet import count_residues


def refuse_pairwise(outputs: Sequence[OutputSpec], windows: Windows, rows: Sequence[int]) -> None:
    """Raise for outputs of pairs of residues; `rows` are those that would be cut."""
    kinds = sorted({output.kind for output in outputs if KINDS[output.kind].windows is None})
    if kinds:
        raise InvalidSequenceError(
            f"{', '.join(kinds)}: not available for sequences in windows, which do not hold every pair of residues. "
            f"{len(rows)} sequences have more than max_length={windows.size} residues, the first is row {rows[0]}: "
            "remove them, or raise max_length",
            rows,
        )


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
            join = KINDS[output.kind].windows
            assert join is not None, "pairs of residues were refused"
            record[output] = join([part[plain] for part in parts], self._lengths[index], self._windows)
        for place in set(self._needs[index]):
            self._waited_for[place] -= 1
            if not self._waited_for[place]:
                del self._kept[place]
        return record
