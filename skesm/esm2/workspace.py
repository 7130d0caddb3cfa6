"""Scratch memory of threads that compute."""

from __future__ import annotations

import math
import threading

import numpy as np

from skesm.outputs.types import FloatArray


class Workspace(threading.local):
    """Each thread's scratch arrays, kept from pack to pack: new memory costs as much as a product."""

    def __init__(self) -> None:
        self._arrays: dict[str, FloatArray] = {}

    def get(self, name: str, *shape: int) -> FloatArray:
        """An array of this shape. The thread's earlier array of that name is lost."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = np.empty(size, dtype=np.float32)
        return array[:size].reshape(shape)
