"""Measured protein data: sets in the package, published sets that are fetched on demand, and files of your own."""

from skesm.datasets._bundled import load_gb1_stability, load_gfp_fluorescence
from skesm.datasets._flip import fetch_flip_gb1
from skesm.datasets._proteingym import fetch_proteingym, fetch_proteingym_table
from skesm.datasets._tape import fetch_fluorescence, fetch_stability
from skesm.datasets._variants import load_variants

__all__ = [
    "fetch_flip_gb1",
    "fetch_fluorescence",
    "fetch_proteingym",
    "fetch_proteingym_table",
    "fetch_stability",
    "load_gb1_stability",
    "load_gfp_fluorescence",
    "load_variants",
]
