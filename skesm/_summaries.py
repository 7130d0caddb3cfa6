"""Logits to named statistics of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from skesm._outputs import FloatArray, OutputSpec


@dataclass(frozen=True)
class Statistic:
    """One number for a sequence.

    Attributes
    ----------
    name : str
        As users ask for it.
    output : OutputSpec
        What it is computed from.
    function : callable
        Takes that output's array.
    """

    name: str
    output: OutputSpec
    function: Callable[[FloatArray], float]


_LOGIT_MEANS = OutputSpec("logit_means")

#: Statistics by name. With l[i, v] the logit of token v at residue i and V = 33 tokens, m[i] = Σ_v l[i, v] / V.
STATISTICS: Mapping[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Statistic("mean", _LOGIT_MEANS, lambda m: float(np.mean(m, dtype=np.float64))),
        Statistic("sum", _LOGIT_MEANS, lambda m: float(np.sum(m, dtype=np.float64))),
    )
}
