"""scikit-learn splitters for protein sequences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator, GroupKFold
from sklearn.utils import check_random_state

from skesm._messages import plural
from skesm._typing import Column
from skesm.model_selection._mutations import mutated_positions, read_sequences

Rows = NDArray[np.intp]
Fold = tuple[Rows, Rows]

_SCHEMES = ("random", "modulo", "contiguous")

#: The parameter `random_state` of scikit-learn.
RandomState: TypeAlias = int | np.random.RandomState | None


class SequenceSplitter(BaseCrossValidator):  # type: ignore[misc]  # scikit-learn is untyped
    """A splitter that looks at the sequences. A child says which rows are trained on, and which are tested."""

    n_splits: int = 1
    _remedy = "Use fewer folds or another split"

    def split(self, X: Column, y: object = None, groups: object = None) -> Iterator[Fold]:
        """Rows of the training set and of the test set, fold by fold.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences.
        y : array-like of shape (n,), default=None
            Measured values. Only `LowToHighSplit` looks at them.
        groups : ignored

        Yields
        ------
        train, test : ndarray of int
            Row numbers, ascending.

        Raises
        ------
        ValueError
            If X cannot be split in this way. The message says why.
        """
        for train, test in self._folds(read_sequences(X), y):
            if not len(train) or not len(test):
                empty = "training" if not len(train) else "test"
                raise ValueError(f"{type(self).__name__}: a {empty} set has no rows. {self._remedy}")
            yield train, test

    def get_n_splits(self, X: Column = None, y: object = None, groups: object = None) -> int:
        """Number of folds.

        Parameters
        ----------
        X, y, groups : ignored

        Returns
        -------
        n_splits : int
        """
        return self.n_splits

    @abstractmethod
    def _folds(self, sequences: list[str], y: object) -> Iterator[Fold]:
        """Rows of each fold's training and test set."""


class DistinctSequenceKFold(SequenceSplitter):
    """Random folds in which repeats of a sequence stay together.

    A plain `KFold` puts replicates of one variant on both sides of a split, so that the model is asked for a value
    that it has seen.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds.
    random_state : int, RandomState or None, default=None
        Seed of the folds.

    Examples
    --------
    >>> from skesm.model_selection import DistinctSequenceKFold
    >>> folds = DistinctSequenceKFold(2, random_state=0).split(["MKT", "MRT", "MKT"])
    >>> [test.tolist() for _, test in folds]
    [[1], [0, 2]]
    """

    def __init__(self, n_splits: int = 5, *, random_state: RandomState = None) -> None:
        self.n_splits = n_splits
        self.random_state = random_state

    def _folds(self, sequences: list[str], y: object) -> Iterator[Fold]:
        distinct, groups = np.unique(sequences, return_inverse=True)
        check_folds(self.n_splits, len(distinct), "distinct sequence")
        folds = GroupKFold(self.n_splits, shuffle=True, random_state=self.random_state)
        yield from folds.split(sequences, groups=groups)


class PositionKFold(SequenceSplitter):
    """Folds of mutated positions: the model is tested on positions that it has not seen mutated.

    With random folds a model of single mutants can learn that a position matters, and need not know anything of
    proteins. The score on unseen positions tells how it does where nothing was measured.

    A row is tested in a fold if all its mutated positions belong to the fold. It is trained on if none does. Rows with
    positions on both sides are left out of that fold. Rows without a mutation are trained on in every fold, and are
    never tested.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds.
    reference : str or None, default=None
        The wild type, as long as the sequences. None takes the consensus of X.
    scheme : {"random", "modulo", "contiguous"}, default="random"
        How positions are dealt to folds. ``"random"`` deals them at random, equally many to each. ``"modulo"`` deals
        them in turn along the chain: position 1 to the first fold, 2 to the second. ``"contiguous"`` cuts the mutated
        positions into segments, equally many to each. The last two are those of ProteinGym [1]_.
        ``"contiguous"`` is the hardest.
    random_state : int, RandomState or None, default=None
        Seed of ``scheme="random"``.

    References
    ----------
    .. [1] Notin et al., ProteinGym: Large-Scale Benchmarks for Protein Design and Fitness Prediction, NeurIPS 2023.

    Examples
    --------
    >>> from skesm.model_selection import PositionKFold
    >>> X = ["AKT", "MAT", "MGT", "MKA"]
    >>> folds = PositionKFold(3, reference="MKT", scheme="contiguous")
    >>> [test.tolist() for _, test in folds.split(X)]
    [[0], [1, 2], [3]]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        reference: str | None = None,
        scheme: str = "random",
        random_state: RandomState = None,
    ) -> None:
        self.n_splits = n_splits
        self.reference = reference
        self.scheme = scheme
        self.random_state = random_state

    def _folds(self, sequences: list[str], y: object) -> Iterator[Fold]:
        if self.scheme not in _SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}, got {self.scheme!r}")
        mutated = mutated_positions(sequences, self.reference)
        positions = np.unique(np.concatenate(mutated))
        check_folds(self.n_splits, len(positions), "mutated position")
        fold_of = dict(zip(positions.tolist(), self._deal(positions).tolist(), strict=True))
        folds_of_row = [{fold_of[position] for position in row.tolist()} for row in mutated]
        for fold in range(self.n_splits):
            test = [row for row, folds in enumerate(folds_of_row) if folds == {fold}]
            train = [row for row, folds in enumerate(folds_of_row) if fold not in folds]
            yield np.array(train, dtype=np.intp), np.array(test, dtype=np.intp)

    def _deal(self, positions: NDArray[np.intp]) -> NDArray[np.intp]:
        """The fold of each position."""
        if self.scheme == "modulo":
            return positions % self.n_splits
        sizes = [len(part) for part in np.array_split(positions, self.n_splits)]
        folds = np.repeat(np.arange(self.n_splits), sizes)
        if self.scheme == "random":
            check_random_state(self.random_state).shuffle(folds)
        return folds


class MutationCountSplit(SequenceSplitter):
    """One split: train on rows with few mutations, test on rows with more.

    It asks whether a model of single mutants can rank their combinations.

    Parameters
    ----------
    max_train : int, default=1
        Most mutations of a training row. Rows without a mutation are trained on.
    reference : str or None, default=None
        The wild type, as long as the sequences. None takes the consensus of X.

    Examples
    --------
    >>> from skesm.model_selection import MutationCountSplit
    >>> next(MutationCountSplit(reference="MKT").split(["MKA", "AKT", "AKA"]))
    (array([0, 1]), array([2]))
    """

    _remedy = "Set max_train between the fewest and the most mutations of a row"

    def __init__(self, max_train: int = 1, *, reference: str | None = None) -> None:
        self.max_train = max_train
        self.reference = reference

    def _folds(self, sequences: list[str], y: object) -> Iterator[Fold]:
        counts = np.array([len(row) for row in mutated_positions(sequences, self.reference)])
        yield np.flatnonzero(counts <= self.max_train), np.flatnonzero(counts > self.max_train)


class LowToHighSplit(SequenceSplitter):
    """One split: train on low values, test on high ones, or the reverse where low values are wanted.

    It asks whether a model can rank variants that are better than all it has seen, as a campaign wants.

    Parameters
    ----------
    threshold : float or None, default=None
        Rows up to this value are trained on. The wild type's value is a good choice. None takes `quantile`.
    quantile : float, default=0.8
        Share of the rows that are trained on, if `threshold` is None. Rows of equal value stay together.
    higher_is_better : bool, default=True
        Whether high values are wanted. If not, rows of high values are trained on, and rows of low values are tested.

    Examples
    --------
    >>> from skesm.model_selection import LowToHighSplit
    >>> next(LowToHighSplit(threshold=1.0).split(["MKT", "MRT", "MHT"], [0.5, 2.0, 1.0]))
    (array([0, 2]), array([1]))
    """

    _remedy = "Too many rows have one value, or no row is beyond the threshold"

    def __init__(self, threshold: float | None = None, *, quantile: float = 0.8, higher_is_better: bool = True) -> None:
        self.threshold = threshold
        self.quantile = quantile
        self.higher_is_better = higher_is_better

    def _folds(self, sequences: list[str], y: object) -> Iterator[Fold]:
        if y is None:
            raise ValueError("LowToHighSplit needs y, the measured values")
        values = np.asarray(y, dtype=np.float64)
        if values.shape != (len(sequences),):
            raise ValueError(f"y has shape {values.shape}, but X has {len(sequences)} sequences")
        if not np.isfinite(values).all():
            raise ValueError(f"y is not finite in row {int(np.argmin(np.isfinite(values)))}: remove the row")
        sign = 1 if self.higher_is_better else -1
        values = sign * values
        limit = np.quantile(values, self.quantile, method="lower") if self.threshold is None else sign * self.threshold
        yield np.flatnonzero(values <= limit), np.flatnonzero(values > limit)


def check_folds(n_splits: int, available: int, *things: str) -> None:
    """Raise ValueError unless so many things can be dealt to the folds."""
    if not 2 <= n_splits <= available:
        raise ValueError(f"cannot make n_splits={n_splits} folds: X has {plural(available, *things)}")
