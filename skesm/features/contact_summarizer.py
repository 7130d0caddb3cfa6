"""`ESM2ContactSummarizer`: sequences to statistics of their predicted contacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _WholeSequenceTransformer, several_of
from skesm.fetch.request import Request
from skesm.fetch.run import Run
from skesm.outputs.contacts import STATISTICS
from skesm.outputs.kinds import CONTACT_PROFILE
from skesm.outputs.spec import OutputSpec, Record
from skesm.outputs.types import FloatArray

_PROFILE = OutputSpec(CONTACT_PROFILE)


class ESM2ContactSummarizer(_WholeSequenceTransformer):
    r"""Protein sequences to a few numbers each: statistics of the contacts that ESM-2 predicts.

    Parameters
    ----------
    model : str or path-like, default="esm2_t6_8M_UR50D"
        As for `ESM2Embedder`. The bundled ``"skesm-mini"`` predicts no contacts.
    statistics : str or sequence of str, default=("density_short", "density_medium", "density_long", "contact_order")
        The columns, in this order: names from the table in Notes.
    backend : {"local", "numpy", "torch"} or Backend, default="local"
        Where the model runs; see `skesm.backends.LocalBackend`.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store; None keeps nothing. What is kept are 2 × L numbers a sequence, not the map.
    long_sequences : {"error", "truncate"}, default="error"
        What happens to sequences of more than `max_length` residues. ``"truncate"`` uses their first ones, and warns.
        There are no windows: they would not hold every pair of residues.
    max_length : int or None, default=1022
        The longest sequences that ESM-2 was trained on. None sets no limit.
    unknown_residues : {"error", "X"}, default="error"
        ``"X"`` reads letters that ESM-2 does not know (``J``) as any residue.
    prefetch : str or sequence of str, default=()
        Further outputs to store from the same forward passes, such as ``"mean@-1"`` for an `ESM2Embedder` beside this
        one, whose own `prefetch` would be ``"contact_profile"``. Changes no value.
    on_error : {"raise", "nan"}, default="raise"
        What happens if a backend fails on some rows. All others are finished and stored first. Then ``"raise"`` raises
        a `PartialResultError`, which carries what was finished; ``"nan"`` gives rows of NaN, and warns.
    n_jobs : int or None, default=None
        CPU threads that compute; -1 is all cores. None leaves it to the backend. Changes no value.
    verbose : bool, default=False
        Show a progress bar on stderr.

    See Also
    --------
    ESM2AttentionSummarizer : Statistics of the attention weights, from which contacts are predicted.
    compute_outputs : The contact maps themselves.

    Notes
    -----
    A sequence has L residues, and p[i, j] is the probability that the Cβ atoms of residues i and j are within 8 Å, as
    the model's contact head gives it. Only pairs that are 6 or more apart along the chain count: those that the head
    was fitted to, while nearer ones are close in any structure. m[i] = Σ_j p[i, j], over j with \|i − j\| ≥ 6, is the
    number of such contacts that residue i is expected to have:

    ======================  ==========================================================================================
    statistic, and column   value
    ======================  ==========================================================================================
    ``density_short``       Σ p[i, j] / L over pairs i < j with j − i from 6 to 11: expected contacts per residue
    ``density_medium``      the same with j − i from 12 to 23
    ``density_long``        the same with j − i of 24 and more
    ``contact_order``       Σ p[i, j] (j − i) / (L Σ p[i, j]) over pairs with j − i ≥ 6: relative contact order
    ``mass_mean``           Σ_i m[i] / L, which is twice the sum of the densities
    ``mass_std``            standard deviation of m[i] over i
    ``mass_max``            max_i m[i]
    ``mass_q05`` (25 …)     quantile of m[i] over i: 5, 25, 50, 75 or 95 %
    ======================  ==========================================================================================

    The ranges are those in which contact predictions are assessed. Relative contact order (Plaxco et al.) is the mean
    separation of the contacts of a known structure, in units of L; here predicted contacts are weighted by their
    probabilities, and pairs that are less than 6 apart are left out, so that values are larger than those of the
    literature. A sequence of 6 residues or less has no pair that counts: all of its statistics are 0.

    Cost: one forward pass for all statistics, through all layers.

    References
    ----------
    Rao et al., "Transformer protein language models are unsupervised structure learners", ICLR 2021: the contact head.

    Plaxco, Simons and Baker, "Contact order, transition state placement and the refolding rates of single domain
    proteins", Journal of Molecular Biology 277, 985-994 (1998).

    Examples
    --------
    >>> from skesm import ESM2ContactSummarizer
    >>> summarizer = ESM2ContactSummarizer("esm2_t6_8M_UR50D")
    >>> summarizer.get_feature_names_out().tolist()  # needs no weights, as transform does
    ['density_short', 'density_medium', 'density_long', 'contact_order']
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012  # scikit-learn's convention
        **_WholeSequenceTransformer._parameter_constraints,
        "statistics": [StrOptions(set(STATISTICS)), "array-like"],
    }

    def __init__(
        self,
        model: Any = "esm2_t6_8M_UR50D",
        *,
        statistics: str | Sequence[str] = ("density_short", "density_medium", "density_long", "contact_order"),
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

    def _column_names(self, spec: ModelSpec) -> list[str]:
        return list(several_of("statistics", self.statistics, STATISTICS))

    def _requests(self, spec: ModelSpec, sequences: Sequence[str]) -> list[Request]:
        return [Request(sequences, [_PROFILE], self._prefetched(spec))]

    def _features(self, run: Run, sequences: Sequence[str]) -> FloatArray:
        (request,) = self._requests(run.spec, sequences)
        functions = [STATISTICS[name] for name in self._column_names(run.spec)]

        def columns(sequence: str, record: Record) -> FloatArray:
            profile = record[_PROFILE].astype(np.float64)
            return np.array([function(profile) for function in functions], dtype=np.float32)

        return self._stack(run, run.fetch(request, columns))
