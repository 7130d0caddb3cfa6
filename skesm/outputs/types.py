"""Types of the shapes and values of outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Dimensions(Protocol):
    """Dimensions of a model, which shapes of outputs depend on."""

    @property
    def width(self) -> int:
        """Channels of a representation (d)."""

    @property
    def n_heads(self) -> int:
        """Attention heads of a layer (h)."""


@dataclass(frozen=True, order=True)
class Windows:
    """How sequences that are too long for one pass are cut: windows of `size` residues, `overlap` or more shared."""

    size: int
    overlap: int
