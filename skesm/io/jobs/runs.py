"""A file of sequences to a file of features, in bounded memory, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import skesm
from skesm._progress import AUTO, Progress
from skesm._typing import Document, Estimator
from skesm.exceptions import InputFileError
from skesm.io._sources import open_source
from skesm.io._writers import Content, check_output, names_file, needs_distinct_ids, write
from skesm.io.jobs.parts import Part, Parts, beside, replacing
from skesm.io.jobs.reports import FilePlan, FileReport
from skesm.io.jobs.shards import Shard, update_manifest
from skesm.io.jobs.survey import Good, Survey, good_rows, refuse_problems, survey_source, warn_of_suspicious
from skesm.io.jobs.work import Work, as_work, chunks

_FORMAT = 1  # of the parts. Parts of another number are not used


def transform_file(
    estimator: Estimator,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    sequence_column: str | None = None,
    id_column: str | None = None,
    invalid: str = "raise",
    wide: bool = False,
    shard: Shard | None = None,
    verbose: bool | int | str = AUTO,
) -> FileReport:
    r"""Write the features of the sequences in files to a file.

    Parameters
    ----------
    estimator : ESM2Embedder, ESM2LogitSummarizer, ESM2VariantScorer or another transformer of skesm
        Computes the features, with its model, backend and `memory`. One that has ``predict`` gives those values. One
        that learns from rows must have been fitted.
    inputs : path, or sequence of path
        FASTA, a table, or text with a sequence on each line. Several are read one after the other.
    output : path
        Its ending says the format: .parquet, .npz, .npy, .csv, .csv.gz or .h5.
    sequence_column, id_column : str, optional
        Columns of a table. By default a column of a well-known name, such as ``sequence`` or ``seq``, and ``id`` or
        ``name`` if there is one. The report notes those that were chosen so.
    invalid : {"raise", "drop"}, default="raise"
        Whether rows that cannot be used are an error before anything is computed, or are left out.
    wide : bool, default=False
        A Parquet file gets a column for each feature, not one with all of them.
    shard : Shard, optional
        Which part of the rows is computed.
    verbose : bool, int or "auto", default="auto"
        Whether a progress bar is shown.

    Returns
    -------
    FileReport

    Raises
    ------
    InputFileError
        If a file cannot be read or rows cannot be used.
    BackendError
        If the backend fails. The chunks that were finished are used by the next call.

    Notes
    -----
    Rows are read twice: every row is checked before anything is computed. Features are computed in chunks, in bounded
    memory. Finished chunks stand in a folder beside the output (``<output>.parts``) until the output is complete, so
    that an interrupted call goes on where it was. ``<output>.json`` tells where the features come from, and
    ``<output>.missing.tsv`` names the rows that are missing.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skesm import ESM2Embedder
    >>> from skesm.io import transform_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "proteins.fasta")
    ...     _ = path.write_text(">P1\nMKTAY\n>P2\nGSH\n")
    ...     output = path.with_suffix(".npz")
    ...     report = transform_file(ESM2Embedder("skesm-mini"), path, output)
    >>> report.rows, report.columns, report.missing
    (2, 192, 0)
    """
    start = time.monotonic()
    work = as_work(estimator)
    output = Path(output)
    check_output(output, ragged=work.ragged)
    with open_source(_as_list(inputs), sequence_column, id_column) as source:
        survey = survey_source(source, work, shard, distinct_ids=needs_distinct_ids(output))
        refuse_problems(survey, invalid)
        warn_of_suspicious(survey)
        identity = {
            "format": _FORMAT,
            "input": survey.digest,
            "shard": None if shard is None else [shard.number, shard.of],
            "wide": wide,
            "chunk": list(work.limits()),
            **work.describe(),
        }
        parts = Parts(output, identity)
        with parts.held():
            if (found := _finished(output, identity, survey)) is not None:
                parts.remove()
                return replace(found, notes=tuple(source.taken))
            run = _Run(work, parts)
            with Progress(verbose, total=survey.rows, description=f"skesm: {work.spec.name}", unit="seq") as progress:
                run.compute(good_rows(source, work, survey), survey.rows, progress)
            return replace(_finish(output, identity, survey, run, start), notes=tuple(source.taken))


def _finish(output: Path, identity: Document, survey: Survey, run: _Run, start: float) -> FileReport:
    """Write the output and the files beside it."""
    missing_file = _write_missing(output, survey, run.missing)
    if not run.rows:
        if not run.missing:
            run.parts.remove()
        raise InputFileError(f"no row can be used, so nothing was written. {missing_file} tells why")
    metadata = {"skesm": skesm.__version__, **identity, "rows": run.rows, "residues": survey.residues}
    write(output, run.content(metadata, wide=identity["wide"]))
    report = FileReport(
        output=str(output),
        rows=run.rows,
        columns=identity["columns"],
        missing=len(survey.problems) + len(run.missing),
        missing_file=None if missing_file is None else str(missing_file),
        resumed=run.resumed,
        hits=run.hits,
        computed=run.computed,
        seconds=round(time.monotonic() - start, 3),
        failed=len(run.missing),
    )
    described = {
        **metadata,
        "missing": report.missing,
        "failed": report.failed,
        "bytes": output.stat().st_size,
        "sha256": _digest(output),
        "report": asdict(report),
    }
    with replacing(beside(output, ".json")) as file:
        file.write(json.dumps(described, indent=1).encode() + b"\n")
    if not run.missing:  # the next run tries those again
        run.parts.remove()
    return report


def plan_file(
    estimator: Estimator,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    sequence_column: str | None = None,
    id_column: str | None = None,
    shard: Shard | None = None,
    rate: float | None = None,
) -> FilePlan:
    """Estimate the cost of `transform_file`. Nothing is computed, and nothing is sent.

    Parameters
    ----------
    estimator, inputs, sequence_column, id_column, shard
        As for `transform_file`.
    rate : float, optional
        Residues a second, as measured.

    Returns
    -------
    FilePlan
    """
    work = as_work(estimator)
    with open_source(_as_list(inputs), sequence_column, id_column) as source:
        survey = survey_source(source, work, shard)
        stored = to_compute = 0
        requests: int | None = None
        for chunk in chunks(((row, row.residues) for row in good_rows(source, work, survey)), work.limits()):
            plan = work.plan([row.sequence for row in chunk])
            stored += plan.stored
            to_compute += plan.to_compute
            if plan.requests is not None:
                requests = (requests or 0) + plan.requests.requests
    values = len(work.columns) * (survey.residues if work.ragged else survey.rows)
    return FilePlan(
        rows=survey.rows,
        residues=survey.residues,
        unusable=len(survey.problems),
        stored=stored,
        to_compute=to_compute,
        requests=requests,
        columns=len(work.columns),
        output_bytes=values * 4,
        hours=None if rate is None else round(survey.residues / rate / 3600, 3),
        notes=tuple(source.taken),
    )


def transform_folder(
    estimator: Estimator,
    inputs: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    shard: Shard | None = None,
    **options: Any,
) -> list[FileReport]:
    """Write Parquet files into a folder, with a manifest: one shard of all rows, or a part for each input file.

    Parameters
    ----------
    estimator, shard, **options
        As for `transform_file`.
    inputs : sequence of path
    folder : path
        Made if it is not there. Several processes may write their shards to it.

    Returns
    -------
    list of FileReport
        One for each file that was written.
    """
    folder = Path(folder)
    if not folder.is_dir() and names_file(folder):
        raise ValueError(
            f"{folder} is the name of a file, but the parts are written into a folder. Name one, such as "
            f"{folder.name.partition('.')[0]}/"
        )
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[list[str | os.PathLike[str]], str, Shard | None]]
    if shard is not None:
        jobs = [(list(inputs), shard.file(), shard)]
    else:
        jobs = [([path], Shard(n, len(inputs)).file(), None) for n, path in enumerate(inputs, 1)]
    reports = []
    for paths, name, part in jobs:
        reports.append(transform_file(estimator, paths, folder / name, shard=part, **options))
        update_manifest(folder)
    return reports


def _as_list(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    return [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)


class _Run:
    """Chunks that are computed, or are there from an interrupted run.

    Attributes
    ----------
    rows : int
        Rows that have values.
    missing : list of (id, reason)
    """

    def __init__(self, work: Work, parts: Parts) -> None:
        self.rows = 0
        self.missing: list[tuple[str, str]] = []
        self.resumed = self.hits = self.computed = 0
        self._work = work if not work.shares_passes() else work.with_memory(parts.folder / "store")
        self.parts = parts
        self._count = 0
        self._id_width = 0
        self._dtype = np.dtype(np.float32)

    def compute(self, rows: Iterator[Good], expected: int, progress: Progress) -> None:
        """Compute the chunks that are not there yet."""
        with self._work.store_open():
            self._compute(rows, progress)
        if self.rows + len(self.missing) != expected:
            raise InputFileError("the input was changed while it was read. Run it again")

    def _compute(self, rows: Iterator[Good], progress: Progress) -> None:
        limits = self._work.limits()
        for number, chunk in enumerate(chunks(((row, row.residues) for row in rows), limits)):
            part = self._part(number, chunk)
            self._count = number + 1
            self.rows += len(chunk) - len(part.missing)
            self.missing += [(part.ids[place], reason) for place, reason in sorted(part.missing.items())]
            self._id_width = max(self._id_width, *map(len, part.ids))
            self._dtype = part.values.dtype
            progress.update(len(chunk), hits=self.hits, computed=self.computed)

    def _part(self, number: int, chunk: list[Good]) -> Part:
        known = self.parts.load(number)
        if known is not None and not known.missing:
            self.resumed += len(chunk)
            return known
        if known is not None and known.lengths is None:
            wanted = sorted(known.missing)  # those that failed are tried again
        else:
            known, wanted = None, list(range(len(chunk)))
        self.resumed += len(chunk) - len(wanted)
        fresh = self._work.compute([chunk[place].sequence for place in wanted])
        self.hits += fresh.cost.hits
        self.computed += fresh.cost.computed
        missing = {wanted[place]: reason for place, reason in fresh.missing.items()}
        values = fresh.values
        if known is not None:
            values = known.values.copy()
            values[wanted] = fresh.values
        part = Part([row.id for row in chunk], values, fresh.lengths, missing)
        self.parts.save(number, part)
        return part

    def _pieces(self) -> Iterator[tuple[list[str], np.ndarray, NDArray[np.int64] | None]]:
        for number in range(self._count):
            part = self.parts.load(number)
            if part is None:
                raise InputFileError(f"a part in {self.parts.folder} is gone or damaged. Run it again")
            ids, values, lengths = part.present()
            if ids:
                yield ids, values, lengths

    def content(self, metadata: Mapping[str, object], *, wide: bool) -> Content:
        """The table for a writer."""
        work = self._work
        return Content(self._pieces, self.rows, work.columns, self._dtype, work.ragged, metadata, self._id_width, wide)


def _finished(output: Path, identity: Mapping[str, object], survey: Survey) -> FileReport | None:
    """The report of an output that is complete already."""
    try:
        described = json.loads(beside(output, ".json").read_text(encoding="utf-8"))
        same = identity.items() <= described.items() and described["bytes"] == output.stat().st_size
        report = FileReport(**described["report"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same or described["failed"]:
        return None
    missing = _write_missing(output, survey, [])
    return replace(
        report,
        output=str(output),
        missing=len(survey.problems),
        missing_file=None if missing is None else str(missing),
        resumed=0,
        hits=0,
        computed=0,
        seconds=0.0,
        unchanged=True,
    )


def _write_missing(output: Path, survey: Survey, failed: list[tuple[str, str]]) -> Path | None:
    """The list of rows that are not in the output. One of an earlier run is removed."""
    path = beside(output, ".missing.tsv")
    if not survey.problems and not failed:
        path.unlink(missing_ok=True)
        return None
    with replacing(path) as file:
        lines = ["id\tfile\tline\treason"]
        for row, problem in survey.problems:
            lines.append(f"{row.id}\t{row.file}\t{row.line}\t{problem.lstrip(':, ')}")
        lines += [f"{name}\t\t\t{reason}" for name, reason in failed]
        file.write("".join(f"{line}\n" for line in lines).encode())
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
