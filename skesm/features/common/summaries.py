"""Logits to named statistics of a sequence.

Notation: the residues are i = 1 … L, and C of them are one of the 20 amino acids. x[i] is the residue itself, and
l[i, a] the logit of amino acid a. p[i, a] = exp l[i, a] / Σ_b exp l[i, b], over the 20 amino acids, comes from one pass
of the sequence as it is. q[i, a] is the same from a pass with residue i masked.

Other residues (``X``, ``B``, ``Z``, ``U``, ``O``, ``<mask>``) have a distribution, and count in statistics over all L
residues. They have no probability of their own, so statistics that need x[i] leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skesm.outputs.kinds import MASK_LOGITS
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS

LOGIT_MEANS, LOGITS, MASKED = OutputSpec("logit_means"), OutputSpec("logits"), OutputSpec(MASK_LOGITS)

_QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Predictions:
    """The model's predictions for one sequence.

    Attributes
    ----------
    values : ndarray
        An output's array. ``logits`` of all residues, ``logit_means``, or ``mask_logits`` of the amino acids alone.
    columns : ndarray of int
        Column of each row's own residue in logits, -1 for residues other than the 20 amino acids.
    """

    values: FloatArray
    columns: NDArray[np.intp]

    @cached_property
    def log_p(self) -> NDArray[np.float64]:
        """Logarithms of the probabilities over the 20 amino acids, of the shape of the logits."""
        logits = self.values.astype(np.float64)
        log_p: NDArray[np.float64] = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return log_p

    @cached_property
    def known(self) -> NDArray[np.intp]:
        """Rows of residues that are one of the 20 amino acids."""
        return np.flatnonzero(self.columns >= 0)

    @cached_property
    def own(self) -> NDArray[np.float64]:
        """Log-probability of each amino acid at its own place, (C,)."""
        own: NDArray[np.float64] = self.log_p[self.known, self.columns[self.known]]
        return own

    @cached_property
    def margins(self) -> NDArray[np.float64]:
        """Log-probability of each amino acid at its own place, minus the value of the best other one, (C,)."""
        others = self.log_p[self.known]
        others[np.arange(len(others)), self.columns[self.known]] = -np.inf
        margins: NDArray[np.float64] = self.own - others.max(axis=1)
        return margins

    @cached_property
    def entropies(self) -> NDArray[np.float64]:
        """Entropy of each row's distribution, in nats."""
        entropies: NDArray[np.float64] = -(np.exp(self.log_p) * self.log_p).sum(axis=1)
        return entropies


#: A user's function of the (L, 20) log-probabilities to one number.
CustomStatistic: TypeAlias = Callable[[NDArray[np.float64]], ArrayLike]


@dataclass(frozen=True)
class Statistic:
    """One number for a sequence, or several.

    Attributes
    ----------
    columns : tuple of str
        Names of the numbers.
    output : OutputSpec
        The output that it is computed from: ``logit_means``, ``logits``, or ``mask_logits`` of masked copies.
    function : callable
        From `Predictions` to the numbers.
    of_residues : bool
        Whether x[i] is needed: a sequence without any of the 20 amino acids then has no value.
    """

    columns: tuple[str, ...]
    output: OutputSpec
    function: Callable[[Predictions], ArrayLike]
    of_residues: bool = False


def custom_statistic(function: CustomStatistic) -> Statistic:
    """Make a statistic of a user's function of the (L, 20) log-probabilities. It has the name of the function."""
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise ValueError(
            f"statistics: the __name__ of a function names its column, and a {type(function).__name__} does not have "
            "one. Use a function that def makes"
        )

    def compute(predictions: Predictions) -> float:
        value = np.asarray(function(predictions.log_p.copy()), dtype=np.float64)
        if value.shape != () or not np.isfinite(value):
            raise ValueError(f"statistics: {name} must give one finite number for a sequence, not shape {value.shape}")
        return float(value)

    return Statistic((name,), LOGITS, compute)


def _profile(name: str, function: Callable[[Predictions], ArrayLike]) -> dict[str, Statistic]:
    return {name: Statistic(tuple(f"{name}_{a}" for a in AMINO_ACIDS), LOGITS, function)}


def _entropy_quantile(q: int) -> Callable[[Predictions], ArrayLike]:
    return lambda s: np.quantile(s.entropies, q / 100)


def _perplexity(predictions: Predictions) -> np.float64:
    perplexity: np.float64 = np.exp(-predictions.own.mean())
    return perplexity


#: Functions of logits over all 33 tokens, of unmasked predictions, and of predictions for masked residues.
_MEANS: Mapping[str, Callable[[Predictions], ArrayLike]] = {
    "mean": lambda s: np.mean(s.values, dtype=np.float64),
    "sum": lambda s: np.sum(s.values, dtype=np.float64),
}
_OF_POSITIONS: Mapping[str, Callable[[Predictions], ArrayLike]] = {
    "entropy_mean": lambda s: s.entropies.mean(),
    "entropy_max": lambda s: s.entropies.max(),
    **{f"entropy_q{q:02d}": _entropy_quantile(q) for q in _QUANTILES},
}
_OF_RESIDUES: Mapping[str, Callable[[Predictions], ArrayLike]] = {
    "log_likelihood": lambda s: s.own.sum(),
    "log_likelihood_mean": lambda s: s.own.mean(),
    "unmasked_perplexity": _perplexity,
    "own_probability_mean": lambda s: np.exp(s.own).mean(),
    "own_probability_min": lambda s: np.exp(s.own).min(),
    "margin_mean": lambda s: s.margins.mean(),
    "margin_min": lambda s: s.margins.min(),
}
_OF_MASKED: Mapping[str, Callable[[Predictions], ArrayLike]] = {
    "pseudo_log_likelihood": lambda s: s.own.sum(),
    "pseudo_log_likelihood_mean": lambda s: s.own.mean(),
    "pseudo_perplexity": _perplexity,
}

#: Statistics by name.
STATISTICS: Mapping[str, Statistic] = {
    **{name: Statistic((f"logit_{name}",), LOGIT_MEANS, function) for name, function in _MEANS.items()},
    **{name: Statistic((name,), LOGITS, function) for name, function in _OF_POSITIONS.items()},
    **{name: Statistic((name,), LOGITS, function, of_residues=True) for name, function in _OF_RESIDUES.items()},
    **_profile("mean_logit", lambda s: s.values.mean(axis=0, dtype=np.float64)),
    **_profile("mean_probability", lambda s: np.exp(s.log_p).mean(axis=0)),
    **{name: Statistic((name,), MASKED, function, of_residues=True) for name, function in _OF_MASKED.items()},
}
