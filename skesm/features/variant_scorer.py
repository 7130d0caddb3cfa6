"""`ESM2VariantScorer`: variants of a protein to zero-shot scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions

from skesm._typing import Column, Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _ESM2Transformer
from skesm.features.common.masked import known_positions, masked_request, masked_rows
from skesm.features.common.reference import ReferenceMixin
from skesm.features.common.summaries import LOGITS, MASKED, Predictions
from skesm.features.recipe import Recipe, Row
from skesm.fetch.request import Request
from skesm.outputs.spec import Record
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS, count_residues
from skesm.sequences.variants import check_lengths, check_scorable, differences, distinct_rows, own_columns

#: The value of `long_sequences` that gives each masked position a window of its own.
OPTIMAL = "optimal"

STRATEGIES = ("wt_marginal", "masked_marginal", "mutant_marginal", "pll_ratio")


class ESM2VariantScorer(ReferenceMixin, RegressorMixin, _ESM2Transformer):  # type: ignore[misc]
    r"""Zero-shot scores of a protein's variants: how much likelier than a reference ESM-2 finds them.

    It is a regressor that needs no training: ``predict`` gives the score. So you can compare it with trained models in
    ``cross_val_score``. ``transform`` gives the score as one column of features. A higher score means a likelier
    sequence. Scores are not on the scale of your measurement, so compare ranks
    (``scoring=make_scorer(lambda y, s: spearmanr(y, s).statistic)``). Mind the sign of the measurement: a ΔΔG, for
    example, is often positive for mutations that destabilise.

    Parameters
    ----------
    {model}
    strategy : {"masked_marginal", "wt_marginal", "mutant_marginal", "pll_ratio"}, default="masked_marginal"
        The score, see Notes.
    reference : str or None, default=None
        The sequence that variants are compared with, usually the wild type. A given reference needs no ``fit``. You can
        also let ``fit`` choose it from its rows. None takes their consensus (the most common amino acid at each
        position), ``"most_common"`` the most common sequence, ``"first"`` the first row.
    long_sequences : {"error", "window", "optimal"}, default="error"
        How to treat sequences of more than `max_length` residues. ``"error"`` refuses them. ``"window"`` computes them
        in windows of `max_length` residues that overlap, as `ESM2LogitSummarizer` does. A masked position is computed
        in every window that holds it. ``"optimal"``, for masked marginals only, computes each masked position in one
        window, see Notes.
    {shared}

    Attributes
    ----------
    reference_ : str
        The reference that ``fit`` learnt. It exists only if none is given.

    See Also
    --------
    ESM2LogitSummarizer : Likelihoods and pseudo-perplexity without a reference.

    Notes
    -----
    r is the reference, s the variant, and P the positions at which they differ. p(a at i | t) is the probability of
    amino acid a at position i, over the 20 amino acids, from a pass of sequence t:

    ===================  ==========================================================  =============================
    strategy             score                                                       passes for n variants
    ===================  ==========================================================  =============================
    ``wt_marginal``      Σ_{i ∈ P} ln p(s[i] at i | r) − ln p(r[i] at i | r)         1
    ``masked_marginal``  the same, given r with residue i masked                     1 for each mutated position
    ``mutant_marginal``  Σ_{i ∈ P} ln p(s[i] at i | s) − ln p(r[i] at i | s)         n
    ``pll_ratio``        PLL(s) − PLL(r), with PLL(t) = Σ_i ln p(t[i] at i | t with  L for each of n + 1 sequences
                         residue i masked)
    ===================  ==========================================================  =============================

    For single substitutions these are the scores of Meier et al. [1]_. For a variant with several substitutions, their
    ``masked_marginal`` masks all mutated positions at once. Here the scores of the single substitutions are added, each
    with one residue masked. So all variants together need one pass for each position that is mutated in any of them.

    Only ``pll_ratio`` compares sequences of different lengths. Sequences are not aligned, so the other strategies raise
    an error. A longer sequence has a lower pseudo-log-likelihood because of its length alone. So compare insertions and
    deletions only among themselves.

    ``long_sequences="optimal"`` follows the idea of ProteinGym [2]_: the window of `max_length` residues has the
    mutated position at its middle, and is moved inside near the ends of the sequence. So a position costs one pass.
    The tokens differ: ProteinGym tokenizes the whole sequence, and cuts 1,024 tokens out of it. Its first window has
    a start token and 1,023 residues, its last one 1,023 residues and an end token, and the others have 1,024 residues
    and neither. Here every window is a sequence with both tokens, and `max_length` residues between them.

    The reference's own score is 0. ``X``, ``B``, ``Z``, ``U``, ``O`` and ``<mask>`` are allowed where variant and
    reference agree. Where they differ, or in a row of another length, they are an error. ``pll_ratio`` sums over the 20
    amino acids only.

    References
    ----------
    .. [1] Meier et al., "Language models enable zero-shot prediction of the effects of mutations on protein function",
       NeurIPS 34, 29287-29303 (2021).
    .. [2] Notin et al., "ProteinGym: Large-Scale Benchmarks for Protein Fitness Prediction and Design", NeurIPS 36,
       64331-64379 (2023); ``get_optimal_window`` in its repository.

    Examples
    --------
    >>> from skesm import ESM2VariantScorer
    >>> scorer = ESM2VariantScorer("skesm-mini", reference="MKTAYIAKQR")
    >>> scorer.predict(["MKTAYIAKQR", "MKTWYIAKQR", "MKTWYIAKQG"]).shape
    (3,)
    >>> scorer.cache_info().computed  # two positions are mutated
    2
    """

    # The score of a part is not the score of the sequence.
    _long_sequences: ClassVar[tuple[str, ...]] = ("error", "window", OPTIMAL)

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Transformer._parameter_constraints,
        "strategy": [StrOptions(set(STRATEGIES))],
        "reference": [str, None],
        "long_sequences": [StrOptions(set(_long_sequences))],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        strategy: str = "masked_marginal",
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
        self.strategy = strategy
        self.reference = reference

    def predict(self, X: Column) -> NDArray[np.float64]:
        """Scores of sequences, in the order of the rows of X.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences. White space at the ends is removed. Lower case becomes upper case.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            Scores in nats. A higher score means a likelier sequence.

        Raises
        ------
        InvalidSequenceError
            If X is not a column of sequences, or some rows cannot be compared with the reference. The message lists the
            first such rows. Nothing was computed.
        NotFittedError
            If ``fit`` must learn the reference, and was not called.
        CheckpointNotFoundError
            If the model is not on this machine and cannot be fetched.
        PartialResultError
            If the backend failed on some rows, after all others were finished. Its `results` are the scores, with NaN
            in the failed rows. ``on_error="nan"`` warns instead.
        BackendError
            If the backend fails or answers wrongly. With `memory`, finished sequences are stored.
        """
        return self._transform(X, dtype=np.float64, one_column=True)

    def _check(self, spec: ModelSpec) -> None:
        super()._check(spec)
        if self.long_sequences == OPTIMAL and (self.strategy != "masked_marginal" or self.max_length is None):
            raise ValueError("long_sequences='optimal' needs strategy='masked_marginal' and a max_length")

    def _learn(self, sequences: Sequence[str]) -> None:
        super()._learn(sequences)
        self._check_variants(sequences, self._known_reference())

    def _check_variants(self, sequences: Sequence[str], reference: str) -> None:
        if self.strategy != "pll_ratio":
            check_lengths(sequences, reference, "Remove these rows, or choose strategy='pll_ratio'")
        check_scorable(sequences, reference)

    def _recipe(self, spec: ModelSpec) -> Recipe:
        outputs = {"mutant_marginal": [LOGITS], "pll_ratio": [MASKED]}.get(self.strategy, [])
        return Recipe([self.strategy], outputs, lambda sequence, record: np.empty(0))

    def _complete(self, recipe: Recipe, spec: ModelSpec, sequences: Sequence[str]) -> Recipe:
        reference, prefetch = self._known_reference(), self._prefetched(spec)
        self._check_variants(sequences, reference)
        if self.strategy == "mutant_marginal":
            return replace(recipe, row=lambda sequence, record: _marginal(sequence, reference, record[LOGITS]))
        if self.strategy == "wt_marginal":
            shared = Request([reference], [LOGITS], prefetch)
            return replace(
                recipe, shared=shared, row_from_shared=lambda records: _of_table(reference, records[0][LOGITS])
            )
        if self.strategy == "pll_ratio":
            return self._compare_likelihoods(recipe, reference)
        differing = [differences(sequence, reference) for sequence in distinct_rows(sequences)]
        mutated: list[int] = np.unique(np.concatenate(differing)).tolist()
        size = self.max_length if self.long_sequences == OPTIMAL else None

        def of_masked(records: Sequence[Record]) -> Row:
            table = np.zeros((count_residues(reference), len(AMINO_ACIDS)), dtype=np.float32)
            table[mutated] = masked_rows(records, reference, mutated, size)
            return _of_table(reference, table)

        return replace(
            recipe, shared=masked_request(reference, mutated, size) if mutated else None, row_from_shared=of_masked
        )

    def _compare_likelihoods(self, recipe: Recipe, reference: str) -> Recipe:
        positions = known_positions(reference)

        def beside(records: Sequence[Record]) -> Row:
            expected = _pll(masked_rows(records, reference, positions), reference)
            return lambda sequence, record: np.array([_pll(record[MASKED], sequence) - expected])

        shared = masked_request(reference, positions)
        return replace(recipe, shared=shared, row_from_shared=beside, known={reference: 0.0})

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags


def _of_table(reference: str, table: FloatArray) -> Row:
    """Scores by one (L, 20) table of the reference's logits."""
    return lambda sequence, _: _marginal(sequence, reference, table)


def _marginal(sequence: str, reference: str, table: FloatArray) -> NDArray[np.float64]:
    """Sum over the mutated positions. Differences of logits equal differences of log-probabilities."""
    at = differences(sequence, reference)
    new, old = own_columns(sequence)[at], own_columns(reference)[at]
    return np.array([float((table[at, new].astype(np.float64) - table[at, old]).sum())])


def _pll(logits: FloatArray, sequence: str) -> float:
    """Pseudo-log-likelihood, from logits of the amino acids alone."""
    columns = own_columns(sequence)
    return float(Predictions(logits, columns[columns >= 0]).own.sum())
