"""From rows of a file to features: an estimator, the check of rows before anything is computed, and chunks."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skesm._typing import Estimator
from skesm.backends.costs import RunInfo, TransformPlan
from skesm.exceptions import InvalidSequenceError, PartialResultError, SuspiciousSequenceWarning, TruncationWarning
from skesm.features.compute_outputs import OutputReader
from skesm.outputs.kinds import KINDS
from skesm.sequences.clean import find_problems
from skesm.sequences.mutations import apply_mutations, read_mutations

T = TypeVar("T")

#: Parameters of estimators that change no value.
_NOT_NUMBERS = frozenset({"backend", "memory", "n_jobs", "on_error", "prefetch", "verbose"})

#: Sequences, residues and float values in a chunk. An interrupted run computes one again, and one is held at a time.
_MOST_ROWS = 4096
_MOST_RESIDUES = 1 << 15
_MOST_VALUES = 1 << 24


@dataclass(frozen=True)
class Computed:
    """The features of a chunk.

    Attributes
    ----------
    values : ndarray of shape (n, d), or (residues of all, d)
    lengths : ndarray of shape (n,), int, or None
        Residues of each sequence, if there is a row for each residue.
    missing : dict of int to str
        Why sequences have no values, by place.
    cost : RunInfo
    """

    values: np.ndarray
    lengths: NDArray[np.int64] | None
    missing: dict[int, str]
    cost: RunInfo


class Work:
    """An estimator's use on a file.

    Parameters
    ----------
    estimator : estimator of skesm
        A transformer, or `OutputReader` for values of each residue.
    mutations_of : str, optional
        A reference. Rows are then mutations of it, and not sequences.
    offset : int, default=1
        Position of the reference's first residue in the numbering of the mutations.
    """

    def __init__(self, estimator: Estimator, *, mutations_of: str | None = None, offset: int = 1) -> None:
        self.estimator = estimator
        self._method = "predict" if hasattr(estimator, "predict") else "transform"
        self._mutations_of = mutations_of
        self._offset = offset
        self._model, self.spec = estimator._prepare()
        #: Whether there is a row for each residue.
        self.ragged = isinstance(estimator, OutputReader)
        if self.ragged:
            self._outputs = estimator._asked(self.spec)
            self.columns = [
                f"{str(output).replace('@', '_l')}{label}"
                for output in self._outputs
                for label in KINDS[output.kind].label(self.spec)
            ]
        else:
            self._recipe = estimator._recipe(self.spec)
            self._outputs = self._recipe.outputs
            self.columns = list(self._recipe.columns)

    def describe(self) -> dict[str, object]:
        """Everything that values depend on beside the rows. No sequence is in it."""
        parameters = {
            name: _plain(name, value)
            for name, value in sorted(self.estimator.get_params(deep=False).items())
            if name not in {*_NOT_NUMBERS, "model"}
        }
        namespace = self._model.namespace()
        return {
            "model": self.spec.name,
            "fingerprint": namespace.fingerprint,
            "numerics": namespace.numerics,
            "estimator": type(self.estimator).__name__,
            "outputs": sorted(map(str, self._outputs)),
            "parameters": parameters,
            "columns": len(self.columns),
        }

    def shares_passes(self) -> bool:
        """Whether all chunks need the same passes, those of a reference, and no store keeps them."""
        return self.estimator.memory is None and getattr(self.estimator, "reference", None) is not None

    def with_memory(self, memory: Path) -> Work:
        """The same work with a record store. The user's estimator stays as it is."""
        other = copy(self)
        other.estimator = copy(self.estimator)
        other.estimator.memory = memory
        return other

    # -- rows to sequences ---------------------------------------------------------------------------------------------

    def check(self, texts: Sequence[str]) -> tuple[list[str], dict[int, str]]:
        """Sequences of rows, and the problems of those that cannot be used. Nothing is computed."""
        if self._mutations_of is not None:
            sequences, problems, _ = read_mutations(self._mutations_of, texts, self._offset)
        else:
            problems = find_problems(
                texts, max_length=self._most_residues(), unknown_residues=self.estimator.unknown_residues
            )
            sequences = ["" if place in problems else text for place, text in enumerate(texts)]
        good = [place for place in range(len(texts)) if place not in problems]
        for place, problem in self._misfits([sequences[place] for place in good]).items():
            problems[good[place]] = problem
        return sequences, problems

    def sequences(self, texts: Sequence[str]) -> list[str]:
        """Sequences of rows that passed the check."""
        if self._mutations_of is None:
            return list(texts)
        return apply_mutations(self._mutations_of, list(texts), self._offset)

    def _misfits(self, sequences: list[str]) -> dict[int, str]:
        """Clean sequences that the estimator cannot use, for example because of the reference's length."""
        if self.ragged or not sequences or not self._compares():
            return {}
        places = list(range(len(sequences)))
        problems: dict[int, str] = {}
        while places:
            try:
                clean = self.estimator._clean([sequences[place] for place in places])
                self.estimator._complete(self._recipe, self.spec, clean)
                break
            except InvalidSequenceError as error:
                if not error.rows:
                    raise
                reason = str(error).partition("\n")[0].partition(" rows of X ")[2].rstrip(":")
                problems.update((places[row], f": such rows {reason}") for row in error.rows)
                places = [place for row, place in enumerate(places) if row not in set(error.rows)]
        return problems

    def _compares(self) -> bool:
        return getattr(self.estimator, "reference", None) is not None or hasattr(self.estimator, "statistics")

    def _most_residues(self) -> int | None:
        most: int | None = self.estimator.max_length
        return most if self.estimator.long_sequences == "error" else None

    # -- sequences to values -------------------------------------------------------------------------------------------

    def limits(self) -> tuple[int, int]:
        """Most rows and most residues in a chunk."""
        room = max(1, _MOST_VALUES // max(1, len(self.columns)))
        if self.ragged:
            return _MOST_ROWS, min(_MOST_RESIDUES, room)
        return min(_MOST_ROWS, room), _MOST_RESIDUES

    def compute(self, sequences: list[str]) -> Computed:
        """Values of sequences that were checked."""
        missing: dict[int, str] = {}
        with warnings.catch_warnings():
            # they name rows of the chunk. Rows of the file are named when they are checked
            warnings.simplefilter("ignore", SuspiciousSequenceWarning)
            warnings.simplefilter("ignore", TruncationWarning)
            try:
                found = self._found(sequences)
            except PartialResultError as error:
                missing = {place: " ".join(str(cause).split()) for place, cause in error.causes.items()}
                found = error.results
        cost = self.estimator.cache_info()
        if not self.ragged:
            values = found if found.ndim == 2 else found[:, None]
            return Computed(values, None, missing, cost)
        arrays = [self._of_residues(record) for record in found]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        return Computed(np.concatenate(arrays), lengths, missing, cost)

    def _found(self, sequences: list[str]) -> Any:
        if self.ragged:
            return self.estimator.compute(sequences)
        return getattr(self.estimator, self._method)(sequences)

    def _of_residues(self, record: dict[str, np.ndarray] | None) -> np.ndarray:
        if record is None:
            return np.empty((0, len(self.columns)), dtype=np.float32)
        arrays = [record[str(output)] for output in self._outputs]
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)

    def plan(self, sequences: list[str]) -> TransformPlan:
        """Estimate the cost of `compute`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SuspiciousSequenceWarning)
            warnings.simplefilter("ignore", TruncationWarning)
            plan: TransformPlan = self.estimator.plan(sequences)
        return plan


def as_work(estimator: Estimator) -> Work:
    """An estimator's use, if it is not one already."""
    return estimator if isinstance(estimator, Work) else Work(estimator)


def chunks(sizes: Iterator[tuple[T, int]], most: tuple[int, int]) -> Iterator[list[T]]:
    """Items, each with a size, in lists of limited length and size. A larger item is alone.

    Examples
    --------
    >>> list(chunks(iter([("a", 2), ("b", 9), ("c", 1), ("d", 1), ("e", 1)]), (2, 5)))
    [['a'], ['b'], ['c', 'd'], ['e']]
    """
    some: list[T] = []
    room = most[1]
    for item, size in sizes:
        if some and (len(some) >= most[0] or size > room):
            yield some
            some, room = [], most[1]
        some.append(item)
        room -= size
    if some:
        yield some


def _plain(name: str, value: object) -> object:
    """A parameter as JSON has it. A reference is confidential: its digest stands for it."""
    if name == "reference" and isinstance(value, str):
        return f"sha256:{hashlib.sha256(value.strip().upper().encode()).hexdigest()}"
    if isinstance(value, str | int | float | bool | None):
        return value
    return [_plain(name, each) for each in value] if isinstance(value, list | tuple) else str(value)
