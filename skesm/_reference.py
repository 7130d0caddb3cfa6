"""The reference of a library: given as a parameter, or learnt in ``fit``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skesm._sequences import clean_reference
from skesm._variants import LEARNT, learn_reference


class ReferenceMixin:
    """Parameter `reference` of an estimator of sequences, and the attribute ``reference_`` that ``fit`` may learn."""

    reference: str | None
    reference_: str
    long_sequences: str
    max_length: int | None
    unknown_residues: str

    def _needs_reference(self) -> bool:
        return True

    def _learns_reference(self) -> bool:
        return self._needs_reference() and self.reference in LEARNT

    def _learn(self, sequences: Sequence[str]) -> None:
        vars(self).pop("reference_", None)  # of other parameters
        if self._learns_reference():
            self.reference_ = learn_reference(sequences, self.reference)

    def _known_reference(self) -> str:
        """The reference as a clean sequence."""
        if self.reference is None or self.reference in LEARNT:
            return self.reference_
        return clean_reference(
            self.reference,
            long_sequences=self.long_sequences,
            max_length=self.max_length,
            unknown_residues=self.unknown_residues,
        )

    def __sklearn_is_fitted__(self) -> bool:
        return not self._learns_reference() or hasattr(self, "reference_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]  # of the estimator that this is mixed into
        tags.requires_fit = self._learns_reference()
        return tags
