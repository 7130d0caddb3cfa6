"""`PositionEncoder` and `SubstitutionEncoder`: which residues of a variant changed, and into which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Tags

from skesm._typing import Constraints
from skesm.features.common.parameters import several_of
from skesm.features.common.reference import ReferenceMixin
from skesm.features.encoders.sequence_encoders import N_AMINO_ACIDS, SequenceEncoder, alphabetical_columns
from skesm.features.encoders.substitution_scales import BLOSUM62, PROPERTIES
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import ALPHABETICAL
from skesm.sequences.variants import check_lengths, differences

POSITION, WILD_TYPE, NEW = "position", "wild_type", "new"
PARTS = (POSITION, WILD_TYPE, NEW, "blosum62", "properties")

_REMEDY = "remove these rows, or choose features that compare no positions"


class _VariantEncoder(ReferenceMixin, SequenceEncoder):
    """An encoder that compares sequences with a reference."""

    # of the reference, which ReferenceMixin cleans: encoders have no limits of a model
    long_sequences = "error"
    max_length = None
    unknown_residues = "X"

    def __init__(self, reference: str | None = None) -> None:
        self.reference = reference

    _parameter_constraints: Constraints = {"reference": [str, None]}  # noqa: RUF012

    def _parts(self) -> tuple[str, ...]:
        return (POSITION,)

    def _learn(self, sequences: Sequence[str]) -> None:
        super()._learn(sequences)
        self._parts()  # an unknown part is an error now
        reference = self._known_reference()
        check_lengths(sequences, reference, _REMEDY)
        differing = [differences(sequence, reference) for sequence in set(sequences)]
        self.positions_: NDArray[np.intp] = np.unique(np.concatenate(differing)) + 1

    def _encode(self, sequences: list[str]) -> FloatArray:
        reference, parts = self._known_reference(), self._parts()
        check_lengths(sequences, reference, _REMEDY)
        old = alphabetical_columns(reference)
        blocks = {part: np.zeros((len(sequences), len(self._labels_of(part))), dtype=np.float32) for part in parts}
        for row, sequence in enumerate(sequences):
            at = differences(sequence, reference)
            for part, block in blocks.items():
                self._fill(part, block[row], at, old[at], alphabetical_columns(sequence)[at])
        return np.concatenate(list(blocks.values()), axis=1)

    def _fill(
        self, part: str, row: FloatArray, at: NDArray[np.intp], old: NDArray[np.intp], new: NDArray[np.intp]
    ) -> None:
        """One part of a row: positions that differ, and the amino acids there (20 for other letters)."""
        if part == POSITION:
            known = np.isin(at + 1, self.positions_)
            row[np.searchsorted(self.positions_, at[known] + 1)] = 1
        elif part in (WILD_TYPE, NEW):
            letters = old if part == WILD_TYPE else new
            row += np.bincount(letters, minlength=N_AMINO_ACIDS + 1)[:N_AMINO_ACIDS]
        else:
            both = (old < N_AMINO_ACIDS) & (new < N_AMINO_ACIDS)
            old, new = old[both], new[both]
            if part == "blosum62":
                row[0] = BLOSUM62[old, new].sum()
            else:
                row[:] = [float((scale[new] - scale[old]).sum()) for scale in PROPERTIES.values()]

    def _labels_of(self, part: str) -> list[str]:
        if part == POSITION:
            return [f"position_{position}" for position in self.positions_]
        if part in (WILD_TYPE, NEW):
            return [f"{part}_{a}" for a in ALPHABETICAL]
        return [part] if part == "blosum62" else [f"{name}_change" for name in PROPERTIES]

    def _labels(self) -> list[str]:
        return [label for part in self._parts() for label in self._labels_of(part)]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "positions_") and bool(super().__sklearn_is_fitted__())

    def __sklearn_tags__(self) -> Tags:
        tags = super(ReferenceMixin, self).__sklearn_tags__()  # positions are learnt, whatever the reference is
        tags.requires_fit = True
        return tags


class PositionEncoder(_VariantEncoder):
    """Which positions of a variant are mutated: one column for each position that ``fit`` saw mutated.

    On random folds of single mutants this alone can do better than the mean embedding of a language model, because it
    learns the mean effect of each position. It knows nothing of positions that were not fitted: they are zeros.

    Parameters
    ----------
    reference : str or None, default=None
        The wild type. With None, ``fit`` learns the consensus of its rows. With ``"most_common"`` it takes their most
        common sequence, and with ``"first"`` the first.

    Attributes
    ----------
    positions_ : ndarray of int
        Positions that are mutated in the fitted rows, counted from 1.
    reference_ : str
        The reference that ``fit`` learnt. Only if none is given.

    See Also
    --------
    SubstitutionEncoder : Adds the amino acids.

    Examples
    --------
    >>> from skesm import PositionEncoder
    >>> encoder = PositionEncoder(reference="MKTAY").fit(["MRTAY", "MKTGY"])
    >>> encoder.get_feature_names_out().tolist()
    ['position_2', 'position_4']
    >>> encoder.transform(["MRTGY", "MKTAF"]).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """


class SubstitutionEncoder(_VariantEncoder):
    """Which residues of a variant changed, and into which: position, wild-type and new amino acid, side by side.

    A strong and cheap baseline for libraries of variants: on the 813 single mutants of `load_gb1_stability` its 94
    columns rank better than 1,100 columns of one-hot. Several mutations of a row sum. A position that was not fitted
    has no column, but its amino acids count.

    Parameters
    ----------
    reference : str or None, default=None
        The wild type. With None, ``fit`` learns the consensus of its rows. With ``"most_common"`` it takes their most
        common sequence, and with ``"first"`` the first.
    parts : str or sequence of str, default=("position", "wild_type", "new")
        Blocks of columns, in this order:

        - ``"position"``: one for each position that ``fit`` saw mutated,
        - ``"wild_type"``: 20, how many residues of each amino acid were replaced,
        - ``"new"``: 20, how many residues of each amino acid came in their place,
        - ``"blosum62"``: one, the sum of the substitutions' scores in BLOSUM62 [1]_,
        - ``"properties"``: three, the changes of hydropathy [2]_, of volume [3]_ and of charge at pH 7.

    Attributes
    ----------
    positions_ : ndarray of int
        Positions that are mutated in the fitted rows, counted from 1.
    reference_ : str
        The reference that ``fit`` learnt. Only if none is given.

    Notes
    -----
    ``X`` and ``<mask>`` differ from any amino acid: they count in ``"position"``, and in no other part.

    References
    ----------
    .. [1] Henikoff and Henikoff, Amino acid substitution matrices from protein blocks, PNAS 89, 10915-10919 (1992).
    .. [2] Kyte and Doolittle, A simple method for displaying the hydropathic character of a protein, J. Mol. Biol. 157,
       105-132 (1982).
    .. [3] Zamyatnin, Protein volume in solution, Prog. Biophys. Mol. Biol. 24, 107-123 (1972).

    Examples
    --------
    >>> from skesm import SubstitutionEncoder
    >>> from skesm.datasets import load_gb1_stability
    >>> gb1 = load_gb1_stability()
    >>> SubstitutionEncoder(gb1.wild_type).fit_transform(gb1.data).shape
    (813, 94)
    >>> encoder = SubstitutionEncoder("MKTAY", parts=("blosum62", "properties"))
    >>> encoder.fit(["MRTAY"]).get_feature_names_out().tolist()
    ['blosum62', 'hydropathy_change', 'volume_change', 'charge_change']
    >>> encoder.transform(["MKTAD"]).round(1)
    array([[ -3. ,  -2.2, -82.5,  -1. ]], dtype=float32)
    """

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_VariantEncoder._parameter_constraints,
        "parts": [str, "array-like"],
    }

    def __init__(
        self, reference: str | None = None, *, parts: str | Sequence[str] = (POSITION, WILD_TYPE, NEW)
    ) -> None:
        super().__init__(reference)
        self.parts = parts

    def _parts(self) -> tuple[str, ...]:
        return several_of("parts", self.parts, PARTS)
