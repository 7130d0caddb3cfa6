"""`ESM2VariantScorer`: variants of a protein to zero-shot scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from skesm.backends.base import Backend
from skesm.features.base import _ESM2Estimator
from skesm.features.masked import known_positions, masked_logits, masked_request, masked_rows
from skesm.features.reference import ReferenceMixin
from skesm.features.summaries import LOGITS, Predictions
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS, count_residues
from skesm.sequences.variants import check_lengths, check_scorable, differences, distinct_rows, own_columns

STRATEGIES = ("wt_marginal", "masked_marginal", "mutant_marginal", "pll_ratio")


class ESM2VariantScorer(ReferenceMixin, RegressorMixin, _ESM2Estimator):  # type: ignore[misc]
    r"""Zero-shot scores of a protein's variants: how much likelier ESM-2 finds them than a reference.

    A regressor without training: ``predict`` gives the score, so that it can stand beside trained models in
    ``cross_val_score`` and in tables. A higher score is a likelier sequence. Its scale is not that of a measured value:
    compare ranks (``scoring=make_scorer(lambda y, s: spearmanr(y, s).statistic)``), and mind the sign of the
    measurement, such as a ΔΔG that is positive where a mutation destabilises.

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        As for `ESM2Embedder`.
    strategy : {"masked_marginal", "wt_marginal", "mutant_marginal", "pll_ratio"}, default="masked_marginal"
        The score, see Notes.
    reference : str or None, default=None
        The sequence that variants are compared with, usually the wild type; or None, for which ``fit`` learns the
        consensus of its rows (at each position their most common amino acid), ``"most_common"``, for which it takes
        their most common sequence, or ``"first"``, for which it takes the first. A given reference needs no ``fit``.
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store; None keeps nothing. With it, cross-validation computes no pass twice.
    long_sequences : {"error", "window"}, default="error"
        What happens to sequences of more than `max_length` residues. ``"window"`` computes them in windows of
        `max_length` residues that overlap, as `ESM2LogitSummarizer` does; each masked position costs the windows that
        hold it.
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on. None sets no limit.
    window_overlap : int or None, default=None
        Residues that neighbouring windows share, at least; None is a quarter of `max_length`.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a backend fails on some rows. All others are finished and stored first. Then ``"raise"`` raises
        a `PartialResultError`, which carries what was finished; ``"nan"`` gives scores of NaN, and warns.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

    Attributes
    ----------
    reference_ : str
        The reference that ``fit`` learnt; only if none is given.

    See Also
    --------
    ESM2LogitSummarizer : Likelihoods and pseudo-perplexity without a reference.

    Notes
    -----
    With r the reference, s the variant, P the positions at which they differ, and p(a at i | t) the probability, over
    the 20 amino acids, of a at position i from the pass of sequence t:

    ===================  ==========================================================  =============================
    strategy             score                                                       passes for n variants
    ===================  ==========================================================  =============================
    ``wt_marginal``      Σ_{i ∈ P} ln p(s[i] at i | r) − ln p(r[i] at i | r)         1
    ``masked_marginal``  the same, given r with residue i masked                     1 for each mutated position
    ``mutant_marginal``  Σ_{i ∈ P} ln p(s[i] at i | s) − ln p(r[i] at i | s)         n
    ``pll_ratio``        PLL(s) − PLL(r), with PLL(t) = Σ_i ln p(t[i] at i | t with  L for each of n + 1 sequences
                         residue i masked)
    ===================  ==========================================================  =============================

    For single substitutions these are the scores of Meier et al. For a variant of several, their formula of
    ``masked_marginal`` masks all its mutated positions at once; here the scores of its single substitutions are added,
    each with one residue masked, so that one pass for each position that is mutated in any variant serves all of them.

    Only ``pll_ratio`` compares sequences of different lengths; for the others that is an error, since nothing is
    aligned. A longer sequence has a lower pseudo-log-likelihood merely by its length: compare insertions and deletions
    among themselves.

    The reference's own score is 0. ``X``, ``B``, ``Z``, ``U``, ``O`` and ``<mask>`` may stand where variant and
    reference agree, as context; where they differ, or in a row of another length, they are an error. ``pll_ratio`` sums
    over the 20 amino acids only.

    References
    ----------
    Meier et al., "Language models enable zero-shot prediction of the effects of mutations on protein function", NeurIPS
    34, 29287-29303 (2021).

    Examples
    --------
    >>> from skesm import ESM2VariantScorer
    >>> scorer = ESM2VariantScorer("skesm-mini", reference="MKTAYIAKQR")
    >>> scorer.predict(["MKTAYIAKQR", "MKTWYIAKQR", "MKTWYIAKQG"]).shape
    (3,)
    >>> scorer.cache_info().computed  # two positions are mutated
    2
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_ESM2Estimator._parameter_constraints,
        "strategy": [StrOptions(set(STRATEGIES))],
        "reference": [str, None],
        "long_sequences": [StrOptions({"error", "window"})],  # a score of a part would not be one of the sequence
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        strategy: str = "masked_marginal",
        reference: str | None = None,
        backend: str | Backend = "local",
        memory: Any = None,
        long_sequences: str = "error",
        max_length: int | None = 1022,
        window_overlap: int | None = None,
        unknown_residues: str = "error",
        on_error: str = "raise",
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.reference = reference
        self.backend = backend
        self.memory = memory
        self.long_sequences = long_sequences
        self.max_length = max_length
        self.window_overlap = window_overlap
        self.unknown_residues = unknown_residues
        self.on_error = on_error
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the reference, if none is given, and check that the rows can be scored. No model is loaded.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        InvalidSequenceError
            If X is not a column of sequences, or some cannot be compared with the reference; the message lists the
            first rows.
        """
        self._prepare()
        sequences = self._clean(X)
        self._learn(sequences)
        self._check_variants(sequences, self._known_reference())
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Scores of sequences, in the order of the rows of X.

        Parameters
        ----------
        X : list, tuple, array, Series, or one-column DataFrame of str
            n sequences. White space at the ends is removed, lower case is raised.

        Returns
        -------
        scores : ndarray of shape (n,), float64
            In nats; higher is likelier.

        Raises
        ------
        InvalidSequenceError
            If X is not a column of sequences, or some cannot be compared with the reference; the message lists the
            first rows. Nothing was computed.
        NotFittedError
            If the reference is to be learnt, and ``fit`` was not called.
        CheckpointNotFoundError
            If the model is not on this machine and cannot be fetched.
        PartialResultError
            If the backend failed on some rows, after all others were finished; its `results` are the scores with NaN in
            the failed rows. Not with ``on_error="nan"``.
        BackendError
            If the backend fails or answers wrongly. With `memory`, what was finished is stored.
        """
        model, _ = self._prepare()
        check_is_fitted(self)
        sequences, reference = self._clean(X), self._known_reference()
        self._check_variants(sequences, reference)
        run = Run(self, model, self._windows())
        rows = distinct_rows(sequences)
        score = self._pll_ratios if self.strategy == "pll_ratio" else self._marginals
        scores = np.empty(len(sequences))
        for places, value in zip(rows.values(), score(run, rows, reference), strict=True):
            scores[places] = value
        run.finish(scores, sequences)
        return scores

    def _check_variants(self, sequences: Sequence[str], reference: str) -> None:
        if self.strategy != "pll_ratio":
            check_lengths(sequences, reference, "remove these rows, or choose strategy='pll_ratio'")
        check_scorable(sequences, reference)

    def _marginals(self, run: Run, rows: dict[str, list[int]], reference: str) -> Iterator[float]:
        """Sums over the mutated positions. Differences of logits are those of log-probabilities."""
        own_reference = own_columns(reference)

        def score(sequence: str, table: FloatArray) -> float:
            """From (L, 20) logits, of which the mutated rows are used."""
            at = differences(sequence, reference)
            new, old = own_columns(sequence)[at], own_reference[at]
            return float((table[at, new].astype(np.float64) - table[at, old]).sum())

        if self.strategy == "mutant_marginal":
            request = Request(list(rows), [LOGITS], rows=list(rows.values()))
            scores = run.fetch(request, lambda sequence, record: score(sequence, record[LOGITS]))
            return (np.nan if value is None else value for value in scores)
        mutated = np.unique(np.concatenate([differences(sequence, reference) for sequence in rows]))
        table = self._table(run, reference, mutated.tolist())
        return (score(sequence, table) for sequence in rows)

    def _table(self, run: Run, reference: str, positions: list[int]) -> FloatArray:
        """Logits of the reference, (L, 20); with masks, only those of the mutated positions, each masked."""
        if self.strategy == "wt_marginal":
            return run.fetch_reference(Request([reference], [LOGITS]))[0][LOGITS]
        table = np.zeros((count_residues(reference), len(AMINO_ACIDS)), dtype=np.float32)
        if positions:
            records = run.fetch_reference(masked_request(reference, positions))
            table[positions] = masked_rows(records, reference, positions)
        return table

    def _pll_ratios(self, run: Run, rows: dict[str, list[int]], reference: str) -> Iterator[float]:
        """Pseudo-log-likelihoods less that of the reference."""
        records = run.fetch_reference(masked_request(reference, known_positions(reference)))
        home = _pll(masked_rows(records, reference, known_positions(reference)), reference)
        others = {sequence: places for sequence, places in rows.items() if sequence != reference}
        scores = {reference: 0.0}
        for sequence, logits in zip(others, masked_logits(run, others), strict=True):
            scores[sequence] = np.nan if logits is None else _pll(logits, sequence) - home
        return (scores[sequence] for sequence in rows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags


def _pll(logits: FloatArray, sequence: str) -> float:
    """Pseudo-log-likelihood, from logits of the amino acids alone."""
    columns = own_columns(sequence)
    return float(Predictions(logits, columns[columns >= 0]).own.sum())
