"""FLIP's splits of the four-site landscape of GB1."""

from __future__ import annotations

import os
from typing import Literal

from skesm._typing import Dataset
from skesm.datasets._bunch import columns_of, make_dataset, shares_docs, string_array
from skesm.datasets._download import Downloads
from skesm.datasets._fetched import Fetched
from skesm.datasets._sources import FLIP_GB1
from skesm.sequences.mutations import name_mutations

_SPLITS = ("one_vs_rest", "two_vs_rest", "three_vs_rest", "low_vs_high", "sampled")


@shares_docs
def fetch_flip_gb1(
    *,
    split: Literal["one_vs_rest", "two_vs_rest", "three_vs_rest", "low_vs_high", "sampled"] = "two_vs_rest",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: bool | int | str = "auto",
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Dataset:
    """Load the fitness of variants of GB1 at four positions, with FLIP's splits.

    Binding of variants of protein G's B1 domain that differ at V39, D40, G41 and V54 [1]_, as FLIP [2]_ selected and
    split them: 8,733 rows. The file (1.2 MB) is fetched on first use, kept in `data_home`, and checked by SHA-256
    at every use.

    =================   ====================================================
    Rows                8,733
    Sequence length     265: the chain of PDB entry 5LDE. Its first 56 residues are the domain
    Target              fitness relative to the wild type, which is 1
    =================   ====================================================

    Parameters
    ----------
    split : {"one_vs_rest", "two_vs_rest", "three_vs_rest", "low_vs_high", "sampled"}, default="two_vs_rest"
        The rows to train on. The first three are the wild type and variants with one mutation, with up to two, or with
        up to three. ``"low_vs_high"`` has variants below the wild type's fitness, and ``"sampled"`` a random 80 %.
    {fetching}
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, or Series
            Fitness.
        split : ndarray of str, shape (n,), dtype object
            ``"train"``, ``"valid"`` or ``"test"`` for each row. FLIP marks the rows for validation among those to train
            on.
        mutations : ndarray of str, shape (n,), dtype object
            Mutations of each row, such as ``"V39A:D40G"``.
        wild_type : str
            The first row, 265 residues.
        {fetched}

    Raises
    ------
    {raises}

    See Also
    --------
    load_gb1_stability : Stability of the same domain's single mutants, in the package.

    Notes
    -----
    All mutations lie in the first 56 residues. ``[sequence[:56] for sequence in data]`` are the variants of the domain
    alone, which take a fifth of the time.

    References
    ----------
    .. [1] N. C. Wu, L. Dai, C. A. Olson, J. O. Lloyd-Smith and R. Sun, "Adaptation in protein fitness landscapes is
       facilitated by indirect paths", eLife 5:e16965 (2016). https://doi.org/10.7554/eLife.16965
    .. [2] C. Dallago et al., "FLIP: Benchmark tasks in fitness landscape inference for proteins", NeurIPS Datasets and
       Benchmarks (2021). https://doi.org/10.1101/2021.11.09.467890

    Examples
    --------
    >>> from skesm.datasets import fetch_flip_gb1
    >>> gb1 = fetch_flip_gb1(split="one_vs_rest")  # doctest: +SKIP
    >>> (gb1.split == "test").sum()  # doctest: +SKIP
    8705
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    fetched = Fetched(Downloads(data_home, download_if_missing, n_retries, delay, verbose))
    name = f"{split}.csv"
    rows = fetched.rows_of_member(FLIP_GB1, name)
    sequences, target, sets, validation = columns_of(rows, ("sequence", "target", "set", "validation"), name)
    wild_type = sequences[0]
    return make_dataset(
        sequences,
        [float(value) for value in target],
        target_name="fitness",
        descr="flip_gb1.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        split=string_array(
            ["valid" if marked == "True" else part for part, marked in zip(sets, validation, strict=True)]
        ),
        mutations=string_array([name_mutations(sequence, wild_type) for sequence in sequences]),
        wild_type=wild_type,
        **fetched.entries(),
    )
