"""`Reproduction`: a published figure, ours, and all that ours depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from skesm._typing import Document
from skesm.reproduce._published import Published


@dataclass(frozen=True)
class Reproduction:
    """Our figure beside a published one.

    Attributes
    ----------
    assay, model, metric : str
    ours : float
    spread : float or None
        The standard deviation over folds, where there are folds.
    published : Published or None
        None if nobody published a figure for this model.
    n_rows : int
        Rows of the data.
    data : dict of str to str
        SHA-256 of each file that was read.
    weights : str
        Fingerprint of the weights.
    settings : dict
        All that decides about the figure.
    passes : int
        Sequences that went through the model in this run.
    seconds : float
    notes : tuple of str
        Differences from the published protocol.
    """

    assay: str
    model: str
    metric: str
    ours: float
    spread: float | None
    published: Published | None
    n_rows: int
    data: Mapping[str, str]
    weights: str
    settings: Mapping[str, object] = field(default_factory=dict)
    passes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Ours minus the published figure."""
        return None if self.published is None else self.ours - self.published.value

    def to_text(self) -> str:
        """Return the comparison for people."""
        published = (
            "none for this model" if self.published is None else _figure(self.published.value, self.published.spread)
        )
        lines = [
            f"{self.assay}, {self.model}: {self.metric} of {self.n_rows:,} rows",
            f"  published   {published}",
            f"  ours        {_figure(self.ours, self.spread)}",
        ]
        if self.difference is not None:
            lines.append(f"  difference  {self.difference:+.4f}")
        if self.published is not None:
            lines.append(f"  source      {self.published.source}")
        lines.append(f"  weights     {self.weights}")
        lines += [f"  data        {digest}  {name}" for name, digest in self.data.items()]
        lines += [f"  note        {note}" for note in self.notes]
        lines.append(f"  {self.passes:,} sequences through the model, {self.seconds:.1f} s")
        return "\n".join(lines)

    def as_dict(self) -> Document:
        """Return all attributes and the difference, as JSON has them."""
        return {**asdict(self), "difference": self.difference}

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the comparison as JSON."""
        output = Path(path)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        return output


def _figure(value: float, spread: float | None) -> str:
    return f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
