"""Measured protein data: two small sets in the package, one larger set fetched on demand."""

from skesm.datasets._fluorescence import fetch_fluorescence
from skesm.datasets._gb1 import load_gb1_stability
from skesm.datasets._gfp import load_gfp_fluorescence

__all__ = ["fetch_fluorescence", "load_gb1_stability", "load_gfp_fluorescence"]
