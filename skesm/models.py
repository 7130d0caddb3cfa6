"""Checkpoints on this machine: fetch, find, verify and convert them, as ``skesm models`` does on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skesm.backends import LocalBackend
from skesm.esm2.checkpoints.checkpoint import Checkpoint, locate
from skesm.esm2.checkpoints.hub import CONFIG, Repository
from skesm.esm2.conversion.convert import Conversion, convert
from skesm.esm2.weights.digests import RECORD, differs, read_record, told_by_hub, write_record
from skesm.exceptions import CheckpointError
from skesm.outputs.spec import OutputSpec

__all__ = ["Conversion", "Verification", "convert", "download", "verify", "where"]

_PEPTIDE = "MKTAYIAKQR"


@dataclass(frozen=True)
class Verification:
    """The result of comparing a model's files with their digests.

    Attributes
    ----------
    folder : Path
    files : mapping of str to str
        The origin of the digest that each file was compared with: ``"hub"``, ``"record"`` (written when the file was
        fetched or converted), or ``"none"`` if there is no digest.
    """

    folder: Path
    files: Mapping[str, str]


def download(model: str | os.PathLike[str]) -> Path:
    """Fetch a model's files from the Hub, convert them if the Hub has pickles only, and return their folder.

    Files that are on this machine already are not fetched again.

    Parameters
    ----------
    model : str or path
        A name that an estimator takes as `model`.

    Returns
    -------
    folder : Path
        Copy it with its links followed (``cp -rL``) to use the model on a machine without internet.

    Raises
    ------
    CheckpointNotFoundError
        If a file cannot be fetched.
    CheckpointError
        If the files do not belong to an ESM-2 model.
    MissingDependencyError
        If the Hub has pickles only and torch 2.6 or later is not installed.

    Examples
    --------
    >>> from skesm.models import download
    >>> download("skesm-mini").name
    'skesm-mini'
    """
    checkpoint = locate(model)
    record = _record(checkpoint)
    unknown = [path for path in _files(checkpoint) if told_by_hub(path) is None]
    if record is not None and unknown and not record.exists():
        record.parent.mkdir(parents=True, exist_ok=True)
        write_record(record, unknown)
    return _folder(checkpoint)


def where(model: str | os.PathLike[str]) -> Path:
    """Find the folder of a model's files on this machine. Nothing is fetched.

    Parameters
    ----------
    model : str or path
        A name that an estimator takes as `model`.

    Returns
    -------
    folder : Path
        It holds ``config.json`` and the weights.

    Raises
    ------
    CheckpointNotFoundError
        If a file is not on this machine.

    Examples
    --------
    >>> from skesm.models import where
    >>> where("skesm-mini").name
    'skesm-mini'
    """
    return _folder(locate(model, download=False))


def verify(model: str | os.PathLike[str]) -> Verification:
    """Compare a model's files on this machine with their digests, and run one peptide through the model.

    Parameters
    ----------
    model : str or path
        A name that an estimator takes as `model`.

    Returns
    -------
    verification : Verification
        For each file, the origin of the digest that it was compared with.

    Raises
    ------
    CheckpointNotFoundError
        If a file is not on this machine. Nothing is fetched.
    CheckpointError
        If a file is not the one that was fetched or converted, or the model gives no finite numbers.

    Examples
    --------
    >>> from skesm.models import verify
    >>> verify("skesm-mini").files
    {'config.json': 'record', 'model.safetensors': 'record'}
    """
    checkpoint = locate(model, download=False)
    record = _record(checkpoint)
    recorded = read_record(record) if record is not None else read_record(_folder(checkpoint) / RECORD)
    found, wrong = {}, []
    for path in sorted(_files(checkpoint), key=lambda path: path.name):
        told = told_by_hub(path)
        digest = told or recorded.get(path.name)
        found[path.name] = "none" if digest is None else "hub" if told else "record"
        if digest is not None and differs(path, digest):
            wrong.append(path.name)
    if wrong:
        raise CheckpointError(
            f"{_folder(checkpoint)}: {', '.join(wrong)} changed since it was fetched or converted. Delete and fetch it "
            "again, or convert it again"
        )
    _run_once(model, checkpoint)
    return Verification(_folder(checkpoint), found)


def _folder(checkpoint: Checkpoint) -> Path:
    return checkpoint.files[0].parent


def _files(checkpoint: Checkpoint) -> list[Path]:
    return [*checkpoint.files, _folder(checkpoint) / CONFIG]


def _record(checkpoint: Checkpoint) -> Path | None:
    """The file that records digests of a fetched model's files. None if the files were not fetched as they are."""
    repository, commit = checkpoint.spec.repository, checkpoint.commit
    if repository is None or commit is None:
        return None
    hub = Repository(repository, commit, repository)
    return None if _folder(checkpoint) == hub.converted(commit) else hub.record(commit)


def _run_once(model: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    last = OutputSpec("mean", checkpoint.spec.n_layers)
    for batch in LocalBackend().run(model, [_PEPTIDE], [last]):
        for record in batch.records:
            if not np.isfinite(record[last]).all():
                raise CheckpointError(f"{_folder(checkpoint)}: the model gives numbers that are not finite")
