"""`ESM2Embedder`: sequences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm._typing import Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer
from skesm.features.common.parameters import as_tuple, several_layers, several_of
from skesm.features.common.reference import ReferenceMixin
from skesm.features.recipe import Recipe, Row
from skesm.fetch.request import Request
from skesm.outputs.derived import derive, source
from skesm.outputs.kinds import ALL_POOLINGS, KINDS, MUTATED
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
        Layers to take representations from. 0 is the embedding. -1 is the last layer, after the final LayerNorm. The
        columns of several layers stand side by side.
    pooling : {"mean", "max", "std", "cls", "eos", "mutated"} or sequence of these, default="mean"
        How L residue vectors become one. ``"mean"``, ``"max"`` and ``"std"`` (standard deviation) are over residues,
        without the start and end tokens. ``"cls"`` and ``"eos"`` are the vectors of the start and end token.
        ``"mutated"`` is for libraries of variants, see Notes.
    reference : str or None, default=None
        The sequence that ``"mutated"`` compares with. Other poolings do not use it. You can also let ``fit`` choose it
        from its rows. None takes their consensus (the most common amino acid at each position), ``"most_common"`` the
        most common sequence, ``"first"`` the first row.
    {shared}

    Attributes
    ----------
    reference_ : str
        The reference that ``fit`` learnt. It exists only with ``pooling="mutated"`` and no given reference.

    See Also
    --------
    ESM2ResidueEmbedder : Features of residues, for sequences of one length.
    ESM2LogitSummarizer : Statistics of the model's predictions.
    ESM2ContactSummarizer : Statistics of predicted contacts.

    Notes
    -----
    The transformer is stateless, unless ``fit`` learns a reference: you need not call ``fit``. The object holds no
    weights. All estimators of a process share them, so clones are cheap and pickles small.

    ``pooling="mutated"``: one substitution hardly changes the mean over a protein of hundreds of residues. Let P be the
    positions at which a sequence differs from the reference, and h[i] the representation of residue i. The columns are

    ======================  ==========================================================
    ``mutated_l{l}_…``      Σ_{i ∈ P} h[i] / \|P\|, h of the sequence: d columns
    ``reference_l{l}_…``    Σ_{i ∈ P} h[i] / \|P\|, h of the reference: d columns
    ======================  ==========================================================

    The reference itself differs nowhere. For it P is all positions, so both halves are equal. ``X`` and ``<mask>``
    count as different from any amino acid. Sequences are not aligned, so all of them must have the reference's length.
    Give the reference if you know it. A reference that is learnt from few rows may differ between folds, and each
    reference has records of its own. All rows together need one more pass, for the reference.

    ``long_sequences="window"``: the sequence is cut into windows of `max_length` residues. They are evenly spaced, and
    as few as an overlap of `window_overlap` or more allows. Each window is computed with a start and an end token of
    its own. A residue in several windows gets the weighted mean of its rows. The weight is the distance to the nearer
    end of the window (1 at the end), because a residue near the end has little context. Poolings are over these L rows.
    ``"cls"`` and ``"eos"`` are means over the windows.

    The features of a sequence do not depend on the other rows, their order, `n_jobs` or the batch size. On the NumPy
    engine they are equal to the last bit, elsewhere within 1e-5 of the layer's scale.

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

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "layers": [Integral, "array-like"],
        "pooling": [StrOptions(set(ALL_POOLINGS)), "array-like"],
        "reference": [str, None],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        layers: int | Sequence[int] = -1,
        pooling: str | Sequence[str] = "mean",
        reference: str | None = None,
        backend: str | Backend = "local",
        memory: Memory = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        window_overlap: int | None = None,
        unknown_residues: str = "error",
        prefetch: str | Sequence[str] = (),
        on_error: str = "raise",
        n_jobs: int | None = None,
        verbose: bool | int | str = "auto",
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
        """(pooling, layer) of each block of columns: layer by layer, and the poolings of each, in the orders given."""
        layers = several_layers(self.layers, spec.n_layers)
        poolings = several_of("pooling", self.pooling, ALL_POOLINGS)
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

        # The reference is often a row of X too. With a store, one pass serves both.
        shared = Request([reference], residues, (*outputs, *prefetch))
        return replace(recipe, outputs=outputs, shared=shared, row_from_shared=compare)
