"""Measured protein data: one small set in the package, one larger set fetched on demand."""

from skesm.datasets._fluorescence import fetch_fluorescence
from skesm.datasets._gb1 import load_gb1_stability

__all__ = ["fetch_fluorescence", "load_gb1_stability"]
