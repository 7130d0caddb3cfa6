"""`ESM2ResidueEmbedder`: sequences of one length to features of their residues."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skesm._typing import Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer
from skesm.features.common.parameters import as_tuple, refuse_repeats
from skesm.features.recipe import Recipe
from skesm.outputs.kinds import KINDS, RESIDUE_KINDS
from skesm.outputs.spec import OutputSpec, Record, parse_outputs
from skesm.outputs.types import FloatArray
from skesm.sequences.variants import most_common_length, refuse_other_lengths

_REMEDY = "Remove these rows, or use ESM2Embedder, which takes sequences of any length"


class ESM2ResidueEmbedder(_ESM2Transformer):
    """Protein sequences of one length to features of their residues, position by position.

    Use it for sequences whose positions correspond: variants by substitution, or the ungapped columns of an alignment.

    Parameters
    ----------
    {model}
    outputs : str or sequence of str, default="residues@-1"
        Outputs to take at each residue, in this order, see Notes: ``"residues@l"``, ``"logits"``, ``"logit_means"``,
        ``"attention_received@l"``. l is a layer, ``*`` means all layers, and negative numbers count from the end.
    positions : sequence of int or None, default=None
        Positions to use, in this order, counted from 1 as residues are. None uses all.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. It keeps all positions, whatever `positions` are: 4 L d bytes for each sequence and
        layer of ``"residues@l"``, 1.2 MB for 237 residues of ``esm2_t33_650M_UR50D``. With None nothing is stored.
    long_sequences : {"error", "truncate", "window"}, default="error"
        How to treat sequences of more than `max_length` residues. ``"error"`` refuses them. ``"truncate"`` uses their
        first residues, and warns. ``"window"`` computes them in windows of `max_length` residues that overlap, as
        `ESM2Embedder` does. It cannot be combined with ``"attention_received@l"``.
    {shared}

    Attributes
    ----------
    length_ : int
        Number of residues of every fitted row. Rows to transform must have the same number.

    See Also
    --------
    ESM2Embedder : Features of whole sequences, of any length.
    compute_outputs : The same values as one array for each sequence, of any length.

    Notes
    -----
    ``fit`` learns the length of the sequences, and nothing else. Rows of another length are an error in ``fit`` and in
    ``transform``. Position p has these columns, in the order of `outputs`:

    ========================  ========================================================================  ==============
    output                    value                                                                     columns
    ========================  ========================================================================  ==============
    ``residues@l``            representation of residue p in layer l                                    d
    ``logits``                logits of the amino acids at p, in the order ``LAGVSERTIDPKQNFYMHWC``     20
    ``logit_means``           mean of the logits at p over all 33 tokens                                1
    ``attention_received@l``  mean weight that residue p receives, over tokens and heads of layer l        1
    ========================  ========================================================================  ==============

    Their names are ``residues_l6_p39_0``, ``logits_p39_L``, ``logit_means_p39``, ``attention_received_l6_p39``.

    Columns are ordered by position: ``features.reshape(n, len(positions), -1)`` has a row for each position. There are
    many columns, 303,360 for 237 residues of ``esm2_t33_650M_UR50D``. Choose positions if you know which ones matter,
    and a regressor that can handle many columns.

    Cost: one forward pass for each distinct sequence, whatever `positions` are.

    Examples
    --------
    >>> from skesm import ESM2ResidueEmbedder
    >>> variants = ["MKTAYIAKQR", "MKTWYIAKQR", "MKTAYIAKQG"]
    >>> outputs = ("residues@-1", "logits")
    >>> embedder = ESM2ResidueEmbedder("skesm-mini", outputs=outputs, positions=[4, 10])
    >>> embedder.fit_transform(variants).shape
    (3, 424)
    >>> embedder.get_feature_names_out()[[0, 192, -1]].tolist()
    ['residues_l6_p4_0', 'logits_p4_L', 'logits_p10_C']
    >>> embedder.length_
    10
    """

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "outputs": [str, "array-like"],
        "positions": ["array-like", None],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        outputs: str | Sequence[str] = "residues@-1",
        positions: Sequence[int] | None = None,
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
        self.outputs = outputs
        self.positions = positions

    def _outputs(self, spec: ModelSpec) -> list[OutputSpec]:
        """The outputs to take at each residue, in the order given."""
        outputs = [output for name in as_tuple(self.outputs) for output in sorted(parse_outputs([name], spec.n_layers))]
        if not outputs or not all(output.kind in RESIDUE_KINDS for output in outputs):
            known = ", ".join(RESIDUE_KINDS)
            raise ValueError(f"outputs must be one or several of {known}, which residues have, got {self.outputs!r}")
        refuse_repeats("outputs", self.outputs, outputs)
        return outputs

    def _given_positions(self) -> tuple[int, ...] | None:
        if self.positions is None:
            return None
        given = as_tuple(self.positions)
        if not given or not all(isinstance(p, Integral) and not isinstance(p, bool) and int(p) > 0 for p in given):
            raise ValueError(
                f"positions must be None or a sequence of whole numbers, counted from 1, got {self.positions!r}"
            )
        refuse_repeats("positions", self.positions, given)
        return tuple(map(int, given))

    def _positions(self) -> Sequence[int]:
        """Positions to use, counted from 1."""
        given = self._given_positions()
        if given is not None:
            return given
        check_is_fitted(self)
        return range(1, self.length_ + 1)

    def _check(self, spec: ModelSpec) -> None:
        self._outputs(spec)
        self._given_positions()

    def _check_positions(self, length: int) -> None:
        beyond = [position for position in self._given_positions() or () if position > length]
        if beyond:
            raise ValueError(f"positions: {beyond[0]} is beyond the end: the sequences have {length} residues")

    def _learn(self, sequences: Sequence[str]) -> None:
        length = most_common_length(sequences)
        refuse_other_lengths(sequences, length, f"the most common length, {length} residues. {_REMEDY}")
        self._check_positions(length)
        self.length_ = length

    def _recipe(self, spec: ModelSpec) -> Recipe:
        outputs, positions = self._outputs(spec), self._positions()
        columns = [
            f"{str(output).replace('@', '_l')}_p{position}{label}"
            for position in positions
            for output in outputs
            for label in KINDS[output.kind].label(spec)
        ]
        rows = np.array(positions) - 1

        def row(sequence: str, record: Record) -> FloatArray:
            values = [record[output][rows].reshape(len(rows), -1) for output in outputs]
            return np.concatenate(values, axis=1).ravel()

        return Recipe(columns, outputs, row)

    def _complete(self, recipe: Recipe, spec: ModelSpec, sequences: Sequence[str]) -> Recipe:
        refuse_other_lengths(sequences, self.length_, f"the {self.length_} residues of the fitted sequences. {_REMEDY}")
        self._check_positions(self.length_)
        return recipe

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "length_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        return tags
