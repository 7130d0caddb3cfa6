"""Limits on the open requests of a server."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skesm.server.api.refusals import refusal
from skesm.server.api.requests import Ask
from skesm.server.work.metrics import Metrics

_LONGEST_RETRY_AFTER = 60


class Admission:
    """Counts the residues and numbers of open requests.

    Parameters
    ----------
    residues, values : int
        Most residues in sequences, and most numbers in answers.
    metrics : Metrics
        Shows the counts.
    """

    def __init__(self, residues: int, values: int, metrics: Metrics) -> None:
        self._most_residues = residues
        self._most_values = values
        self._metrics = metrics
        self._requests = self._residues = self._values = 0

    @contextmanager
    def admit(self, ask: Ask, seconds_for: Callable[[int], float]) -> Iterator[None]:
        """Count a request until it is answered.

        Raises
        ------
        Refusal
            If it would be too much. If no other request is open, a request is always taken.
        """
        full = self._residues + ask.residues > self._most_residues or self._values + ask.values > self._most_values
        if full and self._requests:
            # By then about half of the waiting work is done.
            seconds = math.ceil(seconds_for(self._residues) / 2)
            wait = str(min(max(seconds, 1), _LONGEST_RETRY_AFTER))
            raise refusal(ask.errors, 429, "too much is waiting to be computed", **{"Retry-After": wait})
        self._add(1, ask)
        try:
            yield
        finally:
            self._add(-1, ask)

    def _add(self, sign: int, ask: Ask) -> None:
        self._requests += sign
        self._residues += sign * ask.residues
        self._values += sign * ask.values
        self._metrics.open_requests.add(sign)
        self._metrics.open_residues.add(sign * ask.residues)
