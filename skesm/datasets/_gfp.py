"""A sample of the fluorescence landscape of avGFP that comes with the package."""

from __future__ import annotations

import csv
from typing import Any

from skesm.datasets._bunch import DATA_MODULE, make_dataset, read_text
from skesm.datasets._fluorescence import WILD_TYPE

_FILENAME = "gfp_fluorescence.csv"


def load_gfp_fluorescence(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the measured fluorescence of 300 variants of green fluorescent protein.

    The rows are a random sample of TAPE's validation split [2]_ of the avGFP landscape [1]_. The data are part of the
    package, so no network is used. The sample is for tests, examples and teaching. Use :func:`fetch_fluorescence` for
    results that you report.

    =================   ====================================================
    Rows                300 (292 of 237 residues, 8 of 236)
    Sequence length     up to 237 (the initiator methionine is left out)
    Target              log10 of fluorescence, 1.296 (dark) to 3.892
    Licence             CC BY 4.0
    =================   ====================================================

    Parameters
    ----------
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, `data` is a pandas DataFrame with the column ``"sequence"`` and `target` a Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        data : ndarray of str, shape (300,), dtype object, or DataFrame of shape (300, 1)
            Sequences, in the order of TAPE's file. All are different.
        target : ndarray of shape (300,), dtype float64, or Series
            log10 of fluorescence.
        frame : DataFrame of shape (300, 2) or None
            `data` and `target`, if `as_frame` is True.
        wild_type : str
            Sequence of avGFP without its initiator methionine, 237 residues. It is not one of the rows.
        feature_names : list of str
            ``["sequence"]``.
        target_names : list of str
            ``["log_fluorescence"]``.
        DESCR : str
            Full description: origin, sampling, peculiarities, licence.
        filename, data_module : str
            Name of the file and the package that holds it.
    (data, target) : tuple if `return_X_y` is True
        The first two attributes.

    Raises
    ------
    MissingDependencyError
        If `as_frame` is True and pandas is not installed.

    See Also
    --------
    fetch_fluorescence : All 54,025 rows, fetched on first use.
    load_gb1_stability : Another bundled set, of single mutants.

    Notes
    -----
    The measurements are licensed under the Creative Commons Attribution 4.0 International licence
    (https://creativecommons.org/licenses/by/4.0/). If you use them, cite [1]_.

    References
    ----------
    .. [1] K. S. Sarkisyan et al., "Local fitness landscape of the green fluorescent protein", Nature 533,
       397-401 (2016). https://doi.org/10.1038/nature17995
    .. [2] R. Rao et al., "Evaluating Protein Transfer Learning with TAPE", NeurIPS (2019).
       https://arxiv.org/abs/1906.08230

    Examples
    --------
    >>> from skesm.datasets import load_gfp_fluorescence
    >>> gfp = load_gfp_fluorescence()
    >>> gfp.data.shape, len(gfp.wild_type)
    ((300,), 237)
    >>> int((gfp.target < 2).sum())  # dark
    57
    """
    rows = list(csv.DictReader(read_text(_FILENAME).splitlines(), strict=True))
    return make_dataset(
        [row["sequence"] for row in rows],
        [float(row["log_fluorescence"]) for row in rows],
        target_name="log_fluorescence",
        descr="gfp_fluorescence.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        wild_type=WILD_TYPE,
        filename=_FILENAME,
        data_module=DATA_MODULE,
    )
