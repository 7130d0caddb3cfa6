"""`ESM2LogitSummarizer`: sequences to statistics of the model's predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

from skesm._typing import Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer
from skesm.features.common.parameters import as_tuple
from skesm.features.common.summaries import (
    MASKED,
    STATISTICS,
    CustomStatistic,
    Predictions,
    Statistic,
    custom_statistic,
)
from skesm.features.recipe import Recipe
from skesm.outputs.spec import Record
from skesm.sequences.variants import check_residues, own_columns


class ESM2LogitSummarizer(_ESM2Transformer):
    r"""Protein sequences to a few numbers each: named statistics of ESM-2's logits.

    Parameters
    ----------
    {model}
    statistics : str, callable, or sequence of these, default=("mean", "sum")
        The columns, in this order: names from the table in Notes, or functions of your own. A function takes the
        (L, 20) natural logarithms of the amino acids' probabilities (float64, in the order ``LAGVSERTIDPKQNFYMHWC``)
        and returns one finite number. Its ``__name__`` names the column.
    {shared}

    See Also
    --------
    ESM2Embedder : The model's representations.
    ESM2VariantScorer : Scores of variants against a reference.

    Notes
    -----
    The table uses this notation for a sequence of residues x[1] … x[L]:

    - l[i, v] is the logit at residue i of token v: one of the 20 amino acids a, or of the 13 other tokens.
    - p[i, a] = exp l[i, a] / Σ_b exp l[i, b] is the probability of amino acid a, over the 20 amino acids.
    - q[i, a] is the same probability from a pass of the sequence with residue i masked.
    - H[i] = −Σ_a p[i, a] ln p[i, a] is the entropy at residue i.
    - M[i] = ln p[i, x[i]] − max_{a ≠ x[i]} ln p[i, a] is the margin over the best other amino acid.
    - C is the set of residues that are one of the 20 amino acids, and \|C\| their number.

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

    Cost: one pass for all statistics together. All ``pseudo_…`` statistics together need \|C\| further passes, which
    are 237 for GFP. In an unmasked pass the model sees the residue that it predicts. ``unmasked_perplexity`` is thus a
    cheap estimate. It is much lower than the pseudo-perplexity, and ranks sequences less well.

    ``X``, ``B``, ``Z``, ``U``, ``O`` and ``<mask>`` are not in C. They count in entropies and in means over all
    residues, because the model has a prediction there. They are context for all other residues. If a sequence has none
    of the 20 amino acids, statistics over C are an error.

    With ``long_sequences="window"`` a residue in several windows gets the weighted mean of its logits. The weight is
    the distance to the nearer end of the window (1 at the end). A masked pass computes only the windows that hold the
    mask.

    BioLM's first REST API (v1) answers ``logits`` with one number for each residue, most likely m[i]. Its users summed
    or averaged that vector. Later APIs call ``log_likelihood`` ``log_prob``.

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
    >>> summarizer.set_params(statistics=["log_likelihood", "pseudo_perplexity"])
    ESM2LogitSummarizer(model='skesm-mini',
                        statistics=['log_likelihood', 'pseudo_perplexity'])
    >>> summarizer.transform(["MKTAYIAKQR"]).shape
    (1, 2)
    """

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "statistics": [StrOptions(set(STATISTICS)), callable, "array-like"],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        statistics: str | CustomStatistic | Sequence[str | CustomStatistic] = ("mean", "sum"),
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
        self.statistics = statistics

    def _chosen(self) -> tuple[Statistic, ...]:
        asked = (self.statistics,) if callable(self.statistics) else as_tuple(self.statistics)
        if not asked or not all(callable(s) or (isinstance(s, str) and s in STATISTICS) for s in asked):
            raise ValueError(
                f"statistics must be one or several of {', '.join(STATISTICS)} or a function, got {self.statistics!r}"
            )
        chosen = tuple(custom_statistic(s) if callable(s) else STATISTICS[s] for s in asked)
        columns = [column for statistic in chosen for column in statistic.columns]
        if len(set(columns)) < len(columns):
            raise ValueError(f"statistics={self.statistics!r} names the same column twice")
        return chosen

    def _recipe(self, spec: ModelSpec) -> Recipe:
        chosen = self._chosen()

        def row(sequence: str, record: Record) -> NDArray[np.float64]:
            own = own_columns(sequence)
            of_masked = own[own >= 0]
            predictions = {
                output: Predictions(value, of_masked if output == MASKED else own) for output, value in record.items()
            }
            found = [
                s.function(predictions[s.output]) if s.output in predictions else np.full(len(s.columns), np.nan)
                for s in chosen
            ]
            return np.concatenate([np.atleast_1d(value) for value in found])

        columns = [column for statistic in chosen for column in statistic.columns]
        return Recipe(columns, sorted({s.output for s in chosen}, key=str), row)

    def _complete(self, recipe: Recipe, spec: ModelSpec, sequences: Sequence[str]) -> Recipe:
        if any(statistic.of_residues for statistic in self._chosen()):
            check_residues(sequences)
        return recipe
