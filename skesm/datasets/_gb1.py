"""Stability of single mutants of protein G's B1 domain."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from skesm.datasets._bunch import DATA_MODULE, make_dataset, read_text, string_array

_FILENAME = "gb1_stability.csv"

#: Residues 2 to 56 of the domain: the initiator methionine is left out.
_WILD_TYPE = "TYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"


def load_gb1_stability(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the measured stability of single mutants of protein G's B1 domain.

    813 variants of a 56-residue domain, each with one amino acid replaced (no cysteine, no tryptophan), and
    the change of their folding free energy against the wild type, measured by chemical denaturation [1]_.
    The data are part of the package: no network is used.

    =================   ====================================================
    Rows                813
    Sequence length     55 (residues 2 to 56)
    Target              ΔΔG of folding, kcal/mol, -1.915 to 3.694
    Sign                positive destabilises, negative stabilises
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

        data : ndarray of str, shape (813,), dtype object, or DataFrame of shape (813, 1)
            Sequences, sorted by mutated position, then by the new amino acid.
        target : ndarray of shape (813,), dtype float64, or Series
            ΔΔG of folding, in kcal/mol.
        frame : DataFrame of shape (813, 2) or None
            `data` and `target`, if `as_frame` is True.
        mutations : ndarray of str, shape (813,), dtype object
            Wild-type amino acid, position, new amino acid: ``"T2A"``.
        positions : ndarray of shape (813,), dtype int64
            Mutated position, 2 to 56: ``sequence[position - 2]`` is the new amino acid. Pass it as `groups`
            to :class:`~sklearn.model_selection.GroupKFold` to test on positions not seen in training.
        wild_type : str
            The unmutated sequence, residues 2 to 56.
        feature_names : list of str
            ``["sequence"]``.
        target_names : list of str
            ``["ddg"]``.
        DESCR : str
            Full description: units, origin, what was left out, licence.
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
    fetch_fluorescence : A larger set, with up to many mutations per sequence.

    Notes
    -----
    Rows are sorted by position: shuffle them before an unshuffled split, or split by `positions`.
    The most destabilised variants, for which only a bound was measured, are absent (see `DESCR`).

    References
    ----------
    .. [1] A. Nisthal, C. Y. Wang, M. L. Ary and S. L. Mayo, "Protein stability engineering insights revealed
       by domain-wide comprehensive mutagenesis", PNAS 116, 16367-16377 (2019).
       https://doi.org/10.1073/pnas.1903888116

    Examples
    --------
    >>> from skesm.datasets import load_gb1_stability
    >>> gb1 = load_gb1_stability()
    >>> gb1.data.shape, len(gb1.wild_type)
    ((813,), 55)
    >>> most_stable = gb1.target.argmin()
    >>> str(gb1.mutations[most_stable]), float(gb1.target[most_stable])
    ('E27F', -1.915)
    """
    rows = list(csv.DictReader(read_text(_FILENAME).splitlines(), strict=True))
    mutations = [row["mutation"] for row in rows]
    return make_dataset(
        [row["sequence"] for row in rows],
        [float(row["ddg"]) for row in rows],
        target_name="ddg",
        descr="gb1_stability.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        mutations=string_array(mutations),
        positions=np.array([int(mutation[1:-1]) for mutation in mutations], dtype=np.int64),
        wild_type=_WILD_TYPE,
        filename=_FILENAME,
        data_module=DATA_MODULE,
    )
