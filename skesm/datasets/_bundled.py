"""Sets that are part of the package: stability of GB1, and a sample of the fluorescence landscape of avGFP."""

from __future__ import annotations

import numpy as np

from skesm._typing import Dataset
from skesm.datasets._bunch import DATA_MODULE, make_dataset, read_rows, read_text, shares_docs, string_array
from skesm.datasets._tape import WILD_TYPE

#: Residues 2 to 56 of the domain: the initiator methionine is left out.
_GB1 = "TYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"


def _rows(name: str) -> list[dict[str, str]]:
    return read_rows(read_text(f"{name}.csv"))


def _bundled(
    name: str, rows: list[dict[str, str]], target: str, return_X_y: bool, as_frame: bool, **extras: object
) -> Dataset:
    """The answer for the rows of ``NAME.csv``, which ``NAME.rst`` describes."""
    return make_dataset(
        [row["sequence"] for row in rows],
        [float(row[target]) for row in rows],
        target_name=target,
        descr=f"{name}.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        filename=f"{name}.csv",
        data_module=DATA_MODULE,
        **extras,
    )


@shares_docs
def load_gb1_stability(*, return_X_y: bool = False, as_frame: bool = False) -> Dataset:
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
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, or Series
            ΔΔG of folding, in kcal/mol.
        mutations : ndarray of str, shape (n,), dtype object
            Wild-type amino acid, position, new amino acid: ``"T2A"``.
        positions : ndarray of shape (n,), dtype int64
            Mutated position, 2 to 56: ``sequence[position - 2]`` is the new amino acid. Pass it as `groups`
            to :class:`~sklearn.model_selection.GroupKFold` to test on positions not seen in training.
        wild_type : str
            The unmutated sequence, residues 2 to 56.
        {bundled}

    Raises
    ------
    {raises_frame}

    See Also
    --------
    fetch_fluorescence : A larger set, with up to many mutations per sequence.

    Notes
    -----
    Rows are sorted by mutated position, then by the new amino acid. Shuffle them before an unshuffled split, or split
    by `positions`.
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
    rows = _rows("gb1_stability")
    mutations = [row["mutation"] for row in rows]
    positions = np.array([int(mutation[1:-1]) for mutation in mutations], dtype=np.int64)
    extras = {"mutations": string_array(mutations), "positions": positions, "wild_type": _GB1}
    return _bundled("gb1_stability", rows, "ddg", return_X_y, as_frame, **extras)


@shares_docs
def load_gfp_fluorescence(*, return_X_y: bool = False, as_frame: bool = False) -> Dataset:
    """Load the measured fluorescence of 300 variants of green fluorescent protein.

    The rows are a random sample of TAPE's validation split [2]_ of the avGFP landscape [1]_. All are different. The
    data are part of the package, so no network is used. The sample is for tests, examples and teaching. Use
    :func:`fetch_fluorescence` for results that you report.

    =================   ====================================================
    Rows                300 (292 of 237 residues, 8 of 236)
    Sequence length     up to 237 (the initiator methionine is left out)
    Target              log10 of fluorescence, 1.296 (dark) to 3.892
    Licence             CC BY 4.0
    =================   ====================================================

    Parameters
    ----------
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, or Series
            log10 of fluorescence.
        wild_type : str
            Sequence of avGFP without its initiator methionine, 237 residues. It is not one of the rows.
        {bundled}

    Raises
    ------
    {raises_frame}

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
    {avgfp_and_tape}

    Examples
    --------
    >>> from skesm.datasets import load_gfp_fluorescence
    >>> gfp = load_gfp_fluorescence()
    >>> gfp.data.shape, len(gfp.wild_type)
    ((300,), 237)
    >>> int((gfp.target < 2).sum())  # dark
    57
    """
    rows = _rows("gfp_fluorescence")
    return _bundled("gfp_fluorescence", rows, "log_fluorescence", return_X_y, as_frame, wild_type=WILD_TYPE)
