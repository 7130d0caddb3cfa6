"""Results of the loaders: arrays or frames, as a Bunch or as ``(X, y)``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from skesm._optional import import_optional

#: Package that holds the bundled files, named in a Bunch as scikit-learn's loaders do.
DATA_MODULE = "skesm.datasets.data"

#: Name of the one feature, and of its column in a frame.
SEQUENCE = "sequence"


def read_text(filename: str) -> str:
    """Text of a bundled file."""
    return resources.files(DATA_MODULE).joinpath(filename).read_text(encoding="utf-8")


def string_array(values: Sequence[str]) -> NDArray[np.object_]:
    """One-dimensional object array: fixed-width strings would cost 4 bytes per possible residue."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def make_dataset(
    sequences: Sequence[str],
    target: Sequence[float],
    *,
    target_name: str,
    descr: str,
    return_X_y: bool,
    as_frame: bool,
    **extras: Any,
) -> Any:
    """Assemble a loader's answer.

    Parameters
    ----------
    sequences : sequence of str
        One sequence per row.
    target : sequence of float
        One value per row.
    target_name : str
        Name of the target, and of its Series.
    descr : str
        Name of the bundled text that describes the data.
    return_X_y, as_frame : bool
        As in the loaders.
    **extras : object
        Further entries of the Bunch.

    Returns
    -------
    data : Bunch or tuple
        As the loaders document it.

    Raises
    ------
    MissingDependencyError
        If `as_frame` is true and pandas is not installed.
    """
    X: Any = string_array(sequences)
    y: Any = np.asarray(target, dtype=np.float64)
    frame: Any = None
    if as_frame:
        pandas = import_optional("pandas", extra="demo")
        frame = pandas.DataFrame({SEQUENCE: X, target_name: y})
        X, y = frame[[SEQUENCE]], frame[target_name]
    if return_X_y:
        return X, y
    return Bunch(
        data=X,
        target=y,
        frame=frame,
        feature_names=[SEQUENCE],
        target_names=[target_name],
        DESCR=read_text(descr),
        **extras,
    )
