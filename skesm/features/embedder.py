"""`ESM2Embedder`: sequences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer, as_tuple, several_layers, several_of
from skesm.features.reference import ReferenceMixin
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.derived import derive, source
from skesm.outputs.kinds import MUTATED, POOLINGS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray
from skesm.sequences.variants import check_lengths

_REMEDY = "remove these rows, or choose another pooling than 'mutated'"


class ESM2Embedder(ReferenceMixin, _ESM2Transformer):
    r"""Protein sequences to fixed-length vectors: ESM-2 representations, pooled over residues.

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        A published size (``skesm models`` lists them), a folder with a checkpoint in transformers' format, a Hub
        repository ``"organisation/name"`` (``@revision`` may follow), or ``"skesm-mini"``, the small demo model that is
        bundled for trying, tests and teaching, and not for research.
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
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. With it, no sequence goes through the model twice: not in other folds, other
        grids, other processes or tomorrow. None keeps nothing.
    long_sequences : {"error", "truncate", "window"}, default="error"
        What happens to sequences of more than `max_length` residues. ``"truncate"`` uses their first ones, and warns.
        ``"window"`` computes them in windows of `max_length` residues that overlap, see Notes; ``cache_info`` and
        ``plan`` count them.
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on. None sets no limit.
    window_overlap : int or None, default=None
        Residues that neighbouring windows share, at least; None is a quarter of `max_length`.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
    prefetch : str or sequence of str, default=()
        Further outputs to store from the same forward passes, for other settings to find: ``"mean@*"`` (every layer),
        ``"max@6"``, ``"logits"``, ``"logit_means"``, ``"contact_profile"`` … Changes no value.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a backend fails on some rows. All others are finished and stored first. Then ``"raise"`` raises
        a `PartialResultError`, which carries what was finished; ``"nan"`` gives rows of NaN, and warns.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

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
        self.model = model
        self.layers = layers
        self.pooling = pooling
        self.reference = reference
        self.backend = backend
        self.memory = memory
        self.long_sequences = long_sequences
        self.max_length = max_length
        self.window_overlap = window_overlap
        self.unknown_residues = unknown_residues
        self.prefetch = prefetch
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _blocks(self, spec: ModelSpec) -> list[tuple[str, int]]:
        """(pooling, layer) of each block of columns: layers in the order given, for each the poolings in theirs."""
        layers = several_layers(self.layers, spec.n_layers)
        poolings = several_of("pooling", self.pooling, (*POOLINGS, MUTATED))
        return [(pooling, layer) for layer in layers for pooling in poolings]

    def _column_names(self, spec: ModelSpec) -> list[str]:
        names = []
        for pooling, layer in self._blocks(spec):
            halves = (MUTATED, "reference") if pooling == MUTATED else (pooling,)
            names += [f"{half}_l{layer}_{i}" for half in halves for i in range(spec.width)]
        return names

    def _needs_reference(self) -> bool:
        return MUTATED in as_tuple(self.pooling)

    def _learn(self, sequences: Sequence[str]) -> None:
        super()._learn(sequences)
        if self._needs_reference():
            check_lengths(sequences, self._known_reference(), _REMEDY)

    def _known(self) -> str | None:
        return self._known_reference() if self._needs_reference() else None

    def _outputs(self, spec: ModelSpec, reference: str | None) -> list[OutputSpec]:
        return [OutputSpec(kind, layer, reference if kind == MUTATED else None) for kind, layer in self._blocks(spec)]

    def _requests(self, spec: ModelSpec, sequences: Sequence[str]) -> list[Request]:
        reference, prefetch = self._known(), self._prefetched(spec)
        outputs = self._outputs(spec, reference)
        requests = [Request(sequences, outputs, prefetch)]
        if reference is not None:
            check_lengths(sequences, reference, _REMEDY)
            residues = sorted({source(output) for output in outputs if output.reference}, key=str)
            # the reference is often a row of X too: one pass for both, if there is a store
            requests.insert(0, Request([reference], residues, (*outputs, *prefetch)))
        return requests

    def _features(self, run: Run, sequences: Sequence[str]) -> FloatArray:
        *first, request = self._requests(run.spec, sequences)
        home: Record = {}
        for of_reference in first:
            (home,) = run.fetch_reference(of_reference)

        def columns(sequence: str, record: Record) -> FloatArray:
            parts = []
            for output in request.outputs:
                parts.append(record[output])
                if output.reference is not None:
                    # the same positions of the reference's own residues
                    parts.append(derive(home, [output], sequence)[output])
            return np.concatenate(parts)

        return self._stack(run, run.fetch(request, columns))
