"""`ESM2LogitSummarizer`: sequences to statistics of the model's predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer, as_tuple
from skesm.features.masked import masked_logits, masked_requests
from skesm.features.summaries import MASKED, STATISTICS, Predictions, Statistic, custom_statistic
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.spec import Record
from skesm.outputs.types import FloatArray
from skesm.sequences.variants import check_residues, distinct_rows, own_columns


class ESM2LogitSummarizer(_ESM2Transformer):
    r"""Protein sequences to a few numbers each: named statistics of ESM-2's logits.

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        As for `ESM2Embedder`.
    statistics : str, callable, or sequence of these, default=("mean", "sum")
        The columns, in this order: names from the table in Notes, or functions, each of which takes the (L, 20) natural
        logarithms of the amino acids' probabilities, float64, in the order ``LAGVSERTIDPKQNFYMHWC``, gives one finite
        number, and names its column by its ``__name__``.
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store; None keeps nothing.
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
        Further outputs to store from the same forward passes, such as ``"mean@-1"`` for an `ESM2Embedder` beside this
        one. Changes no value.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a backend fails on some rows. All others are finished and stored first. Then ``"raise"`` raises
        a `PartialResultError`, which carries what was finished; ``"nan"`` gives rows of NaN, and warns.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

    See Also
    --------
    ESM2Embedder : The model's representations.
    ESM2VariantScorer : Scores of variants against a reference.

    Notes
    -----
    A sequence has residues x[1] … x[L]. The model gives a logit l[i, a] for each of the 20 amino acids a (and for 13
    other tokens v) at each residue i. p[i, a] is exp l[i, a] / Σ_b exp l[i, b] over the 20, and q[i, a] the same from
    the pass of the sequence with residue i masked. H[i] = −Σ_a p[i, a] ln p[i, a] is an entropy, and
    M[i] = ln p[i, x[i]] − max_{a ≠ x[i]} ln p[i, a] the margin over the best alternative. C are the residues that are
    one of the 20 amino acids, and \|C\| their number:

    ==============================  ====================================================  ========================
    statistic                       value                                                 column
    ==============================  ====================================================  ========================
    ``mean``                        Σ_i m[i] / L, with m[i] = Σ_v l[i, v] / 33            ``logit_mean``
    ``sum``                         Σ_i m[i]                                              ``logit_sum``
    ``entropy_mean``                Σ_i H[i] / L                                          of the same name
    ``entropy_max``                 max_i H[i]                                            of the same name
    ``entropy_q05`` (25, 50 …)      quantile of H[i] over i: 5, 25, 50, 75 or 95 %        of the same name
    ``mean_logit``                  Σ_i l[i, a] / L for each a                            ``mean_logit_L`` … ``_C``
    ``mean_probability``            Σ_i p[i, a] / L for each a                            ``mean_probability_L`` …
    ``log_likelihood``              Σ_{i ∈ C} ln p[i, x[i]]                               of the same name
    ``log_likelihood_mean``         the same / \|C\|                                      of the same name
    ``unmasked_perplexity``         exp(−log_likelihood_mean)                             of the same name
    ``own_probability_mean``        Σ_{i ∈ C} p[i, x[i]] / \|C\|                          of the same name
    ``own_probability_min``         min_{i ∈ C} p[i, x[i]]                                of the same name
    ``margin_mean``                 Σ_{i ∈ C} M[i] / \|C\|                                 of the same name
    ``margin_min``                  min_{i ∈ C} M[i]                                      of the same name
    ``pseudo_log_likelihood``       Σ_{i ∈ C} ln q[i, x[i]]                               of the same name
    ``pseudo_log_likelihood_mean``  the same / \|C\|                                      of the same name
    ``pseudo_perplexity``           exp(−pseudo_log_likelihood_mean)                      of the same name
    ==============================  ====================================================  ========================

    Cost: one pass for all statistics together, and \|C\| more for those named ``pseudo_…`` together, which are 237 for
    GFP. In an unmasked pass the model sees the residue whose probability it gives: ``unmasked_perplexity`` is a cheap
    estimate, much lower than the pseudo-perplexity, and ranks less well where that matters.

    ``X``, ``B``, ``Z``, ``U``, ``O`` and ``<mask>`` are not in C: they count in entropies and means over all residues,
    where the model's prediction is what enters, and are context for the others, also while another residue is masked. A
    sequence without any of the 20 amino acids has no own probability: an error, if one is asked for.

    With ``long_sequences="window"`` a residue in several windows gets the mean of its logits, weighted by its distance
    to the nearer end of each (1 at the end). Masked passes cost the windows that hold the mask.

    BioLM's first REST API (v1) answers ``logits`` as one number for each residue, most likely m[i]; its users summed or
    averaged that vector. ``log_likelihood`` is what its later ones call ``log_prob``.

    References
    ----------
    Salazar et al., "Masked language model scoring", ACL 2020, 2699-2712: pseudo-log-likelihood and pseudo-perplexity.

    Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a language model", Science 379,
    1123-1130 (2023): pseudo-perplexity of ESM-2.

    Examples
    --------
    >>> from skesm import ESM2LogitSummarizer
    >>> summarizer = ESM2LogitSummarizer("skesm-mini")
    >>> summarizer.transform(["MKTAYIAKQR", "GSHMSLFDFF"]).shape
    (2, 2)
    >>> summarizer.get_feature_names_out().tolist()
    ['logit_mean', 'logit_sum']
    >>> summarizer.set_params(statistics=["log_likelihood", "pseudo_perplexity"]).transform(["MKTAYIAKQR"]).shape
    (1, 2)
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "statistics": [StrOptions(set(STATISTICS)), callable, "array-like"],
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        statistics: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] = ("mean", "sum"),
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
        self.statistics = statistics
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

    def _chosen(self) -> tuple[Statistic, ...]:
        asked = (self.statistics,) if callable(self.statistics) else as_tuple(self.statistics)
        if not asked or not all(callable(s) or (isinstance(s, str) and s in STATISTICS) for s in asked):
            raise ValueError(
                f"statistics must be one or several of {', '.join(STATISTICS)} or a function, got {self.statistics!r}"
            )
        chosen = tuple(custom_statistic(s) if callable(s) else STATISTICS[s] for s in asked)
        columns = [column for statistic in chosen for column in statistic.columns]
        if len(set(columns)) < len(columns):
            raise ValueError(f"statistics={self.statistics!r} name the same column twice")
        return chosen

    def _column_names(self, spec: ModelSpec) -> list[str]:
        return [column for statistic in self._chosen() for column in statistic.columns]

    def _of_sequences(self, spec: ModelSpec, sequences: Sequence[str]) -> Request | None:
        """The passes of the sequences as they are; None if no statistic needs them."""
        outputs = sorted({s.output for s in self._chosen()} - {MASKED}, key=str)
        return Request(sequences, outputs, self._prefetched(spec)) if outputs else None

    def _needs_masked(self) -> bool:
        return any(s.output == MASKED for s in self._chosen())

    def _requests(self, spec: ModelSpec, sequences: Sequence[str]) -> Iterator[Request]:
        request = self._of_sequences(spec, sequences)
        if request is not None:
            yield request
        if self._needs_masked():
            yield from (masked for _, masked in masked_requests(list(distinct_rows(sequences))))

    def _features(self, run: Run, sequences: Sequence[str]) -> FloatArray:
        chosen = self._chosen()
        if any(statistic.of_residues for statistic in chosen):
            check_residues(sequences)

        def measure(sequence: str, record: Record) -> dict[Statistic, Any]:
            columns = own_columns(sequence)
            predictions = {output: Predictions(value, columns) for output, value in record.items()}
            return {s: s.function(predictions[s.output]) for s in chosen if s.output in predictions}

        rows = distinct_rows(sequences)
        found: list[dict[Statistic, Any]] = [{} for _ in rows]
        request = self._of_sequences(run.spec, sequences)
        if request is not None:
            measured = run.fetch(request, measure)
            for of, places in zip(found, rows.values(), strict=True):
                of.update(measured[places[0]] or {})
        if self._needs_masked():
            for of, sequence, logits in zip(found, rows, masked_logits(run, rows), strict=True):
                columns = own_columns(sequence)
                if logits is not None:
                    predictions = Predictions(logits, columns[columns >= 0])
                    of.update((s, s.function(predictions)) for s in chosen if s.output == MASKED)
        features = np.full((len(sequences), len(self._column_names(run.spec))), np.nan, dtype=np.float32)
        for of, places in zip(found, rows.values(), strict=True):
            if all(s in of for s in chosen):
                features[places] = np.concatenate([np.atleast_1d(of[s]) for s in chosen])
        return features
