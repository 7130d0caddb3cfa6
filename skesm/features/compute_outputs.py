"""`compute_outputs`: the outputs of the model as they are, one array for each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import cast

from sklearn.utils._param_validation import validate_parameter_constraints

from skesm._typing import Column, Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.backends.costs import TransformPlan
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Estimator
from skesm.features.common.parameters import as_tuple
from skesm.fetch.records import estimate
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.spec import OutputSpec, Record, parse_outputs
from skesm.outputs.types import FloatArray
from skesm.sequences.variants import distinct_rows


def compute_outputs(
    X: Column,
    outputs: str | Sequence[str],
    model: ModelName = "esm2_t6_8M_UR50D",
    *,
    backend: str | Backend = "local",
    memory: Memory = None,
    long_sequences: str = "error",
    max_length: int | None = 1022,
    window_overlap: int | None = None,
    unknown_residues: str = "error",
    on_error: str = "raise",
    n_jobs: int | None = None,
    verbose: bool | int | str = "auto",
) -> list[dict[str, FloatArray]]:
    """Outputs of the model for each sequence: contact maps, attention weights, residue representations, logits.

    Use it to look at outputs, to plot them, or to pass them to other programs. The transformers make feature columns
    from the same outputs.

    Parameters
    ----------
    X : list, tuple, array, Series, or one-column DataFrame of str
        n sequences. White space at the ends is removed. Lower case becomes upper case.
    outputs : str or sequence of str
        Names from the table in Notes. l is a layer: 0 is the embedding, -1 the last layer, and ``*`` means all layers.
    model : str or path-like, default="esm2_t6_8M_UR50D"
        As for `ESM2Embedder`.
    backend, memory, long_sequences, max_length, window_overlap, unknown_residues, n_jobs, verbose
        As for `ESM2Embedder`: ``backend="biolm"``, for example, asks BioLM's REST API. ``long_sequences="window"`` does
        not work for contacts and attention, because no window holds all pairs of residues.
    on_error : {"raise", "nan"}, default="raise"
        How to treat rows on which the backend fails. All other rows are finished and stored first. Then ``"raise"``
        raises a `PartialResultError`, which carries the finished rows. ``"nan"`` returns None for the failed rows, and
        warns.

    Returns
    -------
    records : list of dict, length n
        For each row of X, in its order, arrays of float32 by the name of the output. Names count layers from 0: for
        ``"residues@-1"`` of a model with six layers the name is ``"residues@6"``. No two rows share an array. With
        ``on_error="nan"``, a failed row has None.

    Raises
    ------
    ValueError
        If a parameter is wrong, or the model has no such output.
    InvalidSequenceError
        If X is not a column of sequences. The message lists the first rows that are not. Nothing was computed.
    CheckpointNotFoundError
        If the model is not on this machine and cannot be fetched.
    PartialResultError
        If the backend failed on some rows, after all others were finished. Its `results` is the list, with None in the
        failed rows. ``on_error="nan"`` warns instead.
    BackendError
        If the backend fails or answers wrongly, or the model has no contact head, such as ``"skesm-mini"``.

    See Also
    --------
    ESM2ContactSummarizer, ESM2AttentionSummarizer, ESM2ResidueEmbedder : Features of these outputs.

    Notes
    -----
    For a sequence of L residues, and a model of n layers, width d and h heads:

    ========================  ==================  ==================================================================
    name                      shape               value
    ========================  ==================  ==================================================================
    ``contacts``              (L, L)              probability that the Cβ atoms of two residues are within 8 Å
    ``attentions@l``          (h, L + 2, L + 2)   weight that each token (row) gives to each token (column), with
                                                  start and end token (l from 1)
    ``attention_received@l``  (L,)                mean weight that a residue receives, over heads and all tokens
    ``attention_heads@l``     (h, 3)              entropy, distance, ends: see `ESM2AttentionSummarizer`
    ``contact_profile``       (2, L)              sums of ``contacts`` by separation, and of each residue's pairs
                                                  that are 6 or more apart
    ``residues@l``            (L, d)              representation of each residue
    ``logits``                (L, 20)             logits of the amino acids, in the order ``LAGVSERTIDPKQNFYMHWC``
    ``logit_means``           (L,)                mean of each residue's logits over the 33 tokens
    ``mean@l``, ``max@l``     (d,)                mean and maximum of the representations over the residues
    ``std@l``                 (d,)                standard deviation of the representations over the residues
    ``cls@l``, ``eos@l``      (d,)                representation of the start and the end token
    ========================  ==================  ==================================================================

    All outputs of a sequence come from one forward pass. The list holds everything in memory, and `memory` stores it as
    it is. The attention weights of one layer of ``esm2_t33_650M_UR50D`` for 1,022 residues are 84 MB.

    Examples
    --------
    >>> from skesm import compute_outputs
    >>> outputs = ["attentions@-1", "residues@3"]
    >>> first, second = compute_outputs(["MKTAYIAKQR", "GSHMSLF"], outputs, "skesm-mini")
    >>> {name: value.shape for name, value in first.items()}
    {'attentions@6': (6, 12, 12), 'residues@3': (10, 192)}
    >>> {name: value.shape for name, value in second.items()}
    {'attentions@6': (6, 9, 9), 'residues@3': (7, 192)}
    """
    reader = OutputReader(
        model,
        backend=backend,
        memory=memory,
        long_sequences=long_sequences,
        max_length=max_length,
        window_overlap=window_overlap,
        unknown_residues=unknown_residues,
        on_error=on_error,
        n_jobs=n_jobs,
        verbose=verbose,
    )
    reader.outputs = outputs
    return reader.compute(X)


class OutputReader(_ESM2Estimator):
    """`compute_outputs` as an estimator. `outputs` is set after the other parameters."""

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Estimator._parameter_constraints,
        "outputs": [str, "array-like"],
    }

    outputs: str | Sequence[str] = ()

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted({*super()._get_param_names(), "outputs"} - {"prefetch"})

    def _validate_params(self) -> None:
        validate_parameter_constraints(self._parameter_constraints, self.get_params(deep=False), "compute_outputs")

    def compute(self, X: Column) -> list[dict[str, FloatArray]]:
        """Outputs of each row."""
        model, spec = self._prepare()
        outputs = self._asked(spec)
        sequences = self._clean(X)
        run = Run(self, model, self._windows())
        records = run.fetch(Request(sequences, outputs), _by_name)
        for _, *repeats in distinct_rows(sequences).values():
            for row in repeats:
                records[row] = deepcopy(records[row])  # you may write into one of them
        run.finish(records, sequences)
        return cast("list[dict[str, FloatArray]]", records)

    def plan(self, X: Column) -> TransformPlan:
        """Estimate the cost of ``compute(X)``. Nothing is computed, and no sequence is sent."""
        model, spec = self._prepare()
        request = Request(self._clean(X), self._asked(spec))
        return estimate(request, model=model, memory=self.memory, windows=self._windows())

    def _asked(self, spec: ModelSpec) -> tuple[OutputSpec, ...]:
        outputs = parse_outputs(as_tuple(self.outputs), spec.n_layers)
        if not outputs:
            raise ValueError("outputs must name one output or several, such as 'contacts'")
        return outputs


def _by_name(sequence: str, record: Record) -> dict[str, FloatArray]:
    """Copies that callers may write into. Arrays of the store are read-only."""
    return {str(output): value.copy() for output, value in record.items()}
