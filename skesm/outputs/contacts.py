"""Contact maps to stored profiles, and profiles to named statistics of a sequence.

Residues that are less than `APART` from each other along the chain are near in any structure. They are left out here,
as they were when the contact head was fitted (Rao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from skesm.outputs.types import FloatArray

#: Residues of a pair that counts are this far apart along the chain, at least.
APART = 6

#: Separations of the pairs of each range: from, to and without.
RANGES: Mapping[str, tuple[int, int | None]] = {"short": (APART, 12), "medium": (12, 24), "long": (24, None)}

_QUANTILES = (5, 25, 50, 75, 95)


def contact_profile(contacts: FloatArray) -> FloatArray:
    """Sums of a contact map p, in which every statistic is found: L × L numbers to 2 × L.

    Parameters
    ----------
    contacts : ndarray of shape (L, L), float32

    Returns
    -------
    profile : ndarray of shape (2, L), float32
        Row 0: Σ_i p[i, i + k] for each separation k, 0 … L − 1. Row 1: Σ_{j: |i − j| ≥ 6} p[i, j] for each residue i.

    Examples
    --------
    >>> contact_profile(np.ones((8, 8), dtype=np.float32)).tolist()
    [[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0]]
    """
    # float64, as for means: a sum of a thousand float32 would lose a digit
    by_separation = [np.trace(contacts, offset=k, dtype=np.float64) for k in range(len(contacts))]
    masses = (np.tril(contacts, -APART) + np.triu(contacts, APART)).sum(axis=1, dtype=np.float64)
    return np.stack([by_separation, masses]).astype(np.float32)


def _density(begin: int, end: int | None) -> Callable[[NDArray[np.float64]], float]:
    return lambda profile: profile[0, begin:end].sum() / profile.shape[1]


def _contact_order(profile: NDArray[np.float64]) -> float:
    length = profile.shape[1]
    expected = profile[0, APART:].sum()
    if not expected:
        return 0.0  # no pair is far enough apart
    return float((profile[0, APART:] * np.arange(APART, length)).sum() / (length * expected))


def _mass_quantile(q: int) -> Callable[[NDArray[np.float64]], float]:
    return lambda profile: float(np.quantile(profile[1], q / 100))


#: Statistics by name, from the profile in float64. Where no pair is far enough apart, sums of none are 0.
STATISTICS: Mapping[str, Callable[[NDArray[np.float64]], float]] = {
    **{f"density_{name}": _density(*bounds) for name, bounds in RANGES.items()},
    "contact_order": _contact_order,
    "mass_mean": lambda profile: profile[1].mean(),
    "mass_std": lambda profile: profile[1].std(),
    "mass_max": lambda profile: profile[1].max(),
    **{f"mass_q{q:02d}": _mass_quantile(q) for q in _QUANTILES},
}
