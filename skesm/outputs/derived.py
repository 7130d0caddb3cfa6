"""Outputs that no backend answers: what each is computed from, and how, before it is stored.

A backend is asked for the residues of a layer, for logits or for contacts; what is kept of them is a vector, the rows
at masks, or sums. Every backend that answers the source can then answer what is derived from it. Means and maxima of
sequences in windows are derived too: only the residues of windows can be put together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skesm.outputs.contacts import contact_profile
from skesm.outputs.spec import CONTACT_PROFILE, CONTACTS, MASK_LOGITS, MUTATED, FloatArray, OutputSpec, Record
from skesm.sequences.alphabet import count_residues
from skesm.sequences.variants import differences, is_mask


def source(output: OutputSpec) -> OutputSpec:
    """The output that a backend is asked for.

    Examples
    --------
    >>> str(source(OutputSpec("mask_logits"))), str(source(OutputSpec("mean", 6)))
    ('logits', 'mean@6')
    """
    if output.kind == MUTATED or (output.windows is not None and output.kind in ("mean", "max")):
        return replace(output, kind="residues", reference=None)
    return replace(output, kind={MASK_LOGITS: "logits", CONTACT_PROFILE: CONTACTS}.get(output.kind, output.kind))


def derive(record: Record, outputs: Iterable[OutputSpec], sequence: str) -> Record:
    """The record of `outputs`, from one that holds the source of each."""
    derived: dict[OutputSpec, FloatArray] = {}
    for output in outputs:
        value = record[source(output)]
        if output.kind == MUTATED:
            assert output.reference is not None, "an output 'mutated' has a reference"
            value = mean_rows(value, compared_positions(sequence, output.reference))
        elif output.kind == MASK_LOGITS:
            value = value[is_mask(sequence)]
        elif output.kind == CONTACT_PROFILE:
            value = contact_profile(value)
        elif output.windows is not None and output.kind == "mean":
            value = mean_rows(value, np.arange(len(value)))
        elif output.windows is not None and output.kind == "max":
            value = value.max(axis=0)
        derived[output] = value
    return derived


def compared_positions(sequence: str, reference: str) -> NDArray[np.intp]:
    """Positions at which a sequence differs from its reference; all, if it differs nowhere.

    The mean over no row is not defined. With all rows of both, the halves of the reference's own features are equal,
    as "nothing changed" asks, and of the size of everyone's.
    """
    positions = differences(sequence, reference)
    return positions if len(positions) else np.arange(count_residues(reference))


def mean_rows(residues: FloatArray, positions: NDArray[np.intp]) -> FloatArray:
    """Mean of some rows of a residue matrix, (d,)."""
    # float64, as for the mean over all residues
    mean: FloatArray = residues[positions].mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
