"""A run: data to a comparison, written to a folder that can be replayed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from skesm._optional import import_optional
from skesm.backends import resolve_backend
from skesm.benchmark._compare import compare
from skesm.benchmark._comparison import Comparison
from skesm.benchmark._features import make_features
from skesm.benchmark._heads import make_heads
from skesm.benchmark._plots import plot_predictions, plot_scores
from skesm.benchmark.runs.config import RunConfig
from skesm.benchmark.runs.data import RunData, load_data
from skesm.benchmark.runs.manifest import make_manifest
from skesm.benchmark.runs.report import write_report
from skesm.exceptions import InvalidSequenceError

MANIFEST, SCORES, PREDICTIONS = "manifest.json", "scores.csv", "predictions.csv"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    config : RunConfig
    data : RunData
    comparison : Comparison
    manifest : dict
        What the numbers depend on; its entry ``"run"`` alone holds what differs from run to run.
    notes : tuple of str
        What was left out or padded.
    """

    config: RunConfig
    data: RunData
    comparison: Comparison
    manifest: dict[str, Any]
    notes: tuple[str, ...]

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the run to a folder: manifest, tables, figures and a report that is one file.

        Parameters
        ----------
        folder : path-like
            Made if it does not exist. Files of an earlier run are replaced.

        Returns
        -------
        paths : list of Path
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        comparison = self.comparison
        predictions = comparison.predictions.assign(row=self.data.row_numbers[comparison.predictions["row"]])
        tables = {SCORES: comparison.scores, PREDICTIONS: predictions, "leakage.csv": comparison.leakage}
        tables["table.csv"] = comparison.summary(self.config.scores[0])
        tables["costs.csv"] = comparison.costs
        paths = []
        for name, table in tables.items():
            table.to_csv(folder / name, index=False, lineterminator="\n", na_rep="nan")
            paths.append(folder / name)
        figures = self.figures()
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            # no version of matplotlib: the same bytes on every run
            figure.savefig(paths[-1], metadata={"Software": None})
        document = json.dumps(self.manifest, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(document + "\n", encoding="utf-8")
        write_report(folder / "report.html", self, figures)
        return [folder / MANIFEST, *paths, folder / "report.html"]

    def figures(self) -> dict[str, Any]:
        """Figures by name: predicted against measured of each split's best, and all scores with their intervals."""
        target, title = self.data.target, self.data.title
        figures = {}
        for number, split in enumerate(self.comparison.scores["split"].unique()):
            name = "predictions" if number == 0 else f"predictions_{split.replace(' ', '_')}"
            figures[name] = plot_predictions(self.comparison, split=split, target=target, title=title)
        figures["scores"] = plot_scores(self.comparison, score=self.config.scores[0])
        return figures


def run_benchmark(
    config: RunConfig,
    *,
    memory: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: bool = False,
    data: RunData | None = None,
) -> Run:
    """Compare features and heads as a configuration says.

    Parameters
    ----------
    config : RunConfig
        Data, model, features, heads, splits and seeds.
    memory : path-like, default=None
        Folder of the record store, in which a second run finds the features of the first.
    n_jobs : int, default=None
        Threads that fit; changes no number.
    verbose : bool, default=False
        Show progress on stderr.
    data : RunData, default=None
        The data, if they were loaded before.

    Returns
    -------
    run : Run
        Its `write` makes a folder of it.

    Raises
    ------
    InvalidSequenceError
        If rows of the data cannot be used.
    MissingDependencyError
        If a package of the extra ``benchmark`` is not installed.
    """
    check_extras(config)
    started, clock = datetime.now(UTC), perf_counter()
    data = load_data(config) if data is None else data
    splits, notes = config.make_splits(data.reference, aligned=data.aligned, grouped=data.groups is not None)
    shared: dict[str, Any] = {"model": config.model, "backend": config.backend, "memory": memory, "verbose": verbose}
    features, more = make_features(config.features, data.sequences, reference=data.reference, **shared)
    heads = make_heads(config.heads)
    try:
        comparison = compare(
            data.sequences,
            data.y,
            features,
            heads,
            splits=splits,
            seeds=config.seeds,
            groups=data.groups,
            reference=data.reference if data.aligned else None,
            scores=config.scores,
            higher_is_better=config.higher_is_better,
            n_jobs=n_jobs,
            verbose=verbose,
        )
    except InvalidSequenceError as error:
        raise InvalidSequenceError(data.name_places(error), error.rows) from error
    namespace = resolve_backend(config.backend).namespace(config.model)
    manifest = make_manifest(
        data.sequences,
        data.y,
        features=features,
        regressors=heads,
        parameters={**config.as_dict(), "dropped_lines": sorted(data.dropped)},
        model={"name": config.model, "fingerprint": namespace.fingerprint, "numerics": namespace.numerics},
    )
    manifest["run"] = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(perf_counter() - clock, 1),
        "forward_passes": comparison.forward_passes,
    }
    return Run(config, data, comparison, manifest, tuple(notes + more))


def check_extras(config: RunConfig) -> None:
    """Raise MissingDependencyError before anything is computed, if a package is missing."""
    for module in ("pandas", "matplotlib", "rapidfuzz", *(["xgboost"] if "xgboost" in config.heads else [])):
        import_optional(module, "benchmark")
