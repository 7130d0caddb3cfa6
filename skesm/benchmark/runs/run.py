"""A run: data to a comparison, as a configuration says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from skesm._optional import import_optional
from skesm._progress import AUTO
from skesm._typing import Document, Estimator, Memory, Options
from skesm.backends import LocalBackend, resolve_backend
from skesm.benchmark._compare import compare_on, pose
from skesm.benchmark._comparison import Comparison
from skesm.benchmark._curves import learning_curve, profile_layers
from skesm.benchmark._features import plan_features
from skesm.benchmark._heads import make_heads
from skesm.benchmark.fits.cells import Folds, Problem
from skesm.benchmark.fits.folds import Key, make_folds
from skesm.benchmark.runs.config import UNSEEN, RunConfig
from skesm.benchmark.runs.data import RunData, load_data
from skesm.benchmark.runs.folder import make_figures, write_folder
from skesm.benchmark.runs.hardware import peak_memory
from skesm.benchmark.runs.manifest import make_manifest
from skesm.exceptions import InvalidSequenceError
from skesm.model_selection import LeakageReport
from skesm.model_selection._leakage import leakage_sentences
from skesm.outputs.kinds import POOLINGS

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    config : RunConfig
    data : RunData
    comparison : Comparison
    manifest : dict
        Everything that the numbers depend on. Its entry ``"run"`` alone differs from run to run.
    notes : tuple of str
        Sentences on padded sequences.
    not_done : tuple of (str, str, str)
        Kind, name and reason of each part that the data cannot have, and of analyses that were not requested.
    curve : DataFrame or None
        Learning curve, see `learning_curve`.
    profile : DataFrame or None
        Layer profile, see `layer_profile`.
    """

    config: RunConfig
    data: RunData
    comparison: Comparison
    manifest: Document
    notes: tuple[str, ...]
    not_done: tuple[tuple[str, str, str], ...] = ()
    curve: DataFrame = None
    profile: DataFrame = None

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
        return write_folder(self, Path(folder))

    def figures(self) -> Document:
        """Figures by the names of their files."""
        return make_figures(self)


def run_benchmark(
    config: RunConfig,
    *,
    memory: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: bool | int | str = AUTO,
    data: RunData | None = None,
) -> Run:
    """Compare features and heads as a configuration says.

    Features and splits that the data cannot have are left out, and named in the run's `not_done`.

    Parameters
    ----------
    config : RunConfig
        Data, model, features, heads, splits and seeds.
    memory : path-like, default=None
        Folder of the record store. With it, a second run uses the features of the first.
    resume : path-like, default=None
        Folder of finished fits. With it, a second run uses the fits of an interrupted one.
    n_jobs : int, default=None
        Threads that fit. Changes no number.
    verbose : bool, int or "auto", default="auto"
        Show progress on stderr. ``"auto"`` shows it after two seconds on a terminal or in a notebook.
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
    ValueError
        If none of the splits, or none of the features, is possible.
    MissingDependencyError
        If a package of the extra ``benchmark`` is not installed.
    """
    check_extras(config)
    data = load_data(config) if data is None else data
    with ExitStack() as stack:
        if memory is None:  # layers, curve and table share the passes
            memory = stack.enter_context(TemporaryDirectory(prefix="skesm-"))
        work = _Work(config, data, memory, {"resume": resume, "n_jobs": n_jobs, "verbose": verbose})
        try:
            return work.do()
        except InvalidSequenceError as error:
            raise InvalidSequenceError(data.name_places(error), error.rows) from error


@dataclass(frozen=True)
class _Work:
    config: RunConfig
    data: RunData
    memory: Memory
    options: Options

    def do(self) -> Run:
        started, clock = datetime.now(UTC), perf_counter()
        config, data = self.config, self.data
        heads = make_heads(config.heads)
        problem, heads = pose(
            data.sequences,
            data.y,
            heads,
            scores=config.scores,
            higher_is_better=config.wants_high,
            permutations=config.permutations,
        )
        folds, no_splits = self._folds(problem)
        poolings, no_layers = self._poolings()
        features, no_features, notes = self._features(poolings)
        # Whoever needs the mutated positions of most layers comes first. Its passes store the outputs that others need.
        first = not set(poolings) <= set(POOLINGS)
        profile, passes = self._profile(poolings) if first else (None, 0)
        comparison = compare_on(
            problem,
            folds,
            features,
            heads,
            reference=self._reference,
            describe=partial(_describe, unseen=any(split == UNSEEN for split, _ in folds)),
            **self.options,
        )
        if not first:
            profile, passes = self._profile(poolings)
        curve, no_curve = self._curve(features)
        manifest = make_manifest(
            data.sequences,
            data.y,
            features=features,
            regressors=heads,
            parameters={
                **config.as_dict(),
                **data.columns,
                "higher_is_better": config.wants_high,
                "dropped_lines": sorted(data.dropped),
            },
            model=self._model(),
            digests=comparison.digests,
        )
        manifest["run"] = {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(perf_counter() - clock, 1),
            "peak_memory_gib": peak_memory(),
            "forward_passes": comparison.forward_passes + passes,
            "fits_of_an_earlier_run": comparison.fits_found,
        }
        not_done = [
            *(("split", name, reason) for name, reason in no_splits.items()),
            *(("features", name, reason) for name, reason in no_features.items()),
            *(("analysis", name, reason) for name, reason in {**no_layers, **no_curve}.items()),
        ]
        if not config.permutations:
            not_done.append(("analysis", "permutation test", "not asked for (--permutations 100)"))
        return Run(config, data, comparison, manifest, tuple(notes), tuple(not_done), curve, profile)

    @property
    def _reference(self) -> str | None:
        return self.data.reference if self.data.aligned else None

    def _model(self) -> dict[str, str]:
        backend = resolve_backend(self.config.backend)
        namespace = backend.namespace(self.config.model)
        found = {"name": self.config.model, "fingerprint": namespace.fingerprint, "numerics": namespace.numerics}
        if isinstance(backend, LocalBackend):  # engines agree within 1e-5, and not to the last bit
            found["engine"], found["device"] = backend._resolve_engine()
        return found

    def _folds(self, problem: Problem) -> tuple[dict[Key, Folds], dict[str, str]]:
        config, data = self.config, self.data
        splits, left_out = config.make_splits(data.reference, aligned=data.aligned, grouped=data.groups is not None)
        folds: dict[Key, Folds] = {}
        for name, splitter in splits.items():
            try:
                folds |= dict(make_folds(problem, {name: splitter}, config.seeds, data.groups))
            except InvalidSequenceError:
                raise
            except ValueError as error:
                left_out[name] = str(error)
        if not folds:
            raise ValueError(f"none of the splits can be made: {_list(left_out)}")
        return folds, left_out

    def _features(self, poolings: list[str]) -> tuple[Document, dict[str, str], list[str]]:
        config, data = self.config, self.data
        features, left_out, notes = plan_features(
            config.features,
            data.sequences,
            model=config.model,
            reference=data.reference,
            prefetch=tuple(f"{pooling}@*" for pooling in poolings if pooling in POOLINGS),
            backend=config.backend,
            memory=self.memory,
            verbose=self.options["verbose"],
        )
        if not features:
            raise ValueError(f"none of the features can be made: {_list(left_out)}")
        return features, left_out, notes

    def _poolings(self) -> tuple[list[str], dict[str, str]]:
        poolings = [name for name in self.config.layer_profile if name in POOLINGS or self.data.aligned]
        if not self.config.layer_profile:
            return [], {"layer profile": "not asked for (--layer-profile mean)"}
        if len(poolings) < len(self.config.layer_profile):
            return poolings, {"layer profile of mutated": "it needs a reference, and sequences of its length"}
        return poolings, {}

    def _profile(self, poolings: list[str]) -> tuple[DataFrame, int]:
        if not poolings:
            return None, 0
        config = self.config
        return profile_layers(
            self.data.sequences,
            self.data.y,
            model=config.model,
            poolings=poolings,
            reference=self._reference,
            backend=config.backend,
            memory=self.memory,
            cv=config.folds,
            head=config.heads[0],
            score=config.main_score,
            prefetch=self._also(),
            seeds=config.seeds,
            higher_is_better=config.wants_high,
            **self.options,
        )

    def _also(self) -> list[str]:
        """Outputs that the table's features need of the same pass."""
        parts = {part for name in self.config.features for part in name.split("+")}
        return [*(["mean@-1"] if "embeddings" in parts else []), *(["logit_means"] if "logits" in parts else [])]

    def _curve(self, features: Mapping[str, Estimator]) -> tuple[DataFrame, dict[str, str]]:
        config = self.config
        if not config.learning_curve:
            return None, {"learning curve": "not asked for (--learning-curve 8,24,96,384)"}
        try:
            curve = learning_curve(
                self.data.sequences,
                self.data.y,
                features,
                config.heads[:1],
                sizes=config.learning_curve,
                random_state=config.seeds[0],
                score=config.main_score,
                higher_is_better=config.wants_high,
                **self.options,
            )
        except InvalidSequenceError:
            raise
        except ValueError as error:
            return None, {"learning curve": str(error)}
        return curve, {}


def _list(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in left_out.items())


def _describe(report: LeakageReport, *, unseen: bool) -> list[str]:
    """A fold's warnings in the words of the command line."""
    of_positions = 'compare with the column "unseen positions"' if unseen else 'add --splits "random,unseen positions"'
    return leakage_sentences(report, "compare with --splits random, where repeats stay together", of_positions)


def check_extras(config: RunConfig) -> None:
    """Raise MissingDependencyError before anything is computed, if a package is missing."""
    needed: Iterable[str] = ("pandas", "matplotlib", "rapidfuzz")
    boosted = any(head.startswith("xgboost") for head in config.heads)
    for module in (*needed, *(["xgboost"] if boosted else [])):
        import_optional(module, "benchmark")
