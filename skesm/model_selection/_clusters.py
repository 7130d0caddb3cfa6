"""Clusters of similar sequences, and folds of whole clusters."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold

from skesm._typing import Column
from skesm.model_selection._distances import edit_distances, substitutions
from skesm.model_selection._mutations import read_sequences
from skesm.model_selection._splitters import Fold, SequenceSplitter, check_folds

_ROUNDING = 1e-9  # 1 - 0.8 is a little less than 0.2
#: Sequences of a cluster that is worth a comparison of its own.
_LARGE = 50
_METHODS = ("exact", "mmseqs2")


def identity_clusters(X: Column, identity: float, *, method: str = "exact") -> NDArray[np.intp]:
    """Cluster of each sequence.

    Parameters
    ----------
    X : list, tuple, array, Series, or one-column DataFrame of str
        n sequences.
    identity : float
        Sequences of at least this identity belong together, 0 to 1. The identity of two sequences is one minus their
        edit distance (substitutions, insertions, deletions) divided by the length of the longer one.
    method : {"exact", "mmseqs2"}, default="exact"
        ``"exact"`` compares every pair and joins the clusters of each pair that is similar enough (single linkage):
        no two sequences of different clusters reach `identity`. It takes about 20 s for 5,000 unlike sequences of
        240 residues. ``"mmseqs2"`` runs ``mmseqs easy-cluster`` (Steinegger and Söding 2017), if it is installed: for
        hundreds of thousands of sequences, with its own definition of identity, at 80 % coverage of both sequences.
        Some similar pairs can end in different clusters.

    Returns
    -------
    clusters : ndarray of shape (n,), int
        Numbers from 0, in the order of first rows.

    Raises
    ------
    ValueError
        If `identity` or `method` is not one of those above, or ``mmseqs`` is not installed.
    MissingDependencyError
        If ``method="exact"`` and rapidfuzz is not installed.

    Examples
    --------
    >>> from skesm.model_selection import identity_clusters
    >>> identity_clusters(["MKTAYIAK", "GGSGGSGG", "MKTAYIAR"], 0.8).tolist()
    [0, 1, 0]
    """
    if not 0 <= identity <= 1:
        raise ValueError(f"identity must be between 0 and 1, got {identity}")
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    sequences = read_sequences(X)
    distinct, inverse = np.unique(sequences, return_inverse=True)
    find = _exact if method == "exact" else _mmseqs2
    clusters = find(distinct.tolist(), identity)[inverse]
    return _numbered_by_first_row(clusters)


class IdentityClusterKFold(SequenceSplitter):
    """Folds of clusters of similar sequences: no test sequence has a close relative in the training set.

    For sequences from many families. All single mutants of one protein are in one cluster at any usual identity: split
    those with `PositionKFold`.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, as equal in rows as the clusters allow. Whole clusters are dealt, largest first.
    identity : float, default=0.3
        Least identity of sequences that belong together, see `identity_clusters`.
    method : {"exact", "mmseqs2"}, default="exact"
        See `identity_clusters`.

    Examples
    --------
    >>> from skesm.model_selection import IdentityClusterKFold
    >>> X = ["MKTAYIAK", "GGSGGSGG", "MKTAYIAR", "GGSGGSGA"]
    >>> [test.tolist() for _, test in IdentityClusterKFold(2, identity=0.8).split(X)]
    [[1, 3], [0, 2]]
    """

    def __init__(self, n_splits: int = 5, *, identity: float = 0.3, method: str = "exact") -> None:
        self.n_splits = n_splits
        self.identity = identity
        self.method = method

    def _folds(self, sequences: list[str], y: object) -> Iterator[Fold]:
        clusters = identity_clusters(sequences, self.identity, method=self.method)
        check_folds(
            self.n_splits,
            int(clusters.max()) + 1,
            *(f"{noun} at identity {self.identity}" for noun in ("cluster", "clusters")),
        )
        yield from GroupKFold(self.n_splits).split(sequences, groups=clusters)


def _exact(sequences: list[str], identity: float) -> NDArray[np.intp]:
    """Clusters by all pairs, except for those that substitutions alone have joined before."""
    everything = np.arange(len(sequences))
    lengths = np.array([len(sequence) for sequence in sequences])
    clusters = everything
    for length in np.unique(lengths):
        alike = everything[lengths == length]
        texts = [sequences[i] for i in alike]
        clusters = _join(clusters, substitutions(texts, texts), alike, alike, lengths, identity)
    before, left = clusters, everything
    most = int((1 - identity) * lengths.max() + _ROUNDING)
    large = np.flatnonzero(np.bincount(before) >= _LARGE)
    # each large one with all that are not in it, then the others with one another
    for cluster in (*large.tolist(), None):
        inside = before[left] == cluster
        rows, left = (left, left) if cluster is None else (left[inside], left[~inside])
        texts, others = ([sequences[i] for i in chosen] for chosen in (rows, left))
        if others:
            clusters = _join(clusters, edit_distances(texts, others, most=most), rows, left, lengths, identity)
    return clusters


def _join(
    clusters: NDArray[np.intp],
    distances: Iterator[tuple[int, NDArray[np.int32]]],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    lengths: NDArray[np.intp],
    identity: float,
) -> NDArray[np.intp]:
    """Join the clusters of each row and column that are similar enough. Distances come in blocks of rows."""
    for first, block in distances:
        if (clusters == clusters[0]).all():
            break
        longer = np.maximum(lengths[rows[first : first + len(block)], None], lengths[columns])
        row, column = np.nonzero(block <= (1 - identity) * longer + _ROUNDING)
        ends = clusters[rows[row + first]], clusters[columns[column]]
        links = coo_matrix((np.ones(len(row), dtype=bool), ends), shape=(len(clusters),) * 2)
        clusters = connected_components(links, directed=False)[1].astype(np.intp)[clusters]
    return clusters


def _mmseqs2(sequences: list[str], identity: float) -> NDArray[np.intp]:
    program = shutil.which("mmseqs")
    if program is None:
        raise ValueError("method='mmseqs2' needs the program mmseqs, which is not installed. Use method='exact'")
    with tempfile.TemporaryDirectory() as folder:
        fasta, result = Path(folder, "in.fasta"), Path(folder, "out")
        fasta.write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(sequences)))
        files = [os.fspath(path) for path in (fasta, result, Path(folder, "tmp"))]
        options = ["--min-seq-id", str(identity), "-c", "0.8", "-v", "1"]
        done = subprocess.run([program, "easy-cluster", *files, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"mmseqs easy-cluster failed with exit status {done.returncode}")
        lines = Path(folder, "out_cluster.tsv").read_text().splitlines()
    clusters = np.empty(len(sequences), dtype=np.intp)
    for line in lines:
        representative, member = line.split("\t")
        clusters[int(member)] = int(representative)
    return clusters


def _numbered_by_first_row(clusters: NDArray[np.intp]) -> NDArray[np.intp]:
    _, first_rows, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    numbers = np.empty(len(first_rows), dtype=np.intp)
    numbers[np.argsort(first_rows)] = np.arange(len(first_rows))
    return numbers[inverse]
