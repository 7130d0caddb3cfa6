"""Counts for Prometheus, in its text format. Used by the event loop's thread only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number for each set of labels. It is a gauge if it also goes down."""

    def __init__(self, name: str, help_: str, kind: str = "counter") -> None:
        self.name = name
        self._header = [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count."""
        key = tuple(sorted(labels.items()))
        self._values[key] = self._values.get(key, 0) + amount

    def lines(self) -> list[str]:
        """Text format."""
        values = self._values or {(): 0}
        return self._header + [f"{self.name}{_braces(labels)} {value:.15g}" for labels, value in sorted(values.items())]


class Histogram:
    """How many values were at most each bound."""

    def __init__(self, name: str, help_: str, bounds: Sequence[float]) -> None:
        self.name = name
        self._header = [f"# HELP {name} {help_}", f"# TYPE {name} histogram"]
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self) -> list[str]:
        """Text format."""
        lines = list(self._header)
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{self.name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{self.name}_sum {self._sum:.15g}", f"{self.name}_count {total}"]


class Metrics:
    """Counts of a server. No label comes from a request, so that the number of lines is fixed."""

    def __init__(self) -> None:
        self.requests = Counter("skesm_requests_total", "Requests to models, by dialect, action and status.")
        self.seconds = Histogram(
            "skesm_request_seconds",
            "Time from a request's head to its answer.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180),
        )
        self.sequences = Counter("skesm_sequences_total", "Sequences answered.")
        self.residues = Counter("skesm_residues_total", "Residues of the sequences answered.")
        self.shared = Counter("skesm_shared_total", "Sequences that shared a pass with another request.")
        self.computed = Counter("skesm_computed_total", "Sequences that went through the model.")
        self.hits = Counter("skesm_store_hits_total", "Sequences taken from the record store.")
        self.failures = Counter("skesm_failures_total", "Sequences that could not be computed.")
        self.dropped = Counter("skesm_dropped_total", "Sequences of clients that left before they were computed.")
        self.batch_size = Histogram(
            "skesm_batch_sequences", "Distinct sequences in a batch.", (1, 2, 4, 8, 16, 32, 64, 128, 256)
        )
        self.open_requests = Counter("skesm_open_requests", "Open requests.", "gauge")
        self.open_residues = Counter("skesm_open_residues", "Residues in open requests.", "gauge")

    def text(self) -> str:
        """All of it."""
        return "\n".join(line for metric in vars(self).values() for line in metric.lines()) + "\n"


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
