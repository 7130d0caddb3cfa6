"""`ESM2Embedder`: sequences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer
from skesm.features.common.reference import ReferenceMixin
from skesm.features.parameters import as_tuple, several_layers, several_of
from skesm.features.recipe import Recipe, Row
from skesm.fetch.request import Request
from skesm.outputs.derived import derive, source
from skesm.outputs.kinds import KINDS, MUTATED, POOLINGS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray
from skesm.sequences.variants import check_lengths

_REMEDY = "Remove these rows, or choose another pooling than 'mutated'"


class ESM2Embedder(ReferenceMixin, _ESM2Transformer):
    r"""Protein sequences to fixed-length vectors: ESM-2 representations, pooled over residues.

    Parameters
    ----------
    {model}
    layers : int or sequence of int, default=-1
        Layers whose representations are used: 0 is the embedding, n (or -1) the last, after the final LayerNorm. The
        columns of several are laid side by side.
    pooling : {"mean", "max", "std", "cls", "eos", "mutated"} or sequence of these, default="mean"
        How L residue vectors become one: their mean, maximum or standard deviation, which leave out the start and end
        tokens, or the vector of one of these tokens. ``"mutated"`` is for libraries of variants, see Notes.
    reference : str or None, default=None
        With what ``"mutated"`` compares: a sequence; or None, for which ``fit`` learns the consensus of its rows (at
        each position their most common amino acid), ``"most_common"``, for which it takes their most common sequence,
        or ``"first"``, for which it takes the first. Other poolings do not look at it.
    {shared}

    Attributes
    ----------
    reference_ : str
        The reference that ``fit`` learnt; only if ``"mutated"`` is asked for and no reference is given.

    See Also
    --------
    ESM2ResidueEmbedder : Features of residues, for sequences of one length.
    ESM2LogitSummarizer : Statistics of the model's predictions.
    ESM2ContactSummarizer : Statistics of predicted contacts.

    Notes
    -----
    Stateless: ``fit`` learns nothing and need not be called, but for a reference that is to be learnt. The weights
    live in the process, not in the object, so that clones are cheap and pickles small.

    ``pooling="mutated"``: in the mean over a protein of hundreds of residues, one substitution is drowned. With P the
    positions at which a sequence differs from the reference, and h[i] the representation of residue i, the columns are

    ======================  ==========================================================
    ``mutated_l{l}_…``      Σ_{i ∈ P} h[i] / \|P\|, h of the sequence: d columns
    ``reference_l{l}_…``    Σ_{i ∈ P} h[i] / \|P\|, h of the reference: d columns
    ======================  ==========================================================

    The reference itself differs nowhere; for it P is all positions, so that both halves are equal. ``X`` and ``<mask>``
    count as different from any amino acid. All sequences must have the reference's length: nothing is aligned. Give the
    reference where you know it: one learnt from few rows may differ between folds, and each has records of its own. One
    more pass, of the reference, serves all rows.

    ``long_sequences="window"``: as few windows of `max_length` residues as overlap by `window_overlap` or more, evenly
    spaced, each computed with a start and an end token of its own. A residue in several windows gets the mean of its
    rows, weighted by its distance to the nearer end of each (1 at the end): there a window sees least around it. Means
    and maxima are over these L rows; ``"cls"`` and ``"eos"`` are means over the windows.

    The features of a sequence do not depend on the other rows, their order, `n_jobs` or the batch size: on the NumPy
    engine to the last bit, elsewhere within 1e-5 of the layer's scale.

    References
    ----------
    Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a language model", Science 379,
    1123-1130 (2023).

    Examples
    --------
    >>> from skesm import ESM2Embedder
    >>> embedder = ESM2Embedder("skesm-mini", pooling=("mean", "max"))
    >>> embedder.fit_transform(["MKTAYIAKQR", "GSHMSLFDFF"]).shape
    (2, 384)
    >>> embedder.get_feature_names_out()[[0, -1]].tolist()
    ['mean_l6_0', 'max_l6_191']

    Variants of one protein:

    >>> variants = ESM2Embedder("skesm-mini", pooling="mutated", reference="MKTAYIAKQR")
    >>> variants.transform(["MKTAYIAKQR", "MKTWYIAKQR"]).shape
    (2, 384)
    >>> variants.get_feature_names_out()[[0, -1]].tolist()
    ['mutated_l6_0', 'reference_l6_191']
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "layers": [Integral, "array-like"],
        "pooling": [StrOptions({*POOLINGS, MUTATED}), "array-like"],
        "reference": [str, None],
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        layers: int | Sequence[int] = -1,
        pooling: str | Sequence[str] = "mean",
        reference: str | None = None,
        backend: str | Backend = "local",
        memory: Any = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        window_overlap: int | None = None,
        unknown_residues: str = "error",
        prefetch: str | Sequence[str] = (),
        on_error: str = "raise",
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        super().__init__(
            model,
            backend=backend,
            memory=memory,
            long_sequences=long_sequences,
            max_length=max_length,
            window_overlap=window_overlap,
            unknown_residues=unknown_residues,
            prefetch=prefetch,
            on_error=on_error,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.layers = layers
        self.pooling = pooling
        self.reference = reference

    def _blocks(self, spec: ModelSpec) -> list[tuple[str, int]]:
        """(pooling, layer) of each block of columns: layers in the order given, for each the poolings in theirs."""
        layers = several_layers(self.layers, spec.n_layers)
        poolings = several_of("pooling", self.pooling, (*POOLINGS, MUTATED))
        return [(pooling, layer) for layer in layers for pooling in poolings]

    def _recipe(self, spec: ModelSpec) -> Recipe:
        blocks = self._blocks(spec)
        outputs = [OutputSpec(kind, layer) for kind, layer in blocks if not KINDS[kind].has_reference]
        columns = []
        for kind, layer in blocks:
            halves = (kind, "reference") if KINDS[kind].has_reference else (kind,)
            columns += [f"{half}_l{layer}{label}" for half in halves for label in KINDS[kind].label(spec)]
        return Recipe(columns, outputs, lambda _, record: np.concatenate([record[output] for output in outputs]))

    def _needs_reference(self) -> bool:
        return MUTATED in as_tuple(self.pooling)

    def _learn(self, sequences: Sequence[str]) -> None:
        super()._learn(sequences)
        if self._needs_reference():
            check_lengths(sequences, self._known_reference(), _REMEDY)

    def _complete(self, recipe: Recipe, spec: ModelSpec, sequences: Sequence[str]) -> Recipe:
        if not self._needs_reference():
            return recipe
        reference, prefetch = self._known_reference(), self._prefetched(spec)
        check_lengths(sequences, reference, _REMEDY)
        outputs = [
            OutputSpec(kind, layer, reference if KINDS[kind].has_reference else None)
            for kind, layer in self._blocks(spec)
        ]
        residues = sorted({source(output) for output in outputs if output.reference}, key=str)

        def compare(records: Sequence[Record]) -> Row:
            (of_reference,) = records

            def row(sequence: str, record: Record) -> FloatArray:
                parts = []
                for output in outputs:
                    parts.append(record[output])
                    if output.reference is not None:
                        # the same positions of the reference's own residues
                        parts.append(derive(of_reference, [output], sequence)[output])
                return np.concatenate(parts)

            return row

        # the reference is often a row of X too: one pass for both, if there is a store
        shared = Request([reference], residues, (*outputs, *prefetch))
        return replace(recipe, outputs=outputs, shared=shared, row_from_shared=compare)
