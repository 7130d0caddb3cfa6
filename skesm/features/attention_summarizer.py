"""`ESM2AttentionSummarizer`: sequences to statistics of the model's attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.utils._param_validation import StrOptions

from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _WholeSequenceTransformer, several_layers, several_of
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.kinds import ATTENTION_STATISTICS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray


def received_entropy(received: NDArray[np.float64]) -> float:
    """Entropy of the weights that residues are given, as shares of their sum, in nats.

    Examples
    --------
    >>> round(received_entropy(np.array([0.2, 0.2, 0.0])), 4)  # ln 2
    0.6931
    """
    return float(entr(received / (received.sum() or 1)).sum())


#: Statistics of the weights that residues are given, (L,), float64: one number for all heads together.
_OF_RECEIVED: Mapping[str, Callable[[NDArray[np.float64]], float]] = {
    "received_max": lambda received: float(received.max()),
    "received_entropy": received_entropy,
}
STATISTICS = (*ATTENTION_STATISTICS, *_OF_RECEIVED)


class ESM2AttentionSummarizer(_WholeSequenceTransformer):
    """Protein sequences to statistics of ESM-2's attention weights, layer by layer and head by head.

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        As for `ESM2Embedder`.
    layers : int or sequence of int, default=-1
        Layers whose attention is used: 1 is the first, n (or -1) the last. The columns of several are laid side by
        side.
    statistics : str or sequence of str, default=("entropy", "distance", "ends")
        What is said of each layer, in this order: names from the table in Notes.
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store; None keeps nothing. What is kept are a few numbers a head, or one a residue, not the
        weights.
    long_sequences : {"error", "truncate"}, default="error"
        What happens to sequences of more than `max_length` residues. ``"truncate"`` uses their first ones, and warns.
        There are no windows: they would not hold every pair of residues.
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on. None sets no limit.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
    prefetch : str or sequence of str, default=()
        Further outputs to store from the same forward passes, such as ``"attention_heads@*"`` for other layers, or
        ``"mean@-1"`` for an `ESM2Embedder` beside this one. Changes no value.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a backend fails on some rows. All others are finished and stored first. Then ``"raise"`` raises
        a `PartialResultError`, which carries what was finished; ``"nan"`` gives rows of NaN, and warns.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

    See Also
    --------
    ESM2ContactSummarizer : Statistics of the contacts that are predicted from attention.
    compute_outputs : The attention weights themselves.

    Notes
    -----
    The sequence has L residues, and tokens 0 … L + 1: the start token, the residues 1 … L, and the end token. In head h
    of layer l, w[i, j] is the weight that token i gives to token j, with Σ_j w[i, j] = 1. r[j] is the mean of w[i, j]
    over all L + 2 tokens i and all heads: the weight that residue j is given. Sums over i, j and k are over the L
    residues, unless said otherwise:

    ====================  ======================================================================================
    statistic             value
    ====================  ======================================================================================
    ``entropy``           −Σ_i Σ_j w[i, j] ln w[i, j] / L, over all tokens j: 0 if each residue looks at one token,
                          ln(L + 2) if at all alike
    ``distance``          Σ_i Σ_j w[i, j] abs(i − j) / L, over the residues j: how far along the chain residues
                          look; weight that is given to the start or end token counts as 0
    ``ends``              Σ_i (w[i, 0] + w[i, L + 1]) / L: the weight given to the start and end tokens
    ``received_max``      max_j r[j]
    ``received_entropy``  −Σ_j s[j] ln s[j], with s[j] = r[j] / Σ_k r[k]: 0 if one residue is given all, ln L if
                          all are given the same
    ====================  ======================================================================================

    The first three have a column for each head, ``attention_entropy_l6_h0``; the others one for all heads,
    ``attention_received_max_l6``.

    Heads are counted from 0, layers from 1; entropies are in nats. Longer sequences have larger entropies and
    distances, and smaller weights.

    Cost: one forward pass for all statistics and layers, up to the last layer that is asked for. A remote service
    answers what ``received_…`` are made of, and not the statistics of each head.

    References
    ----------
    Vig et al., "BERTology meets biology: interpreting attention in protein language models", ICLR 2021.

    Examples
    --------
    >>> from skesm import ESM2AttentionSummarizer
    >>> summarizer = ESM2AttentionSummarizer("skesm-mini", statistics=("entropy", "received_max"))
    >>> summarizer.transform(["MKTAYIAKQR", "GSHMSLFDFF"]).shape
    (2, 7)
    >>> summarizer.get_feature_names_out()[[0, 5, 6]].tolist()
    ['attention_entropy_l6_h0', 'attention_entropy_l6_h5', 'attention_received_max_l6']
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_WholeSequenceTransformer._parameter_constraints,
        "layers": [Integral, "array-like"],
        "statistics": [StrOptions(set(STATISTICS)), "array-like"],
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        layers: int | Sequence[int] = -1,
        statistics: str | Sequence[str] = ATTENTION_STATISTICS,
        backend: str | Backend = "local",
        memory: Any = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        unknown_residues: str = "error",
        prefetch: str | Sequence[str] = (),
        on_error: str = "raise",
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.layers = layers
        self.statistics = statistics
        self.backend = backend
        self.memory = memory
        self.long_sequences = long_sequences
        self.max_length = max_length
        self.unknown_residues = unknown_residues
        self.prefetch = prefetch
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _blocks(self, spec: ModelSpec) -> list[tuple[str, OutputSpec]]:
        """(statistic, output that it is made of) of each block of columns."""
        layers = several_layers(self.layers, spec.n_layers, first=1)
        statistics = several_of("statistics", self.statistics, STATISTICS)
        return [(name, OutputSpec(_kind(name), layer)) for layer in layers for name in statistics]

    def _column_names(self, spec: ModelSpec) -> list[str]:
        names = []
        for statistic, output in self._blocks(spec):
            name = f"attention_{statistic}_l{output.layer}"
            names += [name] if statistic in _OF_RECEIVED else [f"{name}_h{head}" for head in range(spec.n_heads)]
        return names

    def _requests(self, spec: ModelSpec, sequences: Sequence[str]) -> list[Request]:
        outputs = sorted({output for _, output in self._blocks(spec)}, key=str)
        return [Request(sequences, outputs, self._prefetched(spec))]

    def _features(self, run: Run, sequences: Sequence[str]) -> FloatArray:
        (request,) = self._requests(run.spec, sequences)
        blocks = self._blocks(run.spec)

        def columns(sequence: str, record: Record) -> FloatArray:
            return np.concatenate([_columns(statistic, record[output]) for statistic, output in blocks])

        return self._stack(run, run.fetch(request, columns))


def _kind(statistic: str) -> str:
    return "attention_received" if statistic in _OF_RECEIVED else "attention_heads"


def _columns(statistic: str, value: FloatArray) -> FloatArray:
    if statistic in _OF_RECEIVED:
        return np.array([_OF_RECEIVED[statistic](value.astype(np.float64))], dtype=np.float32)
    return value[:, ATTENTION_STATISTICS.index(statistic)]
