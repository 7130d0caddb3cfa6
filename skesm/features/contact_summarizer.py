"""`ESM2ContactSummarizer`: sequences to statistics of their predicted contacts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import StrOptions

from skesm._typing import Constraints, Memory, ModelName
from skesm.backends.base import Backend
from skesm.esm2.spec import ModelSpec
from skesm.features.base import _WholeSequenceTransformer
from skesm.features.common.parameters import several_of
from skesm.features.recipe import Recipe
from skesm.outputs.contacts import STATISTICS
from skesm.outputs.kinds import CONTACT_PROFILE
from skesm.outputs.spec import OutputSpec, Record

_PROFILE = OutputSpec(CONTACT_PROFILE)


class ESM2ContactSummarizer(_WholeSequenceTransformer):
    r"""Protein sequences to a few numbers each: statistics of the contacts that ESM-2 predicts.

    Parameters
    ----------
    {model}
    statistics : str or sequence of str, default=("density_short", "density_medium", "density_long", "contact_order")
        The columns, in this order: names from the table in Notes.
    memory : None, str, path-like or joblib.Memory, default=None
        Folder of the record store. It keeps 2 × L numbers for each sequence, not the map. With None nothing is stored.
    long_sequences : {"error", "truncate"}, default="error"
        How to treat sequences of more than `max_length` residues. ``"error"`` refuses them. ``"truncate"`` uses their
        first residues, and warns. There are no windows, because they would not hold every pair of residues.
    {shared}

    See Also
    --------
    ESM2AttentionSummarizer : Statistics of the attention weights, from which contacts are predicted.
    compute_outputs : The contact maps themselves.

    Notes
    -----
    A sequence has L residues. The model's contact head gives p[i, j], the probability that the Cβ atoms of residues i
    and j are within 8 Å. Only pairs that are 6 or more apart along the chain count. The head was fitted to these pairs,
    and nearer residues are close in any structure. m[i] = Σ_j p[i, j], over j with \|i − j\| ≥ 6, is the expected
    number of contacts of residue i:

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

    Contact predictions are usually assessed in these three ranges. Relative contact order (Plaxco et al.) is the mean
    separation of the contacts of a known structure, in units of L. Here predicted contacts are weighted by their
    probabilities, and pairs that are less than 6 apart are left out. Values are therefore larger than in the
    literature. A sequence of 6 residues or less has no pair that counts, so all of its statistics are 0.

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

    _parameter_constraints: Constraints = {  # noqa: RUF012  # scikit-learn's convention
        **_WholeSequenceTransformer._parameter_constraints,
        "statistics": [StrOptions(set(STATISTICS)), "array-like"],
    }

    def __init__(
        self,
        model: ModelName = "esm2_t6_8M_UR50D",
        *,
        statistics: str | Sequence[str] = ("density_short", "density_medium", "density_long", "contact_order"),
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
        self.statistics = statistics

    def _recipe(self, spec: ModelSpec) -> Recipe:
        names = several_of("statistics", self.statistics, STATISTICS)

        def row(sequence: str, record: Record) -> NDArray[np.float64]:
            profile = record[_PROFILE].astype(np.float64)
            return np.array([STATISTICS[name](profile) for name in names])

        return Recipe(names, [_PROFILE], row)
