"""Results of the loaders (arrays or frames, as a Bunch or as ``(X, y)``), and the parts of their docstrings."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from skesm._optional import import_optional
from skesm._typing import Dataset
from skesm.exceptions import DatasetError

#: Package that holds the bundled files, named in a Bunch as scikit-learn's loaders do.
DATA_MODULE = "skesm.datasets.data"

#: Name of the one feature, and of its column in a frame.
SEQUENCE = "sequence"

_Loader = TypeVar("_Loader", bound=Callable[..., Dataset])

_COLUMNS = """\
    frame : DataFrame or None
        `data` and `target`, if `as_frame` is True.
    feature_names : list of str
        ``["sequence"]``.
    target_names : list of str
        Name of the target.
    DESCR : str
        Full description: origin, peculiarities, licence."""
_TUPLE = """\
(data, target) : tuple if `return_X_y` is True
    The first two attributes."""
_NO_PANDAS = """\
MissingDependencyError
    If `as_frame` is True and pandas is not installed."""

#: Parts of docstrings that loaders share, by their places.
_SHARED: Mapping[str, str] = {
    "fetching": """\
data_home : str or path-like, default=None
    Folder of the fetched files. Files that are already there are used. By default the environment variable
    ``SKESM_DATA``, or else ``~/skesm_data``.
download_if_missing : bool, default=True
    If False, raise an error when a file is not in `data_home`, without use of the network.
n_retries : int, default=3
    Number of further attempts when the network or the server fails. They go on where the last one was cut.
delay : float, default=1.0
    Seconds between attempts.
verbose : bool or "auto", default="auto"
    Show a progress bar on stderr. ``"auto"`` shows it after two seconds, on a terminal or in a notebook only.""",
    "form": """\
return_X_y : bool, default=False
    If True, return ``(data, target)`` instead of a Bunch.
as_frame : bool, default=False
    If True, `data` is a pandas DataFrame with the column ``"sequence"`` and `target` a Series.""",
    "bunch": """\
data : :class:`~sklearn.utils.Bunch`
    Dictionary-like object, with the following attributes.

    data : ndarray of str, shape (n,), dtype object, or DataFrame of shape (n, 1)
        Sequences, in the order of the file.""",
    "columns": f"{_COLUMNS}\n{_TUPLE}",
    "fetched": f"""\
{_COLUMNS}
    filenames : list of str
        Path of each file read.
    sha256 : dict of str to str
        Digest of each file read.
    licence, citation : str
        Terms of the data, and whom to cite.
{_TUPLE}""",
    "bundled": f"""\
{_COLUMNS}
    filename, data_module : str
        Name of the file and the package that holds it.
{_TUPLE}""",
    "raises_frame": _NO_PANDAS,
    "raises": f"""\
DatasetError
    If a file cannot be obtained (the message says how to fetch it by hand), or is not the published one.
{_NO_PANDAS}
ValueError
    If a parameter is not one of the allowed values.""",
    "avgfp_and_tape": """\
.. [1] K. S. Sarkisyan et al., "Local fitness landscape of the green fluorescent protein", Nature 533,
   397-401 (2016). https://doi.org/10.1038/nature17995
.. [2] R. Rao et al., "Evaluating Protein Transfer Learning with TAPE", NeurIPS (2019).
   https://arxiv.org/abs/1906.08230""",
}


def shares_docs(loader: _Loader) -> _Loader:
    """Put the shared parts where the docstring of a loader says ``{fetching}``, ``{form}`` and so on.

    Examples
    --------
    >>> @shares_docs
    ... def load():
    ...     '''Load.
    ...
    ...     Parameters
    ...     ----------
    ...     {form}
    ...     '''
    >>> "return_X_y : bool" in load.__doc__
    True
    """
    doc = loader.__doc__
    if doc:  # python -OO has no docstrings
        for place, text in _SHARED.items():
            doc = doc.replace(f"{{{place}}}", text.replace("\n", "\n    ").strip())
        loader.__doc__ = inspect.cleandoc(doc)
    return loader


def read_text(filename: str) -> str:
    """Text of a bundled file."""
    return resources.files(DATA_MODULE).joinpath(filename).read_text(encoding="utf-8")


def read_rows(text: str) -> list[dict[str, str]]:
    """Rows of a table of text, by column."""
    return list(csv.DictReader(text.splitlines(), strict=True))


def columns_of(rows: Sequence[Mapping[str, str]], columns: Sequence[str], name: str) -> list[list[str]]:
    """Columns of the rows of a fetched file.

    Raises
    ------
    DatasetError
        If there are no rows, or a column is missing. The bytes are right then, but the file has another form than
        skesm knows.
    """
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        found = ", ".join(rows[0]) if rows else "no rows"
        raise DatasetError(f"{name} has no column {missing[0]!r}. It has {found}")
    return [[row[column] for row in rows] for column in columns]


def string_array(values: Sequence[str]) -> NDArray[np.object_]:
    """One-dimensional object array: fixed-width strings would cost 4 bytes per possible residue."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def make_dataset(
    sequences: Sequence[str],
    target: Sequence[float] | None,
    *,
    target_name: str,
    descr: str,
    return_X_y: bool,
    as_frame: bool,
    **extras: object,
) -> Dataset:
    """Assemble a loader's answer.

    Parameters
    ----------
    sequences : sequence of str
        One sequence per row.
    target : sequence of float or None
        One value per row. None if nothing was measured.
    target_name : str
        Name of the target, and of its Series.
    descr : str
        Text that describes the data, or the name of a bundled file that holds it.
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
    X: object = string_array(sequences)
    y: object = None if target is None else np.asarray(target, dtype=np.float64)
    frame: object = None
    if as_frame:
        pandas = import_optional("pandas", extra="demo")
        table = pandas.DataFrame({SEQUENCE: X} if y is None else {SEQUENCE: X, target_name: y})
        X, y, frame = table[[SEQUENCE]], None if y is None else table[target_name], table
    if return_X_y:
        return X, y
    return Bunch(
        data=X,
        target=y,
        frame=frame,
        feature_names=[SEQUENCE],
        target_names=[] if target is None else [target_name],
        DESCR=read_text(descr) if descr.endswith(".rst") else descr,
        **extras,
    )
