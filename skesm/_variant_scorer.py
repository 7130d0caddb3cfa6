"""`ESM2VariantScorer`: variants of a protein to zero-shot scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skesm._alphabet import AMINO_ACIDS
from skesm._base import Run, _ESM2Estimator
from skesm._masked import masked_logits
from skesm._outputs import FloatArray
from skesm._reference import ReferenceMixin
from skesm._summaries import LOGITS, Predictions
from skesm._variants import check_lengths, check_scorable, differences, distinct_rows, own_columns
from skesm.backends.base import Backend

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
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on; longer ones are an error. None sets no limit.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
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

    These are the scores of Meier et al. For a variant of several substitutions ``masked_marginal`` adds those of single
    ones, each with one residue masked, so that one pass for each position that is mutated in any variant serves all of
    them.

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
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
    }
    # A score of a part would not be one of the sequence.
    long_sequences = "error"

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        strategy: str = "masked_marginal",
        reference: str | None = None,
        backend: str | Backend = "local",
        memory: Any = None,
        max_length: int | None = 1022,
        unknown_residues: str = "error",
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.reference = reference
        self.backend = backend
        self.memory = memory
        self.max_length = max_length
        self.unknown_residues = unknown_residues
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
        BackendError
            If the backend fails or answers wrongly. With `memory`, what was finished is stored.
        """
        backend, spec = self._prepare()
        check_is_fitted(self)
        sequences, reference = self._clean(X), self._known_reference()
        self._check_variants(sequences, reference)
        run = Run(self, backend, spec)
        distinct, inverse, rows = distinct_rows(sequences)
        score = self._pll_ratios if self.strategy == "pll_ratio" else self._marginals
        scores: NDArray[np.float64] = np.array(score(run, distinct, rows, reference), dtype=np.float64)[inverse]
        run.finish(len(sequences))
        return scores

    def _check_variants(self, sequences: Sequence[str], reference: str) -> None:
        if self.strategy != "pll_ratio":
            check_lengths(sequences, reference, "remove these rows, or choose strategy='pll_ratio'")
        check_scorable(sequences, reference)

    def _marginals(self, run: Run, sequences: Sequence[str], rows: Sequence[int], reference: str) -> list[float]:
        """Sums over the mutated positions. Differences of logits are those of log-probabilities."""
        own_reference = own_columns(reference)
        mutated = [differences(sequence, reference) for sequence in sequences]
        tables: Iterable[FloatArray]  # (L, 20) logits for each sequence, of which the mutated rows are used
        if self.strategy == "mutant_marginal":
            tables = [record[LOGITS] for record in run.travel(sequences, [LOGITS], rows=rows).records]
        elif self.strategy == "wt_marginal":
            tables = repeat(run.travel([reference], [LOGITS]).records[0][LOGITS], len(sequences))
        else:
            table = np.zeros((len(own_reference), len(AMINO_ACIDS)), dtype=np.float32)
            positions = np.unique(np.concatenate(mutated))
            (table[positions],) = masked_logits(run, [reference], [positions], rows[:1])
            tables = repeat(table, len(sequences))
        scores = []
        for sequence, at, table in zip(sequences, mutated, tables, strict=True):
            logits = table[at].astype(np.float64)
            place = np.arange(len(at))
            scores.append(float((logits[place, own_columns(sequence)[at]] - logits[place, own_reference[at]]).sum()))
        return scores

    def _pll_ratios(self, run: Run, sequences: Sequence[str], rows: Sequence[int], reference: str) -> list[float]:
        """Pseudo-log-likelihoods less that of the reference."""
        every = {reference: rows[0], **dict(zip(sequences, rows, strict=True))}
        columns = [own_columns(sequence) for sequence in every]
        known = [np.flatnonzero(own >= 0) for own in columns]
        logits = masked_logits(run, list(every), known, list(every.values()))
        pll = {
            sequence: float(Predictions(values, own[own >= 0]).own.sum())
            for sequence, values, own in zip(every, logits, columns, strict=True)
        }
        return [pll[sequence] - pll[reference] for sequence in sequences]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags
