"""Order of the gallery."""

from __future__ import annotations

from pathlib import Path


class ByNumber:
    """Sorts the examples by the number in their name: ``plot_10`` stands behind ``plot_9``."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, name: str) -> int:
        return int(Path(name).name.split("_")[1])
