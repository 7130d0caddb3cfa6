"""Residue matrix to vector.

Sums are in float64, because a sum of a thousand float32 rows would lose a digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import count_residues
from skesm.sequences.variants import differences


def mean_rows(residues: FloatArray) -> FloatArray:
    """Mean of the rows of a residue matrix, (d,)."""
    mean: FloatArray = residues.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def max_rows(residues: FloatArray) -> FloatArray:
    """Maximum of the rows of a residue matrix, (d,)."""
    largest: FloatArray = np.max(residues, axis=0)
    return largest


def std_rows(residues: FloatArray) -> FloatArray:
    """Standard deviation of the rows of a residue matrix about their mean, (d,): 0 for a single residue."""
    deviation: FloatArray = residues.std(axis=0, dtype=np.float64).astype(np.float32)
    return deviation


def compared_positions(sequence: str, reference: str) -> NDArray[np.intp]:
    """Positions at which a sequence differs from its reference. All positions, if it differs nowhere.

    The mean over no row is not defined. With all positions, both halves of the reference's own features are equal,
    because nothing changed, and have the usual size.
    """
    positions = differences(sequence, reference)
    return positions if len(positions) else np.arange(count_residues(reference))


#: From the rows of the start token, the residues and the end token. Each result owns its memory.
_OF_TOKENS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "mean": lambda tokens: mean_rows(tokens[1:-1]),
    "max": lambda tokens: max_rows(tokens[1:-1]),
    "cls": lambda tokens: tokens[0].copy(),
    "eos": lambda tokens: tokens[-1].copy(),
    "residues": lambda tokens: tokens[1:-1].copy(),
}


def pool(tokens: FloatArray, kind: str) -> FloatArray:
    """Summarise one layer's representation of one sequence.

    Parameters
    ----------
    tokens : ndarray of shape (L + 2, d), float32
        Rows of the start token, the L residues and the end token.
    kind : {"mean", "max", "cls", "eos", "residues"}
        ``mean`` and ``max`` are over the residues only.

    Returns
    -------
    value : ndarray of shape (d,), or (L, d) for ``"residues"``, float32
        It owns its memory, so the caller may reuse the memory of `tokens`.

    Examples
    --------
    >>> rows = np.array([[9, 9], [1, 2], [3, 4], [7, 8]], dtype=np.float32)
    >>> pool(rows, "mean").tolist(), pool(rows, "cls").tolist()
    ([2.0, 3.0], [9.0, 9.0])
    """
    return _OF_TOKENS[kind](tokens)
