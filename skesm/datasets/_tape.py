"""TAPE's splits of the fluorescence landscape of avGFP, and of the stability of designed proteins."""

from __future__ import annotations

import os
from typing import Literal

from skesm._typing import Dataset
from skesm.datasets._bunch import columns_of, make_dataset, read_rows, shares_docs, string_array
from skesm.datasets._download import Downloads
from skesm.datasets._fetched import Fetched

_SUBSETS = ("train", "valid", "test")

#: avGFP without its initiator methionine, the parent of all variants (the consensus of the validation split).
WILD_TYPE = (
    "SKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKDDGNYKTR"
    "AEVKFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPDNHYLSTQSALSKDPNEKRDH"
    "MVLLEFVTAAGITHGMDELYK"
)


def _fetch(
    name: str, target_name: str, subset: str, downloads: Downloads, return_X_y: bool, as_frame: bool, **extras: object
) -> Dataset:
    """The rows of ``NAME.SUBSET.csv``, which has the columns ``seq`` and ``label``."""
    if subset not in (*_SUBSETS, "all"):
        raise ValueError(f"subset must be one of {', '.join((*_SUBSETS, 'all'))}, got {subset!r}")
    fetched = Fetched(downloads)
    sequences: list[str] = []
    target: list[float] = []
    split: list[str] = []
    for part in _SUBSETS if subset == "all" else (subset,):
        filename = f"{name}.{part}.csv"
        rows = read_rows(fetched.path(filename).read_text(encoding="ascii"))
        texts, labels = columns_of(rows, ("seq", "label"), filename)
        sequences += texts
        target += map(float, labels)
        split += [part] * len(rows)
    return make_dataset(
        sequences,
        target,
        target_name=target_name,
        descr=f"{name}.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        split=string_array(split),
        **extras,
        **fetched.entries(),
    )


@shares_docs
def fetch_fluorescence(
    *,
    subset: Literal["train", "valid", "test", "all"] = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: bool | int | str = "auto",
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Dataset:
    """Load the fluorescence of variants of green fluorescent protein, in TAPE's splits.

    Log fluorescence of variants of avGFP [1]_, split for learning by TAPE [2]_: training and validation
    sequences differ from the wild type by up to three amino acids, test sequences by more. The files are
    fetched on first use, kept in `data_home`, and checked by SHA-256 at every use.

    =================   ====================================================
    Rows                21,446 train, 5,362 valid, 27,217 test
    Sequence length     up to 237 (the initiator methionine is left out)
    Target              log10 of fluorescence, about 1.3 (dark) to 4.1
    =================   ====================================================

    Parameters
    ----------
    subset : {"train", "valid", "test", "all"}, default="train"
        Which split. ``"all"`` joins the three in this order. Their files are ``fluorescence.{train,valid,test}.csv``.
    {fetching}
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, or Series
            log10 of fluorescence.
        split : ndarray of str, shape (n,), dtype object
            ``"train"``, ``"valid"`` or ``"test"`` for each row.
        wild_type : str
            Sequence of avGFP without its initiator methionine, 237 residues.
        {fetched}

    Raises
    ------
    {raises}

    See Also
    --------
    load_gfp_fluorescence : 300 of these rows, in the package.
    load_gb1_stability : A small set that needs no network.

    Notes
    -----
    A file whose digest differs is never read. One that is in `data_home` already is left untouched.

    References
    ----------
    {avgfp_and_tape}

    Examples
    --------
    >>> from skesm.datasets import fetch_fluorescence
    >>> X, y = fetch_fluorescence(subset="valid", return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (5362,)

    Those lines are not run as tests, since the first may use the network. Without it, a missing file is an
    error that says how to fetch it:

    >>> fetch_fluorescence(subset="valid", data_home="empty", download_if_missing=False)
    Traceback (most recent call last):
        ...
    skesm.exceptions.DatasetError: fluorescence.valid.csv is not in empty ...
    """
    downloads = Downloads(data_home, download_if_missing, n_retries, delay, verbose)
    return _fetch("fluorescence", "log_fluorescence", subset, downloads, return_X_y, as_frame, wild_type=WILD_TYPE)


@shares_docs
def fetch_stability(
    *,
    subset: Literal["train", "valid", "test", "all"] = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: bool | int | str = "auto",
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Dataset:
    """Load the stability of small designed proteins and of their mutants, in TAPE's splits.

    Resistance to proteases of designed proteins of about 40 residues [1]_, split by TAPE [2]_: training and validation
    sequences come from four rounds of design, test sequences are single mutants of 17 of the best designs. The proteins
    of different designs have no common reference. The files are fetched on first use, kept in `data_home`, and
    checked by SHA-256 at every use.

    Parameters
    ----------
    subset : {"train", "valid", "test", "all"}, default="train"
        Which split. ``"all"`` joins the three in this order. Their files are ``stability.{train,valid,test}.csv``.
    {fetching}
    {form}

    Returns
    -------
    {bunch}
        target : ndarray of shape (n,), dtype float64, or Series
            Stability score: the log10 by which a protein resists proteases better than its unfolded state would. A
            higher value means a more stable protein.
        split : ndarray of str, shape (n,), dtype object
            ``"train"``, ``"valid"`` or ``"test"`` for each row.
        {fetched}

    Raises
    ------
    {raises}

    See Also
    --------
    fetch_fluorescence : TAPE's other set of measured variants.

    References
    ----------
    .. [1] G. J. Rocklin et al., "Global analysis of protein folding using massively parallel design, synthesis, and
       testing", Science 357, 168-175 (2017). https://doi.org/10.1126/science.aan0693
    .. [2] R. Rao et al., "Evaluating Protein Transfer Learning with TAPE", NeurIPS (2019).
       https://arxiv.org/abs/1906.08230

    Examples
    --------
    >>> from skesm.datasets import fetch_stability
    >>> X, y = fetch_stability(subset="valid", return_X_y=True)  # doctest: +SKIP
    """
    downloads = Downloads(data_home, download_if_missing, n_retries, delay, verbose)
    return _fetch("stability", "stability_score", subset, downloads, return_X_y, as_frame)
