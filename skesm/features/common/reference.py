"""The reference of a library: a parameter, or learnt in ``fit``."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.utils import Tags

from skesm.sequences.clean import clean_reference
from skesm.sequences.variants import LEARNT, learn_reference


class ReferenceMixin:
    """Parameter `reference` of an estimator of sequences, and the attribute ``reference_`` that ``fit`` may learn."""

    reference: str | None
    reference_: str
    _reference_learnt_by: str | None
    long_sequences: str
    max_length: int | None
    unknown_residues: str

    def _needs_reference(self) -> bool:
        return True

    def _learns_reference(self) -> bool:
        return self._needs_reference() and self._how() in LEARNT

    def _how(self) -> str | None:
        """The parameter. Keywords are accepted in any case, because they would otherwise be read as residues."""
        keyword = self.reference.lower() if self.reference is not None else None
        return keyword if keyword in LEARNT else self.reference

    def _learn(self, sequences: Sequence[str]) -> None:
        vars(self).pop("reference_", None)  # learnt with other parameters
        if self._learns_reference():
            self.reference_ = learn_reference(sequences, self._how())
            self._reference_learnt_by = self._how()

    def _known_reference(self) -> str:
        """The reference as a clean sequence."""
        if self.reference is None or self._how() in LEARNT:
            return self.reference_
        return clean_reference(
            self.reference,
            long_sequences=self.long_sequences,
            max_length=self.max_length,
            unknown_residues=self.unknown_residues,
        )

    def __sklearn_is_fitted__(self) -> bool:
        if not self._learns_reference():
            return True
        # a reference that was learnt in another way does not count
        return hasattr(self, "reference_") and self._reference_learnt_by == self._how()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()  # type: ignore[misc]  # of the estimator that this is mixed into
        tags.requires_fit = self._learns_reference()
        return tags
