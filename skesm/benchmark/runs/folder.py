"""The files of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from skesm._optional import import_optional
from skesm._typing import Document
from skesm.benchmark.figures.curves import plot_layer_profile, plot_learning_curve
from skesm.benchmark.figures.distances import plot_errors
from skesm.benchmark.figures.predictions import plot_predictions
from skesm.benchmark.figures.scan import plot_scan
from skesm.benchmark.figures.scores import plot_scores
from skesm.benchmark.fits.files import write_whole
from skesm.benchmark.runs.finished import FinishedRun
from skesm.benchmark.runs.report import make_report
from skesm.exceptions import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MANIFEST, SCORES, REPORT = "manifest.json", "scores.csv", "report.html"
_PARQUET = "scores.parquet"


def make_figures(run: FinishedRun) -> Document:
    """Figures by the names of their files, in the order of the report."""
    comparison, score = run.comparison, run.config.main_score
    names = {"target": run.data.target, "title": run.data.title}
    figures = {"scores": plot_scores(comparison)}
    for number, split in enumerate(comparison.scores["split"].unique()):
        name = "predictions" if number == 0 else f"predictions_{split.replace(' ', '_')}"
        figures[name] = plot_predictions(comparison, split=split, **names)
    if run.data.aligned and run.data.reference is not None and comparison.classes is None:
        reference = run.data.reference.strip()
        scan = plot_scan(comparison, run.data.sequences, reference, offset=run.data.offset, **names)
        figures |= {} if scan is None else {"scan": scan}
    if comparison.classes is None:
        figures["errors"] = plot_errors(comparison, **names)
    if run.curve is not None:
        figures["learning_curve"] = plot_learning_curve(run.curve, score, title=run.data.title)
    if run.profile is not None:
        figures["layer_profile"] = plot_layer_profile(run.profile, score, title=run.data.title)
    return figures


def write_folder(run: FinishedRun, folder: Path) -> list[Path]:
    """Write tables, figures, the report, and last the manifest: a folder with a manifest is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    tables = _tables(run)
    paths = [write_whole(folder / name, _csv(table)) for name, table in tables.items()]
    not_done = list(run.not_done)
    try:
        import_optional("pyarrow", "parquet")
        paths.append(write_whole(folder / _PARQUET, lambda path: tables[SCORES].to_parquet(path, index=False)))
    except MissingDependencyError as error:
        not_done.append(("file", _PARQUET, str(error)))
    images = {name: _png(figure) for name, figure in make_figures(run).items()}
    paths += [write_whole(folder / f"{name}.png", _bytes(image)) for name, image in images.items()]
    paths.append(write_whole(folder / REPORT, _bytes(make_report(run, images, not_done).encode())))
    document = json.dumps(run.manifest, indent=2, ensure_ascii=False, allow_nan=False)
    return [write_whole(folder / MANIFEST, _bytes(f"{document}\n".encode())), *paths]


def _tables(run: FinishedRun) -> Document:
    comparison = run.comparison
    frame = import_optional("pandas", "benchmark").DataFrame
    tables = {
        SCORES: comparison.scores,
        "predictions.csv": comparison.predictions.assign(row=run.data.row_numbers[comparison.predictions["row"]]),
        "leakage.csv": comparison.leakage,
        "table.csv": comparison.summary(),
        "costs.csv": comparison.costs,
        "not_done.csv": frame(run.not_done, columns=["kind", "name", "reason"]),
        "permutations.csv": comparison.permutations,
        "learning_curve.csv": run.curve,
        "layer_profile.csv": run.profile,
    }
    return {name: table for name, table in tables.items() if table is not None and len(table.columns)}


def _remove_earlier(folder: Path) -> None:
    """Remove files of another run that this one does not write, the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for pattern in (*("predictions*.png", "scan.png", "errors.png", "learning_curve.*"), *("layer_profile.*",)):
        for path in folder.glob(pattern):
            path.unlink()
    for name in ("permutations.csv", _PARQUET):
        (folder / name).unlink(missing_ok=True)


def _csv(table: DataFrame) -> Callable[[Path], object]:
    return lambda path: table.to_csv(path, index=False, lineterminator="\n", na_rep="nan")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # no version of matplotlib: always the same bytes
    return buffer.getvalue()


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)
