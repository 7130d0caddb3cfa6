"""Residue matrix to vector."""

from __future__ import annotations

import numpy as np

from skesm.outputs.spec import FloatArray


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
    value : ndarray of shape (d,), or (L, d) for ``"residues"``; float32
        Owns its memory: the caller may reuse that of `tokens`.

    Examples
    --------
    >>> rows = np.array([[9, 9], [1, 2], [3, 4], [7, 8]], dtype=np.float32)
    >>> pool(rows, "mean").tolist(), pool(rows, "cls").tolist()
    ([2.0, 3.0], [9.0, 9.0])
    """
    residues = tokens[1:-1]
    value: FloatArray
    if kind == "mean":
        # float64: summing a thousand float32 rows one by one would lose a digit
        value = residues.mean(axis=0, dtype=np.float64).astype(np.float32)
    elif kind == "max":
        value = np.max(residues, axis=0)
    elif kind == "residues":
        value = residues.copy()
    else:
        value = tokens[{"cls": 0, "eos": -1}[kind]].copy()
    return value
