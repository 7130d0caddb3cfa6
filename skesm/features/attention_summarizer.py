"""`ESM2AttentionSummarizer`: sequences to statistics of the model's attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr
from sklearn.utils._param_validation import StrOptions

from skesm._typing import Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _WholeSequenceTransformer
from skesm.features.common.parameters import several_layers, several_of
from skesm.features.recipe import Recipe
from skesm.outputs.kinds import ATTENTION_STATISTICS
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray


def received_entropy(received: NDArray[np.float64]) -> float:
    """Entropy, in nats, of the weights that residues receive, as shares of their sum.

    Examples
    --------
    >>> round(received_entropy(np.array([0.2, 0.2, 0.0])), 4)  # ln 2
    0.6931
    """
    return float(entr(received / (received.sum() or 1)).sum())


#: Statistics of the weights that residues receive, (L,), float64: one number for all heads together.
_OF_RECEIVED: Mapping[str, Callable[[NDArray[np.float64]], float]] = {
    "received_max": lambda received: float(received.max()),
    "received_entropy": received_entropy,
}
STATISTICS = (*ATTENTION_STATISTICS, *_OF_RECEIVED)


class ESM2AttentionSummarizer(_WholeSequenceTransformer):
    """Protein sequences to statistics of ESM-2's attention weights, layer by layer and head by head.

    Parameters
    ----------
    {model}
    layers : int or sequence of int, default=-1
        Layers to take attention weights from. 1 is the first, -1 the last. The columns of several layers stand side by
        side.
    statistics : str or sequence of str, default=("entropy", "distance", "ends")
        Statistics of each layer, in this order: names from the table in Notes.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. It keeps a few numbers for each head, or one for each residue, not the weights. With
        None nothing is stored.
    long_sequences : {"error", "truncate"}, default="error"
        How to treat sequences of more than `max_length` residues. ``"error"`` refuses them. ``"truncate"`` uses their
        first residues, and warns. There are no windows, because they would not hold every pair of residues.
    {shared}

    See Also
    --------
    ESM2ContactSummarizer : Statistics of contacts, which are predicted from attention.
    compute_outputs : The attention weights themselves.

    Notes
    -----
    The sequence has L residues, and tokens 0 … L + 1: the start token, the residues 1 … L, and the end token. In head h
    of layer l, w[i, j] is the weight that token i gives to token j, with Σ_j w[i, j] = 1. r[j] is the mean of w[i, j]
    over all L + 2 tokens i and all heads: the weight that residue j receives. Sums over i, j and k are over the L
    residues, unless the table says otherwise:

    ====================  ======================================================================================
    statistic             value
    ====================  ======================================================================================
    ``entropy``           −Σ_i Σ_j w[i, j] ln w[i, j] / L, over all tokens j: 0 if each residue looks at one token,
                          ln(L + 2) if it looks at all tokens alike
    ``distance``          Σ_i Σ_j w[i, j] abs(i − j) / L, over the residues j: how far along the chain residues
                          look (weight on the start or end token counts as 0)
    ``ends``              Σ_i (w[i, 0] + w[i, L + 1]) / L: the weight given to the start and end tokens
    ``received_max``      max_j r[j]
    ``received_entropy``  −Σ_j s[j] ln s[j], with s[j] = r[j] / Σ_k r[k]: 0 if one residue receives all
                          weight, ln L if all receive the same
    ====================  ======================================================================================

    The first three statistics have a column for each head, such as ``attention_entropy_l6_h0``. The last two have one
    column for all heads, such as ``attention_received_max_l6``.

    Heads are counted from 0 and layers from 1. Entropies are in nats. Longer sequences have larger entropies and
    distances, and smaller weights.

    Cost: one forward pass for all statistics and layers, up to the last chosen layer. ``backend="biolm"`` supports the
    ``received_…`` statistics only.

    References
    ----------
    Vig et al., "BERTology meets biology: interpreting attention in protein language models", ICLR 2021.

    Examples
    --------
    >>> from skesm import ESM2AttentionSummarizer
    >>> statistics = ("entropy", "received_max")
    >>> summarizer = ESM2AttentionSummarizer("skesm-mini", statistics=statistics)
    >>> summarizer.transform(["MKTAYIAKQR", "GSHMSLFDFF"]).shape
    (2, 7)
    >>> summarizer.get_feature_names_out()[[0, 5, 6]].tolist()
    ['attention_entropy_l6_h0', 'attention_entropy_l6_h5', 'attention_received_max_l6']
    """

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_WholeSequenceTransformer._parameter_constraints,
        "layers": [Integral, "array-like"],
        "statistics": [StrOptions(set(STATISTICS)), "array-like"],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        layers: int | Sequence[int] = -1,
        statistics: str | Sequence[str] = ATTENTION_STATISTICS,
        backend: str | Backend = "local",
        memory: Memory = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
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
            unknown_residues=unknown_residues,
            prefetch=prefetch,
            on_error=on_error,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.layers = layers
        self.statistics = statistics

    def _blocks(self, spec: ModelSpec) -> list[tuple[str, OutputSpec]]:
        """(statistic, output that it is made of) of each block of columns."""
        layers = several_layers(self.layers, spec.n_layers, first=1)
        statistics = several_of("statistics", self.statistics, STATISTICS)
        return [(name, OutputSpec(_kind(name), layer)) for layer in layers for name in statistics]

    def _recipe(self, spec: ModelSpec) -> Recipe:
        blocks = self._blocks(spec)
        columns = []
        for statistic, output in blocks:
            name = f"attention_{statistic}_l{output.layer}"
            columns += [name] if statistic in _OF_RECEIVED else [f"{name}_h{head}" for head in range(spec.n_heads)]

        def row(sequence: str, record: Record) -> FloatArray:
            return np.concatenate([_columns(statistic, record[output]) for statistic, output in blocks])

        return Recipe(columns, sorted({output for _, output in blocks}, key=str), row)


def _kind(statistic: str) -> str:
    return "attention_received" if statistic in _OF_RECEIVED else "attention_heads"


def _columns(statistic: str, value: FloatArray) -> FloatArray:
    if statistic in _OF_RECEIVED:
        return np.array([_OF_RECEIVED[statistic](value.astype(np.float64))], dtype=np.float32)
    return value[:, ATTENTION_STATISTICS.index(statistic)]
