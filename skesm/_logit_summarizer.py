"""`ESM2LogitSummarizer`: sequences to statistics of the model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm._base import Run, _ESM2Transformer, as_tuple
from skesm._outputs import FloatArray
from skesm._summaries import STATISTICS
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec


class ESM2LogitSummarizer(_ESM2Transformer):
    """Protein sequences to a few numbers each: named statistics of ESM-2's logits.

    For each residue i the model gives a logit l[i, v] for each of its V = 33 tokens. With
    m[i] = Σ_v l[i, v] / V, the mean over the vocabulary, and L residues:

    ========  ==========================
    mean      Σ_i m[i] / L
    sum       Σ_i m[i]
    ========  ==========================

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        As for `ESM2Embedder`.
    statistics : {"mean", "sum"} or sequence of these, default=("mean", "sum")
        The columns, in this order.
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store; None keeps nothing.
    long_sequences : {"error", "truncate"}, default="error"
        What happens to sequences of more than `max_length` residues; ``"truncate"`` uses their first ones, and warns.
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on. None sets no limit.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
    prefetch : str or sequence of str, default=()
        Further outputs to store from the same forward passes, such as ``"mean@-1"`` for an `ESM2Embedder` beside this
        one. Changes no value.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

    See Also
    --------
    ESM2Embedder : The model's representations.

    Notes
    -----
    BioLM's first REST API (v1) answers ``logits`` as one number for each residue, most likely m[i]; its users summed or
    averaged that vector. These are the same summaries.

    Examples
    --------
    >>> from skesm import ESM2LogitSummarizer
    >>> summarizer = ESM2LogitSummarizer("skesm-mini")
    >>> summarizer.transform(["MKTAYIAKQR", "GSHMSLFDFF"]).shape
    (2, 2)
    >>> summarizer.get_feature_names_out().tolist()
    ['logit_mean', 'logit_sum']
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "statistics": [StrOptions(set(STATISTICS)), "array-like"],
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        statistics: str | Sequence[str] = ("mean", "sum"),
        backend: str | Backend = "local",
        memory: Any = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        unknown_residues: str = "error",
        prefetch: str | Sequence[str] = (),
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.statistics = statistics
        self.backend = backend
        self.memory = memory
        self.long_sequences = long_sequences
        self.max_length = max_length
        self.unknown_residues = unknown_residues
        self.prefetch = prefetch
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _names(self) -> tuple[str, ...]:
        names = as_tuple(self.statistics)
        if not names or not all(isinstance(name, str) and name in STATISTICS for name in names):
            raise ValueError(f"statistics must be one or several of {', '.join(STATISTICS)}, got {self.statistics!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"statistics={self.statistics!r} name the same column twice")
        return names

    def _features(self, run: Run, sequences: Sequence[str]) -> FloatArray:
        chosen = [STATISTICS[name] for name in self._names()]
        outputs = sorted({statistic.output for statistic in chosen}, key=str)
        answer = run.travel(sequences, outputs, prefetch=self._prefetched(run.spec))
        rows = [[s.function(record[s.output]) for s in chosen] for record in answer.records]
        features: FloatArray = np.array(rows, dtype=np.float32)[answer.inverse]
        return features

    def _column_names(self, spec: ModelSpec) -> list[str]:
        return [f"logit_{name}" for name in self._names()]
