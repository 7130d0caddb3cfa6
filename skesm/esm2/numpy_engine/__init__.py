"""ESM-2 in NumPy: the default engine."""

from skesm.esm2.numpy_engine.engine import NumpyEngine

__all__ = ["NumpyEngine"]
