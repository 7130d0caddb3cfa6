"""The parts of a finished run that its files and its report show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from skesm._typing import Document
from skesm.benchmark._comparison import Comparison
from skesm.benchmark.runs.config import RunConfig
from skesm.benchmark.runs.data import RunData

if TYPE_CHECKING:
    from pandas import DataFrame


class FinishedRun(Protocol):
    """A `Run`, as those see it who write it down."""

    @property
    def config(self) -> RunConfig:
        """Settings."""

    @property
    def data(self) -> RunData:
        """Sequences and measured values."""

    @property
    def comparison(self) -> Comparison:
        """Scores."""

    @property
    def manifest(self) -> Document:
        """Everything that the numbers depend on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on padded sequences."""

    @property
    def not_done(self) -> tuple[tuple[str, str, str], ...]:
        """Kind, name and reason of each missing part."""

    @property
    def curve(self) -> DataFrame | None:
        """Learning curve, or None."""

    @property
    def profile(self) -> DataFrame | None:
        """Layer profile, or None."""
