"""TAPE's splits of the fluorescence landscape of avGFP."""

from __future__ import annotations

import csv
import os
from typing import Any, Literal

from skesm.datasets._bunch import make_dataset, string_array
from skesm.datasets._download import RemoteFile, fetch_file, get_data_home

#: The files at a fixed commit of the data repository of ProteinBERT, in which they are kept with Git LFS.
_URL = (
    "https://github.com/nadavbra/proteinbert_data_files/raw/4636c3ddfe11e3e553bbc384753a269c84d331cf"
    "/protein_benchmarks/{name}"
)

#: Size and SHA-256, as the Git LFS pointers of that commit state them.
_CHECKSUMS = {
    "train": (5_488_939, "a9a90473b64bb94bd8289cf3f7fc023d8267e19a87d79499251aed4ef91bf4e7"),
    "valid": (1_372_356, "0c70e8ba9a9faaf8de3443edee56406f6eec414747067490296e589cf3d6af4b"),
    "test": (6_965_550, "9abf299968555571c316ce87226638db5020efa485081fc94b8ca96bea2b1840"),
}

#: avGFP without its initiator methionine, the parent of all variants (the consensus of the validation split).
WILD_TYPE = (
    "SKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTLSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKDDGNYKTR"
    "AEVKFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPDNHYLSTQSALSKDPNEKRDH"
    "MVLLEFVTAAGITHGMDELYK"
)


def fetch_fluorescence(
    *,
    subset: Literal["train", "valid", "test", "all"] = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Any:
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
        Which split; ``"all"`` joins the three in this order.
    data_home : str or path-like, default=None
        Folder of the files ``fluorescence.{train,valid,test}.csv``: files that are already there are used.
        By default the environment variable ``SKESM_DATA``, or else ``~/skesm_data``.
    download_if_missing : bool, default=True
        If False, raise an error when a file is not in `data_home`, without use of the network.
    n_retries : int, default=3
        Number of further attempts when the network or the server fails.
    delay : float, default=1.0
        Seconds between attempts.
    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        If True, `data` is a pandas DataFrame with the column ``"sequence"`` and `target` a Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        data : ndarray of str, shape (n,), dtype object, or DataFrame of shape (n, 1)
            Sequences, in the order of the files.
        target : ndarray of shape (n,), dtype float64, or Series
            log10 of fluorescence.
        frame : DataFrame of shape (n, 2) or None
            `data` and `target`, if `as_frame` is True.
        split : ndarray of str, shape (n,), dtype object
            ``"train"``, ``"valid"`` or ``"test"`` for each row.
        wild_type : str
            Sequence of avGFP without its initiator methionine, 237 residues.
        feature_names : list of str
            ``["sequence"]``.
        target_names : list of str
            ``["log_fluorescence"]``.
        DESCR : str
            Full description: origin, peculiarities, licence.
        filenames : list of str
            Path of each file read.
    (data, target) : tuple if `return_X_y` is True
        The first two attributes.

    Raises
    ------
    DatasetError
        If a file cannot be obtained (the message says how to fetch it by hand), or is not the published one.
    MissingDependencyError
        If `as_frame` is True and pandas is not installed.
    ValueError
        If `subset`, `n_retries` or `delay` is not one of the allowed values.

    See Also
    --------
    load_gfp_fluorescence : 300 of these rows, in the package.
    load_gb1_stability : A small set that needs no network.

    Notes
    -----
    A file whose digest differs is never read. One that is in `data_home` already is left untouched.

    References
    ----------
    .. [1] K. S. Sarkisyan et al., "Local fitness landscape of the green fluorescent protein", Nature 533,
       397-401 (2016). https://doi.org/10.1038/nature17995
    .. [2] R. Rao et al., "Evaluating Protein Transfer Learning with TAPE", NeurIPS (2019).
       https://arxiv.org/abs/1906.08230

    Examples
    --------
    >>> from skesm.datasets import fetch_fluorescence
    >>> X, y = fetch_fluorescence(subset="valid", return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (5362,)

    Those lines are not run as tests, since the first may use the network. Without it, a missing file is an
    error that says how to fetch it:

    >>> fetch_fluorescence(subset="valid", data_home="empty", download_if_missing=False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    skesm.exceptions.DatasetError: fluorescence.valid.csv is not in empty and was not downloaded ...
    """
    if subset not in (*_CHECKSUMS, "all"):
        raise ValueError(f"subset must be one of {', '.join((*_CHECKSUMS, 'all'))}, got {subset!r}")
    if n_retries < 0 or delay < 0:
        raise ValueError(f"n_retries and delay must not be negative, got {n_retries!r} and {delay!r}")
    folder = get_data_home(data_home)
    sequences: list[str] = []
    target: list[float] = []
    split: list[str] = []
    filenames: list[str] = []
    for name in _CHECKSUMS if subset == "all" else (subset,):
        size, sha256 = _CHECKSUMS[name]
        filename = f"fluorescence.{name}.csv"
        content = fetch_file(
            RemoteFile(filename, _URL.format(name=filename), size, sha256),
            folder,
            download_if_missing=download_if_missing,
            n_retries=n_retries,
            delay=delay,
        )
        rows = list(csv.DictReader(content.decode("ascii").splitlines(), strict=True))
        sequences += [row["seq"] for row in rows]
        target += [float(row["label"]) for row in rows]
        split += [name] * len(rows)
        filenames.append(str(folder / filename))
    return make_dataset(
        sequences,
        target,
        target_name="log_fluorescence",
        descr="fluorescence.rst",
        return_X_y=return_X_y,
        as_frame=as_frame,
        split=string_array(split),
        wild_type=WILD_TYPE,
        filenames=filenames,
    )
