"""The mutated positions of each row, which several splitters and the leakage report need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skesm._typing import Column
from skesm.sequences.alphabet import MASK_SYMBOL
from skesm.sequences.clean import clean_reference, clean_sequences
from skesm.sequences.variants import check_lengths, differences, learn_reference

_REMEDY = "Remove these rows, or split by sequence identity (IdentityClusterKFold)"


def read_sequences(X: Column) -> list[str]:
    """Clean sequences of any length. Masks, and letters that a model may not know, count as any residue."""
    return [s.replace(MASK_SYMBOL, "X") for s in clean_sequences(X, max_length=None, unknown_residues="X")]


def mutated_positions(sequences: Sequence[str], reference: str | None) -> list[NDArray[np.intp]]:
    """Positions, counted from 0, at which each clean sequence differs from the reference.

    None takes the consensus of the sequences as the reference.
    """
    if reference is None:
        wild_type = learn_reference(sequences, None)
    else:
        wild_type = clean_reference(reference, long_sequences="error", max_length=None, unknown_residues="X")
        check_lengths(sequences, wild_type, _REMEDY)
    return [differences(sequence, wild_type) for sequence in sequences]
